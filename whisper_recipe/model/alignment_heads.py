"""Cross-attention heads that follow the audio, for word timestamps."""

from __future__ import annotations

from transformers import WhisperConfig

# OpenAI's models -> layer.head of the heads that OpenAI found to follow the audio, decoded from `_ALIGNMENT_HEADS` of
# openai/whisper (whisper/__init__.py).
# fmt: off
ALIGNMENT_HEADS = {
    "tiny.en": "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    "tiny": "2.2 3.0 3.2 3.3 3.4 3.5",
    "base.en": "3.3 4.7 5.1 5.5 5.7",
    "base": "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    "small.en": "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    "small": "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    "medium.en": "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12",
    "medium": "13.15 15.4 15.15 16.1 20.0 23.4",
    "large-v1": "9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15",
    "large-v2": "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 "
                "22.3 22.9 22.12 23.5 23.7 23.13 25.5 26.1 26.12 27.15",
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    "large-v3-turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
}
# fmt: on
# Name without `.en` -> encoder layers, decoder layers, decoder heads, mel bins.
SIZES = {
    "tiny": (4, 4, 6, 80),
    "base": (6, 6, 8, 80),
    "small": (12, 12, 12, 80),
    "medium": (24, 24, 16, 80),
    "large-v1": (32, 32, 20, 80),
    "large-v2": (32, 32, 20, 80),
    "large-v3": (32, 32, 20, 128),
    "large-v3-turbo": (32, 4, 20, 128),
}


def alignment_heads(config: WhisperConfig, multilingual: bool, name: str = "") -> list[list[int]]:
    """Return [layer, head] pairs: OpenAI's for a model of OpenAI's sizes, else all heads of the decoder's upper half.

    openai/whisper and CTranslate2 also use the upper half for models that name no heads.

    Args:
        config: the model's, for its sizes.
        multilingual: whether the model is multilingual, not English-only.
        name: OpenAI's name of the model, which tells large-v1 from large-v2; without it, the latter is assumed.
    """
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    sizes = (config.encoder_layers, layers, heads, config.num_mel_bins)
    candidates = [known for known, known_sizes in SIZES.items() if known_sizes == sizes]
    if candidates:
        known = (name if name in candidates else candidates[-1]) + ("" if multilingual else ".en")
        if known in ALIGNMENT_HEADS:
            return [[int(part) for part in pair.split(".")] for pair in ALIGNMENT_HEADS[known].split()]
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]
