"""The language that a Whisper model hears in utterances.

The room for models lies above this one, so the model is loaded by transformers directly: it is used as it is, at 30 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, WhisperForConditionalGeneration

from whisper_recipe.data.audio import read_audio
from whisper_recipe.data.features import MAX_FRAMES, collate_fbank, log_mel
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError

BATCH = 16  # utterances
MAX_SECONDS = 30.0  # of an utterance, that the model hears


def identify_languages(utterances: list[Utterance], name: str) -> Iterator[tuple[str, float]]:
    """Yield (Whisper's code, probability) of the likeliest language of each utterance's audio.

    As openai/whisper does it: by the model's output after the start token, among the languages that it has.

    Args:
        utterances: whose audio is heard.
        name: a Whisper folder, or a name on the hub. A folder never causes network access.

    Raises:
        RecipeError: the model can't be loaded or has no languages, or audio can't be read.
    """
    model, languages = _load(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    ids = torch.tensor(list(languages.values()), device=device)
    rest = iter(utterances)
    with tqdm(total=len(utterances), desc="languages", unit="utt") as progress, ThreadPoolExecutor(2) as pool:
        while batch := list(islice(rest, BATCH)):
            features = collate_fbank(
                [log_mel(x, model.config.num_mel_bins) for x in pool.map(_samples, batch)], MAX_FRAMES
            )
            start = torch.full((len(batch), 1), model.config.decoder_start_token_id, device=device)
            with torch.inference_mode():
                logits = model(input_features=features.to(device), decoder_input_ids=start).logits[:, -1, ids]
            best = logits.float().softmax(-1).max(-1)
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                yield list(languages)[index], probability
            progress.update(len(batch))


def _load(name: str) -> tuple[WhisperForConditionalGeneration, dict[str, int]]:
    try:
        # Weights in PyTorch's own format are read with `weights_only=True` by transformers: no pickled code runs.
        model = WhisperForConditionalGeneration.from_pretrained(name, local_files_only=Path(name).is_dir()).eval()
        config = GenerationConfig.from_pretrained(name, local_files_only=Path(name).is_dir())
    except Exception as error:  # transformers, safetensors and pickle each raise types of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"the model can't be loaded ({reason})", where=name, cure="give a Whisper folder") from None
    tokens = getattr(config, "lang_to_id", None)
    if not tokens:
        raise RecipeError("the model has one language only", where=name, cure="give a multilingual Whisper")
    return model, {token.strip("<|>"): index for token, index in tokens.items()}


def _samples(utterance: Utterance) -> torch.Tensor:
    seconds = None if utterance.end is None else min(utterance.end - utterance.start, MAX_SECONDS)
    samples = read_audio(utterance.audio, utterance.start, seconds)
    return torch.from_numpy(samples)[: int(MAX_SECONDS * 16000)]
