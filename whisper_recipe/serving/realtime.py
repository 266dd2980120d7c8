"""Live speech to text over a WebSocket: the transcription sessions of OpenAI's realtime interface.

    client                          server
                                    session.created
    session.update                  session.updated
    input_audio_buffer.append …     input_audio_buffer.speech_started
                                    conversation.item.input_audio_transcription.delta …
                                    input_audio_buffer.speech_stopped, .committed
                                    conversation.item.input_audio_transcription.completed

A delta adds the words on which two successive partial hypotheses agree; the completed text is decoded from the whole
turn and may differ from them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import json
import os.path
import time
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import soxr
from fastapi import FastAPI, WebSocket
from pydantic import BaseModel, Field, ValidationError

from whisper_recipe.data.audio import SAMPLING_RATE
from whisper_recipe.decoding.formats import Transcript
from whisper_recipe.decoding.windows import Recording
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import language_code
from whisper_recipe.serving.answers import describe, failure
from whisper_recipe.serving.batching import Settings
from whisper_recipe.serving.gate import REALTIME
from whisper_recipe.serving.service import Service
from whisper_recipe.serving.turns import Turn, TurnDetector

PARTIAL_SECONDS = 0.6  # of new speech between partial hypotheses
TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Format(BaseModel):
    """Format of the samples: 16-bit little-endian mono. OpenAI only accepts 24,000 Hz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Annotated[int, Field(ge=8000, le=48_000)] = 24_000


class Transcription(BaseModel):
    """Options of the transcription; OpenAI has no `task`."""

    model: str = ""
    language: str = ""
    prompt: str = ""
    task: Literal["transcribe", "translate"] = "transcribe"


class TurnDetection(BaseModel):
    """When a turn begins and ends."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=100, le=5000)] = 500


class Input(BaseModel):
    """Options of a session's input; without turn detection, the client commits turns."""

    format: Format = Format()
    transcription: Transcription = Transcription()
    turn_detection: TurnDetection | None = TurnDetection()


class Audio(BaseModel):
    """Audio options of a session."""

    input: Input = Input()


class Configuration(BaseModel):
    """A session as clients configure it."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()


def add_realtime(app: FastAPI, service: Service) -> None:
    """Add the route of the sessions."""

    @app.websocket(REALTIME)
    async def realtime(socket: WebSocket, model: str = "") -> None:
        try:
            service.models[model]
        except RecipeError as error:
            await socket.send_denial_response(failure(error))
            return
        # A browser that offers protocols, one of which may contain the key, requires one of them to be accepted.
        offered = socket.scope.get("subprotocols") or []
        await socket.accept("realtime" if "realtime" in offered else None)
        await Session(socket, service, model).run()


class Session:
    """One connection.

    Args:
        socket: an accepted WebSocket.
        service: the server's.
        model: its name; a configuration may select another.
    """

    def __init__(self, socket: WebSocket, service: Service, model: str) -> None:
        self.socket, self.service = socket, service
        self.wanted = Configuration()
        self.wanted.audio.input.transcription.model = model
        self.items = (f"item_{number}" for number in itertools.count(1))
        self.events = itertools.count(1)
        self.item = self.previous = None  # ids of the current and the previous turn
        self.sent = self.hypothesis = ""  # of the current turn
        self.asked = 0  # number of its samples that were decoded last
        self.tasks: set[asyncio.Task] = set()  # decode finished turns
        self.partial: asyncio.Task | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Set up what depends on the configuration."""
        audio = self.wanted.audio.input
        asked, detection = audio.transcription, audio.turn_detection
        self.language = language_code(asked.language, where="language") if asked.language else None
        search = replace(self.service.search, prompt=asked.prompt) if asked.prompt else self.service.search
        self.settings = Settings(self.service.models[asked.model], asked.task, words=False, scored=False, search=search)
        self.resampler = soxr.ResampleStream(audio.format.rate, SAMPLING_RATE, 1, dtype="float32")
        self.silence = detection.silence_duration_ms / 1000 if detection else 0.0
        if detection is None:
            self.detector = TurnDetector(threshold=0.0)
        else:
            self.detector = TurnDetector(detection.threshold, detection.prefix_padding_ms / 1000, self.silence)

    async def run(self) -> None:
        """Serve the connection until the client closes it."""
        try:
            await self._send("session.created", session=self.wanted.model_dump())
            while (message := await self.socket.receive())["type"] == "websocket.receive":
                try:
                    await self._take(json.loads(message.get("text") or message.get("bytes") or b""))
                except (RecipeError, ValueError) as error:  # pydantic's and json's errors among them
                    await self._send("error", error=_described(error))
        finally:
            for task in (*self.tasks, *filter(None, [self.partial])):
                task.cancel()

    async def _take(self, event: dict) -> None:
        """Handle one event from the client."""
        kind = event.get("type") if isinstance(event, dict) else None
        if kind == "session.update":
            self.wanted = Configuration.model_validate(event.get("session"))
            self._prepare()
            await self._send("session.updated", session=self.wanted.model_dump())
        elif kind == "input_audio_buffer.append":
            samples = self.resampler.resample_chunk(_samples(event.get("audio")))
            await self._follow(await asyncio.to_thread(self.detector.feed, samples))
        elif kind == "input_audio_buffer.commit":
            await self._follow(self.detector.flush())
        elif kind == "input_audio_buffer.clear":
            self.detector.clear()
            self._stop_guessing()
            await self._send("input_audio_buffer.cleared")
        else:
            raise RecipeError(f"unknown event {kind!r}", where="type")

    async def _follow(self, turns: list[Turn]) -> None:
        """Report turns that begin or end, and start decoding them."""
        for turn in turns:
            if turn.end is None:
                self.item, self.sent, self.hypothesis, self.asked = next(self.items), "", "", 0
                milliseconds = round(1000 * turn.start / SAMPLING_RATE)
                await self._send("input_audio_buffer.speech_started", item_id=self.item, audio_start_ms=milliseconds)
            else:
                await self._finish(turn)
        speech = self.detector.samples
        idle = self.partial is None or self.partial.done()
        if self.detector.start is not None and idle and len(speech) - self.asked >= PARTIAL_SECONDS * SAMPLING_RATE:
            self.asked = len(speech)
            self.partial = asyncio.create_task(self._guess(self.item, speech))

    async def _finish(self, turn: Turn) -> None:
        self._stop_guessing()
        milliseconds = round(1000 * turn.end / SAMPLING_RATE)
        await self._send("input_audio_buffer.speech_stopped", item_id=self.item, audio_end_ms=milliseconds)
        await self._send("input_audio_buffer.committed", item_id=self.item, previous_item_id=self.previous)
        task = asyncio.create_task(self._complete(self.item, turn, time.perf_counter() - self.silence))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.previous, self.item = self.item, None

    def _stop_guessing(self) -> None:
        if self.partial is not None:
            self.partial.cancel()

    async def _transcript(self, samples: np.ndarray) -> Transcript:
        job = await self.service.queue.submit(Recording("", samples, self.language), self.settings)
        return job.transcript([segment async for segment in job.segments()])

    async def _guess(self, item: str, speech: np.ndarray) -> None:
        """Send what the last two hypotheses of a turn agree on, if it is more than before."""
        try:
            transcript = await self._transcript(speech)
        except RecipeError:  # reported when the whole turn is decoded
            return
        agreed = os.path.commonprefix([self.hypothesis, transcript.text])
        if transcript.space:  # whole words
            agreed = agreed[: agreed.rfind(transcript.space) + 1]
        self.hypothesis = transcript.text
        if len(agreed) > len(self.sent) and agreed.startswith(self.sent):
            delta, self.sent = agreed[len(self.sent) :], agreed
            await self._send(f"{TRANSCRIPTION}.delta", item_id=item, content_index=0, delta=delta)

    async def _complete(self, item: str, turn: Turn, end: float) -> None:
        """Send a turn's text."""
        try:
            transcript = await self._transcript(turn.samples)
        except Exception as error:
            await self._send(f"{TRANSCRIPTION}.failed", item_id=item, content_index=0, error=describe(error)[1])
            return
        self.service.metrics.realtime_final_seconds.observe(time.perf_counter() - end)
        self.service.log(transcript, self.settings.model)
        usage = {"type": "duration", "seconds": round(transcript.duration, 3)}
        await self._send(
            f"{TRANSCRIPTION}.completed", item_id=item, content_index=0, transcript=transcript.text, usage=usage
        )

    async def _send(self, kind: str, **values: object) -> None:
        event = {"type": kind, "event_id": f"event_{next(self.events)}", **values}
        await self.socket.send_text(json.dumps(event, ensure_ascii=False))


def _samples(audio: object) -> np.ndarray:
    """Return the samples of an event, float32 (n,), from base64-encoded 16-bit samples."""
    try:
        return np.frombuffer(base64.b64decode(audio, validate=True), dtype="<i2").astype(np.float32) / (1 << 15)
    except (TypeError, ValueError, binascii.Error):
        raise RecipeError("not base64-encoded 16-bit samples", where="audio") from None


def _described(error: Exception) -> dict[str, str | None]:
    if isinstance(error, ValidationError):
        wrong = error.errors()[0]
        error = RecipeError(wrong["msg"], where=".".join(map(str, wrong["loc"])))
    elif not isinstance(error, RecipeError):
        error = RecipeError("not a JSON event")
    return describe(error)[1]
