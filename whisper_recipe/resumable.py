"""Work in numbered pieces: it resumes after the finished ones, and processes and machines can share it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import own_name, read_json, read_jsonl, write_json
from whisper_recipe.processes import Part

SETTINGS = "settings.json"  # in the folder of the pieces
WAIT = 0.5  # seconds between checks on the other processes


class ResumableWork:
    """The finished pieces of some work, each a JSON lines file, in a folder next to the target.

    The folder's name contains a digest of the settings, so pieces with other settings are never reused.

    Args:
        target: output file or folder; the pieces are in .unfinished_<target's name>.<digest> next to it.
        settings: everything that the pieces depend on; JSON values.
        part: the part that this command computes. Parts may run at different times, so none waits for the others.
        process: this process's place among those that compute the part together.
    """

    def __init__(
        self,
        target: Path,
        settings: dict,
        part: Part = Part(),  # noqa: B008
        process: Part = Part(),  # noqa: B008
    ) -> None:
        self.settings = json.loads(json.dumps(settings))  # as they are read back
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        prefix = f".unfinished_{target.name}."
        self.folder = target.absolute().with_name(f"{prefix}{digest}")
        self._folders = glob.escape(prefix) + len(digest) * "[0-9a-f]"  # not those of <target's name>.more
        self.own = Part(part.index * process.count + process.index, part.count * process.count)
        self.in_parts = part.count > 1
        self.leads = process.index == 0 and not self.in_parts  # waits for the other processes

    def open(self) -> int:
        """Create the folder and delete work with other settings; return the number of finished pieces.

        Raises:
            RecipeError: this is one of several parts, and other processes may be working with other settings.
        """
        for other in sorted(self.folder.parent.glob(self._folders)):
            if other == self.folder:
                continue
            if self.in_parts:
                what = f"unfinished work with different {self._difference(other)}"
                raise RecipeError(what, where=other, cure="if no other process is working on it, delete the folder")
            if self.leads:
                print(f"{other}: unfinished, with different {self._difference(other)}: starting over", flush=True)
                shutil.rmtree(other)
        if not (self.folder / SETTINGS).exists():
            write_json(self.folder / SETTINGS, self.settings)
        return len(self.pieces())

    def to_do(self, count: int) -> list[int]:
        """Return the numbers of this process's unfinished pieces, out of `count`."""
        # Assigned by number, not among the remaining ones: processes that check at different times must agree.
        return [number for number in range(count) if self.own.has(number) and not self.piece(number).exists()]

    def piece(self, number: int) -> Path:
        """Return the file of a piece; it exists once the piece is finished."""
        return self.folder / f"part{number:06d}.jsonl"

    def pieces(self) -> list[Path]:
        """Return the files of the finished pieces, in order."""
        return sorted(self.folder.glob("part*.jsonl"))

    def write(self, number: int, rows: Iterable[dict]) -> None:
        """Write a finished piece so that it survives a crash of the process or the machine."""
        aside = self.folder / own_name("partial", self.piece(number).name)
        with open(aside, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.piece(number))

    def rows(self) -> Iterator[dict]:
        """Yield the rows of all finished pieces, in order."""
        return (row for piece in self.pieces() for _, row in read_jsonl(piece))

    def is_complete(self, count: int) -> bool:
        """Return whether all `count` pieces are finished."""
        return len(self.pieces()) == count

    def is_ours_to_finish(self, count: int) -> bool:
        """Return whether all `count` pieces are finished and this process merges them.

        With several parts, the first process to find all pieces finished does it, on any machine; if it is killed, run
        the command without a part. Of processes launched together, the first one does it and waits for the others.
        """
        if self.leads:
            while not self.is_complete(count):
                time.sleep(WAIT)
            return True
        if self.in_parts and self.is_complete(count):
            with suppress(FileExistsError, FileNotFoundError):  # another process is merging them, or has done so
                (self.folder / "finishing").mkdir()
                return True
        return False

    def discard(self) -> None:
        """Delete the folder, renaming it first, so that no run resumes from a half-deleted one."""
        old = self.folder.with_name(own_name("old", self.folder.name))
        self.folder.rename(old)
        shutil.rmtree(old)

    def _difference(self, other: Path) -> str:
        with suppress(RecipeError):  # the process that created the folder was killed at once
            theirs = read_json(other / SETTINGS)
            keys = self.settings.keys() | theirs.keys()
            return ", ".join(sorted(key for key in keys if theirs.get(key) != self.settings.get(key)))
        return "settings"
