"""Timestamps in a hypothesis: the segments of a window, and where the model stopped before its end."""

from __future__ import annotations

from typing import NamedTuple

from transformers import WhisperTokenizer

from whisper_recipe.text.prompt import TIME_STEP
from whisper_recipe.text.tokenizer import TIMESTAMPS, first_timestamp, text_only


class TimedIds(NamedTuple):
    """Seconds from the window's beginning, and the ids of the text in between."""

    start: float
    end: float
    ids: list[int]


def split_at_timestamps(ids: list[int], tokenizer: WhisperTokenizer, duration: float) -> list[TimedIds]:
    """Split the hypothesis of a window of `duration` seconds at its timestamp tokens; leave out special tokens.

    Text before the first timestamp begins with the window, and text after the last one lasts until its end.
    Segments never go backwards in time, whatever the model has written.
    """
    first = first_timestamp(tokenizer)
    segments, text, start = [], [], 0.0
    for token in ids:
        if first <= token < first + TIMESTAMPS:
            time = min(max(start, (token - first) * TIME_STEP), duration)
            if text:
                segments.append(TimedIds(start, time, text))
            text, start = [], time
        else:
            text += text_only(tokenizer, [token])
    if text:
        segments.append(TimedIds(start, duration, text))
    return segments


def finished_part(ids: list[int], tokenizer: WhisperTokenizer) -> tuple[list[int], float | None]:
    """Return the ids of the finished segments, and the time in seconds at which the rest begins.

    The rule is openai/whisper's (whisper/transcribe.py). Two timestamps in a row end one segment and begin the next.
    If the last segment has no end, decoding continues from the end of the previous one, and its text is discarded:
    `<|0.00|> a<|20.00|><|20.00|> b` is kept up to 20 s. Otherwise there is no rest: None.
    """
    first = first_timestamp(tokenizer)
    timed = [first <= token < first + TIMESTAMPS for token in ids]
    if len(ids) >= 2 and timed[-1] and not timed[-2]:
        return ids, None
    for index in range(len(ids) - 1, 0, -1):
        if timed[index] and timed[index - 1]:
            return ids[:index], (ids[index - 1] - first) * TIME_STEP
    return ids, None
