"""Normalisers for scoring: what counts as the same text, by language."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from importlib.resources import files
from typing import Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES

NormalizerName = Literal[
    "whisper", "english", "basic", "basic_marks", "chinese", "arabic", "persian", "open_asr_leaderboard", "none"
]
CHINESE = ("zh", "yue")
TATWEEL = "\u0640"  # lengthens a line of Arabic
ZERO_WIDTH_NON_JOINER = "\u200c"
PERSIAN_LETTERS = str.maketrans("\u064a\u0649\u0643", "\u06cc\u06cc\u06a9")  # Arabic yeh, alef maksura and kaf
LEADERBOARD = "https://github.com/huggingface/open_asr_leaderboard"


def text_language(language: str, task: str) -> str:
    """Return the language that the text is in: translations are English."""
    return "en" if task == "translate" else language


def is_counted_in_characters(language: str, task: str) -> bool:
    """Whether errors are counted in characters (CER) rather than words (WER)."""
    return text_language(language, task) in CHARACTER_LANGUAGES


def normalizer_of(name: NormalizerName, language: str) -> NormalizerName:
    """Return the normaliser that a name selects for texts in `language` (a Whisper code).

    `whisper` selects by language: `english` for English, `chinese` for Mandarin and Cantonese, `basic_marks` for all
    others; other names select themselves.
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
            as digits, American spellings by OpenAI's table.
            `basic`: exactly Whisper's for the other languages: lower case, NFKC, no punctuation, nothing in brackets.
            It treats combining marks as punctuation: vowels of Hindi, Thai, Tamil or Burmese are removed, and words are
            split there. Use it to compare with figures computed in this way.
            `basic_marks`: the same, but combining marks are kept. For languages in which NFKC composes all letters (the
            European languages, Japanese, Korean, Vietnamese) it is the same as `basic`.
            `chinese`: NFKC (full-width forms become half-width), simplified characters (opencc t2s), lower case, no
            punctuation but the point in 3.5 and the sign in 50%.
            `arabic`: `basic_marks` without vowel signs (harakat) and tatweel, all digits as 0 to 9.
            `persian`: `arabic`, and Arabic's yeh and kaf as Persian's, the zero width non-joiner as a space.
            `open_asr_leaderboard`: exactly the Open ASR Leaderboard's for English, from the user's own checkout: its
            word lists are not in any package.
            `none`: as written.
            `whisper`: by language, see normalizer_of.
            All but `basic`, `open_asr_leaderboard` and `none` ignore invisible characters (zero width, direction marks,
            soft hyphens), and turn the lower case of Turkish İ, an i with a combining dot, into a plain i.
        language: language of the text.

    Raises:
        RecipeError: the leaderboard's normaliser can't be imported, or the language is not English.
    """
    name = normalizer_of(name, language)
    if name == "none":
        return str.strip
    if name == "open_asr_leaderboard":
        return _leaderboard(language)
    if name == "basic":
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return BasicTextNormalizer()
    normalize = {"chinese": _chinese, "english": _english}.get(name, _basic_marks)()
    before = {"arabic": _arabic, "persian": _persian}.get(name, str)
    return lambda text: normalize(_visible(before(text)))


def _visible(text: str) -> str:
    """Return a text in lower case, without invisible characters."""
    import regex

    return regex.sub(r"\p{Default_Ignorable_Code_Point}", "", text).lower().replace("i\N{COMBINING DOT ABOVE}", "i")


def _chinese() -> Callable[[str], str]:
    from opencc import OpenCC

    convert = OpenCC("t2s").convert
    return lambda text: _chinese_without_punctuation(convert(unicodedata.normalize("NFKC", text)))


def _english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    # The package's own class writes out more words (cause, kinda) than OpenAI's; its table is OpenAI's.
    return EnglishTextNormalizer(json.loads((files("whisper_normalizer") / "normalizers/english.json").read_bytes()))


def _basic_marks() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalizer = BasicTextNormalizer()
    normalizer.clean = _symbols_as_spaces
    return normalizer


def _arabic(text: str) -> str:
    # Composed first: the madda and the hamza of a letter are not vowel signs.
    letters = (c for c in unicodedata.normalize("NFKC", text) if c != TATWEEL and unicodedata.category(c) != "Mn")
    return "".join(str(unicodedata.decimal(c, c)) for c in letters)


def _persian(text: str) -> str:
    return _arabic(text.replace(ZERO_WIDTH_NON_JOINER, " ")).translate(PERSIAN_LETTERS)


def _leaderboard(language: str) -> Callable[[str], str]:
    where = "normalizer open_asr_leaderboard"
    if language != "en":
        raise RecipeError(f"it is for English, not for {language}", where=where, cure="use --normalizer whisper")
    try:
        from normalizer.normalizer import EnglishTextNormalizer
    except ImportError as error:
        cure = f"git clone {LEADERBOARD}, and set PYTHONPATH to its folder"
        raise RecipeError(f"can't be imported ({error})", where=where, cure=cure) from None
    return EnglishTextNormalizer()


def _symbols_as_spaces(text: str) -> str:
    """Do what transformers' remove_symbols does, but keep combining marks (category M)."""
    return "".join(" " if unicodedata.category(c)[0] in "SP" else c for c in unicodedata.normalize("NFKC", text))


def _chinese_without_punctuation(text: str) -> str:
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|(?<!\d)%", " ", text.lower())
    kept = (c if c in ".%" or unicodedata.category(c)[0] not in "PSZC" else " " for c in text)
    return " ".join("".join(kept).split())
