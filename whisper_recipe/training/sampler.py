"""Batching of cuts: an epoch is planned ahead by durations, and distributed over the training processes."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from lhotse import CutSet
from lhotse.dataset.sampling import DynamicBucketingSampler, DynamicCutSampler
from torch.utils.data import Sampler

from whisper_recipe.data.audio import MAX_SECONDS
from whisper_recipe.data.features import FRAMES_PER_SECOND, check_spare_frames
from whisper_recipe.errors import RecipeError, check_proportion
from whisper_recipe.processes import Part
from whisper_recipe.training.cuts import draw_epoch, draw_rates, selected

CUTS_PER_BUCKET = 10  # minimum


@dataclass
class BatchOptions:
    """How cuts are batched.

    Args:
        max_duration: maximum seconds of audio per batch; higher values need more memory.
        max_cuts: maximum number of cuts per batch.
        num_buckets: number of buckets of cuts with similar duration; more buckets mean less padding and less random
            batches.
        num_workers: number of processes that load features in advance.
        pad_to_30s: share of the cuts that are padded to 30 s, 0 to 1, for models used in programs that pad all inputs
            (faster-whisper, whisper.cpp). A batch of them has max_duration / 30 cuts.
        spare_frames: frames (10 ms) of silence after the longest cut of a batch that is not padded to 30 s; decoding
            adds the same.
        timestamps: share of the cuts with segment times that are trained with them, 0 to 1.
        prompts: share of the cuts with previous text that are trained with it, 0 to 1.
        language_temperature: 1 keeps the languages' shares of the audio, higher values make them more equal: a language
            with share q gets a share proportional to q^(1 / language_temperature).
    """

    max_duration: float = 200.0
    max_cuts: int | None = None
    num_buckets: int = 20
    num_workers: int = 1
    pad_to_30s: float = 0.0
    spare_frames: int = 0
    timestamps: float = 0.5
    prompts: float = 0.5
    language_temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("pad_to_30s", "timestamps", "prompts"):
            check_proportion(getattr(self, name), f"batches.{name}")
        check_spare_frames(self.spare_frames, "batches.spare_frames")
        if self.language_temperature is not None and not self.language_temperature > 0:
            what = f"must be greater than 0, got {self.language_temperature}"
            raise RecipeError(what, where="batches.language_temperature")

    @property
    def spare_seconds(self) -> float:
        """Seconds that spare_frames add to the longest cut of a batch."""
        return self.spare_frames / FRAMES_PER_SECOND

    @property
    def natural_length(self) -> bool:
        """Whether the model will be decoded at natural length: not if every cut is padded to 30 s."""
        return self.pad_to_30s < 1

    def most_padded(self) -> int:
        """Return the maximum number of cuts in a batch that is padded to 30 s."""
        most = max(1, int(self.max_duration // MAX_SECONDS))
        return most if self.max_cuts is None else min(most, self.max_cuts)


class Batch(NamedTuple):
    """The cuts of a batch, numbered from the start of training.

    `padded` batches are padded to 30 s. `repeated` ones fill up the last round of an evaluation and don't count.
    """

    number: int
    cuts: CutSet
    padded: bool = False
    repeated: bool = False


class Planned(NamedTuple):
    """The indices of a batch's cuts in their selection."""

    places: np.ndarray
    padded: bool = False


class Place:
    """What lhotse's sampler needs to know about a cut."""

    __slots__ = ("dataloading_info", "duration", "id", "place")

    def __init__(self, place: int, duration: float) -> None:
        self.id, self.place, self.duration = "", place, duration


class BatchSampler(Sampler):
    """The batches of lhotse's DynamicBucketingSampler as the Trainer needs them: counted, dropping nothing, resumable.

    Each epoch is planned ahead by durations alone: its cuts are shuffled over the whole corpus, and those padded to
    30 s are batched separately, so that `max_duration` holds for their padded length. The plan depends only on seed and
    epoch, so it is the same in all processes and when a run resumes.

    The number of shuffled batches differs from epoch to epoch, but the Trainer expects a fixed one. So one pass of the
    Trainer has as many batches as the first epoch, and the next pass continues where the last one stopped: every cut
    is seen once in each epoch.

    Distributed processes each get one of every `part.count` consecutive batches. So all have the same number, and each
    cut is seen once per epoch by one of them.

    Without `shuffle`, for evaluation, each pass has every cut once. Processes without a batch in the last round repeat
    one, since DeepSpeed's ZeRO 3 needs the same number of forward passes in all of them.

    Yields lists of one Batch: a DataLoader can skip such items without reading features.

    Raises:
        RecipeError: see `draw_rates`.
    """

    def __init__(
        self,
        cuts: CutSet,
        options: BatchOptions,
        shuffle: bool,
        seed: int,
        part: Part = Part(),  # noqa: B008
    ) -> None:
        self.cuts, self.options, self.shuffle, self.seed, self.part = selected(cuts), options, shuffle, seed, part
        self.rates = draw_rates(self.cuts, options.language_temperature) if shuffle else None
        first = self._plan(0)
        self.batches = len(first)
        self.length = math.ceil(self.batches / part.count)
        self._stream = enumerate(self._endless_batches(first))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[Batch]]:
        if not self.shuffle:
            self.pass_over(0)
        for _ in range(self.length):
            number, (places, padded) = list(itertools.islice(self._stream, self.part.count))[self.part.index]
            repeated = not self.shuffle and number >= self.batches
            yield [Batch(number, CutSet([self.cuts[place] for place in places]), padded, repeated)]

    def pass_over(self, batches: int) -> None:
        """Skip the first batches, counted over all processes, when a run resumes; nothing is read for them."""
        self._stream = itertools.islice(enumerate(self._endless_batches()), batches, None)

    def _endless_batches(self, first: list[Planned] | None = None) -> Iterator[Planned]:
        yield from first or self._plan(0)
        for epoch in itertools.count(1):
            yield from self._plan(epoch)

    def _plan(self, epoch: int) -> list[Planned]:
        """Return the batches of an epoch, for all processes."""
        draw = np.random.default_rng([abs(self.seed), epoch])
        places = draw_epoch(len(self.cuts), self.rates, draw if self.shuffle else None)
        padded = draw.random(len(places)) < self.options.pad_to_30s
        batches = [Planned(batch) for batch in self._alike(places[~padded], epoch)]
        batches += [Planned(batch, padded=True) for batch in in_rows(places[padded], self.options.most_padded())]
        if self.shuffle:
            batches = [batches[number] for number in draw.permutation(len(batches))]
        return batches

    def _alike(self, places: np.ndarray, epoch: int) -> Iterator[np.ndarray]:
        """Yield batches of cuts with similar durations."""
        if not len(places):
            return
        options, durations = self.options, self.cuts.durations
        # With a small corpus every bucket would hold a cut or two, and so would the batches.
        buckets = min(options.num_buckets, len(places) // CUTS_PER_BUCKET)
        kind = partial(DynamicBucketingSampler, num_buckets=buckets) if buckets > 1 else DynamicCutSampler
        limits = {"max_duration": options.max_duration, "max_cuts": options.max_cuts}
        # As one process: lhotse itself repeats or drops what can't be distributed evenly.
        limits |= {"shuffle": False, "seed": self.seed, "world_size": 1, "rank": 0}  # the places are shuffled
        sampler = kind(CutSet(_Places(array("L", places), durations, options.spare_seconds)), **limits)
        sampler.set_epoch(epoch)
        for batch in sampler:
            yield np.array([cut.place for cut in batch], dtype=np.uint32)


class _Places:
    """Places in order, iterable more than once, as lhotse's sampler needs; `spare` seconds are added to each."""

    def __init__(self, places: array, durations: array, spare: float) -> None:
        self.places, self.durations, self.spare = places, durations, spare

    def __iter__(self) -> Iterator[Place]:
        return (Place(place, self.durations[place] + self.spare) for place in self.places)


def in_rows(places: Sequence, size: int) -> Iterator[Sequence]:
    """Yield consecutive slices of `size`; the last may be shorter."""
    return (places[start : start + size] for start in range(0, len(places), size))
