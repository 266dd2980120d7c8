"""Which of several processes this is, or which part of a command it runs."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from whisper_recipe.errors import RecipeError


class Part(NamedTuple):
    """One of `count` equal parts of some numbered pieces, `index` from 0."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether a piece belongs to this part."""
        return number % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def launched() -> Part:
    """Return which one this is of the processes that torchrun or accelerate have launched together."""
    return Part(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def is_main_process() -> bool:
    """Whether this process is the one of them that prints, and writes what all of them share."""
    return launched().index == 0


def parse_part(part: str | None) -> Part:
    """Return the part that `--part 2/8` means, the second of eight; everything where it is not given.

    Raises:
        RecipeError: it is not such a part.
    """
    if part is None:
        return Part()
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"invalid part {part!r}", where="--part", cure="expected e.g. 1/8, up to 8/8")
    return Part(int(found[1]) - 1, int(found[2]))
