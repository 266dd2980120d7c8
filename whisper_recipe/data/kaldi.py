"""Kaldi data directories: wav.scp, text, segments, utt2lang, utt2spk, utt2task, utt2dur, and multi-task keys.

In addition to Kaldi's own tables, `utt2segments` holds timed segments with their texts (for training with timestamps):
a JSON list of {"start", "end", "text"} after the id. An empty list and an empty text mark a non-speech example.
`utt2prompt` holds the preceding text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from whisper_recipe.data.utterance import UNSORTED, Scan, Segment, Utterance, parse_segments, shortened
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, exists, require

PIPE = "a shell command, accepted only with --allow-pipes"
Table = dict[str, tuple[int, str]]  # id -> (line number, the rest of the line)


class _Directory:
    """The tables of a data directory, read as they are."""

    def __init__(self, scan: Scan, allow_pipes: bool) -> None:
        self.scan, self.allow_pipes = scan, allow_pipes
        self.name = str(scan.path)  # pathlib takes microseconds for each `file:line`
        self.texts: Table = {}

    def rows(self, key: str) -> list[str]:
        """Return `file:line` of an utterance's row in `text`, if it has one."""
        return [self.where("text", self.texts[key][0])] if key in self.texts else []

    def where(self, table: str, line: int) -> str:
        """Return `file:line`."""
        return f"{self.name}/{table}:{line}"

    def table(self, name: str, required: bool = False) -> Table:
        """Read one table; of duplicate ids, the first is used. The rows of `text` are the utterances."""
        rows: Table = {}
        path = self.scan.path / name
        if not path.is_file():
            if required:
                self.scan.report("missing file", path, "no such file")
            return rows
        last = ""
        for number, line in self._lines(name):
            key, *value = re.split("[ \t]+", line, maxsplit=1)
            where = self.where(name, number)
            if name == "text":
                self.scan.rows[where] = key
            if key in rows:
                what = f"{key} is already on line {rows[key][0]}"
                self.scan.report("duplicate id", where, what, *[where] * (name == "text"))
                continue
            if key.encode() < last.encode():
                self.scan.report(UNSORTED, where, f"{key} comes after {last}")
            rows[key] = number, value[0] if value else ""
            last = key
        if required and not rows:
            self.scan.report("empty split" if name == "text" else "empty file", path, "contains no utterances")
        return rows

    def _lines(self, name: str) -> Iterator[tuple[int, str]]:
        for number, raw in enumerate((self.scan.path / name).read_bytes().split(b"\n"), 1):
            where = self.where(name, number)
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                self.scan.report("byte order mark", where, "the file begins with one")
                raw = raw[3:]
            if raw.endswith(b"\r"):
                self.scan.report("CRLF", where, "the line ends in CRLF")
            try:
                line = raw.decode("utf-8").strip(" \t\r")
            except UnicodeDecodeError as error:
                self.scan.report("not UTF-8", where, str(error.reason), *[where] * (name == "text"))
                if name == "text":
                    self.scan.rows[where] = raw.split()[0].decode("utf-8", errors="replace")
                continue
            if line:
                yield number, line


def scan_data_dir(path: str | Path, allow_pipes: bool = False, needs_audio: bool = True) -> Scan:
    """Read as much of a data directory as possible; audio files are not opened.

    Args:
        path: the data directory.
        allow_pipes: accept shell commands in place of audio files in wav.scp.
        needs_audio: whether wav.scp is required; without it, utterances have no audio and no `segments`.

    Raises:
        RecipeError: there is no such directory.
    """
    scan = Scan(require(path, "give a Kaldi data directory"))
    texts_only = not needs_audio and not (scan.path / "wav.scp").exists()
    directory = _Directory(scan, allow_pipes)
    text = directory.texts = directory.table("text", required=True)
    wav = directory.table("wav.scp", required=not texts_only)
    segments = {} if texts_only else directory.table("segments")
    languages = directory.table("utt2lang", required=any("|" not in key for key in text))
    more = {name: directory.table(name) for name in ("utt2spk", "utt2dur", "utt2task", "utt2segments", "utt2prompt")}
    ids = {_base(key) for key in text} | text.keys()
    for name, table in (more | {"utt2lang": languages}).items():
        _report_strays(directory, name, table, ids)
    stretches = (_no_audio if texts_only else _segments if segments else _whole_recordings)(
        directory, wav, text, segments
    )
    for key, (number, transcript) in text.items():
        row = directory.where("text", number)
        language, task = _language_and_task(directory, key, languages, more["utt2task"], row)
        timed = _timed_text(directory, key, more["utt2segments"], row)
        if not transcript.strip() and timed != ():
            what = f"{key} has no text; for non-speech, write the line `{key} []` into utt2segments"
            scan.report("empty text", row, what, row)
        if key in stretches:
            spoken = {"text": transcript, "language": language, "task": task, "segments": timed, "row": row}
            spoken["prompt"] = more["utt2prompt"].get(key, (0, ""))[1]
            speaker = "_".join(_of(more["utt2spk"], key)[1].split()) or _base(key)  # an id, as in lists
            duration = _duration(directory, more["utt2dur"], key)
            scan.add(Utterance(key, **spoken, speaker=speaker, duration=duration, **stretches[key]._asdict()))
        elif row not in scan.lost:
            scan.lose(row, "missing audio: see the problems in wav.scp and segments")
    return scan


def _base(key: str) -> str:
    """Return the id of an `id|language|task` key."""
    return key.partition("|")[0]


def _of(table: Table, key: str) -> tuple[int, str]:
    """Return the row of an utterance, under its full key or, shared by all its tasks, under its id."""
    return table.get(key) or table.get(_base(key)) or (0, "")


def _report_strays(directory: _Directory, name: str, table: Table, ids: Container[str], others: str = "text") -> None:
    """Report the ids of a table that are not in another; if that one is missing or empty, it is reported already."""
    for key, (number, _) in table.items() if ids else ():
        if key not in ids:
            where = directory.where(name, number)
            directory.scan.report(f"id not in {others}", where, f"{key} is not in {others}", *directory.rows(key))


def _report_without_text(directory: _Directory, name: str, table: Table) -> None:
    """Report ids with audio but no text: they are meant as utterances, and nothing else would count them."""
    for key, (number, _) in table.items():
        if not directory.rows(key):
            where = directory.where(name, number)
            directory.scan.rows[where] = key
            if directory.texts:
                directory.scan.report("id not in text", where, f"{key} is not in text", where)
            else:  # text is missing or empty, which is reported already
                directory.scan.lose(where, "missing file: text")


class _Stretch(NamedTuple):
    """Location of an utterance's audio: fields of Utterance."""

    recording: str
    audio: str
    where: str
    audio_where: str
    start: float = 0.0
    end: float | None = None


def _no_audio(directory: _Directory, _: Table, text: Table, __: Table) -> dict[str, _Stretch]:
    wheres = {key: directory.where("text", number) for key, (number, _) in text.items()}
    return {key: _Stretch(_base(key), "", where, where) for key, where in wheres.items()}


def _whole_recordings(directory: _Directory, wav: Table, text: Table, _: Table) -> dict[str, _Stretch]:
    _report_without_text(directory, "wav.scp", wav)
    _report_strays(directory, "text", text, wav, "wav.scp")
    stretches = {}
    audio_of: dict[str, str] = {}
    for key, audio, where in _audio(directory, wav):
        # Rows of several tasks share a recording, unless rows of two languages share only their id.
        shared = audio_of.setdefault(_base(key), audio) == audio
        stretches[key] = _Stretch(_base(key) if shared else key, audio, where, where)
    return stretches


def _segments(directory: _Directory, wav: Table, text: Table, segments: Table) -> dict[str, _Stretch]:
    _report_without_text(directory, "segments", segments)
    _report_strays(directory, "text", text, segments, "segments")
    sources = {key: (audio, where) for key, audio, where in _audio(directory, wav)}
    used, stretches = set(), {}
    for key, (number, value) in segments.items():
        where = directory.where("segments", number)
        recording, *times = value.split() or [""]
        used.add(recording)
        if recording not in wav and wav:
            what = f"{recording} is not in wav.scp"
            directory.scan.report("id not in wav.scp", where, what, *directory.rows(key))
        elif recording not in sources:
            for row in directory.rows(key):
                directory.scan.lose(row, f"missing audio: {recording} has none in wav.scp")
        if (span := _span(directory, key, where, times)) and recording in sources:
            audio, audio_where = sources[recording]
            stretches[key] = _Stretch(recording, audio, where, audio_where, *span)
    _report_strays(directory, "wav.scp", wav, used, "segments")
    return stretches


def _span(directory: _Directory, key: str, where: str, times: list[str]) -> tuple[float, float | None] | None:
    """Return (start, end) of a segment, the end None if it is the recording's; None if the segment is malformed."""
    rows = directory.rows(key)
    if len(times) != 2:
        directory.scan.report("malformed segment", where, f"{key} is not followed by <recording> <start> <end>", *rows)
        return None
    seconds = [_seconds(directory, where, time, *rows) for time in times]
    start, end = seconds
    if start is None or end is None:
        return None
    if end == -1:  # as in Kaldi's extract-segments
        end = None
    if start < 0 or (end is not None and end <= start):
        what = f"{times[0]} to {times[1]} s is not a valid time interval"
        directory.scan.report("malformed segment", where, what, *rows)
        return None
    return start, end


def _audio(directory: _Directory, wav: Table) -> Iterator[tuple[str, str, str]]:
    """Yield (key, audio, file:line) of wav.scp."""
    for key, (number, value) in wav.items():
        where = directory.where("wav.scp", number)
        if value.endswith("|") and not directory.allow_pipes:
            directory.scan.report("pipe", where, PIPE, *directory.rows(key))
        elif not value:
            directory.scan.report("missing audio", where, f"{key} has no path", *directory.rows(key))
        else:
            yield key, locate_audio(directory.scan.path, value), where


def locate_audio(folder: Path, value: str) -> str:
    """Convert audio from wav.scp or a list to the form in Utterance: an absolute path, or a command.

    Paths are relative to the folder of the table or, as in Kaldi, to the current one.
    """
    if value.endswith("|"):
        return value
    entry = re.fullmatch(r"(.+\.ark)(:\d+)", value)
    path, offset = entry.groups() if entry else (value, "")
    inside = folder.absolute() / path
    if not exists(inside) and exists(path):
        inside = Path(path).absolute()
    return f"{inside}{offset}"


def _language_and_task(directory: _Directory, key: str, languages: Table, tasks: Table, row: str) -> tuple[str, str]:
    """Return (language code, task) of an `id|language|task` key, else from utt2lang and utt2task; "" if unknown."""
    scan = directory.scan
    if "|" in key:
        parts = key.split("|")
        if len(parts) != 3:
            scan.report("malformed key", row, f"{key} is not id|language|task", row)
            return "", ""
        return scan.language(parts[1], row, row), scan.task(parts[2], row, row)
    language = ""
    if key in languages:
        number, name = languages[key]
        language = scan.language(name, directory.where("utt2lang", number), row)
    elif languages:
        scan.report("id not in utt2lang", row, f"{key} is not in utt2lang", row)
    else:  # utt2lang is missing or empty, which is reported already
        scan.lose(row, "missing file: utt2lang")
    number, task = tasks.get(key, (0, "transcribe"))
    return language, scan.task(task, directory.where("utt2task", number), row)


def _timed_text(directory: _Directory, key: str, table: Table, row: str) -> tuple[Segment, ...] | None:
    """Return the segments in a row of utt2segments; None if there is no such row, or it is malformed."""
    if key not in table:
        return None
    number, value = table[key]
    try:
        return parse_segments(json.loads(value))
    except (ValueError, RecursionError) as error:
        where = directory.where("utt2segments", number)
        directory.scan.change("malformed times", where, f"{key}: {error}", row, segments=None)
        return None


def _duration(directory: _Directory, durations: Table, key: str) -> float | None:
    number, value = _of(durations, key)
    return _seconds(directory, directory.where("utt2dur", number), value)


def _seconds(directory: _Directory, where: str, value: str, *rows: str) -> float | None:
    """Return a finite number of seconds; None if there is no value, or it is malformed, which is reported."""
    if not value:
        return None
    if re.fullmatch(r"[-+]?(\d{1,9}\.?\d*|\.\d+)(e[-+]?\d)?", value, re.ASCII | re.IGNORECASE):
        return float(value)
    directory.scan.report("malformed number", where, f"{shortened(value)} is not a number of seconds", *rows)
    return None


def write_data_dir(
    utterances: Iterable[Utterance], path: str | Path, files: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Write a data directory, completely or not at all, sorted as with LC_ALL=C; return the number of utterances.

    Audio is not copied: wav.scp has its absolute path. `segments` is written if an utterance is a part of its
    recording; `utt2dur`, `utt2segments` and `utt2prompt` if durations, segments and prompts are known.

    Args:
        utterances: in any order.
        path: the directory.
        files: name -> content of additional files.

    Raises:
        RecipeError: two utterances have the same id, or a recording has two files.
    """
    rows = sorted(utterances, key=lambda utterance: utterance.id.encode())
    for first, second in zip(rows, rows[1:], strict=False):
        if first.id == second.id:
            raise RecipeError("two utterances have the same id", where=first.id, cure="rename one of them")
    with atomic_write(path) as aside:
        aside.mkdir(parents=True)
        tables = {
            name: "".join(map(_line, sorted(table.items(), key=_bytes)))
            for name, table in _tables(rows).items()
            if table
        }
        for name, content in (tables | dict(files)).items():
            (aside / name).write_text(content, encoding="utf-8")
    return len(rows)


def _tables(rows: list[Utterance]) -> dict[str, dict[str, str]]:
    cut = any(row.start > 0 or row.end is not None for row in rows)
    wav: dict[str, str] = {}
    for row in rows:
        if wav.setdefault(row.recording if cut else row.id, row.audio) != row.audio:
            what = f"recording {row.recording} has two different files"
            raise RecipeError(what, where=row.id, cure="rename one of the recordings")
    return {
        "wav.scp": wav,
        "text": {row.id: row.text for row in rows},
        "utt2lang": {row.id: row.language for row in rows},
        "utt2spk": {row.id: row.speaker for row in rows},
        "utt2task": {row.id: row.task for row in rows},
        "utt2dur": {row.id: f"{row.duration:.8g}" for row in rows if row.duration is not None},
        "segments": {row.id: f"{row.recording} {row.start:.8g} {_end(row):.8g}" for row in rows if cut},
        "utt2prompt": {row.id: row.prompt for row in rows if row.prompt},
        "utt2segments": {row.id: _timed(row.segments) for row in rows if row.segments is not None},
    }


def _end(utterance: Utterance) -> float:
    return -1 if utterance.end is None else utterance.end


def _timed(segments: tuple[Segment, ...]) -> str:
    return json.dumps([segment._asdict() for segment in segments], ensure_ascii=False)


def _line(row: tuple[str, str]) -> str:
    # A line break in a text would start a new row.
    value = " ".join(row[1].splitlines())
    return f"{row[0]} {value}".rstrip(" ") + "\n"


def _bytes(row: tuple[str, str]) -> bytes:
    return row[0].encode()
