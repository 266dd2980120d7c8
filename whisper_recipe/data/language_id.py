"""Spoken language identification with a Whisper model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import torch
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio
from whisper_recipe.data.corpus import utterance_duration
from whisper_recipe.data.features import MAX_FRAMES, MAX_SAMPLES, collate_fbank, log_mel
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model, pick_device

BATCH = 16  # utterances


def identify_languages(utterances: list[Utterance], name: str, num_jobs: int = 2) -> Iterator[tuple[str, float]]:
    """Yield (Whisper's code, probability) of the likeliest language in the first 30 s of each utterance.

    Works as in openai/whisper (`detect_language` in whisper/decoding.py): compares the model's languages by its output
    after the start token.

    Args:
        utterances: the utterances to identify.
        name: a Whisper folder (never causes network access), or a name on the Hub.
        num_jobs: number of decoding threads.

    Raises:
        RecipeError: the model can't be loaded or has no languages, or audio can't be read.
    """
    device = pick_device()
    model = load_model(name).to(device).eval()
    languages = _languages(model, name)
    codes, ids = list(languages), torch.tensor(list(languages.values()), device=device)
    with tqdm(total=len(utterances), desc="languages", unit="utt") as progress:
        for features in _batches(utterances, model.config.num_mel_bins, num_jobs):
            start = torch.full((len(features), 1), model.config.decoder_start_token_id, device=device)
            with torch.inference_mode():
                logits = model(input_features=features.to(device), decoder_input_ids=start).logits[:, -1, ids]
            best = logits.softmax(-1).max(-1)
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                yield codes[index], probability
            progress.update(len(features))


def _languages(model: WhisperForConditionalGeneration, name: str) -> dict[str, int]:
    """Return the id of each language's token."""
    tokens = getattr(model.generation_config, "lang_to_id", None)
    if not tokens:
        what = "generation_config.json has no languages (lang_to_id)"
        raise RecipeError(what, where=name, cure="use a multilingual Whisper model that lists them")
    return {token.strip("<|>"): index for token, index in tokens.items()}


def _batches(utterances: list[Utterance], num_mel_bins: int, num_jobs: int) -> Iterator[torch.Tensor]:
    """Yield features of shape (batch, mel bins, 3000); threads load the next batch meanwhile."""
    rest, waiting = iter(utterances), deque()
    with ThreadPoolExecutor(num_jobs) as pool:
        while (batch := list(islice(rest, BATCH))) or waiting:
            if batch:
                waiting.append(pool.map(partial(_features, num_mel_bins=num_mel_bins), batch))
            if len(waiting) > 1 or not batch:
                yield collate_fbank(list(waiting.popleft()), MAX_FRAMES)


def _features(utterance: Utterance, num_mel_bins: int) -> torch.Tensor:
    # A recording may last hours: only the part that the model uses is decoded.
    seconds = min(utterance_duration(utterance), MAX_SAMPLES / SAMPLING_RATE)
    return log_mel(read_audio(utterance.audio, utterance.start, seconds), num_mel_bins)
