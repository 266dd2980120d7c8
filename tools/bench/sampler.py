"""Training batches from a manifest of 1,000,000 cuts: start-up, and memory from the first to the 100,000th batch.

    python tools/bench/sampler.py [--cuts 1000000] [--batches 100000] [--max_cuts 2]

Start-up is all that `whisper-recipe train` does with its cuts before the first batch: it finds untrainable cuts, counts
the batches of an epoch, and creates the first one. The peer is lhotse's own sampler over a lazy CutSet, iterated once.
Then the batches are created one after the other: by the sampler alone at full size, and by a loader process with
features, tokens and padding at `max_cuts` cuts per batch, so that it finishes in minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import cost, report
from tqdm import tqdm

from whisper_recipe.data.fbank import FineLilcomWriter
from whisper_recipe.data.features import HOP_LENGTH, SAMPLING_RATE, WhisperLogMel, num_frames
from whisper_recipe.files import write_jsonl
from whisper_recipe.model.create import init_model

STORED = 64  # utterances whose features the cuts share
LOOKS = 10  # number of memory readings
PEER = """
import sys
from lhotse import CutSet
from lhotse.dataset.sampling import DynamicBucketingSampler
cuts = CutSet.from_jsonl_lazy(sys.argv[1])
print(sum(1 for _ in DynamicBucketingSampler(cuts, num_buckets=20, max_duration=200.0, shuffle=True, seed=0)))
"""


def main() -> None:
    """Make manifest and tokenizer, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--max_cuts", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "CUTS", "TOKENIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *inputs = options.child
        CHILDREN[kind](*map(Path, inputs), options.batches, options.max_cuts)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cuts, tokenizer = make_manifest(folder, options.cuts), make_tokenizer(folder)
        own = [sys.executable, __file__, "--batches", str(options.batches)]
        own += ["--max_cuts", str(options.max_cuts), "--child"]
        commands = {
            "whisper-recipe, start-up": [*own, "start", cuts, tokenizer],
            "lhotse, counting batches": [sys.executable, "-c", PEER, cuts],
        }
        costs = {name: cost(*map(str, command)) for name, command in commands.items()}
        looks = [json.loads(subprocess.check_output([*own, kind, cuts, tokenizer])) for kind in ("sample", "load")]
    report(
        f"Start-up on {options.cuts:,} cuts",
        [
            {"program": name, "seconds": f"{x.seconds:.1f}", "peak MB": f"{x.megabytes:.0f}"}
            for name, x in costs.items()
        ],
    )
    for title, rows in zip(
        ("the sampler alone, 200 s per batch", f"a loader process, {options.max_cuts} cuts per batch"),
        looks,
        strict=True,
    ):
        report(f"Memory in MB by number of batches, {options.cuts:,} cuts: {title}", rows)


def make_manifest(folder: Path, count: int) -> Path:
    """Write a manifest of `count` cuts, which share the features of a few."""
    rng = np.random.default_rng(0)
    stored = []
    with FineLilcomWriter(folder / "features") as writer:
        for number, seconds in enumerate((rng.gamma(6.0, 0.95, size=STORED) + 0.5).round(2)):
            values = rng.uniform(-1, 1.5, size=(num_frames(round(seconds * SAMPLING_RATE)), 80)).astype(np.float32)
            stored.append((float(seconds), len(values), writer.write(f"{number}", values)))
    path = folder / "cuts.jsonl.gz"
    rows = (_row(number, *stored[number % STORED], writer) for number in range(count))
    write_jsonl(path, tqdm(rows, total=count, desc="manifest", disable=None))
    return path


def _row(number: int, seconds: float, frames: int, place: str, writer: FineLilcomWriter) -> dict:
    key = f"utt{number:07d}"
    text = " ".join(f"word{(number * 7 + place) % 1000}" for place in range(1 + int(2 * seconds)))
    supervision = {"id": key, "recording_id": key, "start": 0.0, "duration": seconds, "channel": 0, "text": text}
    supervision |= {"language": ["en", "zh"][number % 2], "speaker": "s", "custom": {"task": "transcribe"}}
    source = {"type": "file", "channels": [0], "source": f"/corpus/wav/{key}.wav"}
    recording = {"id": key, "sources": [source], "sampling_rate": SAMPLING_RATE, "duration": seconds}
    recording |= {"num_samples": round(SAMPLING_RATE * seconds), "channel_ids": [0]}
    shift = HOP_LENGTH / SAMPLING_RATE
    features = {"type": WhisperLogMel.name, "num_frames": frames, "num_features": 80, "frame_shift": shift}
    features |= {"start": 0.0, "sampling_rate": SAMPLING_RATE, "duration": round(frames * shift, 8), "channels": 0}
    features |= {"storage_type": writer.name, "storage_path": str(writer.storage_path), "storage_key": place}
    cut = {"id": key, "start": 0.0, "duration": seconds, "channel": 0, "supervisions": [supervision]}
    return {**cut, "features": {**features, "recording_id": key}, "recording": recording, "type": "MonoCut"}


def make_tokenizer(folder: Path) -> Path:
    """Write a small Whisper folder whose tokenizer fits the texts."""
    (folder / "text").write_text("".join(f"utt{number} word{number}\n" for number in range(1000)), encoding="utf-8")
    sizes = {"bpe_size": 500, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2}
    init_model(folder / "model", [folder / "text"], **sizes)
    return folder / "model"


def _loader(cuts: Path, tokenizer: Path, **limits: float) -> object:
    from whisper_recipe.model.load import load_tokenizer
    from whisper_recipe.training.batches import BatchOptions, drop_untrainable, load_cuts, make_loader

    tokenizer = load_tokenizer(str(tokenizer))
    kept, _ = drop_untrainable(load_cuts([cuts]), tokenizer)
    return make_loader(kept, tokenizer, BatchOptions(**limits), shuffle=True)


def start(cuts: Path, tokenizer: Path, *_: int) -> None:
    """Make the first batch."""
    next(iter(_loader(cuts, tokenizer).batch_sampler))


def sample(cuts: Path, tokenizer: Path, batches: int, _: int) -> None:
    """Make all batches, without features."""
    sampler = _loader(cuts, tokenizer).batch_sampler
    _look(itertools.chain.from_iterable(itertools.repeat(sampler)), batches)


def load(cuts: Path, tokenizer: Path, batches: int, max_cuts: int) -> None:
    """Make all batches, with a process that loads their features."""
    _look(itertools.chain.from_iterable(itertools.repeat(_loader(cuts, tokenizer, max_cuts=max_cuts))), batches)


def _look(stream: object, batches: int) -> None:
    """Print the memory of this process and of the loader at intervals of the batches, as JSON."""
    rows, begin = [], time.perf_counter()
    every = max(1, batches // LOOKS)
    for number, _ in enumerate(tqdm(itertools.islice(stream, batches), total=batches, disable=None), 1):
        if number == 1 or number % every == 0:
            row = {"batches": f"{number:,}", "minutes": f"{(time.perf_counter() - begin) / 60:.1f}"}
            row["trainer's process"] = f"{_megabytes(os.getpid()):.0f}"
            rows.append(row)
            for child in multiprocessing.active_children():
                row["loader"] = f"{_megabytes(child.pid):.0f}"
    print(json.dumps(rows))


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


CHILDREN = {"start": start, "sample": sample, "load": load}

if __name__ == "__main__":
    main()
