"""What a client may keep waiting, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.serving.conftest import running

FORM = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--x--\r\n'
POST = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def url(tiny_model):
    with running([f"tiny={tiny_model}"]) as address:
        yield address


@pytest.fixture
def connect(url):
    """Open a connection on which nothing is waited for longer than 10 s."""
    opened = []

    def connect():
        opened.append(socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=10))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def drip(connection, content, pause=0.05):
    """Send a byte at a time until all is sent or the other side has closed; return what it sent before that."""
    connection.settimeout(pause)
    received = b""
    for byte in content:
        try:
            if not (piece := connection.recv(1 << 16)):
                return received
            received += piece
        except TimeoutError:
            pass
        except ConnectionError:
            return received
        with contextlib.suppress(ConnectionError):
            connection.send(bytes([byte]))
    pytest.fail("all of it was taken")


@pytest.mark.slow
def test_a_header_that_comes_byte_by_byte_ends_the_connection(connect, monkeypatch):
    monkeypatch.setattr("whisper_recipe.serving.http.HEADER_SECONDS", 0.3)
    slow = b"GET /health HTTP/1.1\r\nHost: here\r\nX-Long: " + b"a" * 100
    assert drip(connect(), slow) == b""
    used = connect()
    used.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
    assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert b"HTTP" not in drip(used, slow)
    silent = connect()
    assert silent.recv(1) == b""


@pytest.mark.slow
def test_the_time_of_the_header_is_not_that_of_the_request(connect, monkeypatch):
    monkeypatch.setattr("whisper_recipe.serving.http.HEADER_SECONDS", 0.3)
    patient = connect()
    patient.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(FORM))
    time.sleep(0.6)
    patient.sendall(FORM)
    assert patient.recv(1 << 16).startswith(b"HTTP/1.1 400")  # it has no file
    live = connect()
    live.sendall(
        b"GET /v1/realtime?model=tiny HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    live.settimeout(0.8)
    with pytest.raises(TimeoutError):  # it stays open, and quiet after the first message
        while live.recv(1 << 16):
            pass


def test_a_body_that_comes_byte_by_byte_is_answered_with_408_and_gives_its_place_free(connect, monkeypatch):
    monkeypatch.setattr("whisper_recipe.serving.gate.READ_SECONDS", 0.3)
    slow = connect()
    slow.sendall(POST + b"Connection: close\r\nContent-Length: 1000\r\n\r\n")
    assert drip(slow, FORM + b" " * 900).startswith(b"HTTP/1.1 408")
    health = connect()
    health.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    assert b'"requests":0' in health.makefile("rb").read()
