"""Prepare subsets of WenetSpeech, and AISHELL-1's test set, as Kaldi data directories."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from lhotse.recipes.wenet_speech import WETNET_SPEECH_PARTS, prepare_wenet_speech

from whisper_recipe.data.corpus import Dropped, read_corpus, write_corpus
from whisper_recipe.data.lhotse_recipes import named, utterances, write_split
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require

TABLE = "WenetSpeech.json"
AISHELL = "aishell_test"
PARTS = {part.lower(): part for part in WETNET_SPEECH_PARTS}  # set -> part: s -> S


def left_out(table: Path, part: str, kept: set[str]) -> Iterator[Dropped]:
    """Yield the segments of a part that lhotse skipped: those beyond the end of their recording."""
    with open(table, encoding="utf-8") as file:
        audios = json.load(file)["audios"]
    for audio in audios:
        for segment in audio["segments"]:
            if part in segment["subsets"] and segment["sid"] not in kept:
                yield Dropped(segment["sid"], str(table), f"outside the {audio['duration']} s of {audio['path']}")


def make_data(sets: list[str], out: Path, corpus: Path, aishell: Path, num_jobs: int) -> None:
    """Write out/<set> for each set.

    Args:
        sets: any of s, m, l, dev, test_net, test_meeting and aishell_test.
        out: folder for the data directories.
        corpus: the folder with WenetSpeech.json and audio/.
        aishell: a Kaldi data directory of AISHELL-1's test set.
        num_jobs: processes.

    Raises:
        RecipeError: a set is unknown, or its source is missing or not in the corpus's format.
    """
    parts = [PARTS[name] for name in sets if name in PARTS]
    unknown = [name for name in sets if name not in PARTS and name != AISHELL]
    if unknown:
        raise RecipeError(f"WenetSpeech has no set {unknown[0]!r}", cure=f"its sets are {', '.join([*PARTS, AISHELL])}")
    if AISHELL in sets:
        cure = f"make it with egs/aishell/run.sh --stop_stage 0, or leave {AISHELL} out of --test_sets"
        write_corpus(read_corpus(require(aishell, cure)), out / AISHELL)
    if parts:
        require(corpus / TABLE, "give the folder with WenetSpeech.json and audio/ as --corpus")
        with named(corpus):
            prepared = prepare_wenet_speech(corpus, parts, num_jobs=num_jobs)
        for part in parts:  # stage 1 finds missing audio
            rows = list(utterances(**prepared.pop(part)))
            write_split(rows, out / part.lower(), left_out(corpus / TABLE, part, {row.id for row in rows}))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--sets", required=True, help="sets, in one argument")
    parser.add_argument("--corpus", required=True, help="folder with WenetSpeech.json and audio/")
    parser.add_argument("--aishell", type=Path, required=True, help="Kaldi directory of AISHELL-1's test set")
    parser.add_argument("--num-jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    try:
        if not options.corpus:
            raise RecipeError("not given", where="--corpus", cure="give the folder with WenetSpeech.json and audio/")
        sets = list(dict.fromkeys(options.sets.split()))
        make_data(sets, options.out, Path(options.corpus), options.aishell, options.num_jobs)
    except RecipeError as error:
        sys.exit(f"make_data.py: error: {error}")


if __name__ == "__main__":
    main()
