"""The language that a Whisper model hears in utterances.

The room for models lies above this one, so the model is loaded by transformers directly: it is used as it is, at 30 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import transformers
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio
from whisper_recipe.data.corpus import utterance_duration
from whisper_recipe.data.features import MAX_FRAMES, MAX_SAMPLES, collate_fbank, log_mel
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError

# Its bar for reading weights would stand before ours.
transformers.utils.logging.disable_progress_bar()

BATCH = 16  # utterances


def identify_languages(utterances: list[Utterance], name: str, num_jobs: int = 2) -> Iterator[tuple[str, float]]:
    """Yield (Whisper's code, probability) of the likeliest language of each utterance's audio, its first 30 s.

    As openai/whisper does it (`detect_language` in whisper/decoding.py): by the model's output after the start token,
    among the languages that it has.

    Args:
        utterances: whose audio is heard.
        name: a Whisper folder, or a name on the hub. A folder never causes network access.
        num_jobs: threads that decode audio.

    Raises:
        RecipeError: the model can't be loaded or has no languages, or audio can't be read.
    """
    model, languages = _load(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
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


def _load(name: str) -> tuple[WhisperForConditionalGeneration, dict[str, int]]:
    """Return the model in float32, and the id of each language's token."""
    if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "exp/"))):
        # transformers would ask the hub for it.
        raise RecipeError("no such model folder", where=name, cure="give a Whisper folder, or a name on the hub")
    try:
        # Weights in PyTorch's own format are read with `weights_only=True` by transformers: no pickled code runs.
        model, info = WhisperForConditionalGeneration.from_pretrained(
            name, dtype=torch.float32, local_files_only=Path(name).is_dir(), output_loading_info=True
        )
    except Exception as error:  # transformers, safetensors and pickle each raise types of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(f"the model can't be loaded ({reason})", where=name, cure="give a Whisper folder") from None
    if missing := sorted(info["missing_keys"]):
        # transformers would fill them with random numbers and only warn.
        what = f"{len(missing)} weights are missing, {missing[0]} first"
        raise RecipeError(what, where=name, cure="copy the model again")
    tokens = getattr(model.generation_config, "lang_to_id", None)
    if not tokens:
        what = "generation_config.json names no languages (lang_to_id)"
        raise RecipeError(what, where=name, cure="give a multilingual Whisper with this file")
    return model.eval(), {token.strip("<|>"): index for token, index in tokens.items()}


def _batches(utterances: list[Utterance], num_mel_bins: int, num_jobs: int) -> Iterator[torch.Tensor]:
    """Yield features of shape (batch, mel bins, 3000); threads load the next ones while the model works on these."""
    rest, waiting = iter(utterances), deque()
    with ThreadPoolExecutor(num_jobs) as pool:
        while (batch := list(islice(rest, BATCH))) or waiting:
            if batch:
                waiting.append(pool.map(partial(_features, num_mel_bins=num_mel_bins), batch))
            if len(waiting) > 1 or not batch:
                yield collate_fbank(list(waiting.popleft()), MAX_FRAMES)


def _features(utterance: Utterance, num_mel_bins: int) -> torch.Tensor:
    # A recording may last hours: no more of it is decoded than is heard.
    seconds = min(utterance_duration(utterance), MAX_SAMPLES / SAMPLING_RATE)
    return log_mel(read_audio(utterance.audio, utterance.start, seconds), num_mel_bins)
