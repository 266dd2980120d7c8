"""Confidence intervals of error rates and their differences: the bootstrap of Bisani and Ney (ICASSP 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # of all intervals
SEED = 0  # the same figures give the same interval
MIN_SPEAKERS = 10  # with fewer, utterances are drawn: drawing so few speakers means little
CHUNK = 10_000_000  # draws held in memory at once


class Interval(NamedTuple):
    """The interval of 95 % of the resamples, and what was resampled: speakers or utterances."""

    low: float
    high: float
    resampled: str


class Difference(NamedTuple):
    """Error rate of a system minus the first system's, on the same utterances; p is two-sided."""

    difference: float
    low: float
    high: float
    p: float


def error_rate_interval(
    errors: Sequence[int], totals: Sequence[int], speakers: Sequence[str | None]
) -> Interval | None:
    """Return the interval of sum(errors) / sum(totals); None for a single utterance or empty references.

    Args:
        errors: of each utterance.
        totals: units of each reference.
        speakers: of each utterance. Utterances of one speaker are alike, so whole speakers are drawn if all utterances
            have one and there are at least ten; otherwise utterances.
    """
    sums, resampled = _independent(np.array([errors, totals]).T, speakers)
    if len(sums) < 2 or not sums[:, 1].any():
        return None
    drawn = _resample(sums)
    drawn = drawn[drawn[:, 1] > 0]
    return Interval(*_quantiles(drawn[:, 0] / drawn[:, 1]), resampled)


def paired_difference(
    first: Sequence[int], second: Sequence[int], totals: Sequence[int], speakers: Sequence[str | None]
) -> Difference | None:
    """Return the second system's error rate minus the first's; both are resampled with the same draws.

    None for a single utterance or empty references.

    Args:
        first: errors of each utterance by the first system.
        second: those by the second system.
        totals: units of each reference.
        speakers: as for error_rate_interval.
    """
    sums, _ = _independent(np.array([first, second, totals]).T, speakers)
    if len(sums) < 2 or not sums[:, 2].any():
        return None
    drawn = _resample(sums)
    drawn = drawn[drawn[:, 2] > 0]
    differences = (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2]
    # Add one to numerator and denominator: a thousand draws can't show that a probability is zero.
    tails = (1 + np.array([(differences <= 0).sum(), (differences >= 0).sum()])) / (1 + len(differences))
    by_first, by_second, total = sums.sum(axis=0)
    return Difference((by_second - by_first) / total, *_quantiles(differences), min(1.0, float(2 * tails.min())))


def _independent(counts: np.ndarray, speakers: Sequence[str | None]) -> tuple[np.ndarray, str]:
    """Add up the rows of counts (utterances, columns) by speaker, if speakers are to be drawn."""
    known = None not in speakers
    index = {speaker: number for number, speaker in enumerate(dict.fromkeys(speakers))} if known else {}
    if len(index) < MIN_SPEAKERS:
        return counts, "utterances"
    sums = np.zeros((len(index), counts.shape[1]), dtype=counts.dtype)
    np.add.at(sums, [index[speaker] for speaker in speakers], counts)
    return sums, "speakers"


def _resample(sums: np.ndarray) -> np.ndarray:
    """Draw as many rows as there are, with replacement, RESAMPLES times; return the sums (RESAMPLES, columns).

    Rows with equal values are interchangeable: it is enough to draw how often each kind of row is taken. A set of
    100,000 utterances has a few hundred kinds.
    """
    kinds, sizes = np.unique(sums, axis=0, return_counts=True)
    draw = np.random.default_rng(SEED)
    rows = max(1, CHUNK // len(kinds))
    parts = [
        draw.multinomial(len(sums), sizes / len(sums), size=min(rows, RESAMPLES - done)) @ kinds
        for done in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(parts)


def _quantiles(values: np.ndarray) -> list[float]:
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
