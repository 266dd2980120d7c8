"""Audio of any length: cut at pauses into windows of at most 30 s, decoded in batches, and joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from whisper_recipe.data.audio import SAMPLING_RATE
from whisper_recipe.data.features import log_mel
from whisper_recipe.data.grouping import by_length
from whisper_recipe.data.input_length import input_length
from whisper_recipe.decoding.backends import Backend, load_backend, usual_batch_duration
from whisper_recipe.decoding.backends.base import Hypothesis
from whisper_recipe.decoding.formats import Score, Segment, Transcript, Word
from whisper_recipe.decoding.search import SearchOptions, is_loop, search_prompt
from whisper_recipe.decoding.timestamps import TimedIds, finished_part, split_at_timestamps
from whisper_recipe.decoding.windows import PASSED_OVER, Recording, Window, halves, rest_of
from whisper_recipe.decoding.words import word_times
from whisper_recipe.model.load import timestamps
from whisper_recipe.text.tokenizer import decode_text, text_only

# If the token limit truncated a window's text, the window is decoded again in two halves, unless it is this short: then
# the text is more likely a loop.
SHORTEST_HALVED = 10.0  # seconds


@dataclass(eq=False)
class Piece:
    """A window of a recording on its way through the model."""

    recording: Recording
    window: Window
    features: torch.Tensor | None = None  # (frames, mel bins), once loaded
    seconds: float = 0.0  # its share of the recording, for the progress bar
    ids: list[int] = field(default_factory=list)
    score: Hypothesis | None = None
    segments: list[Segment] = field(default_factory=list)
    rest: list[Window] = field(default_factory=list)  # parts of the window still to be decoded


class Transcriber:
    """A loaded model and its decoding options.

    A model trained without timestamps is never asked for them: it would produce loops and invented text
    (https://github.com/SYSTRAN/faster-whisper/issues/1099).

    Args:
        model: a Whisper folder, a CTranslate2 folder, or a name on the Hub.
        compute_type: default, float32, float16, int8 and so on, if supported by the backend.
        pad_to_30s: pad every window to 30 s; None: as recorded in the model folder.
        spare_frames: frames of silence after the longest window of a batch; None: as recorded in the model folder.
        task: transcribe or translate.
        word_timestamps: also find word times.
        sequential: decode one window after the other, with the previous text as prompt.
        batch_duration: maximum seconds of audio per batch.
        search: search options.
        backend: the model's backend, if already loaded.
        scored: add a score to each segment.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        compute_type: str = "default",
        pad_to_30s: bool | None = None,
        spare_frames: int | None = None,
        task: str = "transcribe",
        word_timestamps: bool = False,
        sequential: bool = False,
        batch_duration: float | None = None,
        search: SearchOptions = SearchOptions(),  # noqa: B008
        backend: Backend | None = None,
        scored: bool = False,
    ) -> None:
        parallel = 1 if sequential else torch.get_num_threads()
        self.backend = backend or load_backend(model, compute_type, parallel=parallel)
        self.tokenizer = self.backend.tokenizer
        self.timestamps = timestamps(model)
        self.length = input_length(model, pad_to_30s, spare_frames)
        self.scored = scored
        self.task, self.word_timestamps, self.sequential = task, word_timestamps, sequential
        self.batch_duration, self.search = batch_duration or usual_batch_duration(), search

    def transcribe(
        self, recordings: list[Recording], language: str | None = None, count: Callable[[float], None] = lambda _: None
    ) -> Iterator[Transcript]:
        """Yield the transcript of each recording.

        Args:
            recordings: of any length.
            language: Whisper's code; None detects it for each recording.
            count: called with the seconds of audio that were just decoded.
        """
        pieces: list[Piece] = []
        for recording in recordings:
            windows = recording.windows(merge=self.timestamps)
            share = recording.duration / max(1, len(windows))
            pieces += [Piece(recording, window, seconds=share) for window in windows]
            if not windows:
                count(recording.duration)
        self._set_languages(pieces, language)
        segments: dict[Recording, list[Segment]] = {recording: [] for recording in recordings}
        for piece in self._decoded(pieces):
            count(piece.seconds)
            segments[piece.recording] += piece.segments
        for recording in recordings:
            spoken = recording.language or language
            ordered = tuple(sorted(segments[recording], key=lambda segment: segment.start))
            yield Transcript(recording.name, spoken, self.task, recording.duration, ordered)

    def decode_windows(self, windows: list[tuple[Recording, Window]]) -> list[Piece]:
        """Decode windows of one or many recordings together, and return them as pieces, in the given order.

        Args:
            windows: of similar length, together no longer than a batch. If a recording has no language yet, it is
                detected in its window and set.
        """
        pieces = [Piece(recording, window) for recording, window in windows]
        self._set_languages([piece for piece in pieces if piece.recording.language is None], None)
        for batch in self._batches(pieces):
            self._decode(self._load(batch))
        return pieces

    def _load(self, batch: list[Piece]) -> list[Piece]:
        """Return the pieces with their features."""
        for piece in batch:
            if piece.features is None:
                samples = piece.recording.samples[piece.window.start : piece.window.end]
                piece.features = log_mel(samples, self.backend.num_mel_bins)
        return batch

    def _set_languages(self, pieces: list[Piece], language: str | None) -> None:
        """Set the language of each recording; None detects it in the recording's first piece."""
        firsts = list({piece.recording: piece for piece in reversed(pieces)}.values())
        for piece in firsts:
            piece.recording.language = language
        if language is None:
            for batch in self._by_length(firsts):
                codes = self.backend.detect_languages(self._collate(self._load(batch)))
                for piece, code in zip(batch, codes, strict=True):
                    piece.recording.language = code

    def _decoded(self, pieces: list[Piece]) -> Iterator[Piece]:
        """Yield the decoded pieces, then those of their undecoded rests, until nothing is left."""
        if self.sequential:
            yield from self._one_by_one(pieces)
            return
        while pieces:
            for batch in self.backend.each(self._decode, self._batches(pieces), self._load):
                yield from batch
            pieces = [Piece(piece.recording, window) for piece in pieces for window in piece.rest]

    def _one_by_one(self, pieces: list[Piece]) -> Iterator[Piece]:
        waiting, previous, recording = deque(pieces), [], None
        while waiting:
            piece = waiting.popleft()
            if piece.recording is not recording:
                recording, previous = piece.recording, []
            self._decode(self._load([piece]), previous)
            previous += piece.ids
            yield piece
            waiting.extendleft(Piece(recording, window) for window in reversed(piece.rest))

    def _batches(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """Yield batches of pieces of one language and similar length."""
        for language in sorted({piece.recording.language for piece in pieces}):
            yield from self._by_length([piece for piece in pieces if piece.recording.language == language])

    def _by_length(self, pieces: list[Piece]) -> Iterator[list[Piece]]:
        return by_length(pieces, lambda piece: piece.window.duration, self.batch_duration, self.length.seconds)

    def _collate(self, batch: list[Piece]) -> torch.Tensor:
        return self.length.collate([piece.features for piece in batch])

    def _decode(self, batch: list[Piece], previous: list[int] | None = None) -> list[Piece]:
        """Decode a batch; fill in each piece's segments and what is left to decode.

        Args:
            batch: pieces of one language; a single piece if there is previous text.
            previous: ids of the previous text. The list is cleared if the model loops after it: the next windows would
                loop too.
        """
        features, language = self._collate(batch), batch[0].recording.language
        prompt = search_prompt(self.tokenizer, language, self.task, self.search, previous or (), self.timestamps)
        prompts = [prompt] * len(batch)
        if self.scored:
            scores = self.backend.hypotheses(features, prompts, self.search)
            hypotheses = [score.ids for score in scores]
            for piece, score in zip(batch, scores, strict=True):
                piece.score = score
        else:
            hypotheses = self.backend.decode(features, prompts, self.search)
        if previous and is_loop(decode_text(self.tokenizer, hypotheses[0]), self.search):
            previous.clear()
            return self._decode(batch)
        timed = [self._keep(piece, ids) for piece, ids in zip(batch, hypotheses, strict=True)]
        words = [None] * len(batch)
        if self.word_timestamps:
            texts = [[token for segment in segments for token in segment.ids] for segments in timed]
            frames = [len(piece.features) for piece in batch]
            words = word_times(self.backend, self.tokenizer, features, frames, texts, language, self.task)
        for piece, segments, spoken in zip(batch, timed, words, strict=True):
            piece.segments = list(_segments(piece, segments, spoken, self.tokenizer.decode))
        return batch

    def _keep(self, piece: Piece, ids: list[int]) -> list[TimedIds]:
        """Keep the finished part of a hypothesis, note what is left of the window, and return the segments.

        openai/whisper drops the audio after the last segment of a hypothesis that the model has ended; here it is
        decoded too if it contains speech. This terminates: the rest begins after a segment, which has a duration, and
        short windows are not halved.
        """
        piece.ids, seconds = finished_part(text_only(self.tokenizer, ids, timestamps=True), self.tokenizer)
        timed = split_at_timestamps(piece.ids, self.tokenizer, piece.window.duration)
        if seconds is not None:
            piece.rest = rest_of(piece.window, seconds, piece.recording.speech)
        elif len(ids) >= self.search.max_new_tokens and piece.window.duration > SHORTEST_HALVED:
            # Nothing shows where the text was truncated.
            timed, piece.ids, piece.rest = [], [], halves(piece.window, piece.recording.samples)
        elif timed and timed[-1].end > 0:
            piece.rest = rest_of(piece.window, timed[-1].end, piece.recording.speech, PASSED_OVER)
        return timed


def _segments(
    piece: Piece, timed: list[TimedIds], spoken: list[tuple[Word, int]] | None, decode: Callable[[list[int]], str]
) -> Iterator[Segment]:
    """Yield a window's segments that have text, in the recording's time, each with its words."""
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
            score = piece.score and Score(ids, piece.score.average_logprob, piece.score.no_speech_prob)
            yield Segment(offset + start, offset + end, text, None if spoken is None else tuple(words), score)
