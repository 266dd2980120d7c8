"""Windows of long audio: stretches of speech of at most 30 s, cut at pauses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from whisper_recipe.data.audio import MAX_SECONDS, SAMPLING_RATE
from whisper_recipe.data.features import MAX_SAMPLES

# A pause that ends a stretch of speech. faster-whisper uses 2 s to leave out silence, and 0.16 s in its batched
# pipeline, which joins the stretches again; between sentences speakers pause for half a second.
MIN_SILENCE_MS = 500
# A shorter rest of a window is not decoded: 0.4 s of it is the silence that the detector leaves around speech, and
# Whisper invents a "Thank you." for so little audio.
MIN_REST = 1 * SAMPLING_RATE
# A stretch of speech this long after the last segment of a finished hypothesis was skipped by the model; a shorter one
# may be due to an inexact time.
PASSED_OVER = 2 * SAMPLING_RATE


class Window(NamedTuple):
    """Samples from `start` up to but excluding `end`, at 16 kHz; the model accepts at most 30 s."""

    start: int
    end: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) / SAMPLING_RATE


@dataclass(eq=False)
class Recording:
    """An input of any length: its samples are float32 (n,) at 16 kHz."""

    name: str
    samples: np.ndarray
    language: str | None = None

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / SAMPLING_RATE

    @cached_property
    def speech(self) -> list[Window]:
        """The stretches of speech, in order of time; they don't overlap.

        Silero's voice activity detector (in faster-whisper) finds them, with 0.4 s around them if there is room.
        Stretches over 30 s are cut at a pause, or at 30 s if there is none.
        """
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        options = VadOptions(max_speech_duration_s=MAX_SECONDS, min_silence_duration_ms=MIN_SILENCE_MS)
        return [Window(stretch["start"], stretch["end"]) for stretch in get_speech_timestamps(self.samples, options)]

    def windows(self, merge: bool) -> list[Window]:
        """Return the windows to decode, in order of time; they don't overlap.

        Audio of up to 30 s is one window. In longer audio the windows are the stretches of speech.

        Args:
            merge: join neighbouring stretches, and the silence between them, up to 30 s. Models that write timestamps
                and need 30 s of input then have fewer windows; for the others, each stretch is a segment of the result.
        """
        if len(self.samples) <= MAX_SAMPLES:
            return [Window(0, len(self.samples))] if len(self.samples) else []
        return _merged(self.speech) if merge else self.speech


def rest_of(window: Window, seconds: float, speech: Iterable[Window], shortest: int = MIN_REST) -> list[Window]:
    """Return the speech after a window's first `seconds` as one window; ignore stretches under `shortest`."""
    start = window.start + round(seconds * SAMPLING_RATE)
    clipped = (Window(max(stretch.start, start), min(stretch.end, window.end)) for stretch in speech)
    return _merged(stretch for stretch in clipped if stretch.end - stretch.start >= shortest)


def halves(window: Window, samples: np.ndarray) -> list[Window]:
    """Split a window in two at the quietest 0.1 s of its middle third."""
    size = SAMPLING_RATE // 10
    first = window.start + (window.end - window.start) // 3
    count = (window.end - window.start) // 3 // size
    energy = np.square(samples[first : first + count * size].reshape(count, size)).sum(axis=1)
    cut = first + int(energy.argmin()) * size + size // 2
    return [Window(window.start, cut), Window(cut, window.end)]


def _merged(stretches: Iterable[Window]) -> list[Window]:
    windows: list[Window] = []
    for stretch in stretches:
        if windows and stretch.end - windows[-1].start <= MAX_SAMPLES:
            windows[-1] = Window(windows[-1].start, stretch.end)
        else:
            windows.append(stretch)
    return windows
