"""Signs that a transcript is not what was said: case, punctuation, script, repetition.

Whisper's own training data was filtered by the same signs (section 2.1 of https://arxiv.org/abs/2212.04356):
output of other recognisers, other languages, duplicates.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from whisper_recipe.languages import LANGUAGES

# Whisper's special tokens and times (whisper/tokenizer.py of openai/whisper), which are never spoken.
WHISPER_TOKEN = re.compile(
    r"<\|(?:endoftext|startof(?:transcript|lm|prev)|translate|transcribe|nospeech|nocaptions|notimestamps"
    rf"|\d{{1,2}}\.\d\d|{'|'.join(LANGUAGES)})\|>"
)
MIN_WORDS = 3  # with fewer, case and punctuation prove nothing
WORD_MARKS = frozenset("'’-‐‑")  # belong to words, so they are no sign of punctuated text
SHINGLE = 4  # characters compared at a time in the search for near duplicates
PERMUTATIONS = 128  # of MinHash: more take longer, but leave fewer dissimilar pairs to compare
RECALL = 0.99  # of pairs just at the threshold; more similar pairs are found more often

# Not Georgian: it has capitals in Unicode, but not in texts.
CASED_SCRIPTS = frozenset({"Latn", "Cyrl", "Grek", "Armn"})
# Languages whose likely script is not the only one in use.
FURTHER_SCRIPTS = {
    "sr": {"Cyrl", "Latn"},
    "bs": {"Latn", "Cyrl"},
    "az": {"Latn", "Cyrl"},
    "uz": {"Latn", "Cyrl"},
    "tk": {"Latn", "Cyrl"},
    "kk": {"Cyrl", "Latn"},
    "tt": {"Cyrl", "Latn"},
    "mn": {"Cyrl", "Mong"},
    "pa": {"Guru", "Arab"},
    "sd": {"Arab", "Deva"},
    "ms": {"Latn", "Arab"},
    "ha": {"Latn", "Arab"},
}
# CLDR's scripts that Unicode does not have under the same name.
UNICODE_SCRIPTS = {"Hans": {"Hani"}, "Hant": {"Hani"}, "Jpan": {"Hani", "Hira", "Kana"}, "Kore": {"Hang", "Hani"}}
NO_SCRIPT = frozenset(
    {"Zyyy", "Zinh"}
)  # characters shared by many scripts, such as the long vowel mark of Hiragana and Katakana
LANGUAGE_TAGS = {"jw": "jv"}  # Whisper's code -> the standard's, where they differ


@functools.cache
def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation, other than inside words."""
    return unicodedata.category(character).startswith("P") and character not in WORD_MARKS


def count_characters(text: str) -> int:
    """Return the number of letters and digits of all scripts in a text (Unicode's categories L and N).

    Punctuation, symbols and spaces are not spoken. Marks belong to their letters: vowel signs of Hindi and Thai that
    are marks in Unicode are not counted apart from the consonant.
    """
    return sum(unicodedata.category(character)[0] in "LN" for character in text)


def looks_like_machine_text(text: str, language: str) -> str | None:
    """Return why a transcript looks like another recogniser's output: its case and lack of punctuation.

    None if it does not, if fewer than MIN_WORDS words have letters with case, or if the language has no case.
    """
    if CASED_SCRIPTS.isdisjoint(scripts_of(language)):
        return None
    words = [cased for word in text.split() if (cased := "".join(filter(_has_case, word)))]
    if len(words) < MIN_WORDS:
        return None
    cased = "".join(words)
    if all(character == character.upper() for character in cased):
        return "all capitals"
    if all(character == character.lower() for character in cased) and not any(map(is_punctuation, text)):
        return "all lower case without punctuation"
    return None


@functools.cache
def _has_case(character: str) -> bool:
    return character.lower() != character.upper() and _script(character) in CASED_SCRIPTS


@functools.cache
def _script(character: str) -> str:
    from fontTools.unicodedata import script

    return script(character)


@functools.cache
def scripts_of(language: str) -> frozenset[str]:
    """Return the scripts (ISO 15924) that a language is written in: CLDR's likely one, and others in wide use."""
    import langcodes

    likely = langcodes.Language.get(LANGUAGE_TAGS.get(language, language)).maximize().script
    return frozenset(FURTHER_SCRIPTS.get(language, set()) | UNICODE_SCRIPTS.get(likely, {likely}))


def script_share(text: str, language: str) -> float:
    """Return the share of a text's letters that are in a script of the language; 1 if it has no letters."""
    found = [_script(character) for character in text if unicodedata.category(character)[0] == "L"]
    found = [script for script in found if script not in NO_SCRIPT]
    return sum(script in scripts_of(language) for script in found) / len(found) if found else 1.0


def normalised(text: str) -> str:
    """Return a transcript for comparison with others: without case, punctuation and spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMNS")


def near_duplicates(texts: Iterable[tuple[str, str]], threshold: float) -> Iterator[tuple[str, str]]:
    """Yield (key, key of the similar text) of texts equal or nearly equal to an earlier text that is kept.

    The similarity of two texts is the share of sequences of SHINGLE characters that they have in common (the Jaccard
    index). Not all pairs are compared: MinHash (https://doi.org/10.1109/SEQUEN.1997.666900) finds the candidates,
    deterministically, and misses one in a hundred pairs just at the threshold.

    Args:
        texts: (key, text as returned by `normalised`).
        threshold: minimum similarity of near duplicates, above 0, up to 1.
    """
    from datasketch import MinHash, MinHashLSH

    texts = list(texts)
    # With its default bands the index would miss half of the pairs near the threshold.
    index, kept = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold)), {}
    encoded = ([shingle.encode() for shingle in _shingles(text)] for _, text in texts)
    for (key, text), minhash in zip(texts, MinHash.generator(encoded, num_perm=PERMUTATIONS), strict=True):
        own, candidates = _shingles(text), sorted(index.query(minhash))
        like = next((other for other in candidates if _jaccard(own, _shingles(kept[other])) >= threshold), None)
        if like is not None:
            yield key, like
        else:
            kept[key] = text
            index.insert(key, minhash)


def _bands(threshold: float) -> tuple[int, int]:
    """Return (number of bands, hash values in each) with which at least the RECALL of pairs at the threshold are found.

    A pair is a candidate if all values of a band are the same: 1 - (1 - similarity^size)^number. See section 3.4.2 of
    http://www.mmds.org. Larger bands leave fewer dissimilar candidates.
    """
    for size in range(PERMUTATIONS // 2, 1, -1):
        if 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= RECALL:
            return PERMUTATIONS // size, size
    return PERMUTATIONS, 1


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
