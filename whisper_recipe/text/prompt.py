"""Whisper's token sequences: the prompt that the decoder starts from, texts, and times."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES, advice_on
from whisper_recipe.text.additions import language_token
from whisper_recipe.text.tokenizer import (
    NO_TIMESTAMPS,
    START_OF_PREVIOUS,
    START_OF_TRANSCRIPT,
    TIMESTAMPS,
    first_timestamp,
    is_english_only,
    text_only,
)

TIME_STEP = 0.02  # seconds between Whisper's time tokens
MAX_TOKENS = 448  # positions of Whisper's decoder, the start token included


def prompt_ids(tokenizer: WhisperTokenizer, language: str, task: str) -> list[int]:
    """Return the ids of `<|startoftranscript|><|language|><|task|><|notimestamps|>`.

    Language and task are omitted for an English-only model. A language may borrow the token of another.

    Raises:
        RecipeError: the tokenizer does not know the language (large-v3's Cantonese in an older model), or the model is
            English-only and another language or task is requested.
    """
    languages = [language_token(tokenizer, language), f"<|{task}|>"]
    if is_english_only(tokenizer):
        if (language, task) != ("en", "transcribe"):
            what = f"the model can only transcribe English, not {task} language {language}"
            raise RecipeError(what, where="language, task", cure="use a multilingual model")
        languages = []
    tokens = [START_OF_TRANSCRIPT, *languages, NO_TIMESTAMPS]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    for token, index in zip(tokens, ids, strict=True):
        if index is None or index == tokenizer.unk_token_id:
            cure = advice_on(language) if token in languages[:1] else "use another base model"
            raise RecipeError(f"the model's tokenizer has no {token}", where=language, cure=cure)
    return ids


def text_ids(tokenizer: WhisperTokenizer, text: str, language: str, task: str) -> list[int]:
    """Return the ids of a text as Whisper writes it, see `written`."""
    return plain_ids(tokenizer, written(text, language, task))


def written(text: str, language: str, task: str) -> str:
    """Return a text as Whisper writes it: with a leading space if words are separated by spaces."""
    spaced = task == "translate" or language not in CHARACTER_LANGUAGES
    return f" {text.strip()}" if spaced else text.strip()


def plain_ids(tokenizer: WhisperTokenizer, text: str) -> list[int]:
    """Return the ids of a text, treating anything that looks like Whisper's tokens (`<|en|>`, `<|0.00|>`) as text."""
    # The tokenizer's own option, split_special_tokens, lets the time tokens through, and also affects later calls.
    parts = re.split(r"(?<=<)(?=\|)", text)
    return [index for part in parts for index in tokenizer(part, add_special_tokens=False).input_ids]


def time_token(seconds: float) -> str:
    """Return Whisper's token of a time, in steps of 0.02 s from 0 to 30 s."""
    return f"<|{min(round(seconds / TIME_STEP), TIMESTAMPS - 1) * TIME_STEP:.2f}|>"


def readable(tokenizer: WhisperTokenizer, ids: Sequence[int]) -> str:
    """Return ids as text, including special tokens and timestamps, which are recognised by their ids."""
    first = first_timestamp(tokenizer)

    def special(index: int) -> str:
        time = index - first
        return time_token(time * TIME_STEP) if 0 <= time < TIMESTAMPS else tokenizer.convert_ids_to_tokens(index)

    runs = itertools.groupby(ids, key=lambda index: bool(text_only(tokenizer, [index])))
    return "".join(tokenizer.decode(list(run)) if text else "".join(map(special, run)) for text, run in runs)


def previous_ids(tokenizer: WhisperTokenizer, text: str, language: str, task: str, room: int = MAX_TOKENS) -> list[int]:
    """Return `<|startofprev|>` and the last ids of a text: at most half of the context, and at most `room`.

    Half is the limit of openai/whisper (whisper/decoding.py). Empty if there is no room for any text.
    """
    size = min(MAX_TOKENS // 2, room) - 1
    if size < 1:
        return []
    return [tokenizer.convert_tokens_to_ids(START_OF_PREVIOUS), *text_ids(tokenizer, text, language, task)[-size:]]


def no_speech_id(tokenizer: WhisperTokenizer) -> int:
    """Return the id of the token for no speech; the tokenizers of the first two generations use another name."""
    for token in ("<|nospeech|>", "<|nocaptions|>"):
        if (index := tokenizer.convert_tokens_to_ids(token)) not in (None, tokenizer.unk_token_id):
            return index
    raise RecipeError("the model's tokenizer has no token for non-speech", cure="remove the cuts without text")
