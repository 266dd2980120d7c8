"""The cuts of a training: read lazily, looked through cheaply, and mixed by weights."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.lazy import LazyIteratorMultiplexer
from lhotse.serialization import deserialize_item

from whisper_recipe.data.shards import Shard, index_place, is_shards, list_shards, read_cuts, read_place
from whisper_recipe.data.supervision import Outline, outline_of, supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import file_digest, read_jsonl, require

MIX = "mix"  # of a cut's custom fields: [manifest, weight]


def outlines(cuts: CutSet) -> Iterable[Outline | Cut]:
    """Return the cuts for looking through, in their order: id, duration, supervisions and custom fields are there."""
    data = cuts.data if isinstance(cuts, CutSet) else cuts
    return data.outlines() if hasattr(data, "outlines") else cuts


class Length:
    """What counting batches needs of a cut."""

    __slots__ = ("dataloading_info", "duration", "id")

    def __init__(self, duration: float) -> None:
        self.id, self.duration = "", duration


class Lengths:
    """Cuts for a sampler of lhotse's whose batches are only counted."""

    def __init__(self, cuts: CutSet) -> None:
        self.cuts = cuts

    def __iter__(self) -> Iterator[Length | Outline | Cut]:
        data = self.cuts.data
        return map(Length, data.durations) if isinstance(data, Kept) else iter(outlines(self.cuts))


def load_cuts(manifests: list[str | Path]) -> CutSet:
    """Open cut manifests lazily: in a row, or interleaved by their sizes where they have weights (a.jsonl.gz:0.7).

    Folders and URLs are sets of shards, from `whisper-recipe shar`.

    Raises:
        RecipeError: one is missing, empty or damaged, or only some have weights or are shards.
    """
    if any(map(is_shards, manifests)):
        if not all(map(is_shards, manifests)):
            cure = "give all as manifests, or all as shards"
            raise RecipeError("manifests and shards don't mix", where="train_cuts", cure=cure)
        return CutSet(_Shards([shard for place in manifests for shard in list_shards(place)]))
    paths, weights = zip(*map(parse_weight, manifests), strict=True)
    for path in paths:
        require(path, "run stage 2 (whisper-recipe fbank) first")
        if next(read_jsonl(path), None) is None:
            raise RecipeError("no cuts in it", where=path, cure="check the data directory it was made from")
    if any(weights) and not all(weights):
        lacking = paths[weights.index(None)]
        raise RecipeError("it has no weight, and others have", where=lacking, cure=f"give such as {lacking}:0.5")
    return CutSet(_Manifests(paths, weights if all(weights) and len(weights) > 1 else None))


def cuts_digest(manifest: str | Path) -> str:
    """Return a hash of what a manifest (with or without a weight) holds; of shards that of their index."""
    if is_shards(manifest):
        return hashlib.sha256(read_place(index_place(manifest))).hexdigest()
    return file_digest(parse_weight(manifest)[0])


def parse_weight(manifest: str | Path) -> tuple[Path, float | None]:
    """Return path and weight of a manifest given as PATH or PATH:WEIGHT; RecipeError where the weight is not over 0."""
    found = re.fullmatch(r"(.+\.(?:jsonl|jsonl\.gz)):([^/:]*)", str(manifest))
    if not found:
        return Path(manifest), None
    try:
        weight = float(found[2])
    except ValueError:
        weight = 0.0
    if not 0 < weight < math.inf:
        raise RecipeError(f"{found[2]!r} is no weight", where=manifest, cure="give a number over 0")
    return Path(found[1]), weight


class _Manifests:
    """Cuts of manifests, read anew whenever they are asked for."""

    def __init__(self, paths: tuple[Path, ...], weights: tuple[float, ...] | None) -> None:
        self.paths, self.weights = paths, weights
        self.sizes = weights and [sum(1 for _ in read_jsonl(path)) for path in paths]

    def __iter__(self) -> Iterator[Cut]:
        yield from map(deserialize_item, self._rows())

    def outlines(self) -> Iterator[Outline | Cut]:
        for row in self._rows():
            yield outline_of(row)

    def _rows(self) -> Iterable[dict]:
        if not self.weights:
            return (row for path in self.paths for _, row in read_jsonl(path))
        rows = [_Tagged(*pair) for pair in zip(self.paths, self.weights, strict=True)]
        # By sizes, so that all of them last until the end; weights are for _Mixture, which knows what was dropped.
        return LazyIteratorMultiplexer(*rows, weights=self.sizes, seed=0)


class _Shards(_Manifests):
    """Cuts of shards, in their order."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def _rows(self) -> Iterable[dict]:
        return (row for shard in self.shards for row in read_cuts(shard))

    def of_shard(self, features: str) -> Iterator[Cut]:
        """Yield the cuts of the shard that has its features there."""
        (shard,) = (shard for shard in self.shards if shard.features == features)
        yield from map(deserialize_item, read_cuts(shard))


def cuts_of_shard(cuts: CutSet, features: str) -> list[Cut]:
    """Return the cuts of the shard that has its features there, those left that the training takes."""
    return list(cuts.data.of_shard(features))


def are_sharded(cuts: CutSet) -> bool:
    """Whether cuts are read from shards; those with stored encoder outputs are not, whatever they were made of."""
    return are_sharded(cuts.data.cuts) if isinstance(cuts.data, Kept) else isinstance(cuts.data, _Shards)


class _Tagged:
    """The rows of a manifest, each with its manifest and weight."""

    def __init__(self, path: Path, weight: float) -> None:
        self.path, self.weight = path, weight

    def __iter__(self) -> Iterator[dict]:
        for _, row in read_jsonl(self.path):
            row["custom"] = {**(row.get("custom") or {}), MIX: [str(self.path), self.weight]}
            yield row


class Kept:
    """Cuts without those of some ids, and the durations of those that are left."""

    def __init__(self, cuts: CutSet, dropped: Iterable[str], durations: array) -> None:
        self.cuts, self.dropped, self.durations = cuts, frozenset(dropped), durations

    def __iter__(self) -> Iterator[Cut]:
        return (cut for cut in self.cuts if cut.id not in self.dropped)

    def outlines(self) -> Iterator[Outline | Cut]:
        return (cut for cut in outlines(self.cuts) if cut.id not in self.dropped)

    def of_shard(self, features: str) -> Iterator[Cut]:
        """Yield the cuts of the shard that has its features there."""
        return (cut for cut in self.cuts.data.of_shard(features) if cut.id not in self.dropped)


class Mixture:
    """Cuts so often that their groups have the shares that are asked for, of all seconds of audio.

    An epoch reads each manifest once and lasts as long as all of them together. Of a group whose share is to be r times
    what it is by itself, a cut is taken r times on average: with r 2.5 twice or three times, with r 0.1 in one epoch of
    ten. What is drawn depends on seed, epoch and the cut's id alone.

    Args:
        cuts: of manifests with weights, or any.
        temperature: where the groups are languages, a language with share q of the seconds gets one proportional to
            q^(1 / temperature), as in https://arxiv.org/abs/1907.05019; None where manifests have weights.
        seed: another one draws others.
    """

    def __init__(self, cuts: CutSet, temperature: float | None, seed: int) -> None:
        self.cuts, self.by_language, self.seed, self.epoch = cuts, temperature is not None, seed, 0
        seconds: dict[str, float] = defaultdict(float)
        weights: dict[str, float] = {}
        for cut in outlines(cuts):
            group = self._group(cut)
            seconds[group] += cut.duration
            if not self.by_language:
                weights[group] = cut.custom[MIX][1]
        if self.by_language:
            weights = {group: value ** (1 / temperature) for group, value in seconds.items()}
        every, wanted = math.fsum(seconds.values()), math.fsum(weights.values())
        self.rates = {group: weights[group] / wanted * every / seconds[group] for group in seconds}

    def __iter__(self) -> Iterator[Cut]:
        return self._taken(self.cuts)

    def outlines(self) -> Iterator[Outline | Cut]:
        return self._taken(outlines(self.cuts))

    def _taken(self, cuts: Iterable[Outline | Cut]) -> Iterator[Outline | Cut]:
        for cut in cuts:
            yield from itertools.repeat(cut, math.floor(self.rates[self._group(cut)] + self._draw(cut.id)))

    def _group(self, cut: Outline | Cut) -> str:
        return supervision_of(cut).language if self.by_language else cut.custom[MIX][0]

    def _draw(self, key: str) -> float:
        """Return a number from 0 to 1 (excluded)."""
        drawn = hashlib.blake2b(f"{self.seed} {self.epoch} {key}".encode(), digest_size=6).digest()
        return int.from_bytes(drawn) / 2**48


def mixed(cuts: CutSet, temperature: float | None, seed: int) -> CutSet:
    """Return the cuts mixed by the weights of their manifests or by languages; as they are where neither is asked for.

    Raises:
        RecipeError: both are asked for.
    """
    weighted = MIX in (next(iter(outlines(cuts))).custom or {})
    if weighted and temperature is not None:
        cure = "leave one of them out"
        raise RecipeError("the manifests have weights too", where="batches.language_temperature", cure=cure)
    return CutSet(Mixture(cuts, temperature, seed)) if weighted or temperature is not None else cuts
