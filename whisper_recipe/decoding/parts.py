"""Finished batches on disk: interrupted decoding resumes after them, and several processes share a set through them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from whisper_recipe.shares import Share, claim, launched

WAIT = 0.5  # seconds between looks at what the other processes have done


@dataclass
class FinishedBatch:
    """What decoding a batch has given.

    Args:
        number: of the batch, from 0.
        seconds: that it took.
        rows: of hyp.jsonl.
        skipped: cut id -> why it could not be decoded.
    """

    number: int
    seconds: float
    rows: list[dict]
    skipped: dict[str, str]


class Parts:
    """The finished batches of one decoding: a file of JSON lines a process, beside the hypotheses to come.

    The files' names hold a digest of the settings, so batches of another decoding are never taken for this one's; the
    first line of each tells the settings. A line that a killed process has not finished counts for nothing.

    Args:
        out: the folder of the hypotheses.
        settings: all that decides over them; JSON values.
        count: batches of the set.
        share: of these batches that this command decodes, with all processes that it is launched in. Several shares
            are decoded at any times, so none waits for the others.
    """

    def __init__(self, out: Path, settings: dict, count: int, share: Share = Share()) -> None:  # noqa: B008
        rank, processes = launched()
        self.rank, self.processes = share.index * processes + rank, share.count * processes
        self.in_shares = share.count > 1
        self.waits = rank == 0 and not self.in_shares
        self.is_first = rank == 0
        self.out, self.count = out, count
        self.settings = json.loads(json.dumps(settings))  # as they are read back
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self._own = out / f"hyp.{self.digest}.{self.rank}.partial.jsonl"
        self._claimed = out / f"hyp.{self.digest}.finishing"
        self._is_open = False

    def is_whole(self) -> bool:
        """Whether all batches are finished, by whichever process."""
        return len({batch.number for batch in self._finished()}) == self.count

    def is_ours_to_finish(self) -> bool:
        """Whether this process puts the parts together; where it is the one that waits, once all are finished.

        Of several shares it is the process that finds all finished first. Should it be killed, the command without a
        share is.
        """
        while self.waits and not self.is_whole():
            time.sleep(WAIT)
        return self.waits or (self.in_shares and self.is_whole() and claim(self._claimed))

    def announce(self) -> None:
        """Say where the decoding begins, and remove what other decodings have left unfinished here."""
        done = len({batch.number for batch in self._finished()})
        if done:
            print(f"{self.out}: resuming, {done} of {self.count} batches are done", flush=True)
        for path in sorted(self.out.glob("hyp.*.partial.jsonl")):
            if path not in self._paths():
                print(f"{path}: unfinished, with other {self._difference(path)}: starting over", flush=True)
                path.unlink()

    def to_do(self) -> list[int]:
        """Return the numbers of this process's batches that are not finished."""
        done = {batch.number for batch in self._finished()}
        # By the batch's number and not by what is left: processes that look at different times must agree.
        return [number for number in range(self.rank, self.count, self.processes) if number not in done]

    def add(self, batch: FinishedBatch) -> None:
        """Store a finished batch; it outlives a kill of the process, and of the machine too."""
        if not self._is_open:
            self._open()
        self._append(asdict(batch))

    def collect(self) -> list[FinishedBatch]:
        """Return each batch once, in their order; all are finished."""
        found = {batch.number: batch for batch in self._finished()}
        return [found[number] for number in range(self.count)]

    def busiest_seconds(self) -> float:
        """Return the seconds that the process with the most work was decoding."""
        return max((sum(batch.seconds for batch in _read(path)) for path in self._paths()), default=0.0)

    def remove(self) -> None:
        """Remove the parts: their batches stand where they belong."""
        for path in self._paths():
            path.unlink()
        if self._claimed.exists():
            self._claimed.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.out.glob(f"hyp.{self.digest}.*.partial.jsonl"))

    def _finished(self) -> Iterator[FinishedBatch]:
        for path in self._paths():
            yield from _read(path)

    def _open(self) -> None:
        """Cut off what a killed process has left of a line, or begin the file with the settings."""
        self.out.mkdir(parents=True, exist_ok=True)
        whole = [line for line in _lines(self._own) if line.endswith(b"\n")]
        if whole:
            os.truncate(self._own, sum(map(len, whole)))
        else:
            self._own.unlink(missing_ok=True)
            self._append({"settings": self.settings})
        self._is_open = True

    def _append(self, row: dict) -> None:
        with open(self._own, "ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _difference(self, path: Path) -> str:
        with suppress(ValueError, IndexError, KeyError):  # a first line that was not finished
            other = json.loads(_lines(path)[0])["settings"]
            return ", ".join(sorted(key for key in self.settings if other.get(key) != self.settings[key]))
        return "settings"


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _read(path: Path) -> Iterator[FinishedBatch]:
    """Yield the batches of a part; the line that a process may be writing is passed over."""
    for line in _lines(path)[1:]:
        if line.endswith(b"\n"):
            yield FinishedBatch(**json.loads(line))
