"""JSON lists of utterances, one array or one object per line, as Hugging Face and Whisper recipes use them.

    {"audio": {"path": "a.wav", "start_time": 0.5, "end_time": 2.0}, "sentence": "hello", "language": "en",
     "duration": 1.5, "sentences": [{"start": 0.0, "end": 1.2, "text": "hello"}]}
    {"audio_path": "a.wav", "text": "hello", "language": "English"}

Further keys: `id`, `speaker`, `task`, `prompt` (the previous text), and `recording` in `audio`. Times of `sentences`
are relative to `start_time`. An empty `sentence` with empty `sentences` is an example without speech.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from whisper_recipe.data.kaldi import PIPE, locate_audio
from whisper_recipe.data.utterance import UNSORTED, Scan, Segment, Utterance, parse_seconds, parse_segments, shortened
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require, write_jsonl


class _Fault(Exception):
    """A problem with a row: (kind, what)."""


def scan_list(path: str | Path, allow_pipes: bool = False, language: str | None = None) -> Scan:
    """Read as much of a list as can be read; audio files are not opened.

    Utterances without an `id` are named after their audio file and, if they are a part of it, their times in hundredths
    of a second, as in Kaldi; a number is appended if that name is taken.

    Args:
        path: the list. Paths in it are relative to its folder or to the current one.
        allow_pipes: accept shell commands (ending in `|`) in place of audio files.
        language: language of utterances that have none.

    Raises:
        RecipeError: the file does not exist.
    """
    reader = _Reader(Scan(require(path, "give a JSON list")), allow_pipes, language)
    for number, value in _rows(reader.scan):
        where = f"{path}:{number}"
        reader.scan.rows[where] = "-"
        try:
            reader.read(value, where)
        except _Fault as fault:
            reader.scan.report(*fault.args[:1], where, fault.args[1], where)
    if not reader.scan.rows:
        reader.scan.report("empty split", path, "contains no utterances")
    return reader.scan


def _rows(scan: Scan) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a JSON array or of JSON lines; report what can't be parsed."""
    data = scan.path.read_bytes()
    if data.startswith(b"\xef\xbb\xbf"):
        scan.report("byte order mark", f"{scan.path}:1", "the file begins with one")
        data = data[3:]
    if data.lstrip()[:1] == b"[":
        yield from _items(scan, data)
        return
    for number, raw in enumerate(data.split(b"\n"), 1):
        if raw.strip():
            where = f"{scan.path}:{number}"
            try:
                yield number, json.loads(raw.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                scan.rows[where] = "-"
                kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
                scan.report(kind, where, str(error), where)


def _items(scan: Scan, data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of the items of an array, up to the first damaged one."""
    decoder, skip = json.JSONDecoder(), re.compile(r"[\s,]*")
    line = 1
    try:
        text = data.decode("utf-8")
        position = text.index("[") + 1
        line += text.count("\n", 0, position)
        while True:
            start = skip.match(text, position).end()
            line += text.count("\n", position, start)
            if text[start : start + 1] == "]":
                return
            value, position = decoder.raw_decode(text, start)
            yield line, value
            line += text.count("\n", start, position)
    except (ValueError, RecursionError) as error:
        where = f"{scan.path}:{line}"
        scan.rows[where] = "-"
        scan.report("not JSON", where, f"{error}; the rest can't be read", where)


class _Reader:
    """Turns rows into utterances and remembers the names in use."""

    def __init__(self, scan: Scan, allow_pipes: bool, language: str | None) -> None:
        self.scan, self.allow_pipes, self.default_language = scan, allow_pipes, language
        self.ids: dict[str, str] = {}  # -> file:line
        self.recordings: dict[str, str] = {}  # -> audio
        self.named: dict[str, str] = {}  # audio -> recording
        self.last = ""

    def read(self, row: object, where: str) -> None:
        """Add the utterance of one row."""
        if not isinstance(row, dict):
            raise _Fault("malformed row", f"{shortened(row)} is not an object")
        audio, name, start, end = self._audio(row)
        recording = self._recording(name, audio)
        key = self._id(row, recording, start, end, where)
        self.scan.rows[where] = key
        segments = self._segments(row, key, where)
        text = _string(row, "sentence", "text") or ""
        if not text.strip() and segments != ():
            what = f'{key} has no text; for non-speech, write "sentences": [] too'
            self.scan.report("empty text", where, what, where)
        language = _string(row, "language") or self.default_language
        if language is None:
            self.scan.report("no language", where, f"{key} has none", where)
        self.scan.add(
            Utterance(
                id=key,
                recording=recording,
                audio=audio,
                text=" ".join(text.splitlines()),
                language=self.scan.language(language, where, where) if language is not None else "",
                task=self.scan.task(_string(row, "task") or "transcribe", where, where),
                speaker=_name(_string(row, "speaker") or "") or key.partition("|")[0],
                start=start or 0.0,
                end=end,
                duration=_seconds(row, "duration"),
                segments=segments,
                prompt=" ".join((_string(row, "prompt") or "").split()),
                row=where,
                where=where,
                audio_where=where,
            )
        )

    def _audio(self, row: dict) -> tuple[str, str, float | None, float | None]:
        """Return (audio, name of its recording or "", start, end)."""
        source = row.get("audio")
        if not isinstance(source, dict):
            source = {"path": source if source is not None else row.get("audio_path")}
        value = (_string(source, "path") or "").strip()
        if not value:
            raise _Fault("missing audio", "neither audio.path nor audio_path names a file")
        if "\n" in value or "\r" in value or "\0" in value:
            raise _Fault("missing audio", f"{shortened(value)} is not a path")
        if value.endswith("|") and not self.allow_pipes:
            raise _Fault("pipe", PIPE)
        start, end = _seconds(source, "start_time"), _seconds(source, "end_time")
        if (start or 0) < 0 or (end is not None and end <= (start or 0)):
            raise _Fault("malformed segment", f"times must satisfy 0 <= start < end, got {start} to {end} s")
        return locate_audio(self.scan.path.parent, value), _name(_string(source, "recording") or ""), start, end

    def _segments(self, row: dict, key: str, where: str) -> tuple[Segment, ...] | None:
        if row.get("sentences") is None:
            return None
        try:
            return parse_segments(row["sentences"])
        except ValueError as error:
            self.scan.change("malformed times", where, f"{key}: sentences: {error}", where, segments=None)
            return None

    def _recording(self, name: str, audio: str) -> str:
        """Return a recording's name: as given, or its file's, with a number if another file has that name."""
        if not name and audio in self.named:
            return self.named[audio]
        names = _numbered(name or _name(Path(re.sub(r"(\.ark):\d+$", r"\1", audio)).stem) or "audio")
        name = next(name for name in names if self.recordings.setdefault(name, audio) == audio)
        self.named.setdefault(audio, name)
        return name

    def _id(self, row: dict, recording: str, start: float | None, end: float | None, where: str) -> str:
        key = _name(_string(row, "id") or "")
        if key and key in self.ids:
            raise _Fault("duplicate id", f"{key} is already in {self.ids[key]}")
        if not key:
            key = recording
            if start or end is not None:
                key += f"-{round(100 * (start or 0)):07d}-{'end' if end is None else f'{round(100 * end):07d}'}"
            key = next(name for name in _numbered(key) if name not in self.ids)
        elif key.encode() < self.last.encode():
            self.scan.report(UNSORTED, where, f"{key} comes after {self.last}")
        self.ids[key] = where
        self.last = key
        return key


def _numbered(name: str) -> Iterator[str]:
    """Yield x, x-2, x-3 and so on."""
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def _string(row: dict, *keys: str) -> str | None:
    """Return the value of the first key that has one."""
    for key in keys:
        if (value := row.get(key)) is not None:
            if not isinstance(value, str):
                raise _Fault("malformed row", f"{key} must be a string, got {shortened(value)}")
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _Fault("not UTF-8", f"{key} contains half of a surrogate pair") from None
            return value
    return None


def _name(value: str) -> str:
    """Return an id without white space, as Kaldi requires."""
    return re.sub(r"\s+", "_", value.strip())


def _seconds(row: dict, key: str) -> float | None:
    try:
        return None if row.get(key) is None else parse_seconds(row[key])
    except ValueError as error:
        raise _Fault("malformed number", f"{key}: {error}") from None


def write_list(utterances: Iterable[Utterance], path: str | Path) -> int:
    """Write a list in order of id, atomically: an array if the path ends in .json, else JSON lines.

    Raises:
        RecipeError: two utterances have the same id.
    """
    rows = sorted(utterances, key=lambda utterance: utterance.id.encode())
    for first, second in zip(rows, rows[1:], strict=False):
        if first.id == second.id:
            raise RecipeError("two utterances have the same id", where=first.id, cure="rename one of them")
    if Path(path).suffix != ".json":
        return write_jsonl(path, map(_row, rows))
    with atomic_write(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(_row(row), ensure_ascii=False) for row in rows) + "\n]\n")
    return len(rows)


def _row(utterance: Utterance) -> dict:
    times = {"start_time": utterance.start or None, "end_time": utterance.end}
    row = {
        "id": utterance.id,
        "audio": {
            "path": utterance.audio,
            "recording": utterance.recording,
            **{key: value for key, value in times.items() if value is not None},
        },
        "sentence": utterance.text,
        "language": utterance.language,
        "task": utterance.task,
        "speaker": utterance.speaker,
    }
    if utterance.duration is not None:
        row["duration"] = utterance.duration
    if utterance.segments is not None:
        row["sentences"] = [segment._asdict() for segment in utterance.segments]
    if utterance.prompt:
        row["prompt"] = utterance.prompt
    return row
