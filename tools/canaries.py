"""Prepare canary sets, which show what a model forgets: English, German and Dutch, a hundred utterances each.

    python tools/canaries.py --out data
    for set in canary_en canary_de canary_nl; do
      whisper-recipe prepare data/$set --out data/manifests
      whisper-recipe fbank $set --manifests data/manifests --out data/fbank_whisper80
    done

The sentences were read for Rhasspy (https://github.com/rhasspy) by three people and are in the public domain (CC0).
Only the sampled files are downloaded, 0.1 GB; this requires git.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.audio import audio_info
from whisper_recipe.data.lhotse_recipes import write_split
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require


class Voice(NamedTuple):
    """A repository, its recordings, and the file of their texts as `id|text`; None if x.txt has the text of x.wav."""

    repository: str
    recordings: str
    texts: str | None


VOICES = {
    "en": Voice("dataset-voice-kathleen", "data/*.wav", None),
    "de": Voice("dataset-voice-kerstin", "verified/*.flac", "verified/metadata.csv"),
    "nl": Voice("dataset-voice-flemishguy", "wavs/*.wav", "metadata.csv"),
}


def git(folder: Path, *command: str | Path) -> str:
    """Run git in a folder and return its output; raise RecipeError if it fails."""
    try:
        done = subprocess.run(["git", "-C", folder, *command], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RecipeError("git is not installed", cure="install it, or give --corpus") from error
    except subprocess.CalledProcessError as error:
        raise RecipeError(f"git {command[0]}: {error.stderr.strip()}", where=folder, cure="or give --corpus") from error
    return done.stdout


def clone(url: str, folder: Path) -> None:
    """Clone a repository without the contents of its files, which `git checkout` downloads."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        git(folder.parent, "clone", "--depth", "1", "--filter=blob:none", "--no-checkout", url, folder.name)


def evenly(items: list[str], count: int) -> list[str]:
    """Return `count` evenly spaced items, or all if there are fewer."""
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else items


def one_of_each(recordings: Iterable[Path], sentence: dict[str, str]) -> list[str]:
    """Return the name of the first recording of each sentence, sorted by name."""
    first: dict[str, str] = {}
    for path in sorted(recordings):
        if path.stem in sentence:
            first.setdefault(sentence[path.stem], str(path))
    return list(first.values())


def make_set(language: str, folder: Path, count: int, fetch: bool) -> list[Utterance]:
    """Return a voice's utterances: one per sentence, evenly spaced among the recordings sorted by name.

    Args:
        language: a key of VOICES.
        folder: the repository.
        count: number of utterances.
        fetch: whether the folder is a clone without files.

    Raises:
        RecipeError: the folder lacks the repository's files.
    """
    voice = VOICES[language]
    if fetch:
        names = map(Path, git(folder, "ls-tree", "-r", "--name-only", "HEAD").splitlines())
        recordings = [name for name in names if name.match(voice.recordings)]
        if voice.texts:
            git(folder, "checkout", "HEAD", "--", voice.texts)
    else:
        recordings = [path.relative_to(folder) for path in folder.glob(voice.recordings)]
    if not recordings:
        raise RecipeError(f"no {voice.recordings} in it", where=folder, cure="give another --corpus or none")
    if voice.texts:
        lines = require(folder / voice.texts, "give another --corpus or none").read_text(encoding="utf-8").splitlines()
        text = dict(line.split("|", 1) for line in lines if "|" in line)
        chosen = evenly(one_of_each(recordings, text), count)
    else:  # CMU Arctic's sentences: arctic_a0085_1592746479 is a recording of the sentence arctic_a0085
        chosen = evenly(one_of_each(recordings, {path.stem: path.stem[:12] for path in recordings}), count)
    if fetch:
        texts = [] if voice.texts else [str(Path(name).with_suffix(".txt")) for name in chosen]
        git(folder, "checkout", "HEAD", "--", *chosen, *texts)
    if not voice.texts:
        text = {Path(name).stem: (folder / name).with_suffix(".txt").read_text(encoding="utf-8") for name in chosen}
    speaker = voice.repository.rpartition("-")[2]
    return [
        Utterance(
            f"{speaker}-{Path(name).stem}",
            recording=f"{speaker}-{Path(name).stem}",
            audio=str((folder / name).absolute()),
            text=text[Path(name).stem].strip(),
            language=language,
            task="transcribe",
            speaker=speaker,
            duration=audio_info(folder / name).duration,
        )
        for name in chosen
    ]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for canary_en, canary_de and canary_nl")
    parser.add_argument("--corpus", type=Path, help="folder with the repositories; nothing is downloaded")
    parser.add_argument("--downloads", type=Path, default=Path("download"), help="folder for downloads")
    parser.add_argument("--url", default="https://github.com/rhasspy", help="URL of the repositories")
    parser.add_argument("--utterances", type=int, default=100, help="number per language")
    options = parser.parse_args()
    try:
        for language, voice in VOICES.items():
            folder = (options.corpus or options.downloads) / voice.repository
            if options.corpus is None:
                clone(f"{options.url}/{voice.repository}", folder)
            rows = make_set(language, folder, options.utterances, fetch=options.corpus is None)
            write_split(rows, options.out / f"canary_{language}", [])
    except RecipeError as error:
        sys.exit(f"canaries.py: error: {error}")


if __name__ == "__main__":
    main()
