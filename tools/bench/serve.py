"""`whisper-recipe serve` under load, and against faster-whisper behind the same interface.

    python tools/bench/serve.py speed --model CT2_FOLDER --data data/test [--clients 16] [--seconds 30]
    python tools/bench/serve.py load  --model CT2_FOLDER --data data/test [--clients 32] [--seconds 600]
    python tools/bench/serve.py live  --model CT2_FOLDER --data data/test [--clients 4]  [--seconds 30]

Everything runs on this machine's loopback. Clients send the utterances of a Kaldi data directory, each as soon as the
previous one is answered.

speed: requests and seconds of audio per second. The other server has faster-whisper's `transcribe` behind the same
form, one request at a time on all cores, with the same weights, language, greedy search, and timestamps only if the
model was trained with them; all other settings are defaults.

load: some of the requests are long (15 s to 3 minutes), damaged, or streamed, and some clients hang up. After a fifth
of the time the server is killed without warning and restarted. Every request must get an answer or, if the server was
killed meanwhile, a closed connection; otherwise it counts as lost, and the command fails. The memory is the server's
resident set from the restart to the end. This takes --seconds, and at most a few minutes more.

live: clients send speech over WebSockets in real time; measures the delay from the end of each utterance to its text.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import soundfile
from fastapi import FastAPI, Form, UploadFile
from long_audio import join
from measure import report

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio

TIMEOUT = 300  # seconds after which a request counts as lost
START_SECONDS = 120  # limit for a server to load its model
LONG_MINUTES = (0.25, 0.5, 1, 2, 3)
LOST, HUNG_UP, KILLED, DOWN = "lost", "hung up", "server killed", "server down"  # no answer
PAUSE = 1.5  # seconds between the utterances of a live client


def main() -> None:
    """Run the chosen benchmark, print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "load", "live", "peer"])
    parser.add_argument("--model", required=True, help="a CTranslate2 folder")
    parser.add_argument("--data", type=Path, required=True, help="a Kaldi data directory of one language")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.language = (options.data / "utt2lang").read_text(encoding="utf-8").split()[1]
    if options.what == "peer":
        peer(options)
        return
    clients, seconds = {"speed": (16, 30), "load": (32, 600), "live": (4, 30)}[options.what]
    options.clients, options.seconds = options.clients or clients, options.seconds or seconds
    asyncio.run({"speed": speed, "load": load, "live": live}[options.what](options))


def utterances(data: Path) -> list[tuple[bytes, float]]:
    """Return each utterance as a WAV file, with its seconds."""
    found = []
    for line in (data / "wav.scp").read_text(encoding="utf-8").splitlines():
        samples = read_audio(data / line.split(maxsplit=1)[1])
        found.append((wav(samples), len(samples) / SAMPLING_RATE))
    return found


def wav(samples: np.ndarray) -> bytes:
    """Return samples at 16 kHz as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV")
    return file.getvalue()


class Server:
    """A server in its own process."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        ours = ["-m", "whisper_recipe", "serve", f"model={options.model}", "--port", str(self.port)]
        theirs = [__file__, "peer", "--model", options.model, "--data", str(options.data), "--port", str(self.port)]
        self.command = [sys.executable, *(ours if kind == "whisper-recipe" else theirs)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.start()

    def start(self) -> None:
        """Start or restart the server, and wait until it answers."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env=environment)
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/health")
                return
            time.sleep(0.1)
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"the server did not start:\n{self.log.read()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the server."""
        self.process.send_signal(number)
        self.process.wait()

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        rows = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1024


@contextlib.contextmanager
def serving(kind: str, options: argparse.Namespace) -> Iterator[Server]:
    """Run a server in the context."""
    server = Server(kind, options)
    try:
        yield server
    finally:
        server.stop()


def peer(options: argparse.Namespace) -> None:
    """Serve faster-whisper, one request at a time."""
    import uvicorn
    from faster_whisper import WhisperModel

    from whisper_recipe.model.load import timestamps

    model = WhisperModel(options.model, device="cpu", cpu_threads=os.cpu_count())
    plain, turn, app = not timestamps(options.model), threading.Lock(), FastAPI()

    def transcriptions(file: UploadFile, language: Annotated[str, Form()]) -> dict[str, str]:
        with turn:
            segments, _ = model.transcribe(
                file.file, language=language, beam_size=1, temperature=0.0, without_timestamps=plain
            )
            return {"text": "".join(segment.text for segment in segments).strip()}

    app.post("/v1/audio/transcriptions")(transcriptions)
    app.get("/health")(lambda: "ok")
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


async def speed(options: argparse.Namespace) -> None:
    """Print the throughput and the waits of each server."""
    files, rows, rates = utterances(options.data), [], []
    for kind in ("whisper-recipe", "faster-whisper"):
        with serving(kind, options) as server:
            await closed_loop(server, files, options, 0.2 * options.seconds)  # warm up
            done, audio, waits = await closed_loop(server, files, options, options.seconds)
        rates.append(done)
        rows.append(
            {
                "server": kind,
                "requests/s": f"{done:.2f}",
                "audio s/s": f"{audio:.1f}",
                "wait s, median": f"{np.median(waits):.2f}",
                "99 %": f"{np.percentile(waits, 99):.2f}",
            }
        )
    title = f"{options.model}: {options.clients} clients, {options.seconds:.0f} s each"
    report(f"{title}; whisper-recipe is {rates[0] / rates[1]:.1f} times as fast", rows)


async def closed_loop(
    server: Server, files: list[tuple[bytes, float]], options: argparse.Namespace, seconds: float
) -> tuple[float, float, list[float]]:
    """Return requests and seconds of audio per second, and how long each request waited."""
    waits, audio, start = [], 0.0, time.perf_counter()

    async def one_client(number: int) -> None:
        nonlocal audio
        generator = random.Random(number)
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            while time.perf_counter() < start + seconds:
                content, length = generator.choice(files)
                sent = time.perf_counter()
                (await post(client, server, content, options.language)).raise_for_status()
                waits.append(time.perf_counter() - sent)
                audio += length

    await asyncio.gather(*map(one_client, range(options.clients)))
    taken = time.perf_counter() - start
    return len(waits) / taken, audio / taken, waits


async def post(
    client: httpx.AsyncClient, server: Server, content: bytes, language: str, **fields: str
) -> httpx.Response:
    """Send one request."""
    data = {"model": "whisper-1", "language": language, **fields}
    return await client.post(f"{server.url}/v1/audio/transcriptions", data=data, files={"file": ("audio.wav", content)})


async def load(options: argparse.Namespace) -> None:
    """Print how each kind of request ended, and the server's memory."""
    files = [content for content, _ in utterances(options.data)]
    with tempfile.TemporaryDirectory() as folder:
        settings = [argparse.Namespace(data=options.data, seed=0, minutes=minutes) for minutes in LONG_MINUTES]
        long = [join(each, Path(folder), number).path.read_bytes() for number, each in enumerate(settings)]
    ends: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    memory: list[float] = []
    killed = asyncio.Event()
    with serving("whisper-recipe", options) as server:
        start = time.perf_counter()

        async def one_client(number: int) -> None:
            generator = random.Random(number)
            async with httpx.AsyncClient(timeout=TIMEOUT) as client:
                while time.perf_counter() < start + options.seconds:
                    kind, content, fields, patience = draw(generator, files, long)
                    ends[kind][await ending(client, server, content, fields, patience, options, killed)] += 1

        async def watch() -> None:
            while True:
                await asyncio.sleep(options.seconds / 400)
                if not killed.is_set():
                    memory.append(server.megabytes)

        async def kill() -> None:
            await asyncio.sleep(options.seconds / 5)
            killed.set()
            server.stop(signal.SIGKILL)
            await asyncio.to_thread(server.start)
            memory.clear()
            killed.clear()

        watching = asyncio.create_task(watch())
        await asyncio.gather(kill(), *map(one_client, range(options.clients)))
        watching.cancel()
        left = await requests_left(server)
        memory.append(server.megabytes)
    title = f"{options.model}: {options.clients} clients, {options.seconds:.0f} s; killed and restarted once"
    report(title, [{"requests": kind, **counts} for kind, counts in sorted(ends.items())])
    report_memory(memory)
    total = sum(ends.values(), collections.Counter())
    print(f"\n{total.total()} requests, {total[LOST]} of them lost; {left} left in the server's queue at the end")
    if total[LOST] or left:
        sys.exit("requests were lost or are still queued")


def report_memory(megabytes: list[float]) -> None:
    """Print the server's memory over time."""
    parts = np.array_split(megabytes, 10)
    row = {f"{10 * number} %": f"{np.median(part):.0f}" for number, part in enumerate(parts, 1) if len(part)}
    title = "Resident memory in MB, median of each tenth of the time since the restart"
    report(title, [row | {"highest": f"{max(megabytes):.0f}"}])


async def requests_left(server: Server) -> int:
    """Return how many requests the server still counts up to 10 s after the last client has left."""
    async with httpx.AsyncClient() as client:
        for _ in range(20):
            left = (await client.get(f"{server.url}/health")).json()["requests"]
            if not left:
                break
            await asyncio.sleep(0.5)
    return left


def draw(generator: random.Random, files: list[bytes], long: list[bytes]) -> tuple[str, bytes, dict[str, str], float]:
    """Draw a kind of request, its content, its fields, and the seconds that the client waits."""
    share, content, streamed = generator.random(), generator.choice(files), {"stream": "true"}
    if share < 0.02:
        return "long, streamed", generator.choice(long), streamed, TIMEOUT
    if share < 0.04:
        return "long", generator.choice(long), {}, TIMEOUT
    if share < 0.09:
        return "damaged", generator.randbytes(len(content) // 2) + content[len(content) // 2 :], {}, TIMEOUT
    if share < 0.12:
        return "truncated", content[: len(content) // 2], {}, TIMEOUT
    if share < 0.18:
        return "client hangs up", content, {}, generator.uniform(0, 2)
    if share < 0.22:
        return "client hangs up, long, streamed", generator.choice(long), streamed, generator.uniform(0, 10)
    if share < 0.4:
        return "short, streamed", content, streamed, TIMEOUT
    return "short", content, {}, TIMEOUT


async def ending(
    client: httpx.AsyncClient,
    server: Server,
    content: bytes,
    fields: dict[str, str],
    patience: float,
    options: argparse.Namespace,
    killed: asyncio.Event,
) -> str:
    """Send one request; return how it ended: the answer's status, or why there was none."""
    try:
        answer = await asyncio.wait_for(post(client, server, content, options.language, **fields), patience)
    except TimeoutError:
        return HUNG_UP if patience < TIMEOUT else LOST
    except httpx.TimeoutException:
        return LOST
    except httpx.TransportError as error:
        if not killed.is_set():
            return LOST
        while killed.is_set():  # until it is back
            await asyncio.sleep(0.1)
        return DOWN if isinstance(error, httpx.ConnectError) else KILLED
    if answer.status_code == 200 and "stream" in fields and "transcript.text.done" not in answer.text:
        return LOST
    return str(answer.status_code)


async def live(options: argparse.Namespace) -> None:
    """Print the delay of texts after their utterances."""
    from websockets.asyncio.client import connect

    files = [soundfile.read(io.BytesIO(content), dtype="int16")[0] for content, _ in utterances(options.data)]
    first, final = [], []
    with serving("whisper-recipe", options) as server:

        async def one_client(number: int) -> None:
            generator = random.Random(number)
            session = {"format": {"rate": SAMPLING_RATE}, "transcription": {"language": options.language}}
            async with connect(f"{server.url.replace('http', 'ws')}/v1/realtime") as connection:
                update = {"type": "session.update", "session": {"audio": {"input": session}}}
                await connection.send(json.dumps(update))
                listening = asyncio.create_task(listen(connection, first, final))
                async for chunk in paced(generator, files, options.seconds):
                    audio = base64.b64encode(chunk.tobytes()).decode()
                    await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                listening.cancel()

        await asyncio.gather(*map(one_client, range(options.clients)))
    rows = [
        {
            "text": name,
            "count": len(found),
            "median s": f"{np.median(found):.2f}",
            "90 %": f"{np.percentile(found, 90):.2f}",
        }
        for name, found in (("first words, from the beginning", first), ("final, from the end", final))
        if found
    ]
    report(f"{options.model}: {options.clients} microphones, {options.seconds:.0f} s", rows)


async def paced(generator: random.Random, files: list[np.ndarray], seconds: float) -> AsyncIterator[np.ndarray]:
    """Yield utterances and pauses in real time, 0.1 s at a time."""
    size, start, sent = SAMPLING_RATE // 10, time.perf_counter(), 0
    while sent < seconds * SAMPLING_RATE:
        speech = generator.choice(files)
        said = np.concatenate([speech, np.zeros(round(PAUSE * SAMPLING_RATE), dtype=np.int16)])
        for position in range(0, len(said), size):
            sent += size
            await asyncio.sleep(max(0.0, start + sent / SAMPLING_RATE - time.perf_counter()))
            yield said[position : position + size]


async def listen(connection: object, first: list[float], final: list[float]) -> None:
    """Record how long the texts took, by the server's times of the turns."""
    opened = time.perf_counter()
    begun: dict[str, float] = {}
    over: dict[str, float] = {}
    async for message in connection:
        event, now = json.loads(message), time.perf_counter()
        item = event.get("item_id")
        if event["type"] == "input_audio_buffer.speech_started":
            begun[item] = opened + event["audio_start_ms"] / 1000
        elif event["type"] == "input_audio_buffer.speech_stopped":
            over[item] = opened + event["audio_end_ms"] / 1000 - 0.5  # the silence that ends a turn
        elif event["type"].endswith(".delta") and item in begun:
            first.append(now - begun.pop(item))
        elif event["type"].endswith(".completed"):
            final.append(now - over[item])


if __name__ == "__main__":
    main()
