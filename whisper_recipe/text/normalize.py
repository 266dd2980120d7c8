"""Normalisers for scoring: what counts as the same text, by language."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from whisper_recipe.languages import CHARACTER_LANGUAGES

NormalizerName = Literal["whisper", "english", "basic", "basic_marks", "chinese", "none"]
CHINESE = ("zh", "yue")


def text_language(language: str, task: str) -> str:
    """Return the language that the text is in: translations are English."""
    return "en" if task == "translate" else language


def is_counted_in_characters(language: str, task: str) -> bool:
    """Whether errors are counted in characters (CER) and not in words (WER)."""
    return text_language(language, task) in CHARACTER_LANGUAGES


def normalizer_of(name: NormalizerName, language: str) -> NormalizerName:
    """Return which normaliser a choice means for texts in `language` (a Whisper code).

    `whisper` is the choice by language: `english` for English, `chinese` for Mandarin and Cantonese, `basic_marks` for
    all others; every other name means itself.
    """
    if name != "whisper":
        return name
    return "english" if language == "en" else "chinese" if language in CHINESE else "basic_marks"


@functools.cache
def get_normalizer(name: NormalizerName, language: str) -> Callable[[str], str]:
    """Return the function that normalises texts in `language` (a Whisper code) for scoring.

    Args:
        name:
            `english`: Whisper's for English: lower case, no punctuation, contractions and titles written out, numbers
            as digits. OpenAI's table of British spellings (english.json) is in no package that is installed here:
            transformers keeps it in the tokenizer folders of OpenAI's models. So colour and color differ.
            `basic`: Whisper's for the other languages, to the letter: lower case, NFKC, no punctuation, nothing in
            brackets. It takes combining marks for punctuation: the vowels of Hindi, Thai, Tamil or Burmese vanish, and
            words fall apart where they stood. Use it to compare with figures that were made so.
            `basic_marks`: the same, but combining marks stay. Where NFKC composes all letters (the European languages,
            Japanese, Korean, Vietnamese) it is the same as `basic`.
            `chinese`: NFKC (full-width forms become half-width), simplified characters (opencc t2s), lower case, no
            punctuation but the point in 3.5 and the sign in 50%.
            `none`: as written.
            `whisper`: by language, see normalizer_of.
        language: of the text.
    """
    name = normalizer_of(name, language)
    if name == "none":
        return str.strip
    if name == "chinese":
        from opencc import OpenCC

        convert = OpenCC("t2s").convert
        return lambda text: _chinese_without_punctuation(convert(unicodedata.normalize("NFKC", text)))
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if name == "english":
        return EnglishTextNormalizer({})
    normalizer = BasicTextNormalizer()
    if name == "basic_marks":
        normalizer.clean = _symbols_as_spaces
    return normalizer


def _symbols_as_spaces(text: str) -> str:
    """Do what transformers' remove_symbols does, but keep combining marks (category M)."""
    return "".join(" " if unicodedata.category(c)[0] in "SP" else c for c in unicodedata.normalize("NFKC", text))


def _chinese_without_punctuation(text: str) -> str:
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|(?<!\d)%", " ", text.lower())
    kept = (c if c in ".%" or unicodedata.category(c)[0] not in "PSZC" else " " for c in text)
    return " ".join("".join(kept).split())
