"""Transcripts as files: text, JSON, subtitles, tables, and the formats of Kaldi and NIST's sclite."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from whisper_recipe.files import atomic_write, printable
from whisper_recipe.languages import CHARACTER_LANGUAGES
from whisper_recipe.text.normalize import text_language


class Word(NamedTuple):
    """A word and when it was spoken, in seconds from the beginning of the audio.

    probability is the product over the word's tokens without punctuation; openai/whisper uses the mean.
    """

    start: float
    end: float
    word: str
    probability: float


class Score(NamedTuple):
    """A segment's ids, and the search scores of the window that it is in."""

    ids: list[int]
    average_logprob: float
    no_speech_prob: float


class Segment(NamedTuple):
    """A stretch of speech, in seconds from the beginning of the audio, and its text.

    Words and score are None if not requested.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] | None = None
    score: Score | None = None


@dataclass(frozen=True)
class Transcript:
    """The transcript of one input.

    Args:
        name: the path of its outputs in the output folder, without suffix; or the key of wav.scp.
        language: Whisper's code of the spoken language; None if it was to be detected and there is no speech.
        task: transcribe or translate.
        duration: seconds of the audio.
        segments: in order of time; empty if there is no speech.
    """

    name: str
    language: str | None
    task: str
    duration: float
    segments: tuple[Segment, ...] = ()

    @property
    def id(self) -> str:
        """The name without whitespace, which separates columns in Kaldi's and NIST's tables."""
        return utterance_id(self.name)

    @property
    def space(self) -> str:
        """The separator that the language puts between words."""
        return "" if text_language(self.language, self.task) in CHARACTER_LANGUAGES else " "

    @property
    def text(self) -> str:
        """The texts of all segments, joined with the language's separator."""
        return self.space.join(text for text in map(_line, self.segments) if text)


def utterance_id(name: str) -> str:
    """Return a name as an utterance id, without whitespace."""
    return re.sub(r"\s+", "_", printable(name))


def _line(segment: Segment) -> str:
    """Return a segment's text on one line."""
    return " ".join(segment.text.split())


def _txt(transcript: Transcript) -> str:
    return "".join(f"{text}\n" for text in map(_line, transcript.segments) if text)


def _json(transcript: Transcript) -> str:
    value = {
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "results": list(map(_result, transcript.segments)),
        "text": transcript.text,
    }
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _result(segment: Segment) -> dict:
    result = {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": _line(segment)}
    if segment.words is not None:
        result["words"] = [
            {
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "word": word.word.strip(),
                "probability": round(word.probability, 4),
            }
            for word in segment.words
        ]
    return result


def _srt(transcript: Transcript) -> str:
    cues = _cues(transcript, ",")
    # An arrow in the text would be parsed as one between times.
    return "\n".join(f"{n}\n{times}\n{text.replace('-->', '->')}\n" for n, (times, text) in enumerate(cues, 1))


def _vtt(transcript: Transcript) -> str:
    # WebVTT has markup: https://www.w3.org/TR/webvtt1/#webvtt-cue-text
    cues = [f"\n{times}\n{html.escape(text, quote=False)}\n" for times, text in _cues(transcript, ".")]
    return "".join(["WEBVTT\n", *cues])


def _cues(transcript: Transcript, mark: str) -> list[tuple[str, str]]:
    """Return (times, text) of each segment that has a text."""
    return [
        (f"{_clock(segment.start, mark)} --> {_clock(segment.end, mark)}", _line(segment))
        for segment in transcript.segments
        if _line(segment)
    ]


def _clock(seconds: float, mark: str) -> str:
    """Return a time as 01:02:03,456."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _tsv(transcript: Transcript) -> str:
    """Return a table as openai/whisper writes it: times in whole milliseconds."""
    rows = [f"{round(1000 * row.start)}\t{round(1000 * row.end)}\t{_line(row)}\n" for row in transcript.segments]
    return "".join(["start\tend\ttext\n", *rows])


def _kaldi(transcript: Transcript) -> str:
    return f"{transcript.id} {transcript.text}".rstrip() + "\n"


def _trn(transcript: Transcript) -> str:
    return f"{transcript.text} ({transcript.id})".lstrip() + "\n"


def _ctm(transcript: Transcript) -> str:
    """Return NIST's time marked conversation: recording, channel, start, duration, word, confidence."""
    words = [word for segment in transcript.segments for word in segment.words or ()]
    return "".join(
        f"{transcript.id} 1 {word.start:.2f} {max(0.0, word.end - word.start):.2f} {text} {word.probability:.2f}\n"
        for word in words
        if (text := "".join(word.word.split()))
    )


class Format(NamedTuple):
    """How a transcript is written: to its own file, which ends in `suffix`, or to `file`, one for all."""

    render: Callable[[Transcript], str]
    suffix: str = ""
    file: str = ""


FormatName = Literal["txt", "json", "srt", "vtt", "tsv", "kaldi", "trn", "ctm"]
FORMATS: dict[FormatName, Format] = {
    "txt": Format(_txt, suffix=".txt"),
    "json": Format(_json, suffix=".json"),
    "srt": Format(_srt, suffix=".srt"),
    "vtt": Format(_vtt, suffix=".vtt"),
    "tsv": Format(_tsv, suffix=".tsv"),
    "kaldi": Format(_kaldi, file="text"),
    "trn": Format(_trn, file="hyp.trn"),
    "ctm": Format(_ctm, file="hyp.ctm"),
}


def write_transcript(transcript: Transcript, out: Path, formats: Iterable[FormatName]) -> None:
    """Write a transcript's own files: out/<name>.json and so on."""
    for suffix, render in ((FORMATS[name].suffix, FORMATS[name].render) for name in formats):
        if suffix:
            _write(out / f"{transcript.name}{suffix}", render(transcript))


def write_together(transcripts: Iterable[Transcript], out: Path, formats: Iterable[FormatName]) -> None:
    """Write the files that all transcripts share: out/text, out/hyp.trn, out/hyp.ctm, sorted by id as with LC_ALL=C."""
    rows = sorted(transcripts, key=lambda transcript: transcript.id.encode())
    for file, render in ((FORMATS[name].file, FORMATS[name].render) for name in formats):
        if file:
            _write(out / file, "".join(map(render, rows)))


def _write(path: Path, content: str) -> None:
    with atomic_write(path) as aside:
        aside.write_text(content, encoding="utf-8")
