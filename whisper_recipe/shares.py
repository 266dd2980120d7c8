"""Work that processes or machines share through a folder: which pieces are whose, and who puts them together."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import own_name, read_json, write_json

SETTINGS = "settings.json"  # in a folder of unfinished work, beside the pieces


class Share(NamedTuple):
    """One of `count` equal shares of some numbered pieces, `index` from 0."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether a piece belongs to this share."""
        return number % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def launched() -> Share:
    """Return which one this is of the processes that torchrun or accelerate have launched together."""
    return Share(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def is_main() -> bool:
    """Whether this process is the one of them that prints, and writes what all of them share."""
    return launched().index == 0


def parse_share(part: str | None) -> Share:
    """Return the share that `--part 2/8` means, the second of eight; everything where it is not given.

    Raises:
        RecipeError: it is not such a share.
    """
    if part is None:
        return Share()
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise RecipeError(f"invalid part {part!r}", where="--part", cure="expected e.g. 1/8, up to 8/8")
    return Share(int(found[1]) - 1, int(found[2]))


def claim(path: Path) -> bool:
    """Whether this process is the first, on any machine, to claim what `path` stands for."""
    with suppress(FileExistsError, FileNotFoundError):  # the other one is putting together, or has
        path.mkdir()
        return True
    return False


class Unfinished:
    """A folder for the pieces of a piece of work, until all are done: interrupted work resumes with the others.

    Args:
        folder: to make. What stands there counts if its settings are the same.
        settings: all that decides over the pieces; JSON values.
        suffix: of a piece's file.
        share: of this process. Only where it is everything, work with other settings is removed.

    Raises:
        RecipeError: others may be at work there, with other settings.
    """

    def __init__(self, folder: Path, settings: dict, suffix: str, share: Share = Share()) -> None:  # noqa: B008
        self.folder, self.suffix, self.share = folder, suffix, share
        if not self._open(settings):
            if share.count > 1:
                what = "there is unfinished work with other input or settings"
                raise RecipeError(what, where=folder, cure="if nobody is at it, remove the folder")
            print("starts over: the interrupted run had other manifests or settings")
            self.discard()
            self._open(settings)

    def _open(self, settings: dict) -> bool:
        """Make the folder with its settings in one step; whether it is there with these settings."""
        if not self.folder.exists():
            made = self.folder.with_name(own_name("made", self.folder.name))
            write_json(made / SETTINGS, settings)
            try:
                made.rename(self.folder)
            except OSError:  # another process was faster
                shutil.rmtree(made)
        note = self.folder / SETTINGS
        return note.exists() and read_json(note) == settings

    def piece(self, number: int) -> Path:
        """Return the file of a piece: it stands when the piece is done."""
        return self.folder / f"part{number:06d}{self.suffix}"

    def pieces(self) -> list[Path]:
        """Return the files of the pieces that are done, in their order."""
        return sorted(self.folder.glob(f"part*{self.suffix}"))

    def is_ours_to_finish(self, count: int) -> bool:
        """Whether all pieces are done, and this process is the one that puts them together.

        With shares it is the one that finds all done first. Should it be killed, the command without a share is.
        """
        if not all(self.piece(number).exists() for number in range(count)):
            return False
        return self.share.count == 1 or claim(self.folder / "finishing")

    def discard(self) -> None:
        """Remove the folder: the settings first, so that nobody resumes with the rest."""
        (self.folder / SETTINGS).unlink(missing_ok=True)
        shutil.rmtree(self.folder)
