"""Inputs of scoring: references as cuts, a Kaldi data directory or text; hypotheses as jsonl, trn or Kaldi text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.corpus import read_corpus
from whisper_recipe.data.supervision import read_cut_row
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, require
from whisper_recipe.languages import language_code
from whisper_recipe.tasks import check_task

JSON_LINES = (".jsonl", ".jsonl.gz")


class Reference(NamedTuple):
    """The reference of an utterance.

    `speaker` and `duration` (seconds) are None if unknown.
    """

    text: str
    language: str
    task: str
    speaker: str | None = None
    duration: float | None = None


def read_references(path: Path, language: str | None = None) -> dict[str, Reference]:
    """Read references: id -> reference; needs neither lhotse nor audio.

    Args:
        path: a cut manifest (.jsonl or .jsonl.gz), a Kaldi data directory with or without wav.scp, NAME.trn with
            `text (id)`, or a file with `id text`, where an id alone is a reference without speech.
        language: of the last two, unless their ids are `id|language|task`.

    Raises:
        RecipeError: the file is missing or empty, a row is incomplete, its language is unknown, or an id occurs twice.
    """
    require(path, "run whisper-recipe fbank first (stage 2)")
    if path.is_dir():
        rows = _of_data_dir(path)
    else:
        rows = _of_cuts(path) if path.name.endswith(JSON_LINES) else _of_text(path, language)
    references: dict[str, Reference] = {}
    for where, key, reference in rows:
        if key in references:
            raise RecipeError(f"{key} occurs twice", where=where, cure="remove one")
        references[key] = reference
    if not references:
        raise RecipeError("no utterances in it", where=path, cure="give the manifest that was decoded")
    return references


def _of_data_dir(path: Path) -> Iterator[tuple[str, str, Reference]]:
    # Pipes are allowed because no audio is read: none is executed.
    for row in read_corpus(path, allow_pipes=True, needs_audio=False):
        duration = row.duration if row.end is None else row.end - row.start
        yield row.row, row.id, Reference(row.text, row.language, row.task, _speaker(row.speaker, row.id), duration)


def _of_text(path: Path, language: str | None) -> Iterator[tuple[str, str, Reference]]:
    for where, key, text in _text_rows(path):
        _, *parts = key.split("|")
        spoken, task = parts if len(parts) == 2 else (language, "transcribe")
        if spoken is None:
            cure = "give --language, ids like id|language|task, or a data directory with utt2lang"
            raise RecipeError(f"{key} has no language", where=where, cure=cure)
        yield where, key, Reference(text, language_code(spoken, where), check_task(task, where))


def _of_cuts(path: Path) -> Iterator[tuple[str, str, Reference]]:
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        cut, spoken = read_cut_row(row, where)
        duration = cut.duration if isinstance(cut.duration, int | float) else None
        speaker = _speaker(spoken.speaker, cut.id)
        yield where, cut.id, Reference(spoken.text, spoken.language, spoken.task, speaker, duration)


def _speaker(speaker: object, key: str) -> str | None:
    """Return the speaker; None if it is the utterance's id, which in Kaldi means that the speaker is unknown."""
    return speaker if isinstance(speaker, str) and speaker not in ("", key, key.partition("|")[0]) else None


def hypotheses_file(hyp: Path) -> Path:
    """Return the file that holds the hypotheses: `hyp` itself or, in a folder, its hyp.jsonl."""
    require(hyp, "run whisper-recipe decode first (stage 7)")
    return require(hyp / "hyp.jsonl", "run whisper-recipe decode first (stage 7)") if hyp.is_dir() else hyp


def read_hypotheses(path: Path, references: dict[str, Reference]) -> dict[str, str]:
    """Read hypotheses: id -> text; ids must be unique, and each must have a reference.

    The suffix decides the format: .jsonl has {"id": ..., "text": ...} per line, .trn `text (id)`, any other `id text`.

    Raises:
        RecipeError: a line is not in that format, or an id occurs twice or has no reference.
    """
    rows = _jsonl_rows(path) if path.name.endswith(JSON_LINES) else _text_rows(path)
    hypotheses: dict[str, str] = {}
    for where, key, text in rows:
        if key in hypotheses:
            raise RecipeError(f"{key} occurs twice", where=where, cure="remove one")
        if key not in references:
            raise RecipeError(f"{key} has no reference", where=where, cure="score with the cuts that were decoded")
        hypotheses[key] = text
    return hypotheses


def _jsonl_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise RecipeError("no id and text in it", where=where, cure="write {'id': ..., 'text': ...}")
        yield where, row["id"], row["text"]


def _text_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    pattern, form = (
        (r"(?P<text>.*)\((?P<id>[^()\s]+)\)", "text (id)")
        if path.suffix == ".trn"
        else (
            r"(?P<id>\S+)(?P<text>.*)",
            "id text",
        )
    )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 ({error.reason})", where=path, cure="convert it") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            match = re.fullmatch(pattern, line.strip())
            if match is None:
                raise RecipeError("no id in it", where=f"{path}:{number}", cure=f"expected `{form}`")
            yield f"{path}:{number}", match["id"], match["text"].strip()
