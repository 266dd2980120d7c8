"""uvicorn with limits on slow clients and on messages."""

from __future__ import annotations

import asyncio

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20  # for a client to send a request's header, from the connection or the last response
SHUTDOWN_SECONDS = 60  # for requests in progress when the server is stopped
MAX_MESSAGE = 1 << 20  # bytes of a WebSocket message: 16 s of audio at 24 kHz


class LimitedHttp(H11Protocol):
    """uvicorn's HTTP protocol, which also closes connections if a request's header takes too long.

    uvicorn itself closes connections that are idle between two requests; one that sends nothing at all, or a byte now
    and then, would stay open forever.
    """

    header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first header."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Receive data; more of a header does not extend its time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next header."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_timer()

    def _watch(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        upgraded = self.transport.get_protocol() is not self  # to a WebSocket
        if answering or upgraded or self.transport.is_closing():
            self._stop_timer()
        elif self.header_timer is None:
            self.header_timer = self.loop.call_later(HEADER_SECONDS, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None


def http_server(app: FastAPI, **options: object) -> uvicorn.Server:
    """Return a server for an application; its `run` accepts listening sockets.

    Args:
        app: the application.
        options: of uvicorn.Config, added to this server's own or overriding them.
    """
    limits = {"http": LimitedHttp, "ws_max_size": MAX_MESSAGE, "timeout_graceful_shutdown": SHUTDOWN_SECONDS}
    return uvicorn.Server(uvicorn.Config(app, **{"log_level": "info", "server_header": False, **limits, **options}))
