"""Servers in a thread, with tiny models."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("uvicorn", reason="the packages of whisper-recipe serve are not installed")


@contextmanager
def running(models: list[str], limits: dict | None = None, **options) -> Iterator[str]:
    """Serve models on a free port of this machine; yield the address."""
    from whisper_recipe.serving.app import Limits, create_app
    from whisper_recipe.serving.http import http_server
    from whisper_recipe.serving.models import Models

    memory = options.pop("memory", 1e9)
    app = create_app(Models(models, "default", None, memory), Limits(**(limits or {})), **options)
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server(app, log_config=None, timeout_graceful_shutdown=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def base_int8(whisper_base, tmp_path_factory) -> Path:
    """OpenAI's Whisper base for CTranslate2."""
    from whisper_recipe.export.ct2 import export

    out = tmp_path_factory.mktemp("base") / "int8"
    export(whisper_base, out, "int8")
    return out


@pytest.fixture(scope="session")
def noise(tmp_path_factory) -> Callable:
    """Write noise of so many seconds as WAV, and return its path."""
    folder = tmp_path_factory.mktemp("noise")

    def noise(seconds: float = 1.0, suffix: str = ".wav"):
        path = folder / f"{seconds}{suffix}"
        if not path.exists():
            samples = np.random.default_rng(0).standard_normal(round(16000 * seconds)) * 0.1
            soundfile.write(path, samples, 16000)
        return path

    return noise
