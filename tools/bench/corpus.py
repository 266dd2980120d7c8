"""Data and models for the benchmarks: noise with AISHELL-like durations, and random weights in Whisper's shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TEXT = "the quick brown fox jumps over the lazy dog while nobody looks"


def make_noise(folder: Path, count: int) -> float:
    """Write a Kaldi directory `noise` of 16 kHz WAV files and its manifests; return its seconds, 5.7 per utterance."""
    import soundfile

    from whisper_recipe.data.manifests import prepare

    data = folder / "noise"
    (data / "wav").mkdir(parents=True)
    rng = np.random.default_rng(0)
    durations = rng.gamma(6.0, 0.95, size=count)
    durations = np.clip(durations * 5.7 / durations.mean(), 1.2, 14.5)
    keys = [f"utt{number:06d}" for number in range(count)]
    noise = rng.standard_normal(16000 * 20) / 10
    for key, duration in zip(keys, durations, strict=True):
        start = rng.integers(16000)
        soundfile.write(data / "wav" / f"{key}.wav", noise[start : start + round(16000 * duration)], 16000)
    for name, value in (("wav.scp", "wav/{}.wav"), ("text", TEXT), ("utt2lang", "en")):
        (data / name).write_text("".join(f"{key} {value.format(key)}\n" for key in keys))
    prepare(data, folder)
    return float(durations.sum())


SHAPES = {  # of OpenAI's published configurations; micro is for trying the benchmarks on a CPU
    "micro": {"vocab_size": 0, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 2},
    "tiny": {"vocab_size": 51865, "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "attention_heads": 6},
    "base": {"vocab_size": 51865, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "attention_heads": 8},
    "small": {"vocab_size": 51865, "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "attention_heads": 12},
    "medium": {"vocab_size": 51865, "d_model": 1024, "encoder_layers": 24, "decoder_layers": 24, "attention_heads": 16},
    "large-v3-turbo": {
        "vocab_size": 51866, "d_model": 1280, "encoder_layers": 32, "decoder_layers": 4, "attention_heads": 20,
        "num_mel_bins": 128,
    },
    "large-v3": {
        "vocab_size": 51866, "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "attention_heads": 20,
        "num_mel_bins": 128,
    },
}  # fmt: skip


def make_model(folder: Path, shape: str = "tiny", vocab_size: int | None = None) -> Path:
    """Write folder/model with random weights in a shape of SHAPES, or with another vocab_size; return its path."""
    from whisper_recipe.model.create import init_model

    init_model(
        folder / "model",
        [folder / "noise" / "text"],
        **SHAPES[shape] | ({} if vocab_size is None else {"vocab_size": vocab_size}),
    )
    return folder / "model"


def place_model(folder: Path, given: Path | None) -> Path:
    """Return folder/model: a link to the given Whisper folder, or whisper-tiny's shape with random weights if None."""
    if given is None:
        return make_model(folder)
    (folder / "model").symlink_to(given.resolve(strict=True))
    return folder / "model"
