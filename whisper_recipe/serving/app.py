"""The HTTP interface: OpenAI's for speech to text, health, metrics, and the web page."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import Scope

from whisper_recipe import __version__
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES
from whisper_recipe.serving.answers import failure
from whisper_recipe.serving.gate import Gate
from whisper_recipe.serving.models import Models
from whisper_recipe.serving.realtime import add_realtime
from whisper_recipe.serving.service import Ask, Limits, Service

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src data:"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


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
        models: the models to serve.
        limits: limits on requests.
        api_key: the key that requests under /v1 must send.
        search: options of the search for hypotheses, for requests that don't set them.
        batch_duration: maximum seconds of audio per batch.
        log_text: log transcripts.
    """
    service = Service(models, limits, search, batch_duration, log_text)
    # FastAPI's documentation pages would load scripts from other sites; /openapi.json is served.
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
    """Return the first error in a form."""
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
    """The web page, which loads nothing from other sites."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file with the headers that enforce this."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
