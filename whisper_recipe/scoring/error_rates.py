"""Error counts of hypotheses against references, by jiwer."""

from __future__ import annotations

from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class ErrorCounts:
    """Errors in units: words, or characters for languages written without spaces."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    total: int = 0  # units of the references
    utterances: int = 0
    correct_utterances: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions

    def rate(self, count: int) -> float | None:
        """Return a count as a share of the reference units; None where there are none."""
        return count / self.total if self.total else None

    def metrics(self) -> dict[str, float | int | None]:
        """Return rates and counts as metrics.json has them."""
        return {
            "error_rate": self.rate(self.errors),
            "ins_rate": self.rate(self.insertions),
            "del_rate": self.rate(self.deletions),
            "sub_rate": self.rate(self.substitutions),
            "insertions": self.insertions,
            "deletions": self.deletions,
            "substitutions": self.substitutions,
            "total": self.total,
            "utterances": self.utterances,
            "sentence_correct_rate": self.correct_utterances / self.utterances if self.utterances else None,
        }


def count_errors(reference: str, hypothesis: str, characters: bool) -> tuple[ErrorCounts, str]:
    """Return the error counts of one utterance, and its alignment in three lines (REF, HYP, and marks).

    Args:
        reference: normalised text; may be empty: then every unit of the hypothesis is an insertion.
        hypothesis: normalised text; may be empty: then every unit of the reference is a deletion.
        characters: count characters, spaces left out, and not words.
    """
    # jiwer separates words by plain spaces alone: tabs and no-break spaces would be parts of words.
    space = "" if characters else " "
    reference, hypothesis = space.join(reference.split()), space.join(hypothesis.split())
    units = list(reference) if characters else reference.split()
    if not units:  # jiwer takes no empty reference
        inserted = len(hypothesis if characters else hypothesis.split())
        return ErrorCounts(
            insertions=inserted, utterances=1, correct_utterances=int(not inserted)
        ), f"HYP: {hypothesis}"
    out = (jiwer.process_characters if characters else jiwer.process_words)(reference, hypothesis)
    counts = ErrorCounts(
        insertions=out.insertions,
        deletions=out.deletions,
        substitutions=out.substitutions,
        total=len(units),
        utterances=1,
        correct_utterances=int(out.insertions + out.deletions + out.substitutions == 0),
    )
    lines = jiwer.visualize_alignment(out, show_measures=False).strip("\n").splitlines()[1:]
    return counts, "\n".join(lines)
