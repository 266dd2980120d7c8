"""The queue: windows of all requests, with similar ones decoded together.

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

# Each window of a long recording is queued as if it had arrived this much later than the one before it, so that short
# requests need not wait for the whole recording, and the recording is not delayed forever either.
SECONDS_BETWEEN_WINDOWS = 1.0


class Busy(RecipeError):
    """The queue is full."""


@dataclass(frozen=True)
class Settings:
    """How to decode a recording; recordings with the same settings and language may share a batch.

    Args:
        model: the model to decode with.
        task: transcribe or translate.
        words: also find word times.
        scored: return a score with each segment.
        search: options of the search for hypotheses.
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
        self.over = False  # no client waits for it any more
        self.unfinished: list[int] = []  # for each window, the number of pieces left to decode
        self.found: list[list[Segment]] = []  # for each window
        self.told = 0  # number of windows with delivered segments
        self.later: list[QueuedWindow] = []  # windows that wait until the language is detected
        self._finished: asyncio.Queue[list[Segment] | Exception | None] = asyncio.Queue()

    def expect(self, count: int) -> None:
        """Set the number of windows."""
        self.unfinished, self.found = [1] * count, [[] for _ in range(count)]
        self._tell()

    def keep(self, index: int, piece: Piece) -> None:
        """Store the result of a window, or of the rest of one."""
        self.found[index] += piece.segments
        self.unfinished[index] += len(piece.rest) - 1
        self._tell()

    def _tell(self) -> None:
        """Deliver the segments of finished windows, in order."""
        while self.told < len(self.found) and not self.unfinished[self.told]:
            self._finished.put_nowait(sorted(self.found[self.told], key=lambda segment: segment.start))
            self.told += 1
        if self.told == len(self.found):
            self._finished.put_nowait(None)

    def fail(self, error: Exception) -> None:
        """Finish with an error."""
        self.end()
        self._finished.put_nowait(error)

    def end(self) -> None:
        """Stop waiting for the rest: windows that are not being decoded yet are dropped."""
        self.over = True

    def transcript(self, segments: Iterable[Segment] = ()) -> Transcript:
        """Return segments as a transcript of the recording."""
        return Transcript("", self.recording.language, self.settings.task, self.recording.duration, tuple(segments))

    async def segments(self) -> AsyncIterator[Segment]:
        """Yield the segments in time order, as they are finished.

        Raises:
            RecipeError: the recording can't be decoded as requested.
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
    """A window waiting to be decoded."""

    job: Job
    index: int  # of the window in the recording
    window: Window
    due: float  # the earliest is next

    def is_like(self, other: QueuedWindow) -> bool:
        """Return whether both may share a batch."""
        ours, theirs = self.job, other.job
        return (ours.settings, ours.recording.language) == (theirs.settings, theirs.recording.language)


class Batcher:
    """Decodes the windows of all requests, in two threads on a GPU, in as many as PyTorch uses on a CPU.

    Args:
        models: the server's.
        max_queue: maximum number of requests in progress or waiting; further ones are refused.
        max_seconds: maximum seconds of audio in all of them together.
        batch_duration: maximum seconds of audio per batch.
        metrics: the server's.
    """

    def __init__(
        self, models: Models, max_queue: int, max_seconds: float, batch_duration: float | None, metrics: Metrics
    ) -> None:
        self.models, self.max_queue, self.max_seconds, self.metrics = models, max_queue, max_seconds, metrics
        self.batch_duration = batch_duration or usual_batch_duration()
        self.requests = 0
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()  # those that clients wait for
        self._waiting: list[QueuedWindow] = []
        self._running: set[asyncio.Task] = set()
        # On a GPU the second thread computes features while the first one decodes.
        self.threads = 2 if torch.cuda.is_available() else torch.get_num_threads()
        self._decoders = ThreadPoolExecutor(self.threads, "decode")
        self.readers = ThreadPoolExecutor(self.threads, "read")  # of audio

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue; raise Busy if there is none."""
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
        """Queue a recording; return the job that yields its segments.

        Raises:
            Busy: too much audio is in the queue already.
        """
        loop, job = asyncio.get_running_loop(), Job(recording, settings)
        self._jobs.add(job)
        if sum(other.recording.duration for other in self._jobs if not other.over) > self.max_seconds:
            job.end()
            raise Busy("too much audio is waiting", cure="try again in a few minutes")
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
        """Start batches while threads are free."""
        self._waiting = [queued for queued in self._waiting if not queued.job.over]
        while self._waiting and len(self._running) < self.threads:
            batch = self._take()
            self._waiting = [queued for queued in self._waiting if queued not in batch]
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)
        self.metrics.windows_waiting.set(len(self._waiting))

    def _ended(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        self._fill()

    def _take(self) -> list[QueuedWindow]:
        """Return the window that is due first, and those that can share its batch."""
        first = min(self._waiting, key=lambda queued: queued.due)
        alike = [queued for queued in self._waiting if queued.is_like(first)]
        padded = first.job.settings.model.length.seconds
        groups = by_length(alike, lambda queued: queued.window.duration, self.batch_duration, padded)
        group = next(group for group in groups if first in group)
        # Leave a share to threads that would be idle.
        share = math.ceil(len(alike) / (self.threads - len(self._running)))
        group.sort(key=lambda queued: queued.due)
        return group[:share]

    async def _run(self, batch: list[QueuedWindow]) -> None:
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._decoders, self._decode, batch)
        for queued, result in zip(batch, results, strict=True):
            job = queued.job
            if isinstance(result, Exception):
                job.fail(result)
            elif not job.over:
                job.keep(queued.index, result)
                self._waiting += [QueuedWindow(job, queued.index, window, queued.due) for window in result.rest]
                self._waiting += job.later
                job.later = []

    def _decode(self, batch: list[QueuedWindow]) -> list[Piece | Exception]:
        """Decode a batch in a thread. If that fails, decode each window alone, so that one can't spoil the others."""
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
                pieces = transcriber.decode_windows([(queued.job.recording, queued.window) for queued in batch])
            self.metrics.batch_size.observe(len(batch))
            return list(pieces)
        except RecipeError as error:
            failure: Exception = error
        except Exception as error:
            logging.getLogger("uvicorn.error").exception("decoding failed")
            failure = error
        return [failure] if len(batch) == 1 else [result for queued in batch for result in self._decode([queued])]
