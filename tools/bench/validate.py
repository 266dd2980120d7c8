"""`whisper-recipe validate --decode false` on 100,000 utterances, against lhotse reading the same Kaldi directory.

    python tools/bench/validate.py [--utterances 100000] [--rounds 3]

The peer is lhotse's own load_kaldi_data_dir with its threads for durations, followed by lhotse's validate: it reads the
same tables and headers and builds recordings and supervisions, but does not list problems.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from measure import cost, report, spread

LHOTSE = """
import sys, lhotse
from lhotse.kaldi import load_kaldi_data_dir
recordings, supervisions, _ = load_kaldi_data_dir(sys.argv[1], 16000, num_jobs=2)
lhotse.validate(recordings), lhotse.validate(supervisions)
assert len(supervisions) == int(sys.argv[2])
"""


def main() -> None:
    """Make the directory, run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data_dir(Path(folder), options.utterances)
        commands = {
            "whisper-recipe validate": (sys.executable, "-m", "whisper_recipe", "validate", data, "--decode", "false"),
            "lhotse": (sys.executable, "-c", LHOTSE, data, str(options.utterances)),
        }
        costs = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                costs[name].append(cost(*command))
    theirs = costs["lhotse"]
    rows = []
    for name, found in costs.items():
        ratios = [other.seconds / own.seconds for other, own in zip(theirs, found, strict=True)]
        rows.append(
            {
                "program": name,
                "seconds": spread([own.seconds for own in found]),
                "peak MB": f"{max(own.megabytes for own in found):.0f}",
                "times as fast as lhotse": spread(ratios, 2),
            }
        )
    report(f"{options.utterances:,} utterances, headers only, {options.rounds} rounds: median (range)", rows)


def make_data_dir(folder: Path, utterances: int) -> str:
    """Write a valid Kaldi directory; its files are links to a hundred recordings of half a second."""
    (folder / "wav").mkdir()
    rng = np.random.default_rng(0)
    ids = [f"speaker{number // 100:05d}-{number:07d}" for number in range(utterances)]
    for number, key in enumerate(ids):
        path = folder / "wav" / f"{key}.wav"
        if number < 100:
            soundfile.write(path, rng.standard_normal(8000) / 10, 16000)
        else:
            os.link(folder / "wav" / f"{ids[number % 100]}.wav", path)
    tables = {
        "wav.scp": lambda key: f"{folder}/wav/{key}.wav",
        "text": lambda key: f"a sentence that somebody said as number {key[-7:]}",
        "utt2lang": lambda key: "en",
        "utt2spk": lambda key: key.partition("-")[0],
        "utt2dur": lambda key: "0.5",
    }
    for name, value in tables.items():
        (folder / name).write_text("".join(f"{key} {value(key)}\n" for key in ids))
    return str(folder)


if __name__ == "__main__":
    main()
