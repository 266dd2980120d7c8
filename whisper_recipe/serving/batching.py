"""The queue: windows of all requests, decoded together where they are alike.

Everything here runs on the event loop, so nothing needs a lock; decoding itself runs in threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from whisper_recipe.data.grouping import by_length
from whisper_recipe.decoding.backends import usual_batch_duration
from whisper_recipe.decoding.formats import Segment, Transcript
from whisper_recipe.decoding.long_audio import Piece, Transcriber
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.decoding.windows import Recording, Window
from whisper_recipe.errors import RecipeError
from whisper_recipe.serving.metrics import Metrics
from whisper_recipe.serving.models import Models, Served

# A window of a long recording waits as if it had come so much later than the one before it, so that short requests need
# not wait for all of it, and it is not left behind for ever either.
SECONDS_BETWEEN_WINDOWS = 1.0


class Busy(RecipeError):
    """The queue is full."""


@dataclass(frozen=True)
class Settings:
    """How a recording is to be decoded; what has the same settings and language may share a batch.

    Args:
        model: by which.
        task: transcribe or translate.
        words: find the times of words too.
        scored: give each segment its score.
        search: how hypotheses are searched for.
    """

    model: Served
    task: str
    words: bool
    scored: bool
    search: SearchOptions


class Job:
    """A recording on its way through the queue."""

    def __init__(self, recording: Recording, settings: Settings) -> None:
        self.recording, self.settings = recording, settings
        self.over = False  # nobody waits for it any more
        self.unfinished: list[int] = []  # windows, and rests of them, that are left to decode, for each window
        self.found: list[list[Segment]] = []  # for each window
        self.told = 0  # windows whose segments have been given away
        self.later: list[QueuedWindow] = []  # windows that wait until the language is detected
        self._finished: asyncio.Queue[list[Segment] | Exception | None] = asyncio.Queue()

    def expect(self, count: int) -> None:
        """Expect so many windows."""
        self.unfinished, self.found = [1] * count, [[] for _ in range(count)]
        self._tell()

    def keep(self, index: int, piece: Piece) -> None:
        """Keep what a window, or the rest of one, says."""
        self.found[index] += piece.segments
        self.unfinished[index] += len(piece.rest) - 1
        self._tell()

    def _tell(self) -> None:
        """Give away the segments of windows that are finished, as far as those before them are."""
        while self.told < len(self.found) and not self.unfinished[self.told]:
            self._finished.put_nowait(sorted(self.found[self.told], key=lambda segment: segment.start))
            self.told += 1
        if self.told == len(self.found):
            self._finished.put_nowait(None)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.end()
        self._finished.put_nowait(error)

    def end(self) -> None:
        """Nobody waits for the rest: what is not being decoded yet never will be."""
        self.over = True

    def transcript(self, segments: Iterable[Segment] = ()) -> Transcript:
        """Return segments as a transcript of the recording."""
        return Transcript("", self.recording.language, self.settings.task, self.recording.duration, tuple(segments))

    async def segments(self) -> AsyncIterator[Segment]:
        """Yield the segments in the order of time, as they are done.

        Raises:
            RecipeError: it can't be decoded as asked for.
        """
        try:
            while (found := await self._finished.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                for segment in found:
                    yield segment
        finally:
            self.end()


@dataclass(eq=False)
class QueuedWindow:
    """A window that waits to be decoded."""

    job: Job
    index: int  # of the window in the recording
    window: Window
    due: float  # the earliest is next

    def is_like(self, other: QueuedWindow) -> bool:
        """Whether both may be in one batch."""
        ours, theirs = self.job, other.job
        return (ours.settings, ours.recording.language) == (theirs.settings, theirs.recording.language)


class Batcher:
    """Decodes the windows of all requests, in as many threads as the machine has cores.

    Args:
        models: the server's.
        max_queue: requests that are worked on or wait; more are refused.
        max_seconds: of audio of all of them together.
        batch_duration: seconds of audio in a batch at most.
        metrics: to count in.
    """

    def __init__(
        self, models: Models, max_queue: int, max_seconds: float, batch_duration: float | None, metrics: Metrics
    ) -> None:
        self.models, self.max_queue, self.max_seconds, self.metrics = models, max_queue, max_seconds, metrics
        self.batch_duration = batch_duration or usual_batch_duration()
        self.requests = 0
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()  # those that somebody waits for
        self._waiting: list[QueuedWindow] = []
        self._running: set[asyncio.Task] = set()
        # On a GPU the second thread computes features while the first one decodes.
        self.threads = 2 if torch.cuda.is_available() else torch.get_num_threads()
        self._decoders = ThreadPoolExecutor(self.threads, "decode")
        self.readers = ThreadPoolExecutor(self.threads, "read")  # of audio

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places in the queue; Busy where there is none."""
        if self.requests >= self.max_queue:
            raise Busy(f"{self.max_queue} requests are waiting", cure="try again in a moment")
        self.requests += 1
        self.metrics.requests_in_queue.set(self.requests)
        try:
            yield
        finally:
            self.requests -= 1
            self.metrics.requests_in_queue.set(self.requests)

    async def submit(self, recording: Recording, settings: Settings) -> Job:
        """Put a recording into the queue; its segments come from the job that is returned.

        Raises:
            Busy: there is too much audio in the queue already.
        """
        loop, job = asyncio.get_running_loop(), Job(recording, settings)
        self._jobs.add(job)
        if sum(other.recording.duration for other in self._jobs if not other.over) > self.max_seconds:
            job.end()
            raise Busy("too much audio is waiting", cure="try again in some minutes")
        self.metrics.audio_seconds.labels(settings.model.name).inc(recording.duration)
        windows = await loop.run_in_executor(self.readers, recording.windows, settings.model.timestamps)
        now = loop.time()
        queued = [
            QueuedWindow(job, index, window, now + index * SECONDS_BETWEEN_WINDOWS)
            for index, window in enumerate(windows)
        ]
        job.expect(len(queued))
        if recording.language is None and len(queued) > 1:  # it is detected in the first window
            job.later = queued[1:]
            queued = queued[:1]
        self._waiting += queued
        self._fill()
        return job

    def _fill(self) -> None:
        """Start batches as far as there are threads."""
        self._waiting = [one for one in self._waiting if not one.job.over]
        while self._waiting and len(self._running) < self.threads:
            batch = self._take()
            self._waiting = [one for one in self._waiting if one not in batch]
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)
        self.metrics.windows_waiting.set(len(self._waiting))

    def _ended(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        self._fill()

    def _take(self) -> list[QueuedWindow]:
        """Return the window that is due first, and those that can share its batch."""
        first = min(self._waiting, key=lambda one: one.due)
        alike = [one for one in self._waiting if one.is_like(first)]
        padded = first.job.settings.model.length.seconds
        groups = by_length(alike, lambda one: one.window.duration, self.batch_duration, padded)
        group = next(group for group in groups if first in group)
        # Threads that would idle get their share.
        share = math.ceil(len(alike) / (self.threads - len(self._running)))
        group.sort(key=lambda one: one.due)
        return group[:share]

    async def _run(self, batch: list[QueuedWindow]) -> None:
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._decoders, self._decode, batch)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                one.job.fail(result)
            elif not one.job.over:
                one.job.keep(one.index, result)
                self._waiting += [QueuedWindow(one.job, one.index, window, one.due) for window in result.rest]
                self._waiting += one.job.later
                one.job.later = []

    def _decode(self, batch: list[QueuedWindow]) -> list[Piece | Exception]:
        """Decode a batch, in a thread. Where that fails, each window alone, so that one can't spoil the others."""
        settings = batch[0].job.settings
        try:
            with self.models.loaded(settings.model) as backend:
                transcriber = Transcriber(
                    settings.model.folder,
                    pad_to_30s=settings.model.length.pad_to_30s,
                    task=settings.task,
                    word_timestamps=settings.words,
                    scored=settings.scored,
                    batch_duration=self.batch_duration,
                    search=settings.search,
                    backend=backend,
                )
                pieces = transcriber.decode_windows([(one.job.recording, one.window) for one in batch])
            self.metrics.batch_size.observe(len(batch))
            return list(pieces)
        except RecipeError as error:
            failure: Exception = error
        except Exception as error:
            logging.getLogger("uvicorn.error").exception("decoding failed")
            failure = error
        return [failure] if len(batch) == 1 else [result for one in batch for result in self._decode([one])]
