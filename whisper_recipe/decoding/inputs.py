"""Inputs of `whisper-recipe transcribe`: audio files, folders and lists; each audio has a name for its outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import soundfile

from whisper_recipe.data.audio import FFMPEG_SUFFIXES
from whisper_recipe.data.kaldi import locate_audio
from whisper_recipe.decoding.formats import utterance_id
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require

LIST_SUFFIXES = (".txt", ".lst", ".list")
SOUNDFILE_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw", ".mat4", ".mat5"}
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | FFMPEG_SUFFIXES | {".aif", ".aifc", ".oga", ".opus", ".sph", ".nist", ".wv"}
SKIPPED = "skipped"  # name of the list of unreadable inputs, among the outputs


class Source(NamedTuple):
    """One input.

    Args:
        name: the path of its outputs in the output folder, without suffix.
        audio: a path, an entry of a Kaldi ark, or a shell command, which is not executed.
        where: where it was listed: itself, the folder, or `file:line`.
    """

    name: str
    audio: str
    where: str


def find_sources(inputs: list[Path]) -> list[Source]:
    """Find the audio in the inputs.

    Args:
        inputs: audio files; folders, searched with all their subfolders; lists that end in .txt, .lst or .list, with
            one path per line; and Kaldi tables that end in .scp. Names are relative to the folder, or for a list to the
            common folder of its files; in a Kaldi table they are the keys.

    Raises:
        RecipeError: an input is missing, a list is malformed, there is no audio, or two inputs would be written under
            the same name.
    """
    sources: list[Source] = []
    for given in inputs:
        path = require(given, "give audio files, folders or lists")
        if path.is_dir():
            sources += _in_folder(path)
        elif path.suffix.lower() == ".scp":
            sources += _in_table(path)
        elif path.suffix.lower() in LIST_SUFFIXES:
            sources += _in_list(path)
        else:
            sources.append(Source(path.stem, str(path), str(path)))
    if not sources:
        cure = f"supported audio files end in {', '.join(sorted(AUDIO_SUFFIXES))}"
        raise RecipeError("no audio in it", where=" ".join(map(str, inputs)), cure=cure)
    _refuse_clashes(sources)
    return sources


def _in_folder(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not hidden:
            yield Source(str(path.relative_to(folder).with_suffix("")), str(path), str(folder))


def _in_list(path: Path) -> list[Source]:
    rows = [(locate_audio(path.parent, line), f"{path}:{number}") for number, line in _lines(path)]
    folder = os.path.commonpath([Path(audio).parent for audio, _ in rows]) if rows else ""
    return [Source(str(Path(audio).relative_to(folder).with_suffix("")), audio, where) for audio, where in rows]


def _in_table(path: Path) -> Iterator[Source]:
    for number, line in _lines(path):
        key, *value = re.split("[ \t]+", line, maxsplit=1)
        where = f"{path}:{number}"
        if not value:
            raise RecipeError(f"{key} has no path", where=where, cure="write <key> <path>")
        if key.startswith("/") or ".." in key.split("/"):
            raise RecipeError(f"{key} would be written outside the output folder", where=where, cure="rename it")
        yield Source(key, locate_audio(path.parent, value[0]), where)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 ({error.reason})", where=path, cure="convert it") from None
    return ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _refuse_clashes(sources: list[Source]) -> None:
    """Raise RecipeError if outputs would overwrite each other; ids in Kaldi's formats count too."""
    taken = {SKIPPED: "the list of skipped inputs"}
    for source in sources:
        key = utterance_id(source.name)
        if key in taken:
            what = f"{source.audio} and {taken[key]} would both be written as {source.name}"
            raise RecipeError(what, where=source.where, cure="rename one, or transcribe them separately")
        taken[key] = source.audio
