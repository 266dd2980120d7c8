"""Signs that a model has made up text: loops, text without speech, a length far from the reference's.

They are signs, not proof: each is listed with its utterance, for a person to listen to.
"""

from __future__ import annotations

from typing import NamedTuple

MIN_REPEATS = 4  # of an n-gram in a row
MAX_LOOP = 20  # units of a repeated n-gram
LENGTH_RATIO = 2.0  # of hypothesis and reference, either way
MIN_LENGTH_DIFFERENCE = 5  # units; "yes" for "oh yes yes" is not a sign

SIGNS = {
    "loop": f"an n-gram at least {MIN_REPEATS} times in a row, and more often than in the reference",
    "text_on_silence": "text where the reference is empty",
    "too_long": f"at least {LENGTH_RATIO:g} times as long as the reference, and {MIN_LENGTH_DIFFERENCE} units longer",
    "too_short": f"at most 1/{LENGTH_RATIO:g} as long as the reference, and {MIN_LENGTH_DIFFERENCE} units shorter",
}


class Loop(NamedTuple):
    """An n-gram repeated in a row."""

    units: tuple[str, ...]
    repeats: int


def find_signs(reference: list[str], hypothesis: list[str]) -> dict[str, str]:
    """Return the signs in a hypothesis: name in SIGNS -> details. Both texts are in units, normalised."""
    signs = {}
    loop = longest_loop(hypothesis)
    if loop is not None:
        wanted = longest_loop(reference)
        if wanted is None or loop.repeats > wanted.repeats:
            signs["loop"] = f"{' '.join(loop.units)!r} {loop.repeats} times"
    lengths = f"{len(hypothesis)} units for {len(reference)}"
    if not reference:
        return signs | ({"text_on_silence": lengths} if hypothesis else {})
    difference = len(hypothesis) - len(reference)
    if difference >= MIN_LENGTH_DIFFERENCE and len(hypothesis) >= LENGTH_RATIO * len(reference):
        signs["too_long"] = lengths
    if -difference >= MIN_LENGTH_DIFFERENCE and len(reference) >= LENGTH_RATIO * len(hypothesis):
        signs["too_short"] = lengths
    return signs


def longest_loop(units: list[str]) -> Loop | None:
    """Return the n-gram of at most MAX_LOOP units that covers the most units in a row; None if none has MIN_REPEATS."""
    if len(units) - len(set(units)) < MIN_REPEATS - 1:  # most texts: too few units occur twice
        return None
    best, best_length = None, 0
    for size in range(1, min(MAX_LOOP, len(units) // MIN_REPEATS) + 1):
        same = 0  # units in a row that equal the one `size` before
        for position in range(size, len(units)):
            same = same + 1 if units[position] == units[position - size] else 0
            length = same + size
            # A multiple of a loop is a loop too: only one with more units is better.
            if length >= MIN_REPEATS * size and length // size * size > best_length:
                start = position - length + 1
                best = Loop(tuple(units[start : start + size]), length // size)
                best_length = best.repeats * size
    return best
