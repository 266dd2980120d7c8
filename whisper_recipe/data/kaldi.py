"""Kaldi data directories: wav.scp, text, segments, utt2lang, utt2spk, utt2task, utt2dur, and multi-task keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require
from whisper_recipe.languages import language_code
from whisper_recipe.tasks import check_task


@dataclass(frozen=True)
class Utterance:
    """One utterance of a data directory.

    Args:
        id: the key of `text`; with multi-task keys the whole `id|language|task`.
        recording: id of its recording; rows of several tasks share the recording of their audio.
        audio: the recording's file.
        text: what the model is to write.
        language: Whisper's code of the spoken language.
        task: transcribe or translate.
        speaker: of `utt2spk`; the utterance's own id where there is none.
        start: seconds in the recording.
        end: seconds in the recording; None is its end.
        duration: seconds by `utt2dur`, None where it says nothing.
        where: `file:line` of the text.
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


class Problem(NamedTuple):
    """One thing that is wrong with a data directory."""

    kind: str
    where: str
    what: str


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

    def table(self, name: str, required: bool = False) -> dict[str, tuple[int, str]]:
        """Read one table as {id: (line number, the rest of the line)}; the first of duplicate ids counts."""
        rows: dict[str, tuple[int, str]] = {}
        path = self.path / name
        if not path.exists():
            if required:
                self.report("missing file", path, "no such file")
            return rows
        last = ""
        for number, line in self._lines(path):
            key, _, value = line.replace("\t", " ", 1).partition(" ")
            if key in rows:
                self.report("duplicate id", self.where(name, number), f"{key} stands in line {rows[key][0]} already")
                continue
            if key.encode() < last.encode():
                self.report(UNSORTED, self.where(name, number), f"{key} comes after {last}")
            rows[key] = number, value.strip()
            last = key
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
                line = raw.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                self.report("not UTF-8", where, str(error.reason))
                continue
            if line:
                yield number, line


# Kaldi's tools want sorted ids; nothing here does, so this one is told but does not stop the road.
UNSORTED = "unsorted id"


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
    segments = directory.table("segments")
    languages, speakers, tasks, durations = (
        directory.table(name) for name in ("utt2lang", "utt2spk", "utt2task", "utt2dur")
    )
    if not directory.problems and not text:
        directory.report("empty split", directory.path / "text", "there is no utterance in it")
    _report_strays(directory, text, segments or wav, "segments" if segments else "wav.scp")
    utterances = []
    for key, (number, transcript) in text.items():
        before = len(directory.problems)
        base, language, task = _split_key(directory, key, languages, tasks, number)
        segment = _segment(directory, key, segments)
        recording = segment[0] if segment else key
        audio = _audio(directory, recording, wav, key, number)
        if not transcript:
            directory.report("empty text", directory.where("text", number), f"{key} has no text")
        if len(directory.problems) > before:
            continue
        utterances.append(
            Utterance(
                id=key,
                recording=recording.partition("|")[0],
                audio=audio,
                text=transcript,
                language=language,
                task=task,
                speaker=speakers.get(key, (0, base))[1],
                start=segment[1] if segment else 0.0,
                end=segment[2] if segment else None,
                duration=_number(directory, "utt2dur", durations.get(key)),
                where=directory.where("text", number),
            )
        )
    return utterances, directory.problems


def _report_strays(directory: Directory, text: dict, audio: dict, name: str) -> None:
    for key, (number, _) in audio.items():
        if key not in text and text:
            directory.report("id without text", directory.where(name, number), f"{key} is not in text")


def _split_key(directory: Directory, key: str, languages: dict, tasks: dict, number: int) -> tuple[str, str, str]:
    """Return (base id, language code, task): of an `id|language|task` key, else of utt2lang and utt2task."""
    where = directory.where("text", number)
    if "|" in key:
        parts = key.split("|")
        if len(parts) != 3:
            directory.report("malformed key", where, f"{key} is not id|language|task")
            return key, "", ""
        base, language, task = parts
    elif key not in languages:
        directory.report("id without language", where, f"{key} is not in {directory.path / 'utt2lang'}")
        return key, "", ""
    else:
        base, (number, language) = key, languages[key]
        where = directory.where("utt2lang", number)
        task = tasks.get(key, (0, "transcribe"))[1]
    code = _checked(directory, "unknown language", where, language_code, language)
    if "|" not in key and key in tasks:
        where = directory.where("utt2task", tasks[key][0])
    return base, code, _checked(directory, "unknown task", where, check_task, task)


def _checked(directory: Directory, kind: str, where: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except RecipeError as error:
        directory.report(kind, where, str(error))
        return ""


def _segment(directory: Directory, key: str, segments: dict) -> tuple[str, float, float] | None:
    if key not in segments:
        return None
    number, value = segments[key]
    where = directory.where("segments", number)
    try:
        recording, start, end = value.split()
        start, end = float(start), float(end)
    except ValueError:
        directory.report("malformed segment", where, f"{value!r} is not <recording> <start> <end>")
        return None
    if not 0 <= start < end:
        directory.report("malformed segment", where, f"{start} to {end} s is no stretch of time")
    return recording, start, end


def _audio(directory: Directory, recording: str, wav: dict, key: str, line: int) -> Path:
    if recording not in wav:
        if wav:
            directory.report("id without audio", directory.where("text", line), f"{key}: no {recording} in wav.scp")
        return Path()
    number, value = wav[recording]
    where = directory.where("wav.scp", number)
    if value.endswith("|"):
        # A data file must not be able to run commands.
        directory.report("pipe", where, "a shell command, which is not run: write its output to a file")
    elif not value:
        directory.report("missing audio", where, f"{recording} has no path")
    return find_audio(directory.path, value)


def find_audio(directory: Path, path: str) -> Path:
    """Return the file of a wav.scp path: relative to the data directory, or as Kaldi has it to the current one."""
    inside = directory / path
    return inside if inside.exists() or not Path(path).exists() else Path(path)


def _number(directory: Directory, table: str, row: tuple[int, str] | None) -> float | None:
    if row is None:
        return None
    try:
        return float(row[1])
    except ValueError:
        directory.report("malformed duration", directory.where(table, row[0]), f"{row[1]!r} is not a number of seconds")
        return None
