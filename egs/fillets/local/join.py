"""Join the recordings of each language of a set into one long recording, with its text, for `transcribe`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio
from whisper_recipe.data.corpus import read_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write

SEED = 1  # of the lengths of the pauses


def join(utterances: list[Utterance], out: Path, pauses: tuple[float, float]) -> None:
    """Write out.flac, out.txt (the text, one utterance per line) and out.tsv (start, end in seconds, id, text).

    Args:
        utterances: in playing order.
        out: path without suffix.
        pauses: the shortest and the longest silence between two utterances, in seconds.
    """
    rng = np.random.default_rng(SEED)
    pieces, rows, position = [], [], 0
    for utterance in utterances:
        samples = read_audio(utterance.audio)
        start, position = position, position + len(samples)
        rows.append(f"{start / SAMPLING_RATE:.3f}\t{position / SAMPLING_RATE:.3f}\t{utterance.id}\t{utterance.text}\n")
        pause = np.zeros(round(rng.uniform(*pauses) * SAMPLING_RATE), np.float32)
        pieces += [samples, pause]
        position += len(pause)
    out.with_suffix(".tsv").write_text("".join(rows), encoding="utf-8")
    out.with_suffix(".txt").write_text("".join(f"{utterance.text}\n" for utterance in utterances), encoding="utf-8")
    soundfile.write(out.with_suffix(".flac"), np.concatenate(pieces), SAMPLING_RATE)
    print(f"{out.name}.flac: {len(utterances)} utterances, {position / SAMPLING_RATE / 60:.1f} minutes", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="Kaldi data directory")
    parser.add_argument("--out", type=Path, required=True, help="folder for <language>.flac, .txt and .tsv")
    parser.add_argument("--pauses", type=float, nargs=2, default=(0.1, 2.0), help="shortest and longest, in seconds")
    options = parser.parse_args()
    try:
        utterances = [row for row in read_corpus(options.data) if row.task == "transcribe"]
        with atomic_write(options.out, replace_folder=True) as aside:
            aside.mkdir()
            for language in sorted({utterance.language for utterance in utterances}):
                rows = [utterance for utterance in utterances if utterance.language == language]
                rows.sort(key=lambda utterance: Path(utterance.audio).parts[-3:])  # one level after the other
                join(rows, aside / language, tuple(options.pauses))
    except RecipeError as error:
        sys.exit(f"join.py: error: {error}")


if __name__ == "__main__":
    main()
