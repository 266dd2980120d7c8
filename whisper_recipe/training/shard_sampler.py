"""Batches from Lhotse Shar: each shard is read once per epoch, by one loading process of one rank."""

from __future__ import annotations

import functools
import itertools
import random
from array import array
from collections.abc import Iterator

from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import Sampler

from whisper_recipe.data.shar_reader import SHARD, SHARDS_AT_ONCE
from whisper_recipe.errors import RecipeError
from whisper_recipe.processes import Part
from whisper_recipe.training.cuts import selected
from whisper_recipe.training.sampler import Batch, BatchOptions, Planned, in_rows

JITTER = 0.1  # of durations before they are sorted, so that batches differ from epoch to epoch


class _Place:
    """A cut by its number in a shard."""

    __slots__ = ("duration", "number", "shard")

    def __init__(self, shard: str, number: int, duration: float) -> None:
        self.shard, self.number, self.duration = shard, number, duration


class ShardSampler(Sampler):
    """Batches from a few shards at a time, separate ones for each loading process; yields the same as BatchSampler.

    Everything is planned ahead from the cuts' durations, identically on every rank. Each epoch distributes the shards
    over all loading processes of all ranks. A process batches cuts of similar length from a few shards at a time.
    Processes with fewer batches than others split some in two, so that all have the same number and none waits for the
    others. A DataLoader passes batches to its processes in turn, so each process gets every `num_workers`-th.

    Args:
        cuts: cuts of shards, see load_cuts.
        options: how cuts are batched; num_buckets is not used.
        shuffle: change the order of shards and batches in each epoch.
        seed: random seed of the order.
        part: rank and number of ranks.

    Raises:
        RecipeError: there are fewer shards than loading processes, or language_temperature is set.
    """

    def __init__(
        self,
        cuts: CutSet,
        options: BatchOptions,
        shuffle: bool,
        seed: int,
        part: Part = Part(),  # noqa: B008
    ) -> None:
        if shuffle and options.language_temperature is not None:
            cure = "train on manifests, or remove it"
            raise RecipeError("not supported with shards", where="batches.language_temperature", cure=cure)
        self.options, self.shuffle, self.seed, self.part = options, shuffle, seed, part
        self.workers = max(1, options.num_workers)
        self.streams = part.count * self.workers
        self.own = range(part.index * self.workers, (part.index + 1) * self.workers)
        self.durations: dict[str, array] = {}
        cuts = selected(cuts)
        for cut in cuts.outlines():
            self.durations.setdefault(cut.custom[SHARD], array("d")).append(cut.duration)
        if len(self.durations) < self.streams:
            raise RecipeError(
                f"{len(self.durations)} shards are too few for {part.count} ranks with {self.workers} workers each",
                where="batches.num_workers",
                cure="use fewer, or write smaller shards (whisper-recipe shar --shard_size)",
            )
        self._read = functools.lru_cache(self.workers * SHARDS_AT_ONCE)(cuts.of_shard)
        self.length = len(self._plan(0))
        self.batches = self.length * part.count  # per epoch, of all ranks
        self._stream = enumerate(self._endless_batches())

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Batch]]:
        for number, (places, padded) in itertools.islice(self._stream, self.length):
            number = number * self.part.count + self.part.index  # counted over all ranks
            yield [Batch(number, CutSet([self._cut(place) for place in places]), padded)]

    def pass_over(self, batches: int) -> None:
        """Skip the epochs that the first batches, counted over all ranks, fill; nothing is read for them."""
        self._stream = enumerate(self._endless_batches())
        for _ in itertools.islice(self._stream, batches // self.batches * self.length):
            pass

    def _cut(self, place: _Place) -> Cut:
        return self._read(place.shard)[place.number]

    def _endless_batches(self) -> Iterator[Planned]:
        for epoch in itertools.count():
            yield from self._plan(epoch)

    def _plan(self, epoch: int) -> list[Planned]:
        """Return this rank's batches of an epoch, taken from its loading processes in turn."""
        draw = random.Random(f"{self.seed} {epoch}" if self.shuffle else "")
        streams = [self._batches(shards, draw) for shards in self._dealt(draw)]
        most = max(map(len, streams))
        return [batch for turn in zip(*(_split(streams[own], most) for own in self.own), strict=True) for batch in turn]

    def _dealt(self, draw: random.Random) -> list[list[str]]:
        """Return the shards of each loading process of each rank, with about the same duration each."""
        shards = list(self.durations)
        if self.shuffle:
            draw.shuffle(shards)
        streams: list[list[str]] = [[] for _ in range(self.streams)]
        seconds = [0.0] * self.streams
        for shard in shards:
            least = seconds.index(min(seconds))
            streams[least].append(shard)
            seconds[least] += sum(self.durations[shard])
        return streams

    def _batches(self, shards: list[str], draw: random.Random) -> list[Planned]:
        """Return the batches of some shards, a few shards at a time."""
        every = []
        for some in in_rows(shards, SHARDS_AT_ONCE):
            alike, padded = [], []
            for shard in some:
                for number, duration in enumerate(self.durations[shard]):
                    kind = padded if draw.random() < self.options.pad_to_30s else alike
                    kind.append(_Place(shard, number, duration))
            alike.sort(key=lambda place: place.duration * (1 + JITTER * self.shuffle * draw.random()))
            batches = [Planned(batch) for batch in _packed(alike, self.options)]
            if self.shuffle:
                draw.shuffle(padded)
            batches += [Planned(batch, padded=True) for batch in in_rows(padded, self.options.most_padded())]
            if self.shuffle:
                draw.shuffle(batches)
            every += batches
        return every


def _packed(places: list[_Place], options: BatchOptions) -> Iterator[list[_Place]]:
    batch: list[_Place] = []
    longest = 0.0
    for place in places:
        longest = max(longest, place.duration + options.spare_seconds)
        if batch and (longest * (len(batch) + 1) > options.max_duration or len(batch) == options.max_cuts):
            yield batch
            batch, longest = [], place.duration + options.spare_seconds
        batch.append(place)
    if batch:
        yield batch


def _split(batches: list[Planned], count: int) -> list[Planned]:
    """Return `count` batches, splitting the largest in two until there are enough."""
    batches = list(batches)
    while len(batches) < count:
        largest = max(range(len(batches)), key=lambda number: len(batches[number].places))
        places, padded = batches[largest]
        if len(places) < 2:
            cure = "lower batches.num_workers, or write several shards of the same size for each worker"
            raise RecipeError("the shards can't be distributed evenly", where="train_cuts", cure=cure)
        batches[largest : largest + 1] = [Planned(places[::2], padded), Planned(places[1::2], padded)]
    return batches
