"""`whisper-recipe stats` on 1,000,000 cuts, against a plain lhotse loop: seconds and memory.

    python tools/bench/stats.py [--cuts 1000000] [--rounds 1]

The peer is the loop that a lhotse user would write: it collects durations and text lengths per language and task from a
lazy CutSet, and computes fewer statistics. The third row is lhotse's own CutSet.describe.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import cost, report, spread

LOOP = """
import sys
from collections import defaultdict
import numpy as np
from lhotse import CutSet
durations, characters = defaultdict(list), defaultdict(list)
for cut in CutSet.from_jsonl_lazy(sys.argv[1]):
    supervision = cut.supervisions[0]
    key = supervision.language, supervision.custom["task"]
    durations[key].append(cut.duration)
    characters[key].append(len(supervision.text) / cut.duration)
for key, values in durations.items():
    print(key, len(values), np.mean(values), np.percentile(values, [25, 50, 75, 99]), np.mean(characters[key]))
"""
DESCRIBE = "import sys; from lhotse import CutSet; CutSet.from_jsonl_lazy(sys.argv[1]).describe()"


def main() -> None:
    """Make the manifest, run all in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tokenizer", help="a Whisper folder: whisper-recipe also counts tokens")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cuts = make_manifest(Path(folder) / "cuts.jsonl.gz", options.cuts)
        commands = {
            "whisper-recipe stats": (
                sys.executable,
                "-m",
                "whisper_recipe",
                "stats",
                cuts,
                "--plot",
                f"{folder}/x.png",
            ),
            "lhotse, a loop": (sys.executable, "-c", LOOP, cuts),
            "lhotse, describe": (sys.executable, "-c", DESCRIBE, cuts),
        }
        if options.tokenizer:
            commands["whisper-recipe stats"] += ("--tokenizer", options.tokenizer)
        costs = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                costs[name].append(cost(*command))
    peer = costs["lhotse, a loop"]
    rows = [
        {
            "program": name,
            "seconds": spread([own.seconds for own in found]),
            "peak MB": f"{max(own.megabytes for own in found):.0f}",
            "times as fast as the loop": spread([b.seconds / a.seconds for a, b in zip(found, peer, strict=True)], 2),
        }
        for name, found in costs.items()
    ]
    report(f"{options.cuts:,} cuts, {options.rounds} rounds: median (range)", rows)


def make_manifest(path: Path, count: int) -> str:
    """Write a manifest of cuts with features, as `whisper-recipe fbank` does."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(1000)]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
        for number, seconds in enumerate(rng.gamma(6.0, 0.95, size=count).round(3) + 0.5):
            key = f"utt{number:07d}"
            text = " ".join(words[(number * 7 + place) % 1000] for place in range(1 + int(2 * seconds)))
            supervision = {
                "id": key,
                "recording_id": key,
                "start": 0.0,
                "duration": seconds,
                "channel": 0,
                "text": text,
            }
            supervision |= {"language": ["en", "zh"][number % 2], "speaker": "s", "custom": {"task": "transcribe"}}
            source = {"type": "file", "channels": [0], "source": f"/corpus/wav/{key}.wav"}
            recording = {"id": key, "sources": [source], "sampling_rate": 16000, "num_samples": round(16000 * seconds)}
            recording |= {"duration": seconds, "channel_ids": [0]}
            features = {"type": "whisper-log-mel", "num_frames": round(100 * seconds), "num_features": 80, "start": 0.0}
            features |= {"frame_shift": 0.01, "sampling_rate": 16000, "duration": seconds, "channels": 0}
            features |= {
                "storage_type": "lilcom_chunky",
                "storage_path": "x.lca",
                "storage_key": "0",
                "recording_id": key,
            }
            cut = {"id": key, "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [supervision]}
            file.write(json.dumps({**cut, "features": features, "recording": recording, "type": "MonoCut"}) + "\n")
    return str(path)


if __name__ == "__main__":
    main()
