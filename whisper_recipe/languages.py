"""Languages: Whisper's by code, English name or alias, all others by ISO 639 code."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable

from whisper_recipe.errors import RecipeError

# Code -> English name, in the order of Whisper's language tokens (whisper/tokenizer.py of openai/whisper). Only
# large-v3 and its descendants know Cantonese, the last.
# fmt: off
LANGUAGES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean",
    "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan",
    "nl": "dutch", "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi",
    "fi": "finnish", "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay",
    "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin",
    "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian",
    "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani", "sl": "slovenian", "kn": "kannada",
    "et": "estonian", "mk": "macedonian", "br": "breton", "eu": "basque", "is": "icelandic", "hy": "armenian",
    "ne": "nepali", "mn": "mongolian", "bs": "bosnian", "kk": "kazakh", "sq": "albanian", "sw": "swahili",
    "gl": "galician", "mr": "marathi", "pa": "punjabi", "si": "sinhala", "km": "khmer", "sn": "shona",
    "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan", "ka": "georgian", "be": "belarusian",
    "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic", "yi": "yiddish", "lo": "lao", "uz": "uzbek",
    "fo": "faroese", "ht": "haitian creole", "ps": "pashto", "tk": "turkmen", "nn": "nynorsk", "mt": "maltese",
    "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy",
    "as": "assamese", "tt": "tatar", "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir",
    "jw": "javanese", "su": "sundanese", "yue": "cantonese",
}
ALIASES = {
    "burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "pushto": "ps",
    "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si", "castilian": "es", "mandarin": "zh",
}
# fmt: on

CODES = {name: code for code, name in LANGUAGES.items()} | ALIASES

# Languages written without spaces between words: error rates count characters (CER), not words (WER).
CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})


# Codes that don't name a single language: undetermined, several, none, not coded.
NO_LANGUAGE = frozenset({"und", "mul", "zxx", "mis", "root"})
NEAR = 80  # langcodes' distance between languages of the same country and script; up to this far: related


def language_code(name: str, where: str | None = None) -> str:
    """Return the code of a language; Whisper's are accepted by code or English name in any case ("zh", "Chinese").

    Other languages are accepted only by ISO 639 code, which langcodes standardises ("mdw").

    Raises:
        RecipeError: unknown language; close matches are listed.
    """
    key = name.strip().lower()
    code = key if key in LANGUAGES else CODES.get(key) or _standard_code(key)
    if code is None:
        near = difflib.get_close_matches(key, [*CODES, *LANGUAGES], n=3)
        cure = f"did you mean {', '.join(near)}?" if near else "use a Whisper code (zh) or an English name (chinese);"
        cure += " for languages that Whisper lacks, use the ISO 639 code (mdw)"
        raise RecipeError(f"unknown language {name!r}", where=where, cure=cure)
    return code


@functools.cache
def _standard_code(key: str) -> str | None:
    """Return Whisper's code for an ISO 639 code of two or three letters, or langcodes' standard code, or None."""
    if not (key.isascii() and key.isalpha() and len(key) in (2, 3)):
        return None
    import langcodes

    if key in NO_LANGUAGE or not langcodes.tag_is_valid(key):
        return None
    whispers = {langcodes.standardize_tag(code): code for code in LANGUAGES}  # jv, which Whisper calls jw
    standard = langcodes.standardize_tag(key)
    return whispers.get(standard, standard.partition("-")[0])


@functools.cache
def related_languages(code: str, count: int = 3) -> list[str]:
    """Return up to `count` of Whisper's languages, the nearest ones to `code` by langcodes' distance.

    The distances are CLDR's for languages whose readers understand each other; otherwise they depend on where the
    languages are spoken. Languages that CLDR doesn't list have no related ones.
    """
    import langcodes

    # langcodes assigns languages that it doesn't know to the United States.
    if langcodes.Language.get(code).maximize().territory == "US":
        return []
    distances = sorted((langcodes.tag_distance(code, other), other) for other in LANGUAGES if other != code)
    return [other for distance, other in distances if distance <= NEAR][:count]


def remarks_on(codes: Iterable[str]) -> list[str]:
    """Return a sentence on each language that Whisper lacks."""
    others = sorted(set(codes) - LANGUAGES.keys())
    return [f"{code} is not among Whisper's languages: for train and decode {advice_on(code)}" for code in others]


def advice_on(code: str) -> str:
    """Return the advice on a language that a model lacks, for errors and remarks."""
    near = related_languages(code)
    which = f"such as {', '.join(near)}" if near else f"see https://glottolog.org/resource/languoid/iso/{code}"
    option = f"--new_languages.{code}"
    return f"{option} CODE borrows the token of a related one ({which}); in training, {option} new adds a token"
