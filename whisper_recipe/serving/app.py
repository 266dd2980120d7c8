"""The HTTP interface: OpenAI's, as far as it is about speech to text, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Annotated, Literal, TypeVar

import numpy as np
from fastapi import FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from whisper_recipe import __version__
from whisper_recipe.decoding.formats import Segment, Transcript
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.decoding.windows import Recording
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES, language_code
from whisper_recipe.serving.answers import EventStream, failure, whole
from whisper_recipe.serving.batching import Batcher, Job, Settings
from whisper_recipe.serving.gate import Gate
from whisper_recipe.serving.metrics import Metrics
from whisper_recipe.serving.models import Models, Served
from whisper_recipe.serving.realtime import add_realtime
from whisper_recipe.serving.uploads import private_copy, read_upload

LOG = logging.getLogger("uvicorn.error")
CLOSED_BY_CLIENT = 499  # nginx's status; nobody reads it but the metrics
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src data:"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        max_queue: requests that are worked on or wait.
        max_bytes: of a request.
        max_seconds: of audio in a request.
    """

    max_queue: int = 64
    max_bytes: int = 200_000_000
    max_seconds: float = 7200.0


class Ask(BaseModel):
    """The form of a request; fields that it doesn't have are ignored."""

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
    """What the routes share."""

    def __init__(
        self, models: Models, limits: Limits, search: SearchOptions, batch_duration: float | None, log_text: bool
    ) -> None:
        self.models, self.limits, self.search, self.log_text = models, limits, search, log_text
        self.metrics = Metrics()
        # Of long recordings there may be fewer in memory at a time than of short ones.
        self.queue = Batcher(models, limits.max_queue, 4 * limits.max_seconds, batch_duration, self.metrics)

    def settings(self, ask: Ask, task: str) -> Settings:
        """Return how a request is to be decoded; RecipeError where that is not possible."""
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
            LOG.info("of a damaged file what can be read is transcribed: %s", wrong)
        return samples

    async def answer(self, ask: Ask, task: str, request: Request) -> Response:
        """Answer one request; where the client hangs up, what is left of the work is not done."""
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
        """Log what was said, where that is asked for."""
        if self.log_text:
            LOG.info("%s: %.1f s: %s", model.name, transcript.duration, transcript.text)


async def _all(job: Job) -> list[Segment]:
    return [segment async for segment in job.segments()]


async def _unless_gone(request: Request, work: Coroutine[None, None, Result]) -> Result | None:
    """Return what the work gives; None, the work stopped, where the client hangs up before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        gone.cancel()


def create_app(
    models: Models,
    limits: Limits = Limits(),  # noqa: B008
    *,
    api_key: str | None = None,
    search: SearchOptions = SearchOptions(),  # noqa: B008
    batch_duration: float | None = None,
    log_text: bool = False,
) -> FastAPI:
    """Return the server as an ASGI application.

    Args:
        models: that can be asked for.
        limits: of requests.
        api_key: that requests under /v1 must carry.
        search: how hypotheses are searched for, where a request doesn't say.
        batch_duration: seconds of audio in a batch at most.
        log_text: log what was said.
    """
    service = Service(models, limits, search, batch_duration, log_text)
    # The pages of its documentation would load scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="whisper-recipe", version=__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, service.queue, service.metrics, api_key, limits.max_bytes)
    for kind in (RecipeError, HTTPException, Exception):
        app.add_exception_handler(kind, lambda _request, error: failure(error))
    app.add_exception_handler(RequestValidationError, lambda _request, error: failure(_first(error)))
    _add_routes(app, service)
    add_realtime(app, service)
    app.mount("/", Page(directory=files("whisper_recipe.serving") / "page", html=True))
    return app


def _first(error: RequestValidationError) -> HTTPException:
    """Return the first of what is wrong with a form."""
    wrong = error.errors()[0]
    return HTTPException(400, f"{wrong['loc'][-1]}: {wrong['msg']}")


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/audio/transcriptions")
    async def transcriptions(ask: Annotated[Ask, Form()], request: Request) -> Response:
        return await service.answer(ask, "transcribe", request)

    @app.post("/v1/audio/translations")
    async def translations(ask: Annotated[Ask, Form()], request: Request) -> Response:
        return await service.answer(ask, "translate", request)

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": list(map(_model, service.models.served)), "languages": list(LANGUAGES)}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        return _model(service.models[name].name)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "models_in_memory": len(service.models.in_memory), "requests": service.queue.requests}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "whisper-recipe"}


class Page(StaticFiles):
    """The page, which loads nothing from elsewhere."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with the headers that keep browsers to that."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
