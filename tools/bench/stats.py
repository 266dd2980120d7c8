"""`whisper-recipe stats` on a manifest of 1,000,000 cuts, against a loop over the same cuts with lhotse.

    python tools/bench/stats.py [--cuts 1000000] [--tokenizer MODEL] [--rounds 3]

The peer reads the manifest lazily and keeps durations and characters per second, with percentiles by numpy: the least
that a table of them takes (lhotse's CutSet.describe does more, and is slower). It never counts tokens.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from measure import cost, report, spread

from whisper_recipe.data.fbank import fbank
from whisper_recipe.data.manifests import prepare

SENTENCE = "the light in kitchen turn on off please set alarm for seven tomorrow morning and call my brother"
LHOTSE = """
import sys
from array import array
import numpy as np
from lhotse import CutSet
durations, rates = array("d"), array("d")
for cut in CutSet.from_jsonl_lazy(sys.argv[1]):
    durations.append(cut.duration)
    rates.append(len(cut.supervisions[0].text) / cut.duration)
for values in (durations, rates):
    print(np.mean(values), np.std(values), np.percentile(values, [0, 25, 50, 75, 99, 99.5, 99.9, 100]))
"""


def main() -> None:
    """Write the manifest, run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=1_000_000)
    parser.add_argument("--tokenizer", help="a Whisper folder or name on the hub: tokens are counted too")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_cuts(Path(folder), options.cuts)
        ours = (sys.executable, "-m", "whisper_recipe", "stats", path)
        commands = {"whisper-recipe stats": ours}
        if options.tokenizer:
            commands["whisper-recipe stats --tokenizer"] = (*ours, "--tokenizer", options.tokenizer)
        commands["lhotse"] = (sys.executable, "-c", LHOTSE, path)
        costs = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                costs[name].append(cost(*command))
    rows = []
    for name, found in costs.items():
        ratios = [other.seconds / own.seconds for other, own in zip(costs["lhotse"], found, strict=True)]
        rows.append(
            {
                "program": name,
                "seconds": spread([own.seconds for own in found]),
                "MB at most": f"{max(own.megabytes for own in found):.0f}",
                "times as fast as lhotse": spread(ratios, 2),
            }
        )
    report(f"{options.cuts:,} cuts, {options.rounds} rounds: median (range)", rows)


def write_cuts(folder: Path, cuts: int) -> str:
    """Write a manifest of cuts that differ in id, duration and text from one that fbank has made."""
    data = folder / "one"
    data.mkdir()
    soundfile.write(data / "ID.wav", np.random.default_rng(0).standard_normal(16 * 8000) / 10, 16000)
    for name, value in {"wav.scp": "ID.wav", "text": "TEXT", "utt2lang": "en"}.items():
        (data / name).write_text(f"ID {value}\n")
    prepare(data, folder)
    fbank("one", folder, folder, num_jobs=1)
    with gzip.open(folder / "cuts_one.jsonl.gz", "rt") as file:
        row = json.loads(file.read())
    draw = random.Random(0)
    with gzip.open(folder / "cuts.jsonl.gz", "wt", compresslevel=1) as file:
        for number in range(cuts):
            supervision = row["supervisions"][0]
            row["id"] = supervision["id"] = f"speaker{number // 1000:05d}-{number:07d}"
            row["duration"] = supervision["duration"] = round(draw.uniform(1, 30) * 16000) / 16000
            supervision["text"] = " ".join(draw.choices(SENTENCE.split(), k=round(2.5 * row["duration"])))
            supervision["language"] = draw.choice(["en", "de", "zh"])
            file.write(json.dumps(row) + "\n")
    return str(folder / "cuts.jsonl.gz")


if __name__ == "__main__":
    main()
