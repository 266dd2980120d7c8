"""Prepare Fish Fillets NG (downloaded, or your copy) as Kaldi data directories, split by level."""

from __future__ import annotations

import argparse
import sys
import unicodedata
from pathlib import Path

from game import LANGUAGES, Spoken, find_game, spoken_lines

from whisper_recipe.data.audio import MAX_SECONDS, audio_info
from whisper_recipe.data.corpus import Dropped
from whisper_recipe.data.lhotse_recipes import write_split
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.tasks import check_task
from whisper_recipe.text.normalize import get_normalizer, text_language

# Of the levels sorted by name, test has every eighth from the seventh on and dev every sixteenth from the third on.
# train has all others, and the lines shared by several levels.
SPLITS = {
    "test": ["bathyscaph", "cave", "crabshow", "emulator", "grail", "labyrinth", "party1", "reef", "tank", "windoze"],
    "dev": ["atlantis", "columns", "fdto", "map", "stairs"],
    "train": [],
}


def duration_and_fault(spoken: Spoken) -> tuple[float, str | None]:
    """Return a recording's duration in seconds, and why it is unusable or None."""
    if spoken.line is None or not spoken.line.text:
        return 0.0, "no text"
    letters = [letter for letter in spoken.line.text if letter.isalpha()]
    if "%" in spoken.line.text or not letters:
        return 0.0, "the text has a placeholder or no letters"
    if not all(unicodedata.name(letter, "").startswith("LATIN") for letter in letters):
        return 0.0, "the text is not in Latin letters"
    try:
        duration = audio_info(spoken.path).duration
    except RecipeError as error:
        return 0.0, error.what
    return duration, "longer than 30 s" if duration > MAX_SECONDS else None


def split_of(level: str) -> str:
    """Return the split of a level."""
    return next((name for name, levels in SPLITS.items() if level in levels), "train")


def utterances(spoken: Spoken, language: str, tasks: list[str], duration: float) -> list[Utterance]:
    """Return a row for each task; a translation shares the recording with its transcription."""
    line = spoken.line
    speaker = f"{language}-{line.speaker or 'unknown'}"
    key = f"{speaker}-{spoken.level.replace('/', '_')}-{spoken.name}"
    texts = {"transcribe": (key, line.text), "translate": (f"{key}|{language}|translate", line.english)}
    return [
        Utterance(
            texts[task][0],
            recording=key,
            audio=str(spoken.path.absolute()),
            text=texts[task][1],
            language=language,
            task=task,
            speaker=speaker,
            duration=duration,
        )
        for task in tasks
        if texts[task][1]
    ]


def make_data(languages: list[str], tasks: list[str], out: Path, corpus: Path | None, url: str) -> None:
    """Write out/train, out/dev and out/test.

    Raises:
        RecipeError: a language or task is unknown, or the game's data can't be found or downloaded.
    """
    for language in languages:
        if language not in LANGUAGES:
            raise RecipeError(f"no recordings in {language!r}", where="--languages", cure=f"use {', '.join(LANGUAGES)}")
    for task in tasks:
        check_task(task)
    folders = find_game(languages, corpus, url, Path("download"))
    rows: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    dropped: dict[str, list[Dropped]] = {split: [] for split in SPLITS}
    for language in languages:
        for spoken in spoken_lines(folders, language):
            split = split_of(spoken.level)
            duration, fault = duration_and_fault(spoken)
            if fault:
                where = spoken.line.where if spoken.line else str(spoken.path)
                dropped[split].append(Dropped(f"{language}-{spoken.level}-{spoken.name}", where, fault))
            else:
                rows[split] += utterances(spoken, language, tasks, duration)
    drop_shared(rows, dropped)
    for split in SPLITS:
        write_split(rows[split], out / split, dropped[split])


def drop_shared(rows: dict[str, list[Utterance]], dropped: dict[str, list[Dropped]]) -> None:
    """Drop sentences of test from dev and train, and sentences of dev from train; texts are normalised first."""
    first_split: dict[str, str] = {}  # text -> the first split that has it
    for split, utterances in rows.items():
        kept = []
        for row in utterances:
            language = text_language(row.language, row.task)
            text = " ".join([language, *get_normalizer("whisper", language)(row.text).split()])
            if (other := first_split.setdefault(text, split)) == split:
                kept.append(row)
            else:
                dropped[split].append(Dropped(row.id, row.audio, f"{other} has the same sentence"))
        rows[split] = kept


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--languages", default="cs", help="cs, nl or both, in one argument")
    parser.add_argument("--tasks", default="transcribe", help="transcribe, translate or both, in one argument")
    parser.add_argument("--corpus", default="", help="folder with the game's data or archives; default: download")
    parser.add_argument(
        "--url", default="https://downloads.sourceforge.net/fillets", help="URL of the upstream archive's folder"
    )
    options = parser.parse_args()
    languages, tasks = (list(dict.fromkeys(value.split())) for value in (options.languages, options.tasks))
    try:
        make_data(languages, tasks, options.out, Path(options.corpus) if options.corpus else None, options.url)
    except RecipeError as error:
        sys.exit(f"make_data.py: error: {error}")


if __name__ == "__main__":
    main()
