"""Prepare the Mboshi-French parallel corpus (cloned, or your copy) as Kaldi data directories, two rows each."""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import soundfile

from whisper_recipe.data.audio import MAX_SECONDS, audio_info
from whisper_recipe.data.corpus import Dropped
from whisper_recipe.data.lhotse_recipes import write_split
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write

URL = "https://github.com/besacier/mboshi-french-parallel-corpus"
FOLDER = "full_corpus_newsplit"  # the part of the repository with speech, transcripts and translations
SPLITS = ("train", "dev")
HEADER = 44  # bytes before the samples of a plain WAV
MAX_MISSING = 3200  # bytes (0.1 s) that a header may claim too many


def find_corpus(corpus: Path | None, url: str, download: Path) -> Path:
    """Return the folder that contains train/ and dev/: in the user's corpus, or in a clone, made once.

    Raises:
        RecipeError: the corpus has no such folders, or can't be cloned.
    """
    if corpus is None:
        corpus = download / "mboshi-french-parallel-corpus"
        if not corpus.exists():
            clone(url, corpus)
    for folder in (corpus, corpus / FOLDER):
        if all((folder / split).is_dir() for split in SPLITS):
            return folder
    raise RecipeError("it contains neither train/ and dev/ nor " + FOLDER, where=corpus, cure=f"give a clone of {url}")


def clone(url: str, folder: Path) -> None:
    """Clone the repository without its history or unneeded folders."""
    if not shutil.which("git"):
        raise RecipeError(
            "git is not installed", where="stage 0", cure=f"install it, or give --corpus, a copy of {url}"
        )
    with atomic_write(folder) as aside:
        for command in (
            ["git", "clone", "--depth", "1", "--filter=blob:none", "--sparse", url, str(aside)],
            ["git", "-C", str(aside), "sparse-checkout", "set", FOLDER],
        ):
            if subprocess.run(command, check=False).returncode:
                raise RecipeError(
                    "git can't clone it (see above)", where=url, cure="check the network, or give --corpus"
                )


def detokenized(text: str) -> str:
    """Detokenise French from Moses tokens with escaped apostrophes: "l&apos; ami ." becomes "l'ami."."""
    text = re.sub(r"(?<=\w') ", "", html.unescape(" ".join(text.split())))
    return re.sub(r" (?=[.,])", "", text)


def make_split(folder: Path, out: Path) -> None:
    """Write a split's data directory: each recording's transcript, and its translation as text in French.

    Raises:
        RecipeError: the folder has no utterances.
    """
    rows, dropped, copies = [], [], 0
    for recording in sorted(folder.glob("*.wav")):
        audio = with_true_header(recording, out.with_name("audio") / out.name)
        copies += audio != recording
        duration, fault = duration_and_fault(audio)
        for key, language, text in (
            (recording.stem, "mdw", " ".join(read_text(recording, ".mb.cleaned").split())),
            (f"{recording.stem}|fr|transcribe", "fr", detokenized(read_text(recording, ".fr.cleaned"))),
        ):
            if fault or not text:
                dropped.append(Dropped(key, str(recording), fault or "no text"))
                continue
            rows.append(
                Utterance(
                    key,
                    recording=recording.stem,
                    audio=str(audio.absolute()),
                    text=text,
                    language=language,
                    task="transcribe",
                    speaker=recording.stem.partition("_")[0],
                    duration=duration,
                )
            )
    write_split(rows, out, dropped)
    if copies:
        print(f"{out}: {copies} recordings are shorter than their headers claim; corrected copies are in data/audio")


def read_text(recording: Path, suffix: str) -> str:
    """Return the text of the file with a recording's name and another suffix; "" if there is none."""
    path = recording.with_suffix(suffix)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def with_true_header(recording: Path, folder: Path) -> Path:
    """Return the recording, or a copy in `folder` if its header claims slightly more audio than there is."""
    missing = recording.stat().st_size - HEADER - recording_bytes(recording)
    if not -MAX_MISSING <= missing < 0:
        return recording
    copy = folder / recording.name
    if not copy.exists():
        samples, rate = soundfile.read(recording, dtype="int16")  # libsndfile reads the existing samples
        with atomic_write(copy) as aside:
            soundfile.write(aside, samples, rate)
    return copy


def recording_bytes(recording: Path) -> int:
    """Return the bytes of samples that the header of a plain WAV claims; 0 for anything else."""
    with open(recording, "rb") as file:
        header = file.read(HEADER)
    is_plain = len(header) == HEADER and (header[:4], header[8:16], header[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    return int.from_bytes(header[40:44], "little") if is_plain else 0


def duration_and_fault(audio: Path) -> tuple[float, str | None]:
    """Return a recording's duration in seconds, and why it is unusable or None."""
    try:
        duration = audio_info(audio).duration
    except RecipeError as error:
        return 0.0, error.what
    return duration, "longer than 30 s" if duration > MAX_SECONDS else None


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--corpus", default="", help=f"a clone of {URL}; default: clone it")
    parser.add_argument("--url", default=URL, help="URL of the repository")
    options = parser.parse_args()
    try:
        corpus = find_corpus(Path(options.corpus) if options.corpus else None, options.url, Path("download"))
        for split in SPLITS:
            make_split(corpus / split, options.out / split)
    except RecipeError as error:
        sys.exit(f"make_data.py: error: {error}")


if __name__ == "__main__":
    main()
