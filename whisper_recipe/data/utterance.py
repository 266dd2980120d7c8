"""One utterance of a corpus, in whatever format, and the problems of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.text_rules import WHISPER_TOKEN, normalised
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES, language_code
from whisper_recipe.tasks import check_task

# Only Kaldi's tools need sorted ids: `validate` reports this, other commands accept it.
UNSORTED = "unsorted id"
ROUNDING = 1e-3  # seconds by which a segment may begin before the previous one ends
MAX_PROMPT_WORDS = 223  # half of Whisper's decoder: longer previous text is truncated when tokenized


class Segment(NamedTuple):
    """A stretch of an utterance with its text, for training with timestamps; seconds from the utterance's start."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance.

    Args:
        id: the key of `text`; with multi-task keys the whole `id|language|task`.
        recording: id of its recording; rows of several tasks share the recording of their audio.
        audio: absolute path of the recording's file, an entry of a Kaldi ark (`/x.ark:123`), or a shell command that
            ends in `|`.
        text: the text that the model should write; "" for an example without speech.
        language: Whisper's code of the spoken language.
        task: transcribe or translate.
        speaker: from `utt2spk`; default: the utterance's own id (without language and task).
        start: seconds in the recording.
        end: seconds in the recording; None for its end.
        duration: seconds from `utt2dur` or the list; None if not given.
        segments: stretches with their texts; None if unknown.
        prompt: the previous text; "" if unknown.
        row: `file:line` of its row in `text` or in the list.
        where: `file:line` that assigns its audio: segments, wav.scp or the list.
        audio_where: `file:line` of the recording in wav.scp, or in the list.
    """

    id: str
    recording: str
    audio: str
    text: str
    language: str
    task: str
    speaker: str
    start: float = 0.0
    end: float | None = None
    duration: float | None = None
    segments: tuple[Segment, ...] | None = None
    prompt: str = ""
    row: str = ""
    where: str = ""
    audio_where: str = ""


def parse_segments(value: object) -> tuple[Segment, ...]:
    """Return the segments in a JSON list of {"start", "end", "text"}.

    Raises:
        ValueError: it is not such a list, or times are missing, negative, backwards or not numbers.
    """
    if not isinstance(value, list):
        raise ValueError("not a list")
    segments = []
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            raise ValueError(f"expected {{start, end, text}}, got {shortened(item)}")
        start, end = parse_seconds(item.get("start")), parse_seconds(item.get("end"))
        if not 0 <= start < end:
            raise ValueError(f"times must satisfy 0 <= start < end, got {start} to {end} s")
        segments.append(Segment(start, end, " ".join(item["text"].split())))
    return tuple(segments)


def are_in_order(segments: Iterable[Segment]) -> bool:
    """Whether no segment begins before the previous one ends, rounding aside."""
    return all(second.start >= first.end - ROUNDING for first, second in pairwise(segments))


def parse_seconds(value: object) -> float:
    """Return a finite number; ValueError for anything else (NaN, infinity, a string or a boolean)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"{shortened(value)} is not a number of seconds")
    return float(value)


def shortened(value: object) -> str:
    """Return a value as shown in error messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Problem(NamedTuple):
    """A problem with a corpus."""

    kind: str
    where: str  # file:line
    what: str


@dataclass
class Scan:
    """As much of a corpus as can be read, and its problems.

    Args:
        path: the data directory or list.
        utterances: all utterances with known audio, valid or not.
        problems: all problems.
        rows: `file:line` of every row meant as an utterance -> its id.
        lost: `file:line` of every invalid row -> the reasons.
        changed: `file:line` of every row that is valid after a change -> the reasons.
    """

    path: Path
    utterances: list[Utterance] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)
    _changes: dict[str, dict] = field(default_factory=dict)  # row -> fields of its utterance

    def add(self, utterance: Utterance) -> None:
        """Add an utterance; report problems with its text, segments and prompt."""
        self.utterances.append(utterance)
        if utterance.segments or utterance.prompt or "<|" in utterance.text:
            utterance = self._check_tokens(utterance)
            self._check_segments(utterance)
            self._check_prompt(utterance)

    def report(self, kind: str, where: str | Path, what: str, *rows: str) -> None:
        """Record a problem, and the rows that it makes invalid."""
        self.problems.append(Problem(kind, str(where), what))
        for row in rows:
            self.lose(row, f"{kind}: {what}")

    def change(self, kind: str, where: str, what: str, row: str, **fields: object) -> None:
        """Record a problem that is solved by replacing these fields of the row's utterance."""
        self.report(kind, where, what)
        self.changed.setdefault(row, []).append(f"{kind}: {what}")
        self._changes.setdefault(row, {}).update(fields)

    def lose(self, row: str, reason: str) -> None:
        """Record that a row is invalid."""
        self.lost.setdefault(row, []).append(reason)

    def language(self, name: str, where: str, row: str) -> str:
        """Return the language's code; report an unknown language and return ""."""
        return self._checked(language_code, "unknown language", name, where, row)

    def task(self, name: str, where: str, row: str) -> str:
        """Return the task; report an unknown task and return ""."""
        return self._checked(check_task, "unknown task", name, where, row)

    def _checked(self, check: Callable[[str], str], kind: str, name: str, where: str, row: str) -> str:
        try:
            return check(name)
        except RecipeError as error:
            self.report(kind, where, str(error), row)
            return ""

    def sound(self) -> list[Utterance]:
        """Return the valid utterances, with the changes that they need."""
        sound = (utterance for utterance in self.utterances if utterance.row not in self.lost)
        return [replace(row, **self._changes[row.row]) if row.row in self._changes else row for row in sound]

    def _check_tokens(self, utterance: Utterance) -> Utterance:
        """Report Whisper's own tokens in the texts; return the utterance without them."""
        texts = [utterance.text, utterance.prompt, *(segment.text for segment in utterance.segments or ())]
        found = next(filter(None, map(WHISPER_TOKEN.search, texts)), None)
        if found is None:
            return utterance
        spaced = utterance.task == "translate" or utterance.language not in CHARACTER_LANGUAGES
        text, prompt, *rest = (" ".join(WHISPER_TOKEN.sub(" " if spaced else "", text).split()) for text in texts)
        fields: dict = {"text": text, "prompt": prompt}
        if utterance.segments:
            fields["segments"] = tuple(
                segment._replace(text=text) for segment, text in zip(utterance.segments, rest, strict=True)
            )
        what = f"{utterance.id} has Whisper's own token {found[0]} in its text"
        self.change("special token", utterance.row, what, utterance.row, **fields)
        if not text and utterance.text and utterance.segments != ():
            self.report("empty text", utterance.row, f"{utterance.id} has no text except such tokens", utterance.row)
        return replace(utterance, **fields)

    def _check_segments(self, utterance: Utterance) -> None:
        if not utterance.segments:
            return
        key, row = utterance.id, utterance.row
        if not are_in_order(utterance.segments):
            what = f"{key} has segments that overlap or go back in time"
            self.change("malformed times", row, what, row, segments=None)
        texts = [segment.text for segment in utterance.segments]
        if normalised("".join(texts)) != normalised(utterance.text):
            what = f"{key} has segments whose text differs from its own ({shortened(' '.join(texts))})"
            self.change("other text in segments", row, what, row, segments=None)

    def _check_prompt(self, utterance: Utterance) -> None:
        words = utterance.prompt.split()
        if len(words) > MAX_PROMPT_WORDS:
            what = f"{utterance.id} has a prompt of {len(words)} words, over {MAX_PROMPT_WORDS}"
            prompt = " ".join(words[-MAX_PROMPT_WORDS:])
            self.change("prompt too long", utterance.row, what, utterance.row, prompt=prompt)
