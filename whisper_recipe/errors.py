"""The one exception for what a user can cause and mend: it prints as a single clear line."""

from __future__ import annotations

from pathlib import Path


class RecipeError(Exception):
    """An error of the user's data, configuration or call.

    Args:
        what: what is wrong.
        where: file, `file:line` or configuration key.
        cure: what to do about it.
    """

    status = 1  # of the command that it ends

    def __init__(self, what: str, where: str | Path | None = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        line = f"{where}: {what}" if where is not None else what
        super().__init__(f"{line}; {cure}" if cure else line)


def check_proportion(value: float, option: str) -> None:
    """RecipeError where an option's value is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise RecipeError(f"{value} is no share", where=option, cure="give a number from 0 to 1")


class PartialFailure(RecipeError):
    """Some of the inputs were skipped, each with a line that says why; the results of the others are complete."""

    status = 2
