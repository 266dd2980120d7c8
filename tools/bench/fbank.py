"""`whisper-recipe fbank` against a plain lhotse loop: seconds of audio per second.

    python tools/bench/fbank.py [--hours 6] [--rounds 3]

The peer is lhotse's CutSet.compute_and_store_features with lhotse's own WhisperFbank, as in its examples, with one and
two processes and the same compressed storage; each of two processes has one thread, which is faster. The audio is noise
in 16 kHz WAV files with AISHELL-like durations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from corpus import make_noise
from measure import cost, report, spread

LHOTSE = """
import sys
from lhotse import CutSet, LilcomChunkyWriter, RecordingSet, SupervisionSet, WhisperFbank, WhisperFbankConfig
folder, jobs = sys.argv[1], int(sys.argv[2])
recordings = RecordingSet.from_file(f"{folder}/recordings_noise.jsonl.gz")
supervisions = SupervisionSet.from_file(f"{folder}/supervisions_noise.jsonl.gz")
cuts = CutSet.from_manifests(recordings, supervisions).to_eager()
extractor = WhisperFbank(WhisperFbankConfig(num_filters=80))
storage = f"{folder}/lhotse_{jobs}"
cuts = cuts.compute_and_store_features(extractor, storage, num_jobs=jobs, storage_type=LilcomChunkyWriter)
cuts.to_file(f"{folder}/lhotse_{jobs}.jsonl.gz")
"""


def main() -> None:
    """Make recordings, extract their features with both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = make_noise(Path(folder), round(3600 * options.hours / 5.7))
        ours = (sys.executable, "-m", "whisper_recipe", "fbank", "noise", "--manifests", folder)
        ours += ("--out", f"{folder}/ours")
        commands = {
            "whisper-recipe fbank, 2 processes": ours,
            "lhotse, 1 process": (sys.executable, "-c", LHOTSE, folder, "1"),
            "lhotse, 2 processes": ("env", "OMP_NUM_THREADS=1", sys.executable, "-c", LHOTSE, folder, "2"),
        }
        speeds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                speeds[name].append(seconds / cost(*command).seconds)
    peer = speeds["lhotse, 2 processes"]
    rows = [
        {
            "program": name,
            "times real time": spread(found, 0),
            "times lhotse with 2 processes": spread([own / other for own, other in zip(found, peer, strict=True)], 2),
        }
        for name, found in speeds.items()
    ]
    report(
        f"Features of {seconds / 3600:.1f} h, including program start-up, {options.rounds} rounds: median (range)",
        rows,
    )


if __name__ == "__main__":
    main()
