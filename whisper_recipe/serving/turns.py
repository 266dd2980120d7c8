"""Detect where speech begins and ends in a live stream."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from whisper_recipe.data.audio import SAMPLING_RATE
from whisper_recipe.data.features import MAX_SAMPLES

FRAME = 512  # samples per frame of Silero's detector
CONTEXT = 32  # earlier frames that it processes again: its state is not kept, and it settles within a second
VOICED = 3  # consecutive speech frames that begin a turn; a click has fewer
HYSTERESIS = 0.15  # a frame this far below the threshold is silence, as in faster-whisper's VadOptions


class Turn(NamedTuple):
    """A stretch of speech; `start` and `end` count samples at 16 kHz from the beginning, `end` is None in mid-turn."""

    start: int
    end: int | None = None
    samples: np.ndarray | None = None


class TurnDetector:
    """Splits a stream into turns with Silero's voice activity detector.

    Args:
        threshold: minimum probability of a speech frame; with 0, all frames are speech.
        prefix: seconds before the first frame of speech that belong to the turn.
        silence: seconds of silence that end a turn.
    """

    def __init__(self, threshold: float = 0.5, prefix: float = 0.3, silence: float = 0.5) -> None:
        self.threshold, self.silence = threshold, silence
        self.heard = 0  # samples processed
        self.start: int | None = None  # of the current turn
        self._frames: list[np.ndarray] = []  # of that turn
        self._probabilities: list[float] = []
        self._before: deque[np.ndarray] = deque(maxlen=VOICED + round(prefix * SAMPLING_RATE / FRAME))
        self._context = np.zeros(0, dtype=np.float32)
        self._rest = np.zeros(0, dtype=np.float32)  # less than a frame
        self._voiced = self._silent = 0

    @property
    def samples(self) -> np.ndarray:
        """The samples of the current turn, float32 (n,) at 16 kHz."""
        return np.concatenate(self._frames) if self._frames else np.zeros(0, dtype=np.float32)

    def feed(self, samples: np.ndarray) -> list[Turn]:
        """Process samples, float32 (n,) at 16 kHz; return the turns that begin (`end` None) or end in them."""
        from faster_whisper.vad import get_vad_model

        fresh = np.concatenate([self._rest, samples])
        count = len(fresh) // FRAME
        fresh, self._rest = fresh[: count * FRAME], fresh[count * FRAME :]
        if not count:
            return []
        audible = np.concatenate([self._context, fresh])
        self._context = audible[-CONTEXT * FRAME :].copy()
        probabilities = np.ravel(get_vad_model()(audible))[-count:]  # it overwrites its input
        turns: list[Turn] = []
        for frame, probability in zip(fresh.reshape(count, FRAME), probabilities, strict=True):
            self.heard += FRAME
            turns += self._step(frame, float(probability))
        return turns

    def flush(self) -> list[Turn]:
        """End the current turn, if there is one."""
        return [] if self.start is None else [self._end(len(self._frames))]

    def clear(self) -> None:
        """Discard the current turn."""
        self.start, self._frames, self._probabilities = None, [], []
        self._before.clear()
        self._voiced = self._silent = 0

    def _step(self, frame: np.ndarray, probability: float) -> list[Turn]:
        if self.start is None:
            self._before.append(frame)
            self._voiced = self._voiced + 1 if probability >= self.threshold else 0
            return [self._begin(list(self._before), [1.0] * len(self._before))] if self._voiced >= VOICED else []
        self._frames.append(frame)
        self._probabilities.append(probability)
        self._silent = self._silent + 1 if probability < self.threshold - HYSTERESIS else 0
        if self._silent * FRAME >= self.silence * SAMPLING_RATE:
            return [self._end(len(self._frames))]
        if (len(self._frames) + 1) * FRAME > MAX_SAMPLES:
            return self._cut()
        return []

    def _begin(self, frames: list[np.ndarray], probabilities: list[float]) -> Turn:
        self._frames, self._probabilities = frames, probabilities
        self._before.clear()
        self.start = self.heard - len(frames) * FRAME
        self._voiced = self._silent = 0
        return Turn(self.start)

    def _cut(self) -> list[Turn]:
        """End a turn that is too long for one window at its least speech-like frame, and begin the next."""
        first = 2 * len(self._frames) // 3
        cut = first + int(np.argmin(self._probabilities[first:-1])) + 1  # leaves a frame for the next turn
        frames, probabilities = self._frames[cut:], self._probabilities[cut:]
        return [self._end(cut), self._begin(frames, probabilities)]

    def _end(self, count: int) -> Turn:
        """End the turn after `count` frames."""
        turn = Turn(self.start, self.start + count * FRAME, np.concatenate(self._frames[:count]))
        self.clear()
        return turn
