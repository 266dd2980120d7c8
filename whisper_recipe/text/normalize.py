"""Normalisers for scoring: what counts as the same text, by language."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from typing import Literal

from whisper_recipe.languages import CHARACTER_LANGUAGES

NormalizerName = Literal["whisper", "basic", "none"]
CHINESE = ("zh", "yue")


def text_language(language: str, task: str) -> str:
    """Return the language that the text is in: translations are English."""
    return "en" if task == "translate" else language


def is_counted_in_characters(language: str, task: str) -> bool:
    """Whether errors are counted in characters (CER) and not in words (WER)."""
    return text_language(language, task) in CHARACTER_LANGUAGES


@functools.cache
def get_normalizer(name: NormalizerName, language: str) -> Callable[[str], str]:
    """Return the function that normalises texts in `language` (a Whisper code) for scoring.

    Args:
        name: `none` leaves the text as it is, `basic` is Whisper's basic one for every language. `whisper` is
            Whisper's English normaliser for English; for Chinese full-width forms become half-width, traditional
            characters simplified (opencc), and punctuation goes; for all others Whisper's basic one: lower case, no
            punctuation.
        language: of the text.
    """
    if name == "none":
        return str.strip
    if name == "whisper" and language in CHINESE:
        from opencc import OpenCC

        convert = OpenCC("t2s").convert
        return lambda text: _without_punctuation(convert(unicodedata.normalize("NFKC", text)))
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    # The table of British spellings comes with OpenAI's tokenizers, not with transformers; without it they stay.
    return EnglishTextNormalizer({}) if name == "whisper" and language == "en" else BasicTextNormalizer()


def _without_punctuation(text: str) -> str:
    kept = (" " if unicodedata.category(letter)[0] in "PSZC" else letter for letter in text.lower())
    return " ".join("".join(kept).split())
