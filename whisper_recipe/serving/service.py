"""Code shared by the routes: a request's form, its audio, its place in the queue, and its response."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

import numpy as np
from fastapi import Request, Response, UploadFile
from pydantic import BaseModel, Field

from whisper_recipe.decoding.formats import Segment, Transcript
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.decoding.windows import Recording
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import language_code
from whisper_recipe.serving.answers import EventStream, whole
from whisper_recipe.serving.batching import Batcher, Job, Settings
from whisper_recipe.serving.metrics import Metrics
from whisper_recipe.serving.models import Models, Served
from whisper_recipe.serving.uploads import private_copy, read_upload

LOG = logging.getLogger("uvicorn.error")
CLOSED_BY_CLIENT = 499  # nginx's status; only the metrics record it
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """Limits on what a server accepts.

    Args:
        max_queue: maximum number of requests in progress or waiting.
        max_bytes: maximum bytes per request.
        max_seconds: maximum seconds of audio per request.
    """

    max_queue: int = 64
    max_bytes: int = 200_000_000
    max_seconds: float = 7200.0


class Ask(BaseModel):
    """The form of a request; unknown fields are ignored."""

    file: UploadFile
    model: str = ""
    language: str = ""
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    stream: bool = False
    timestamp_granularities: Annotated[list[Literal["word", "segment"]], Field(alias="timestamp_granularities[]")] = [
        "segment"
    ]


class Service:
    """State shared by the routes."""

    def __init__(
        self, models: Models, limits: Limits, search: SearchOptions, batch_duration: float | None, log_text: bool
    ) -> None:
        self.models, self.limits, self.search, self.log_text = models, limits, search, log_text
        self.metrics = Metrics()
        # Fewer long recordings than short ones may be in memory at a time.
        self.queue = Batcher(models, limits.max_queue, 4 * limits.max_seconds, batch_duration, self.metrics)

    def settings(self, ask: Ask, task: str) -> Settings:
        """Return a request's decoding settings; raise RecipeError if they are not possible."""
        search = self.search
        if ask.temperature:
            search = replace(search, temperatures=[ask.temperature])
        if ask.prompt:
            search = replace(search, prompt=ask.prompt)
        verbose = ask.response_format == "verbose_json"
        words = verbose and "word" in ask.timestamp_granularities
        return Settings(self.models[ask.model], task, words, scored=verbose, search=search)

    async def samples(self, upload: UploadFile) -> np.ndarray:
        """Return the audio of an upload, float32 (n,) at 16 kHz."""

        def read() -> tuple[np.ndarray, str]:
            with private_copy(upload.file) as path:
                return read_upload(path, self.limits.max_seconds)

        samples, wrong = await asyncio.get_running_loop().run_in_executor(self.queue.readers, read)
        if wrong:
            LOG.info("damaged file, transcribing the readable part: %s", wrong)
        return samples

    async def answer(self, ask: Ask, task: str, request: Request) -> Response:
        """Answer one request; if the client disconnects, drop the remaining work."""
        if ask.stream and ask.response_format in ("srt", "vtt"):
            raise RecipeError("subtitles can't be streamed", where="response_format", cure="use json or verbose_json")
        settings = self.settings(ask, task)
        language = language_code(ask.language, where="language") if ask.language else None
        job = await self.queue.submit(Recording("", await self.samples(ask.file), language), settings)
        if ask.stream:
            return EventStream(job, timed=ask.response_format == "verbose_json")
        segments = await _unless_gone(request, _all(job))
        job.end()
        if segments is None:
            return Response(status_code=CLOSED_BY_CLIENT)
        transcript = job.transcript(segments)
        self.log(transcript, settings.model)
        return whole(transcript, ask.response_format, ask.timestamp_granularities, ask.temperature)

    def log(self, transcript: Transcript, model: Served) -> None:
        """Log a transcript, if transcripts are to be logged."""
        if self.log_text:
            LOG.info("%s: %.1f s: %s", model.name, transcript.duration, transcript.text)


async def _all(job: Job) -> list[Segment]:
    return [segment async for segment in job.segments()]


async def _unless_gone(request: Request, work: Coroutine[None, None, Result]) -> Result | None:
    """Return the result of `work`; if the client disconnects first, cancel it and return None."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()
