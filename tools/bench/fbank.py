"""`whisper-recipe fbank` against lhotse's own loop with its own WhisperFbank, on the same manifests and processes.

    python tools/bench/fbank.py [--hours 2] [--num_mel_bins 80] [--num_jobs 2] [--rounds 3]

Both are whole commands, start and imports included: they read WAV files at 16 kHz, store lilcom_chunky and write cuts.
The peer is CutSet.compute_and_store_features as icefall's recipes call it (a thread a process). It needs librosa.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from measure import cost, report, spread

from whisper_recipe.data.manifests import prepare

SECONDS = 8.0  # of an utterance
LHOTSE = """
import sys, torch
from lhotse import CutSet, LilcomChunkyWriter, WhisperFbank, WhisperFbankConfig, load_manifest_lazy
torch.set_num_threads(1)
folder, out, bins, jobs = sys.argv[1:]
kinds = ("recordings", "supervisions")
recordings, supervisions = (load_manifest_lazy(f"{folder}/{kind}_train.jsonl.gz").to_eager() for kind in kinds)
cuts = CutSet.from_manifests(recordings, supervisions).trim_to_supervisions(keep_overlapping=False).to_eager()
extractor = WhisperFbank(WhisperFbankConfig(num_filters=int(bins)))
cuts = cuts.compute_and_store_features(extractor, f"{out}/feats", int(jobs), storage_type=LilcomChunkyWriter)
cuts.to_file(f"{out}/cuts_train.jsonl.gz")
"""


def main() -> None:
    """Make the corpus, run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--num_mel_bins", default="80", choices=["80", "128"])
    parser.add_argument("--num_jobs", default="2")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    utterances = round(options.hours * 3600 / SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        manifests = make_manifests(Path(folder), utterances)
        ours = [sys.executable, "-m", "whisper_recipe", "fbank", "train", "--manifests", manifests]
        ours += ["--num_mel_bins", options.num_mel_bins, "--num_jobs", options.num_jobs, "--out"]
        costs = {"whisper-recipe fbank": [], "lhotse": []}
        for number in range(options.rounds):
            out = f"{folder}/lhotse{number}"
            costs["whisper-recipe fbank"].append(cost(*ours, f"{folder}/ours{number}"))
            lhotse = (sys.executable, "-c", LHOTSE, manifests, out, options.num_mel_bins, options.num_jobs)
            costs["lhotse"].append(cost(*lhotse))
    rows = []
    for name, found in costs.items():
        ratios = [other.seconds / own.seconds for other, own in zip(costs["lhotse"], found, strict=True)]
        rows.append(
            {
                "program": name,
                "seconds": spread([own.seconds for own in found]),
                "times real time": f"{statistics.median(utterances * SECONDS / own.seconds for own in found):.0f}",
                "MB of a process": f"{max(own.megabytes for own in found):.0f}",
                "times as fast as lhotse": spread(ratios, 2),
            }
        )
    title = f"{utterances * SECONDS / 3600:.1f} h in {utterances:,} utterances, {options.num_mel_bins} mel bins, "
    report(f"{title}{options.num_jobs} processes, {options.rounds} rounds: median (range)", rows)


def make_manifests(folder: Path, utterances: int) -> str:
    """Write a Kaldi directory and prepare it; its files are links to a hundred recordings of noise."""
    data = folder / "train"
    data.mkdir()
    rng = np.random.default_rng(0)
    ids = [f"speaker{number // 100:05d}-{number:07d}" for number in range(utterances)]
    for number, key in enumerate(ids):
        if number < 100:
            soundfile.write(data / f"{key}.wav", rng.standard_normal(round(16000 * SECONDS)) / 10, 16000)
        else:
            os.link(data / f"{ids[number % 100]}.wav", data / f"{key}.wav")
    for name, value in {"wav.scp": "{}.wav", "text": "a sentence of {}", "utt2lang": "en"}.items():
        (data / name).write_text("".join(f"{key} {value.format(key)}\n" for key in ids))
    prepare(data, folder / "manifests")
    return str(folder / "manifests")


if __name__ == "__main__":
    main()
