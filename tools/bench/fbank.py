"""`whisper-recipe fbank` against a plain lhotse loop: seconds of audio per second.

    python tools/bench/fbank.py [--hours 6] [--rounds 3]

The peer is lhotse's own extraction of its own WhisperFbank, one process and two, into its own compressed storage:
CutSet.compute_and_store_features, as in lhotse's examples; with two processes each has one thread, which is faster. The
speech is noise in WAV files of 16 kHz whose durations are drawn as AISHELL's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from measure import cost, report, spread

LHOTSE = """
import sys
from lhotse import CutSet, RecordingSet, SupervisionSet, WhisperFbank, WhisperFbankConfig
folder, jobs = sys.argv[1], int(sys.argv[2])
recordings = RecordingSet.from_file(f"{folder}/recordings_noise.jsonl.gz")
supervisions = SupervisionSet.from_file(f"{folder}/supervisions_noise.jsonl.gz")
cuts = CutSet.from_manifests(recordings, supervisions).to_eager()
extractor = WhisperFbank(WhisperFbankConfig(num_filters=80))
cuts = cuts.compute_and_store_features(extractor, f"{folder}/lhotse_{jobs}", num_jobs=jobs)
cuts.to_file(f"{folder}/lhotse_{jobs}.jsonl.gz")
"""


def main() -> None:
    """Make recordings, extract their features by both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = make_manifests(Path(folder), 3600 * options.hours)
        ours = (
            sys.executable,
            "-m",
            "whisper_recipe",
            "fbank",
            "noise",
            "--manifests",
            folder,
            "--out",
            f"{folder}/ours",
        )
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
        f"Features of {seconds / 3600:.1f} h, start of the program included, {options.rounds} rounds: median (range)",
        rows,
    )


def make_manifests(folder: Path, seconds: float) -> float:
    """Write recordings of noise and their manifests; return their seconds."""
    from whisper_recipe.data.manifests import prepare

    data = folder / "noise"
    (data / "wav").mkdir(parents=True)
    rng = np.random.default_rng(0)
    durations = np.clip(rng.gamma(6.0, 0.95, size=round(seconds / 5.7)), 1.2, 14.5)
    keys = [f"utt{number:06d}" for number in range(len(durations))]
    noise = rng.standard_normal(16000 * 20) / 10
    for key, duration in zip(keys, durations, strict=True):
        start = rng.integers(16000)
        soundfile.write(data / "wav" / f"{key}.wav", noise[start : start + round(16000 * duration)], 16000)
    for name, value in (("wav.scp", "wav/{}.wav"), ("text", "something"), ("utt2lang", "en")):
        (data / name).write_text("".join(f"{key} {value.format(key)}\n" for key in keys))
    prepare(data, folder)
    return float(durations.sum())


if __name__ == "__main__":
    main()
