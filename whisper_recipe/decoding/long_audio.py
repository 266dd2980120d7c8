"""Audio of any length: cut where nobody speaks into windows of at most 30 s, decoded in batches, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import WhisperTokenizer

from whisper_recipe.data.audio import SAMPLING_RATE
from whisper_recipe.data.features import MAX_FRAMES, MAX_SAMPLES, collate_fbank, log_mel
from whisper_recipe.data.grouping import by_length
from whisper_recipe.decoding.backends import load_backend, usual_batch_duration
from whisper_recipe.decoding.formats import Segment, Transcript, Word
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.decoding.words import word_times
from whisper_recipe.model.load import natural_length, timestamps
from whisper_recipe.text.prompt import MAX_SECONDS, TIME_STEP
from whisper_recipe.text.tokenizer import NO_TIMESTAMPS, TIMESTAMPS

# A pause that ends a stretch of speech. faster-whisper takes 2 s where it only leaves out silence and 0.16 s in its
# batched pipeline, which joins the stretches again; between sentences speakers pause for half a second.
MIN_SILENCE_MS = 500


class Window(NamedTuple):
    """Samples from `start` to before `end`, at 16 kHz; the model takes 30 s of them at most."""

    start: int
    end: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return (self.end - self.start) / SAMPLING_RATE


def find_windows(samples: np.ndarray, merge: bool) -> list[Window]:
    """Return the windows to decode, in the order of time; they don't overlap.

    What fits into 30 s is one window. In longer audio the windows are the stretches of speech that Silero's voice
    activity detector (in faster-whisper) finds, with 0.4 s around them where there is room. Stretches of over 30 s
    are cut in a pause, or at 30 s where there is none.

    Args:
        samples: float32 (n,) at 16 kHz.
        merge: join neighbouring stretches, and the silence between, as far as they fit into 30 s. Models that have
            learned timestamps and need 30 s of input do with fewer windows so; for the others, each stretch is a
            segment of the result.
    """
    if len(samples) <= MAX_SAMPLES:
        return [Window(0, len(samples))] if len(samples) else []
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(max_speech_duration_s=MAX_SECONDS, min_silence_duration_ms=MIN_SILENCE_MS)
    stretches = [Window(found["start"], found["end"]) for found in get_speech_timestamps(samples, options)]
    return _merged(stretches) if merge else stretches


def _merged(stretches: Iterable[Window]) -> list[Window]:
    windows: list[Window] = []
    for stretch in stretches:
        if windows and stretch.end - windows[-1].start <= MAX_SAMPLES:
            windows[-1] = Window(windows[-1].start, stretch.end)
        else:
            windows.append(stretch)
    return windows


class TimedIds(NamedTuple):
    """Seconds from the window's beginning, and the ids of the text in between."""

    start: float
    end: float
    ids: list[int]


def split_at_timestamps(ids: list[int], tokenizer: WhisperTokenizer, duration: float) -> list[TimedIds]:
    """Split what a model wrote of a window of `duration` seconds at its timestamp tokens; special tokens are left out.

    Text without timestamps lasts from the beginning to the end of the window, and so does what stands before the first
    or after the last of them. Segments never go backwards in time, whatever the model has written.
    """
    first = tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS) + 1
    special = set(tokenizer.all_special_ids)
    segments, text, start = [], [], 0.0
    for token in ids:
        if first <= token < first + TIMESTAMPS:
            time = min(max(start, (token - first) * TIME_STEP), duration)
            if text:
                segments.append(TimedIds(start, time, text))
            text, start = [], time
        elif token not in special:
            text.append(token)
    if text:
        segments.append(TimedIds(start, duration, text))
    return segments


@dataclass
class Piece:
    """A window of a recording on its way through the model."""

    window: Window
    features: torch.Tensor  # (frames, mel bins)
    language: str = ""
    seconds: float = 0.0  # its share of the recording, for the progress bar
    ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Recording:
    """An input of any length: its samples are float32 (n,) at 16 kHz."""

    name: str
    samples: np.ndarray
    language: str | None = None
    pieces: list[Piece] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / SAMPLING_RATE


class Transcriber:
    """A loaded model and how it is used.

    A model that was trained without timestamps is never asked for them: it would answer with loops and invented text
    (https://github.com/SYSTRAN/faster-whisper/issues/1099).

    Args:
        model: a Whisper folder, a CTranslate2 folder, or a name on the hub.
        compute_type: default, float32, float16, int8 and so on, as far as the backend has it.
        pad_to_30s: pad every window to 30 s; None: as the model folder records.
        task: transcribe or translate.
        word_timestamps: find the times of words too.
        sequential: decode one window after the other, with the text before it as prompt.
        batch_duration: seconds of audio in a batch at most.
        search: how hypotheses are searched for.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        compute_type: str = "default",
        pad_to_30s: bool | None = None,
        task: str = "transcribe",
        word_timestamps: bool = False,
        sequential: bool = False,
        batch_duration: float | None = None,
        search: SearchOptions = SearchOptions(),  # noqa: B008
    ) -> None:
        parallel = 1 if sequential else torch.get_num_threads()
        self.backend = load_backend(model, compute_type, parallel=parallel)
        self.tokenizer = self.backend.tokenizer
        self.timestamps = timestamps(model)
        self.pad_to_30s = not natural_length(model) if pad_to_30s is None else pad_to_30s
        self.task, self.word_timestamps, self.sequential = task, word_timestamps, sequential
        self.batch_duration, self.search = batch_duration or usual_batch_duration(), search

    def transcribe(
        self, recordings: list[Recording], language: str | None = None, count: Callable[[float], None] = lambda _: None
    ) -> Iterator[Transcript]:
        """Yield the transcript of each recording.

        Args:
            recordings: of any length.
            language: Whisper's code; None detects it for each recording.
            count: told the seconds of audio that are done, as they are done.
        """
        for recording in recordings:
            windows = find_windows(recording.samples, merge=self.timestamps)
            recording.pieces = [Piece(window, self._features(recording, window)) for window in windows]
            if not windows:
                count(recording.duration)
        self._set_languages([recording for recording in recordings if recording.pieces], language)
        for seconds in self.backend.each(self._decode, self._batches(recordings)):
            count(seconds)
        for recording in recordings:
            segments = tuple(segment for piece in recording.pieces for segment in piece.segments)
            spoken = recording.language or language
            yield Transcript(recording.name, spoken, self.task, recording.duration, segments)

    def _features(self, recording: Recording, window: Window) -> torch.Tensor:
        return log_mel(recording.samples[window.start : window.end], self.backend.num_mel_bins)

    def _set_languages(self, recordings: list[Recording], language: str | None) -> None:
        firsts = [recording.pieces[0] for recording in recordings]
        if language is None:
            for batch in self._by_length(firsts):
                found = self.backend.detect_languages(self._collate(batch))
                for piece, code in zip(batch, found, strict=True):
                    piece.language = code
        for recording in recordings:
            recording.language = language or recording.pieces[0].language
            for piece in recording.pieces:
                piece.language = recording.language
                piece.seconds = recording.duration / len(recording.pieces)

    def _batches(self, recordings: list[Recording]) -> Iterator[tuple[list[Piece], list[int]]]:
        """Yield (pieces of one language, ids of the text before)."""
        if self.sequential:
            for recording in recordings:
                previous: list[int] = []
                for piece in recording.pieces:
                    yield [piece], previous
                    previous += piece.ids
            return
        pieces = [piece for recording in recordings for piece in recording.pieces]
        for language in sorted({piece.language for piece in pieces}):
            for batch in self._by_length([piece for piece in pieces if piece.language == language]):
                yield batch, []

    def _by_length(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        padded = MAX_SECONDS if self.pad_to_30s else None
        return by_length(pieces, lambda piece: piece.window.duration, self.batch_duration, padded)

    def _collate(self, batch: list[Piece]) -> torch.Tensor:
        return collate_fbank([piece.features for piece in batch], MAX_FRAMES if self.pad_to_30s else None)

    def _decode(self, batch_and_previous: tuple[list[Piece], list[int]]) -> float:
        """Fill in the ids and the segments of a batch; return its seconds of audio."""
        batch, previous = batch_and_previous
        features, language = self._collate(batch), batch[0].language
        prompt = search_prompt(self.tokenizer, language, self.task, self.search, previous, self.timestamps)
        special = set(self.tokenizer.all_special_ids)
        for piece, ids in zip(batch, self.backend.decode(features, [prompt] * len(batch), self.search), strict=True):
            piece.ids = [token for token in ids if token not in special]
        timed = [split_at_timestamps(piece.ids, self.tokenizer, piece.window.duration) for piece in batch]
        words = [None] * len(batch)
        if self.word_timestamps:
            texts = [[token for segment in segments for token in segment.ids] for segments in timed]
            frames = [len(piece.features) for piece in batch]
            words = word_times(self.backend, self.tokenizer, features, frames, texts, language, self.task)
        for piece, segments, spoken in zip(batch, timed, words, strict=True):
            piece.segments = list(_segments(piece, segments, spoken, self.tokenizer.decode))
        return sum(piece.seconds for piece in batch)


def _segments(
    piece: Piece, timed: list[TimedIds], spoken: list[tuple[Word, int]] | None, decode: Callable[[list[int]], str]
) -> Iterator[Segment]:
    """Yield the segments of a window that have a text, in the recording's time, each with its own words."""
    offset = piece.window.start / SAMPLING_RATE
    rest = iter(spoken or [])
    for start, end, ids in timed:
        words, count = [], 0
        while spoken is not None and count < len(ids) and (following := next(rest, None)) is not None:
            word, tokens = following
            words.append(word._replace(start=offset + word.start, end=offset + word.end))
            count += tokens
        text = decode(ids).strip()
        if text:
            yield Segment(offset + start, offset + end, text, None if spoken is None else tuple(words))
