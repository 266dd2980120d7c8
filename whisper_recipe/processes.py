"""Which of several processes this is, or which part of a command it runs."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from whisper_recipe.errors import RecipeError


class Part(NamedTuple):
    """One of `count` equal parts of numbered pieces; `index` counts from 0."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Return whether a piece belongs to this part."""
        return number % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def launched() -> Part:
    """Return this process's place among the processes that torchrun or accelerate launched together."""
    return Part(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def is_main_process() -> bool:
    """Return whether this process is the one that prints and writes shared files."""
    return launched().index == 0


def parse_part(part: str | None) -> Part:
    """Parse `--part 2/8`, the second of eight parts; None is the whole.

    Raises:
        RecipeError: not a valid part.
    """
    if part is None:
        return Part()
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise RecipeError(f"invalid part {part!r}", where="--part", cure="expected e.g. 1/8, up to 8/8")
    return Part(int(match[1]) - 1, int(match[2]))
