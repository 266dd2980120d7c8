"""Checks on every request: the key, the origin, a place in the queue, and limits on what is sent."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from whisper_recipe.serving.answers import failure
from whisper_recipe.serving.batching import Batcher, Busy
from whisper_recipe.serving.metrics import Metrics

AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")
REALTIME = "/v1/realtime"
READ_SECONDS = 60  # for a client to send the next piece of its request
SLOWEST = 1000  # minimum bytes per second of a request on average, after READ_SECONDS
KEY_IN_PROTOCOL = "openai-insecure-api-key."  # as in OpenAI's realtime interface: browsers can't set headers there


class Gate:
    """Lets requests through, or answers 401, 403, 408, 413 or 429.

    Args:
        app: the application behind the gate.
        queue: the server's; a place in it is held until the response is sent.
        metrics: the server's.
        api_key: the key that requests must send; None for open access.
        max_bytes: maximum bytes per request.
    """

    def __init__(self, app: ASGIApp, queue: Batcher, metrics: Metrics, api_key: str | None, max_bytes: int) -> None:
        self.app, self.queue, self.metrics, self.api_key, self.max_bytes = app, queue, metrics, api_key, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        path = scope.get("path", "")
        if not path.startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        headers, start, status = Headers(scope=scope), time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        with ExitStack() as stack:
            try:
                self._check(headers)
                if path in (*AUDIO, REALTIME):
                    stack.enter_context(self.queue.place())
                if int(headers.get("content-length") or 0) > self.max_bytes:
                    raise self._too_large()
            except (HTTPException, Busy) as error:
                await self._refuse(error, scope, receive, counted)
            else:
                await self.app(scope, self._limited(receive) if scope["type"] == "http" else receive, counted)
        if path in AUDIO:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.request_seconds.labels(path).observe(time.perf_counter() - start)

    def _check(self, headers: Headers) -> None:
        """Raise HTTPException for a wrong key, or a request from another site's page in a visitor's browser."""
        origin = urlsplit(headers.get("origin", "")).netloc
        if origin and origin != headers.get("host"):
            raise HTTPException(403, "requests from pages of other sites are refused")
        if self.api_key is None:
            return
        protocols = [protocol.strip() for protocol in headers.get("sec-websocket-protocol", "").split(",")]
        given = [name.removeprefix(KEY_IN_PROTOCOL) for name in protocols if name.startswith(KEY_IN_PROTOCOL)]
        given.append(headers.get("authorization", "").removeprefix("Bearer "))
        if not any(hmac.compare_digest(key.encode(), self.api_key.encode()) for key in given):
            raise HTTPException(401, "the key is missing or wrong; send it as Authorization: Bearer KEY")

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than the {self.max_bytes / 1e6:g} MB that this server allows")

    def _limited(self, receive: Receive) -> Receive:
        """Wrap `receive` to raise HTTPException if the body is too large or arrives too slowly."""
        size, more, start = 0, True, time.perf_counter()

        async def limited() -> Message:
            nonlocal size, more
            left = READ_SECONDS + size / SLOWEST - (time.perf_counter() - start)
            try:
                message = await asyncio.wait_for(receive(), min(READ_SECONDS, left) if more else None)
            except TimeoutError:
                raise HTTPException(408, "the request arrives too slowly") from None
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise self._too_large()
            return message

        return limited

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(failure(error))
            return
        # Closing a connection before the client has sent everything may lose the response: read it, within limits.
        size, limited = 0, self._limited(receive)
        try:
            while size <= self.max_bytes and (message := await limited()).get("more_body"):
                size += len(message["body"])
        except HTTPException:
            pass
        await failure(error)(scope, receive, send)
