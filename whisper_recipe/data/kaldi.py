"""Kaldi data directories: wav.scp, text, segments, utt2lang, utt2spk, utt2task, utt2dur, and multi-task keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require, written_aside
from whisper_recipe.languages import language_code
from whisper_recipe.tasks import check_task


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a data directory.

    Args:
        id: the key of `text`; with multi-task keys the whole `id|language|task`.
        recording: id of its recording; rows of several tasks share the recording of their audio.
        audio: the recording's file.
        text: what the model is to write.
        language: Whisper's code of the spoken language.
        task: transcribe or translate.
        speaker: of `utt2spk`; the utterance's own id (without language and task) where there is none.
        start: seconds in the recording.
        end: seconds in the recording; None is its end.
        duration: seconds by `utt2dur`, None where it says nothing.
        where: `file:line` of what says which audio is its: segments or wav.scp.
        audio_where: `file:line` of the recording in wav.scp.
    """

    id: str
    recording: str
    audio: Path
    text: str
    language: str
    task: str
    speaker: str
    start: float = 0.0
    end: float | None = None
    duration: float | None = None
    where: str = ""
    audio_where: str = ""


class Problem(NamedTuple):
    """One thing that is wrong with a data directory."""

    kind: str
    where: str
    what: str


# Kaldi's tools want sorted ids; nothing here does, so this one is told but does not stop the road.
UNSORTED = "unsorted id"

Table = dict[str, tuple[int, str]]  # id -> (line number, the rest of the line)


@dataclass
class Directory:
    """The tables of a data directory as they stand, and what is wrong with them."""

    path: Path
    problems: list[Problem] = field(default_factory=list)

    def report(self, kind: str, where: str | Path, what: str) -> None:
        """Note a problem; reading goes on."""
        self.problems.append(Problem(kind, str(where), what))

    def where(self, table: str, line: int) -> str:
        """Return `file:line`."""
        return f"{self.path / table}:{line}"

    def table(self, name: str, required: bool = False) -> Table:
        """Read one table; the first of duplicate ids counts."""
        rows: Table = {}
        path = self.path / name
        if not path.is_file():
            if required:
                self.report("missing file", path, "no such file")
            return rows
        last = ""
        for number, line in self._lines(path):
            key, *value = re.split("[ \t]+", line, maxsplit=1)
            if key in rows:
                self.report("duplicate id", self.where(name, number), f"{key} stands in line {rows[key][0]} already")
                continue
            if key.encode() < last.encode():
                self.report(UNSORTED, self.where(name, number), f"{key} comes after {last}")
            rows[key] = number, value[0] if value else ""
            last = key
        if required and not rows:
            self.report("empty split" if name == "text" else "empty file", path, "there is no utterance in it")
        return rows

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
            where = f"{path}:{number}"
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                self.report("byte order mark", where, "the file begins with one")
                raw = raw[3:]
            if raw.endswith(b"\r"):
                self.report("CRLF", where, "the line ends in CRLF")
            try:
                line = raw.decode("utf-8").strip(" \t\r")
            except UnicodeDecodeError as error:
                self.report("not UTF-8", where, str(error.reason))
                continue
            if line:
                yield number, line


def read_data_dir(path: str | Path) -> list[Utterance]:
    """Read a data directory; every problem but unsorted ids is an error.

    Raises:
        RecipeError: the first problem, and how many more there are.
    """
    utterances, problems = scan_data_dir(path)
    problems = [problem for problem in problems if problem.kind != UNSORTED]
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RecipeError(
            f"{problems[0].kind}: {problems[0].what}{more}",
            where=problems[0].where,
            cure=f"whisper-recipe validate {path} lists them all",
        )
    return utterances


def scan_data_dir(path: str | Path) -> tuple[list[Utterance], list[Problem]]:
    """Read a data directory as far as it can be read; return its sound utterances and all problems of its tables.

    Raises:
        RecipeError: there is no such directory.
    """
    directory = Directory(require(path, "give a Kaldi data directory"))
    text, wav = directory.table("text", required=True), directory.table("wav.scp", required=True)
    segments, speakers, durations = (directory.table(name) for name in ("segments", "utt2spk", "utt2dur"))
    plain_ids = any("|" not in key for key in text)
    languages, tasks = directory.table("utt2lang", required=plain_ids), directory.table("utt2task")
    bases = {_base(key) for key in text} | text.keys()
    for name, table in (("utt2spk", speakers), ("utt2dur", durations), ("utt2lang", languages), ("utt2task", tasks)):
        _report_strays(directory, name, table, bases)
    stretches = _segments(directory, segments, wav, text) if segments else _whole_recordings(directory, wav, text)
    utterances = []
    for key, (number, transcript) in text.items():
        language, task = _language_and_task(directory, key, languages, tasks, number)
        if not transcript:
            directory.report("empty text", directory.where("text", number), f"{key} has no text")
        stretch = stretches.get(key)
        if not (stretch and transcript and language and task):
            continue
        utterances.append(
            Utterance(
                id=key,
                text=transcript,
                language=language,
                task=task,
                speaker=_of(speakers, key)[1] or _base(key),
                duration=_seconds(directory, "utt2dur", *_of(durations, key)),
                **stretch._asdict(),
            )
        )
    return utterances, directory.problems


def _base(key: str) -> str:
    """Return the id of an `id|language|task` key."""
    return key.partition("|")[0]


def _of(table: Table, key: str) -> tuple[int, str]:
    """Return the row of an utterance; a table may have it under its whole key or, for all its tasks, under its id."""
    return table.get(key) or table.get(_base(key)) or (0, "")


def _report_strays(directory: Directory, name: str, table: Table, ids: Iterable[str], others: str = "text") -> None:
    """Report the ids of a table that another table does not have; if that one is missing as a whole, it was told."""
    for key, (number, _) in table.items() if ids else ():
        if key not in ids:
            directory.report(f"id not in {others}", directory.where(name, number), f"{key} is not in {others}")


class _Stretch(NamedTuple):
    """Where the audio of an utterance is: fields of Utterance."""

    recording: str
    audio: Path
    where: str
    audio_where: str
    start: float = 0.0
    end: float | None = None


def _whole_recordings(directory: Directory, wav: Table, text: Table) -> dict[str, _Stretch]:
    _report_strays(directory, "wav.scp", wav, text.keys())
    _report_strays(directory, "text", text, wav.keys(), "wav.scp")
    stretches = {}
    paths: dict[str, Path] = {}
    for key, audio, where in _audio_files(directory, wav):
        # Rows of several tasks share a recording, unless two languages' rows have only their id in common.
        shared = paths.setdefault(_base(key), audio) == audio
        stretches[key] = _Stretch(_base(key) if shared else key, audio, where, where)
    return stretches


def _segments(directory: Directory, segments: Table, wav: Table, text: Table) -> dict[str, _Stretch]:
    _report_strays(directory, "segments", segments, text.keys())
    _report_strays(directory, "text", text, segments.keys(), "segments")
    audio_files = {key: (audio, audio_where) for key, audio, audio_where in _audio_files(directory, wav)}
    used, stretches = set(), {}
    for key, (number, value) in segments.items():
        where = directory.where("segments", number)
        parts = value.split()
        if len(parts) != 3:
            directory.report("malformed segment", where, f"{value!r} is not <recording> <start> <end>")
            continue
        recording = parts[0]
        used.add(recording)
        start, end = (_seconds(directory, "segments", number, part) for part in parts[1:])
        if recording not in wav and wav:
            directory.report("id not in wav.scp", where, f"{recording} is not in wav.scp")
        if start is None or end is None:
            continue
        end = None if end == -1 else end  # as Kaldi's extract-segments has it
        if start < 0 or (end is not None and end <= start):
            directory.report("malformed segment", where, f"{parts[1]} to {parts[2]} s is no stretch of time")
        elif recording in audio_files:
            stretches[key] = _Stretch(
                recording, audio_files[recording][0], where, audio_files[recording][1], start, end
            )
    _report_strays(directory, "wav.scp", wav, used, "segments")
    return stretches


def _audio_files(directory: Directory, wav: Table) -> Iterator[tuple[str, Path, str]]:
    """Yield (key, audio file, file:line) of wav.scp."""
    for key, (number, value) in wav.items():
        where = directory.where("wav.scp", number)
        if value.endswith("|"):
            # A data file must not be able to run commands.
            directory.report("pipe", where, "a shell command, which is not run: write its output to a file")
        elif not value:
            directory.report("missing audio", where, f"{key} has no path")
        else:
            yield key, find_audio(directory.path, value), where


def find_audio(directory: Path, path: str) -> Path:
    """Return the file of a wav.scp path: relative to the data directory, or as Kaldi has it to the current one."""
    inside = directory / path
    return inside if inside.exists() or not Path(path).exists() else Path(path)


def _language_and_task(directory: Directory, key: str, languages: Table, tasks: Table, number: int) -> tuple[str, str]:
    """Return (language code, task) of an `id|language|task` key, else of utt2lang and utt2task; "" where unknown."""
    where = directory.where("text", number)
    if "|" in key:
        parts = key.split("|")
        if len(parts) != 3:
            directory.report("malformed key", where, f"{key} is not id|language|task")
            return "", ""
        _, language, task = parts
        return _checked(directory, where, language_code, language), _checked(directory, where, check_task, task)
    if key in languages:
        number, language = languages[key]
        language = _checked(directory, directory.where("utt2lang", number), language_code, language)
    else:
        language = ""
        if languages:
            directory.report("id not in utt2lang", where, f"{key} is not in utt2lang")
    number, task = tasks.get(key, (0, "transcribe"))
    return language, _checked(directory, directory.where("utt2task", number), check_task, task)


def _checked(directory: Directory, where: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except RecipeError as error:
        directory.report("unknown language" if check is language_code else "unknown task", where, str(error))
        return ""


def _seconds(directory: Directory, table: str, line: int, value: str) -> float | None:
    """Return a finite number of seconds; None where there is no value, or where it is reported as malformed."""
    if not value:
        return None
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,2})?", value, re.ASCII | re.IGNORECASE):
        return float(value)
    directory.report("malformed number", directory.where(table, line), f"{value!r} is not a number of seconds")
    return None


def write_data_dir(utterances: Iterable[Utterance], path: str | Path) -> int:
    """Write a data directory, complete or not at all, ids in the order of LC_ALL=C; return the count of utterances.

    Audio stays where it is: wav.scp has its absolute path. `segments` is written where an utterance is a part of its
    recording, `utt2dur` where durations are known.

    Raises:
        RecipeError: two utterances have the same id.
    """
    rows = sorted(utterances, key=lambda utterance: utterance.id.encode())
    for first, second in zip(rows, rows[1:], strict=False):
        if first.id == second.id:
            raise RecipeError("two utterances have the same id", where=first.id, cure="rename one of them")
    cut = any(row.start > 0 or row.end is not None for row in rows)
    tables: dict[str, dict[str, str]] = {
        "wav.scp": {row.recording if cut else row.id: str(row.audio.absolute()) for row in rows},
        "text": {row.id: row.text for row in rows},
        "utt2lang": {row.id: row.language for row in rows},
        "utt2spk": {row.id: row.speaker for row in rows},
        "utt2task": {row.id: row.task for row in rows},
        "utt2dur": {row.id: f"{row.duration:.8g}" for row in rows if row.duration is not None},
        "segments": {row.id: f"{row.recording} {row.start:.8g} {_end(row):.8g}" for row in rows if cut},
    }
    with written_aside(path) as aside:
        aside.mkdir(parents=True)
        for name, table in tables.items():
            if table:
                (aside / name).write_text("".join(map(_line, sorted(table.items(), key=_bytes))), encoding="utf-8")
    return len(rows)


def _end(utterance: Utterance) -> float:
    return -1 if utterance.end is None else utterance.end


def _line(row: tuple[str, str]) -> str:
    # A line break in a text would begin a new row.
    value = " ".join(row[1].splitlines())
    return f"{row[0]} {value}\n"


def _bytes(row: tuple[str, str]) -> bytes:
    return row[0].encode()
