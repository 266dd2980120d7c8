"""`whisper-recipe serve`: models behind OpenAI's HTTP interface, with a web page to try them."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
import sys

from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.errors import RecipeError

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "websockets")
KEY = "WHISPER_RECIPE_API_KEY"


def serve(
    models: list[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    max_queue: int = 64,
    max_upload_mb: float = 200.0,
    max_minutes: float = 120.0,
    model_memory_gb: float = 8.0,
    compute_type: str = "default",
    pad_to_30s: bool | None = None,
    batch_duration: float | None = None,
    log_text: bool = False,
    search: SearchOptions = SearchOptions(),  # noqa: B008
) -> None:
    """Serve models over HTTP with OpenAI's interface, and a web page at / to try them.

    Args:
        models: FOLDER or NAME=FOLDER: Whisper folders, CTranslate2 folders, names on the Hub, and LoRA adapters, which
            share their base model in memory. The first is loaded at start-up and is the default, the others are loaded
            on first use.
        host: the address to listen on; 0.0.0.0 means all addresses of this machine.
        port: the port to listen on.
        api_key: the key that requests must send; by default the environment variable WHISPER_RECIPE_API_KEY. If
            neither is set, no key is needed.
        max_queue: maximum number of requests in progress or waiting; further requests are answered with 429.
        max_upload_mb: maximum size of a request in megabytes.
        max_minutes: maximum minutes of audio per request, checked before decoding.
        model_memory_gb: maximum memory for weights; the least recently used models are unloaded when others need the
            memory.
        compute_type: default, float32, float16, int8 and so on, if supported by the backend.
        pad_to_30s: pad every window to 30 s, as stock models require. By default as recorded in each model folder.
        batch_duration: maximum seconds of audio per batch, as in `transcribe`.
        log_text: log transcripts. By default nothing that clients send is kept.
        search: options of the search for hypotheses, for requests that don't set them.

    Raises:
        RecipeError: a model is missing, the packages are not installed, or the port is in use.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise RecipeError(f"needs {', '.join(missing)}", where="serve", cure="pip install '.[serve]' in the checkout")
    from whisper_recipe.serving.app import Limits, create_app
    from whisper_recipe.serving.http import http_server
    from whisper_recipe.serving.models import Models

    served = Models(models, compute_type, pad_to_30s, model_memory_gb * 1e9)
    api_key = api_key or os.environ.get(KEY) or None
    limits = Limits(max_queue, int(max_upload_mb * 1e6), 60 * max_minutes)
    app = create_app(served, limits, api_key=api_key, search=search, batch_duration=batch_duration, log_text=log_text)
    listener = _listener(host, port)
    with served.loaded(served[""]) as backend:
        print(f"{served[''].name}: {backend.name}, {backend.compute_type}, {backend.device}", flush=True)
    place = f"http://{'localhost' if is_loopback(host) else host}:{port}"
    print(f"web page: {place}/, OpenAI's interface: {place}/v1", flush=True)
    if not is_loopback(host):
        print(exposure(host, api_key), file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down by then
        http_server(app).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposure(host: str, api_key: str | None) -> str:
    """Return the warning for an address that other machines can reach."""
    who = "everyone with the key" if api_key else "everyone (no --api_key is set)"
    return (
        f"warning: on {host}, other machines can reach this server, and {who} can use it. Traffic is not encrypted: "
        "put a TLS proxy in front of it. Browsers allow microphone access only over https or on localhost."
    )


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, to fail before any model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise RecipeError(f"can't listen on port {port} ({error})", where=host, cure="give another --port") from None
    return listener
