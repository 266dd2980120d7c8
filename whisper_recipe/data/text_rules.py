"""Signs in a transcript that it is not what was said: case, punctuation, script, repetition.

They are those by which Whisper's own training data was filtered (section 2.1 of https://arxiv.org/abs/2212.04356):
output of other recognisers, other languages, duplicates.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator

MIN_WORDS = 3  # of fewer, case and punctuation say nothing
WORD_MARKS = frozenset("'’-‐‑")  # belong to words: they are no sign of a punctuated text
SHINGLE = 4  # characters that are compared at a time in the search for near duplicates
PERMUTATIONS = 128  # of MinHash: more find more of the near duplicates, and take longer

# Where the likely script of a language is not the only one in use.
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
# CLDR's scripts that are several of Unicode's.
UNICODE_SCRIPTS = {"Hans": {"Hani"}, "Hant": {"Hani"}, "Jpan": {"Hani", "Hira", "Kana"}, "Kore": {"Hang", "Hani"}}
LANGUAGE_TAGS = {"jw": "jv"}  # where Whisper's code is not the standard's


@functools.cache
def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation, and not one of those inside words."""
    return unicodedata.category(character).startswith("P") and character not in WORD_MARKS


def letters(text: str) -> list[str]:
    """Return the letters, digits and other signs that are spoken: all but punctuation, symbols, marks and spaces."""
    return [character for character in text if unicodedata.category(character)[0] in "LN"]


def looks_like_machine_text(text: str) -> str | None:
    """Return how a transcript looks like another recogniser's output: its case, and that it has no punctuation.

    None where it does not, where it is too short to tell, or where its letters have no case.
    """
    cased = [character for character in text if character.lower() != character.upper()]
    if len(text.split()) < MIN_WORDS or not cased:
        return None
    if all(character == character.upper() for character in cased):
        return "all capitals"
    if all(character == character.lower() for character in cased) and not any(map(is_punctuation, text)):
        return "all lower case without punctuation"
    return None


@functools.cache
def scripts_of(language: str) -> frozenset[str]:
    """Return the scripts (ISO 15924) that a language is written in: CLDR's likely one, and others in wide use."""
    import langcodes

    likely = langcodes.Language.get(LANGUAGE_TAGS.get(language, language)).maximize().script
    return frozenset(FURTHER_SCRIPTS.get(language, set()) | UNICODE_SCRIPTS.get(likely, {likely}))


def script_share(text: str, language: str) -> float:
    """Return the share of a text's letters that are in a script of the language; 1 where it has no letters."""
    from fontTools.unicodedata import script

    found = [script(character) for character in text if unicodedata.category(character)[0] == "L"]
    found = [name for name in found if name not in ("Zyyy", "Zinh")]
    return sum(name in scripts_of(language) for name in found) / len(found) if found else 1.0


def normalised(text: str) -> str:
    """Return a transcript as it is compared with others: without case, punctuation and superfluous spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(" " if is_punctuation(character) else character for character in folded).split())


def near_duplicates(texts: Iterable[tuple[str, str]], threshold: float) -> Iterator[tuple[str, str]]:
    """Yield (key, key of one like it) of texts that are nearly the same as one before.

    Compared are the sets of SHINGLE characters in a row, by the share that two have in common (Jaccard's index). Not
    all pairs are compared: MinHash (https://doi.org/10.1109/SEQUEN.1997.666900) finds the candidates, and may miss one.

    Args:
        texts: (key, text as `normalised` returns it).
        threshold: share from which texts are nearly the same, above 0, up to 1.
    """
    from datasketch import MinHash, MinHashLSH

    texts = list(texts)
    # Candidates for equal texts are as many bits alike as the index can ask for.
    index, kept = MinHashLSH(threshold=min(threshold, 0.95), num_perm=PERMUTATIONS), {}
    encoded = ([shingle.encode() for shingle in _shingles(text)] for _, text in texts)
    for (key, text), minhash in zip(texts, MinHash.generator(encoded, num_perm=PERMUTATIONS), strict=True):
        own = _shingles(text)
        like = [other for other in sorted(index.query(minhash)) if _jaccard(own, _shingles(kept[other])) >= threshold]
        if like:
            yield key, like[0]
        else:
            kept[key] = text
            index.insert(key, minhash)


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
