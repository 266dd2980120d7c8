"""Training cuts: stored compactly, scanned once, and drawn for each epoch from the whole corpus."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tempfile
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from whisper_recipe.data.shar_reader import Shard, index_place, is_shards, list_shards, read_cuts, read_place
from whisper_recipe.data.supervision import Outline, outline_of, supervision_of
from whisper_recipe.errors import RecipeError, no_cuts
from whisper_recipe.files import file_digest, read_jsonl, read_lines, require

BLOCK = 16  # rows that are compressed together


def load_cuts(manifests: list[str | Path]) -> CutSet:
    """Open and concatenate cut manifests, with or without weights (a.jsonl.gz:0.7, see `draw_rates`).

    Folders and URLs are sets of shards, written by `whisper-recipe shar`.

    Raises:
        RecipeError: one is missing, empty or can't be read, or only some have weights or are shards.
    """
    if any(map(is_shards, manifests)):
        if not all(map(is_shards, manifests)):
            cure = "give only manifests or only shards"
            raise RecipeError("manifests and shards can't be mixed", where="train_cuts", cure=cure)
        return CutSet(Shards([shard for place in manifests for shard in list_shards(place)]))
    paths, weights = zip(*map(parse_weight, manifests), strict=True)
    for path in paths:
        require(path, "run stage 2 (whisper-recipe fbank) first")
    if any(weights) and not all(weights):
        lacking = paths[weights.index(None)]
        raise RecipeError("it has no weight, but others do", where=lacking, cure=f"use e.g. {lacking}:0.5")
    return CutSet(Manifests(paths, weights if all(weights) and len(weights) > 1 else None))


def parse_weight(manifest: str | Path) -> tuple[Path, float | None]:
    """Return path and weight of a manifest given as PATH or PATH:WEIGHT; RecipeError unless the weight is over 0."""
    found = re.fullmatch(r"(.+\.(?:jsonl|jsonl\.gz)):([^/:]*)", str(manifest))
    if not found:
        return Path(manifest), None
    try:
        weight = float(found[2])
    except ValueError:
        weight = 0.0
    if not 0 < weight < math.inf:
        raise RecipeError(f"{found[2]!r} is not a weight", where=manifest, cure="give a number over 0")
    return Path(found[1]), weight


def cuts_digest(manifest: str | Path) -> str:
    """Return a hash of a manifest's contents (with or without a weight), or of the index of shards."""
    if is_shards(manifest):
        return hashlib.sha256(read_place(index_place(manifest))).hexdigest()
    return file_digest(parse_weight(manifest)[0])


def outlines(cuts: CutSet) -> Iterable[Outline | Cut]:
    """Return the cuts in order, to scan them quickly: only id, duration, supervisions and custom fields are set."""
    return cuts.data.outlines() if hasattr(cuts.data, "outlines") else cuts


class Manifests(Sequence):
    """The cuts of manifests, with random access, so that an epoch can read them in any order.

    Lhotse reads a manifest sequentially, and its samplers shuffle within a buffer: concatenated corpora would be
    trained on one after the other. A gzipped file has no random access, so the rows are written to an unnamed
    temporary file, compressed in small blocks: 100 to 200 bytes per cut. A row becomes a Cut when its batch is due.
    """

    def __init__(self, paths: tuple[Path, ...], weights: tuple[float, ...] | None = None) -> None:
        self.paths, self.weights = paths, weights
        self.starts: list[int] = []  # the number of each manifest's first cut
        self.count = 0
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (open while the cuts are in use)
        self.ends = array("Q", [0])  # of the blocks
        lines = self._read()
        while block := list(itertools.islice(lines, BLOCK)):
            self._write(zlib.compress("\n".join(block).encode(), 1))

    def _read(self) -> Iterator[str]:
        for path in self.paths:
            self.starts.append(self.count)
            for _, line in read_lines(path):
                self.count += 1
                yield line
            if self.count == self.starts[-1]:
                raise no_cuts(path)

    def _write(self, block: bytes) -> None:
        try:
            self.ends.append(self.ends[-1] + self.file.write(block))
            self.file.flush()
        except OSError as error:
            what = f"can't write a temporary file for the cuts ({error})"
            cure = "set TMPDIR to a folder with more space"
            raise RecipeError(what, where=tempfile.gettempdir(), cure=cure) from None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Cut:
        return deserialize_item(self._row(number, self._lines(number // BLOCK)[number % BLOCK]))

    def __iter__(self) -> Iterator[Cut]:
        return map(deserialize_item, self._rows())

    def outlines(self) -> Iterator[Outline | Cut]:
        return map(outline_of, self._rows())

    def _lines(self, block: int) -> list[str]:
        start, end = self.ends[block : block + 2]
        return zlib.decompress(os.pread(self.file.fileno(), end - start, start)).decode().split("\n")

    def _rows(self) -> Iterator[dict]:
        lines = (line for block in range(len(self.ends) - 1) for line in self._lines(block))
        return itertools.starmap(self._row, enumerate(lines))

    def _row(self, number: int, line: str) -> dict:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            for _ in read_jsonl(self.paths[bisect_right(self.starts, number) - 1]):
                pass  # raises RecipeError with the line number
        return row


class Shards:
    """The cuts of shards, in order."""

    weights = None

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[Cut]:
        return map(deserialize_item, self._rows())

    def outlines(self) -> Iterator[Outline | Cut]:
        return map(outline_of, self._rows())

    def _rows(self) -> Iterator[dict]:
        return (row for shard in self.shards for row in read_cuts(shard))

    def of_shard(self, features: str) -> list[Cut]:
        """Return the cuts of the shard with these features."""
        (shard,) = (shard for shard in self.shards if shard.features == features)
        return list(map(deserialize_item, read_cuts(shard)))


class Kind(NamedTuple):
    """The key that cuts are counted by."""

    language: str
    task: str
    has_segments: bool


class Selection:
    """The cuts to train on, with columns for counting and drawing them: 18 bytes per cut.

    Args:
        cuts: see `load_cuts`; any other cuts are held in memory.
        reason: returns the reason to drop a cut, or None to keep it.
    """

    def __init__(self, cuts: CutSet, reason: Callable[[Outline | Cut], str | None] = lambda cut: None) -> None:
        self.cuts = cuts.data if isinstance(cuts.data, Manifests | Shards) else list(cuts)
        self.dropped: dict[str, str] = {}  # id -> reason
        kept, kinds = bytearray(), {}
        self.durations, self.kind = array("d"), array("H")  # of each cut; the number of its kind
        for cut in outlines(CutSet(self.cuts)):
            why = reason(cut)
            kept.append(why is None)
            if why is not None:
                self.dropped[cut.id] = why
                continue
            supervision = supervision_of(cut)
            kind = Kind(supervision.language, supervision.task, bool(supervision.segments))
            self.durations.append(cut.duration)
            self.kind.append(kinds.setdefault(kind, len(kinds)))
        self.kept, self.kinds = kept, list(kinds)
        self.numbers = np.flatnonzero(np.frombuffer(kept, dtype=np.bool_))  # in `cuts`

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Cut:
        return self.cuts[self.numbers[place]]

    def __iter__(self) -> Iterator[Cut]:
        return itertools.compress(self.cuts, self.kept)

    def outlines(self) -> Iterator[Outline | Cut]:
        return itertools.compress(outlines(CutSet(self.cuts)), self.kept)

    def of_shard(self, features: str) -> list[Cut]:
        """Return the cuts of the shard with these features."""
        return [cut for cut in self.cuts.of_shard(features) if cut.id not in self.dropped]

    def is_sharded(self) -> bool:
        """Whether the cuts are read from shards; cuts with stored encoder outputs never are."""
        return isinstance(self.cuts, Shards)


def selected(cuts: CutSet) -> Selection:
    """Return the selection in a CutSet, or one of all its cuts."""
    return cuts.data if isinstance(cuts.data, Selection) else Selection(cuts)


def draw_rates(cuts: Selection, temperature: float | None) -> np.ndarray | None:
    """Return how often an epoch uses each cut, so that groups get the requested shares of the audio.

    An epoch is as long as all cuts together. Cuts of a group that should have r times its natural share get the rate
    r. None if every cut is used once.

    Args:
        cuts: grouped by manifest if the manifests have weights, otherwise by language.
        temperature: a language with share q of the seconds gets one proportional to q^(1 / temperature), as in
            https://arxiv.org/abs/1907.05019; None for the manifests' weights.

    Raises:
        RecipeError: both weights and a temperature are given.
    """
    weights = getattr(cuts.cuts, "weights", None)
    if weights is None and temperature is None:
        return None
    if weights is not None and temperature is not None:
        cure = "remove one of them"
        raise RecipeError("the manifests have weights too", where="batches.language_temperature", cure=cure)
    if temperature is None:
        group = np.searchsorted(cuts.cuts.starts, cuts.numbers, side="right") - 1
    else:
        group = np.unique([kind.language for kind in cuts.kinds], return_inverse=True)[1][np.asarray(cuts.kind)]
    seconds = np.bincount(group, weights=cuts.durations, minlength=len(weights or ()))
    wanted = np.where(seconds > 0, weights, 0) if temperature is None else seconds ** (1 / temperature)
    return (wanted / wanted.sum() * seconds.sum() / np.maximum(seconds, 1e-9))[group]


def draw_epoch(count: int, rates: np.ndarray | None, draw: np.random.Generator | None) -> np.ndarray:
    """Return the indices of an epoch's cuts in their selection, shuffled over all of it.

    Args:
        count: number of cuts.
        rates: how often each is used on average: 2.5 is two or three times, 0.1 is once in ten epochs.
        draw: the only source of randomness; None returns each cut once, in order.
    """
    places = np.arange(count)
    if draw is not None:
        if rates is not None:
            places = np.repeat(places, np.floor(rates + draw.random(count)).astype(int))
        draw.shuffle(places)
    return places
