"""Error counts of hypotheses against references, by jiwer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter

import jiwer

# Han, Bopomofo, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar, Tibetan: ISO 15924
UNSPACED_SCRIPTS = frozenset({"Hani", "Bopo", "Hira", "Kana", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
Alignment = jiwer.WordOutput | jiwer.CharacterOutput


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors in units: words, or characters for languages written without spaces."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    total: int = 0  # units of the references
    utterances: int = 0
    correct_utterances: int = 0

    @classmethod
    def sum(cls, counts: Iterable[ErrorCounts]) -> ErrorCounts:
        """Return the counts of several utterances together."""
        return cls(*map(sum, zip(*map(attrgetter(*cls.__slots__), counts), strict=True)))

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions

    def rate(self, count: int) -> float | None:
        """Return a count as a share of the reference units; None if there are none."""
        return count / self.total if self.total else None

    @property
    def match_error_rate(self) -> float | None:
        """MER: errors as a share of aligned positions, including insertions, so at most 1; None if there are none."""
        positions = self.total + self.insertions
        return self.errors / positions if positions else None

    def metrics(self) -> dict[str, float | int | None]:
        """Return rates and counts for metrics.json."""
        return {
            "error_rate": self.rate(self.errors),
            "ins_rate": self.rate(self.insertions),
            "del_rate": self.rate(self.deletions),
            "sub_rate": self.rate(self.substitutions),
            "match_error_rate": self.match_error_rate,
            "insertions": self.insertions,
            "deletions": self.deletions,
            "substitutions": self.substitutions,
            "total": self.total,
            "utterances": self.utterances,
            "sentence_correct_rate": self.correct_utterances / self.utterances if self.utterances else None,
        }


def units_of(text: str, characters: bool) -> list[str]:
    """Return the units that errors are counted in: words, or characters without the spaces between them."""
    # jiwer separates words by plain spaces only: tabs and no-break spaces would be parts of words.
    words = text.split()
    return list("".join(words)) if characters else words


def spaced_characters(text: str) -> str:
    """Return a text with spaces around each character of scripts written without them (Han, Kana, Thai …).

    Its word error rate is the mixed error rate of code-switched text, such as Mandarin with English words
    (https://arxiv.org/abs/2112.06223).
    """
    return "".join(f" {character} " if _is_unspaced(character) else character for character in text)


@functools.cache
def _is_unspaced(character: str) -> bool:
    from fontTools.unicodedata import script

    return script(character) in UNSPACED_SCRIPTS


def align(reference: str, hypothesis: str, characters: bool) -> Alignment:
    """Align one utterance with the fewest errors.

    Args:
        reference: normalised text; if empty, every unit of the hypothesis is an insertion.
        hypothesis: normalised text; if empty, every unit of the reference is a deletion.
        characters: count characters, without spaces, instead of words.
    """
    process = jiwer.process_characters if characters else jiwer.process_words
    units = [units_of(text, characters) for text in (reference, hypothesis)]
    return process([units[0]], [units[1]], list, list)  # already split: `list` leaves them unchanged


def count_errors(reference: str, hypothesis: str, characters: bool) -> ErrorCounts:
    """Return the error counts of one utterance; the arguments are those of `align`."""
    found = align(reference, hypothesis, characters)
    return ErrorCounts(
        insertions=found.insertions,
        deletions=found.deletions,
        substitutions=found.substitutions,
        total=len(found.references[0]),
        utterances=1,
        correct_utterances=int(found.insertions + found.deletions + found.substitutions == 0),
    )


def alignment_lines(alignment: Alignment) -> str:
    """Return an utterance's alignment in three lines: REF, HYP, and marks."""
    lines = jiwer.visualize_alignment(alignment, show_measures=False).strip("\n").splitlines()[1:]
    return "\n".join(line for line in lines if line)


def alignment_code(alignment: Alignment) -> str:
    """Return an utterance's alignment in short form, `=5s1i2d1`: equal, substituted, inserted and deleted units."""
    return "".join(
        f"{'=' if chunk.type == 'equal' else chunk.type[0]}"
        f"{max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)}"
        for chunk in alignment.alignments[0]
    )


def steps(alignment: Alignment) -> Iterator[tuple[str, str, str]]:
    """Yield an utterance's alignment unit by unit: (equal, substitute, delete or insert; reference; hypothesis).

    The reference's unit is "" for an insertion, the hypothesis' for a deletion.
    """
    references, hypotheses = alignment.references[0], alignment.hypotheses[0]
    for chunk in alignment.alignments[0]:
        reference = references[chunk.ref_start_idx : chunk.ref_end_idx]
        hypothesis = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for position in range(max(len(reference), len(hypothesis))):
            yield chunk.type, "".join(reference[position : position + 1]), "".join(hypothesis[position : position + 1])
