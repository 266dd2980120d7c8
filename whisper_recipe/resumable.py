"""Work in numbered pieces: interrupted, it resumes after the finished ones; processes and machines may share it."""

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
WAIT = 0.5  # seconds between looks at what the other processes have done


class ResumableWork:
    """The finished pieces of some work, each a file of JSON lines, in a folder beside what they are for.

    The folder's name holds a digest of the settings, so pieces of other work are never taken for this one's.

    Args:
        target: file or folder that the pieces are for; theirs is .unfinished_<target's name>.<digest>, beside it.
        settings: all that decides over the pieces; JSON values.
        part: of the pieces that this command computes. Parts may run at any times, so none waits for the others.
        process: which one this is of the processes that compute this part together.
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
        """Make the folder; return how many pieces are there already. Work with other settings is removed.

        Raises:
            RecipeError: this is one of several parts, and others may be at work there with other settings.
        """
        for other in sorted(self.folder.parent.glob(self._folders)):
            if other == self.folder:
                continue
            if self.in_parts:
                what = f"unfinished work with different {self._difference(other)}"
                raise RecipeError(what, where=other, cure="if no other process is working on it, remove the folder")
            if self.leads:
                print(f"{other}: unfinished, with different {self._difference(other)}: starting over", flush=True)
                shutil.rmtree(other)
        if not (self.folder / SETTINGS).exists():
            write_json(self.folder / SETTINGS, self.settings)
        return len(self.pieces())

    def to_do(self, count: int) -> list[int]:
        """Return the numbers of this process's pieces, of so many, that are not finished."""
        # By the piece's number and not by what is left: processes that look at different times must agree.
        return [number for number in range(count) if self.own.has(number) and not self.piece(number).exists()]

    def piece(self, number: int) -> Path:
        """Return the file of a piece: it stands when the piece is finished."""
        return self.folder / f"part{number:06d}.jsonl"

    def pieces(self) -> list[Path]:
        """Return the files of the finished pieces, in their order."""
        return sorted(self.folder.glob("part*.jsonl"))

    def write(self, number: int, rows: Iterable[dict]) -> None:
        """Write a finished piece; it outlives a kill of the process, and of the machine too."""
        aside = self.folder / own_name("partial", self.piece(number).name)
        with open(aside, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.piece(number))

    def rows(self) -> Iterator[dict]:
        """Yield the rows of all finished pieces, in their order."""
        return (row for piece in self.pieces() for _, row in read_jsonl(piece))

    def is_complete(self, count: int) -> bool:
        """Whether so many pieces, which are all, are finished."""
        return len(self.pieces()) == count

    def is_ours_to_finish(self, count: int) -> bool:
        """Whether all of so many pieces are finished and this process puts them together.

        Of several parts it is the process that finds all finished first, on any machine. Should it be killed, the
        command without a part does it. Of processes launched together it is the first, which waits for the others.
        """
        if self.leads:
            while not self.is_complete(count):
                time.sleep(WAIT)
            return True
        if self.in_parts and self.is_complete(count):
            with suppress(FileExistsError, FileNotFoundError):  # another one puts them together, or has
                (self.folder / "finishing").mkdir()
                return True
        return False

    def discard(self) -> None:
        """Remove the folder, in one step, so that nobody resumes with what a kill leaves of it."""
        old = self.folder.with_name(own_name("old", self.folder.name))
        self.folder.rename(old)
        shutil.rmtree(old)

    def _difference(self, other: Path) -> str:
        with suppress(RecipeError):  # whoever made the folder was killed at once
            theirs = read_json(other / SETTINGS)
            keys = self.settings.keys() | theirs.keys()
            return ", ".join(sorted(key for key in keys if theirs.get(key) != self.settings.get(key)))
        return "settings"
