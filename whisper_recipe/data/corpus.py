"""Read, write and convert corpora: Kaldi data directories and JSON lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.kaldi import scan_data_dir, write_data_dir
from whisper_recipe.data.lists import scan_list, write_list
from whisper_recipe.data.utterance import UNSORTED, Scan, Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require

LIST_SUFFIXES = (".json", ".jsonl")


class Dropped(NamedTuple):
    """An utterance that a command has dropped or changed."""

    id: str
    where: str  # file:line
    reason: str


def is_list(path: str | Path) -> bool:
    """Return whether a path is that of a JSON list, not of a Kaldi data directory."""
    return Path(path).suffix in LIST_SUFFIXES and not Path(path).is_dir()


def scan_corpus(
    path: str | Path, allow_pipes: bool = False, language: str | None = None, needs_audio: bool = True
) -> Scan:
    """Read as much of a corpus as possible: its utterances, valid or not, and all problems. Audio is not opened.

    Args:
        path: a Kaldi data directory, or a list that ends in .json or .jsonl.
        allow_pipes: accept shell commands in place of audio files.
        language: language of a list's utterances that have none.
        needs_audio: whether a data directory must have a wav.scp.

    Raises:
        RecipeError: there is no such corpus.
    """
    require(path, "give a Kaldi data directory or a JSON list")
    if is_list(path):
        return scan_list(path, allow_pipes, language)
    if not Path(path).is_dir():
        cure = f"give a Kaldi data directory, or a list that ends in {' or '.join(LIST_SUFFIXES)}"
        raise RecipeError("not a corpus", where=path, cure=cure)
    return scan_data_dir(path, allow_pipes, needs_audio)


def read_corpus(
    path: str | Path, allow_pipes: bool = False, language: str | None = None, needs_audio: bool = True
) -> list[Utterance]:
    """Read a corpus (see scan_corpus); every problem except unsorted ids is an error.

    Raises:
        RecipeError: there are problems; reports the first one, and how many more there are.
    """
    scan = scan_corpus(path, allow_pipes, language, needs_audio)
    problems = [problem for problem in scan.problems if problem.kind != UNSORTED]
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RecipeError(
            f"{problems[0].kind}: {problems[0].what}{more}",
            where=problems[0].where,
            cure=f"whisper-recipe validate {path} lists them all, whisper-recipe fix drops them",
        )
    return scan.utterances


def write_corpus(
    utterances: Iterable[Utterance],
    path: str | Path,
    dropped: Iterable[Dropped] | None = None,
    changed: Iterable[Dropped] | None = None,
) -> int:
    """Write a Kaldi data directory, or a list if the path ends in .json or .jsonl; return the number of utterances.

    Args:
        utterances: in any order.
        path: the data directory or list.
        dropped: dropped utterances, to be listed in PATH/dropped.tsv, or in PATH.dropped.tsv for a list.
        changed: changed utterances, to be listed in changed.tsv in the same way.

    Raises:
        RecipeError: two utterances have the same id.
    """
    tables = {
        f"{name}.tsv": "".join(map(_tab_separated, [Dropped._fields, *rows]))
        for name, rows in (("dropped", dropped), ("changed", changed))
        if rows is not None
    }
    if not is_list(path):
        return write_data_dir(utterances, path, tables)
    for name, table in tables.items():
        with atomic_write(f"{path}.{name}") as aside:
            aside.write_text(table, encoding="utf-8")
    return write_list(utterances, path)


def _tab_separated(fields: Iterable[str]) -> str:
    return "\t".join(" ".join(field.split()) for field in fields) + "\n"


def utterance_duration(utterance: Utterance) -> float:
    """Return an utterance's seconds: from its times, else from `utt2dur` or the list, else from the audio's header.

    Raises:
        RecipeError: the audio is needed but can't be read.
    """
    if utterance.end is not None:
        return round(utterance.end - utterance.start, 8)  # 32.2 - 2.2 is a little over 30
    if utterance.duration is not None:
        return utterance.duration
    from whisper_recipe.data.audio import audio_info

    return audio_info(utterance.audio).duration - utterance.start


def convert(corpus: Path, out: Path, language: str | None = None, allow_pipes: bool = False) -> None:
    """Convert a Kaldi data directory to a JSON list, or the other way round.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the corpus to write; its name selects the format in the same way.
        language: language of a list's utterances that have none.
        allow_pipes: accept shell commands in place of audio files; they are copied, not run.

    Raises:
        RecipeError: the corpus has problems.
    """
    count = write_corpus(read_corpus(corpus, allow_pipes, language), out)
    print(f"{out}: {count} utterances")
