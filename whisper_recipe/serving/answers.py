"""Responses: transcripts in OpenAI's formats, whole or as events, and errors."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator

from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from whisper_recipe.decoding.formats import FORMATS, Segment, Transcript
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES
from whisper_recipe.serving.batching import Busy, Job
from whisper_recipe.serving.models import UnknownModel
from whisper_recipe.serving.uploads import TooLong

SUBTITLES = {"srt": "application/x-subrip", "vtt": "text/vtt"}  # and their media types
STATUS = {UnknownModel: 404, TooLong: 413, Busy: 429, RecipeError: 400}
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}
CODES = {UnknownModel: "model_not_found", TooLong: "audio_too_long", Busy: "queue_full"}


def failure(error: Exception) -> JSONResponse:
    """Return an error in OpenAI's format; errors that are not the client's fault have no details."""
    status, value = describe(error)
    headers = {"Retry-After": "2"} if status == 429 else None
    return JSONResponse({"error": value}, status, headers=headers)


def describe(error: Exception) -> tuple[int, dict[str, str | None]]:
    """Return the status of an error, and its description."""
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    where = str(getattr(error, "where", None) or "")
    param = where if where and "/" not in where else None  # clients don't see the server's folders
    if isinstance(error, RecipeError):
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
        message = "; ".join(filter(None, (error.what, error.cure)))
    elif isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    else:
        status, message = 500, "the server failed on this request; see its log"
    kind = KINDS.get(status, "invalid_request_error")
    return status, {"message": message, "type": kind, "param": param, "code": code}


def whole(transcript: Transcript, form: str, granularities: list[str], temperature: float) -> Response:
    """Return a transcript as a response in the requested format."""
    if form == "text":
        return PlainTextResponse(f"{transcript.text}\n")
    if form in SUBTITLES:
        return PlainTextResponse(FORMATS[form].render(transcript), media_type=SUBTITLES[form])
    usage = {"type": "duration", "seconds": round(transcript.duration, 3)}
    if form == "json":
        return JSONResponse({"text": transcript.text, "usage": usage})
    value = {
        "task": transcript.task,
        "language": LANGUAGES.get(transcript.language, transcript.language),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": usage,
    }
    if "segment" in granularities:
        rows = enumerate(transcript.segments)
        value["segments"] = [segment_value(index, segment, temperature) for index, segment in rows]
    if "word" in granularities:
        value["words"] = [
            {"word": word.word.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
            for segment in transcript.segments
            for word in segment.words or ()
        ]
    return JSONResponse(value)


def segment_value(index: int, segment: Segment, temperature: float) -> dict[str, object]:
    """Return a segment in the format of verbose_json."""
    raw = segment.text.encode()
    return {
        "id": index,
        "seek": round(100 * segment.start),  # in frames; OpenAI reports the window's
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": segment.score.ids,
        "temperature": temperature,
        "avg_logprob": round(segment.score.average_logprob, 4),
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 3),
        "no_speech_prob": round(segment.score.no_speech_prob, 4),
    }


class EventStream(StreamingResponse):
    """Server-sent events of a job, which is ended when the connection closes."""

    def __init__(self, job: Job, timed: bool) -> None:
        super().__init__(_events(job, timed), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.end()


async def _events(job: Job, timed: bool) -> AsyncIterator[str]:
    """Yield server-sent events: the text of each segment when it is finished, and the whole text at the end.

    Args:
        job: a job in the queue.
        timed: also send each segment with its times.
    """
    texts: list[str] = []
    try:
        async for segment in job.segments():
            text = " ".join(segment.text.split())
            delta = job.transcript().space + text if texts else text
            texts.append(delta)
            yield _event({"type": "transcript.text.delta", "delta": delta})
            if timed:
                value = segment_value(len(texts) - 1, segment, job.settings.search.temperatures[0])
                yield _event({"type": "transcript.text.segment", **value, "id": str(value["id"])})
        transcript = job.transcript()
        done = {"text": "".join(texts), "language": transcript.language, "duration": round(transcript.duration, 3)}
        yield _event({"type": "transcript.text.done", **done})
    except Exception as error:  # the status has been sent already
        yield _event({"type": "error", "error": describe(error)[1]})


def _event(value: dict[str, object]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
