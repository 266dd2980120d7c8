"""Two processes on two cores against one on one core: utterances per second of training and of decoding.

    python tools/bench/processes.py [--processes 2] [--steps 10] [--utterances 400] [--rounds 3]

torchrun starts the processes, each pinned to its own core with one thread. The model has whisper-tiny's shape and
random weights; the utterances are noise with AISHELL-like durations. Training is full fine-tuning with 100 s of audio
per batch and process, timed as in train.py. Decoding is `whisper-recipe decode` with the int8 export and 20 tokens
per utterance, timed from the start of the processes' work until their hypotheses are merged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from corpus import make_model, make_noise
from decode import END_OF_TEXT
from measure import child, report, spread
from train import arguments, clocked

TOKENS = 20


def main() -> None:
    """Make data and models, run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work, folder = options.child
        os.sched_setaffinity(0, {int(os.environ["LOCAL_RANK"])})
        {"training": train, "decoding": decode}[work](Path(folder), options)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.utterances)
        for work in ("training", "decoding"):
            speeds = [[speed(work, folder, count) for count in (1, options.processes)] for _ in range(options.rounds)]
            one, many = zip(*speeds, strict=True)
            rows.append(
                {
                    "work": work,
                    "utterances/s, one process": spread(list(one), 2),
                    f"{options.processes} processes": spread(list(many), 2),
                    "speedup": spread([more / less for less, more in speeds], 2),
                }
            )
    report(f"{options.processes} processes, each on its own core, against one: median (range)", rows)


def make(folder: Path, count: int) -> None:
    """Write utterances of noise with their features, the model and its int8 export."""
    from whisper_recipe.data.fbank import fbank
    from whisper_recipe.export.ct2 import export

    make_noise(folder, count)
    fbank("noise", folder, folder)
    export(make_model(folder), folder / "int8", "int8")


def speed(work: str, folder: str, processes: int) -> float:
    """Start the processes; return the utterances per second of all of them."""
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)
    printed = child(__file__, work, folder, *torchrun, OMP_NUM_THREADS="1")
    return sum(json.loads(line)["speed"] for line in printed.splitlines() if line.startswith('{"speed"'))


def train(folder: Path, options: argparse.Namespace) -> None:
    """Train; each process prints its own utterances per second."""
    from transformers import Seq2SeqTrainingArguments

    from whisper_recipe.model.load import load_model, load_tokenizer
    from whisper_recipe.training.batches import BatchOptions, load_cuts
    from whisper_recipe.training.parameters import ParameterOptions
    from whisper_recipe.training.process_group import closing_process_group
    from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

    args = Seq2SeqTrainingArguments(**arguments(folder, options))
    cuts = load_cuts([folder / "cuts_noise.jsonl.gz"])
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    with closing_process_group(folder):
        loaders = make_loaders(cuts, cuts, tokenizer, BatchOptions(max_duration=100, num_workers=0), 80, args)
        trainer = clocked(WhisperTrainer, options)(model, args, *loaders, ParameterOptions())
        trainer.train()
        trainer.report()


def decode(folder: Path, options: argparse.Namespace) -> None:
    """Decode; the first process, which waits for the others, prints the utterances per second of all."""
    from whisper_recipe.decoding.decode import decode
    from whisper_recipe.decoding.search import SearchOptions

    search = SearchOptions(max_new_tokens=TOKENS, suppress_tokens=[END_OF_TEXT], suppress_blank=False)
    out = folder / f"decoded{os.environ['MASTER_PORT']}"  # one folder per launch, for all its processes
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        decode(str(folder / "int8"), folder / "cuts_noise.jsonl.gz", out, pad_to_30s=False, search=search)
    if os.environ["RANK"] == "0":
        print(json.dumps({"speed": options.utterances / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
