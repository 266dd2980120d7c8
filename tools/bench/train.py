"""`whisper-recipe train` against the common recipe: utterances per second and memory of full fine-tuning.

    python tools/bench/train.py [--model WHISPER_FOLDER] [--steps 12] [--rounds 3] [--freeze-encoder true]
        [--cache-encoder true] [--workers 2]

Both train random weights in whisper-tiny's shape, or --model, on the same utterances of noise with AISHELL-like
durations (1.2 to 14.5 s, 5.7 s on average), with the same number of utterances per batch, and features computed
ahead. whisper-recipe trains on all utterances once; the common recipe, for which they are all equally long, on
--steps batches. The common recipe is that of Hugging Face's course and example script: Seq2SeqTrainer,
WhisperFeatureExtractor's padding to 30 s, and a collator that pads the labels. With --cache-encoder, whisper-recipe
trains from stored encoder outputs (the time to store them is printed), the common recipe with a frozen encoder.
whisper-recipe loads its features in the training process, because on two cores loader processes would slow down
training; --workers adds some, to see whether training waits for them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from corpus import TEXT, make_noise, place_model
from measure import child, report, spread

BATCH = 8
WARM_UP = 2  # steps before the clock starts


def main() -> None:
    """Make data and model, train with both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a multilingual Whisper folder (transformers)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--freeze-encoder", default="false", choices=["true", "false"])
    parser.add_argument("--cache-encoder", default="false", choices=["true", "false"])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cache_encoder == "true":
        options.freeze_encoder = "true"
    if options.child:
        side, folder = options.child
        {"ours": train_ours, "common": train_common}[side](Path(folder), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options)
        found = {"whisper-recipe": [], "common recipe": []}
        for _ in range(options.rounds):
            for name, side in (("whisper-recipe", "ours"), ("common recipe", "common")):
                found[name].append(json.loads(child(__file__, side, folder).splitlines()[-1]))
    rows = []
    for name, runs in found.items():
        ratios = [run["speed"] / peer["speed"] for run, peer in zip(runs, found["common recipe"], strict=True)]
        memory = [run["megabytes"] / peer["megabytes"] for run, peer in zip(runs, found["common recipe"], strict=True)]
        rows.append(
            {
                "program": name,
                "utterances/s": spread([run["speed"] for run in runs], 2),
                "times the common recipe": spread(ratios, 2),
                "peak MB": spread([run["megabytes"] for run in runs], 0),
                "share of the common recipe's": spread(memory, 2),
                "% of the time waiting for data": spread([100 * run["waiting"] for run in runs], 2),
            }
        )
    what = f"{options.model or 'random weights'}: full fine-tuning"
    frozen = ", encoder frozen" if options.freeze_encoder == "true" else ""
    if options.cache_encoder == "true":
        seconds = [run["encoding"] for run in found["whisper-recipe"] if run["encoding"]]
        frozen += f", whisper-recipe from stored outputs (computed once in {spread(seconds)} s)"
    report(f"{what}{frozen}, {BATCH} utterances per batch, {options.steps} steps: median (range)", rows)


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write utterances of noise with their features, and the model."""
    from whisper_recipe.data.fbank import fbank

    make_noise(folder, 8 * BATCH * (options.steps + WARM_UP))
    fbank("noise", folder, folder)
    place_model(folder, options.model)


def arguments(folder: Path, options: argparse.Namespace) -> dict:
    """Return the training arguments that both share."""
    return {
        "output_dir": str(folder / "exp"),
        "max_steps": options.steps + WARM_UP,
        "learning_rate": 1e-5,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1000,
        "remove_unused_columns": False,
    }


def clocked(trainer: type, options: argparse.Namespace) -> type:
    """Return a subclass of the Trainer whose `report` prints utterances per second and peak memory."""
    import resource

    class Clocked(trainer):
        done = 0
        waiting = 0.0
        encoding = 0.0

        def get_batch_samples(self, *args, **kwargs):
            start = time.perf_counter()
            batches = super().get_batch_samples(*args, **kwargs)
            if self.state.global_step >= WARM_UP:
                self.waiting += time.perf_counter() - start
            return batches

        def training_step(self, model, inputs, *args, **kwargs):
            if self.state.global_step == WARM_UP:
                self.start = time.perf_counter()
            if self.state.global_step >= WARM_UP:
                self.done += len(inputs["labels"])
            return super().training_step(model, inputs, *args, **kwargs)

        def report(self) -> None:
            seconds = time.perf_counter() - self.start
            found = {"speed": self.done / seconds, "waiting": self.waiting / seconds, "encoding": self.encoding}
            print(json.dumps(found | {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))

    return Clocked


def train_ours(folder: Path, options: argparse.Namespace) -> None:
    """Train with the components of `whisper-recipe train`."""
    from transformers import Seq2SeqTrainingArguments

    from whisper_recipe.model.load import load_model, load_tokenizer
    from whisper_recipe.training.batches import BatchOptions, load_cuts
    from whisper_recipe.training.encoder_cache import with_encoder_states
    from whisper_recipe.training.parameters import ParameterOptions, freeze
    from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

    # An epoch, because a few batches would not have representative lengths.
    args = Seq2SeqTrainingArguments(**arguments(folder, options) | {"max_steps": -1, "num_train_epochs": 1})
    cuts = load_cuts([folder / "cuts_noise.jsonl.gz"])
    model, tokenizer = load_model(folder / "model"), load_tokenizer(folder / "model")
    parameters = ParameterOptions(freeze_encoder=options.freeze_encoder == "true")
    freeze(model, parameters)
    start = time.perf_counter()
    if options.cache_encoder == "true":
        manifest = folder / "cuts_noise.jsonl.gz"
        cuts = with_encoder_states(cuts, [manifest], "model", model, folder / "states")
    encoding = time.perf_counter() - start
    batches = BatchOptions(max_duration=1000, max_cuts=BATCH, num_buckets=40, num_workers=options.workers)
    loaders = make_loaders(cuts, cuts, tokenizer, batches, 80, args)
    trainer = clocked(WhisperTrainer, options)(model, args, *loaders, parameters)
    trainer.encoding = encoding
    trainer.train()
    trainer.report()


def train_common(folder: Path, options: argparse.Namespace) -> None:
    """Train as Hugging Face's course on fine-tuning Whisper does."""
    import soundfile
    import torch
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    processor = WhisperProcessor.from_pretrained(folder / "model", language="english", task="transcribe")
    model = WhisperForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    if options.freeze_encoder == "true":
        model.freeze_encoder()
    labels = processor.tokenizer(TEXT).input_ids[1:]  # the model itself adds the start token
    paths = sorted((folder / "noise" / "wav").iterdir())
    for path in paths if not (folder / "padded").exists() else []:
        features = processor.feature_extractor(soundfile.read(path)[0], sampling_rate=16000).input_features[0]
        (folder / "padded").mkdir(exist_ok=True)
        np.save(folder / "padded" / path.stem, features)

    class Padded(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> dict:
            return {"input_features": np.load(folder / "padded" / f"{paths[index].stem}.npy"), "labels": labels}

    def collate(batch: list[dict]) -> dict:
        features = [{"input_features": row["input_features"]} for row in batch]
        return {
            **processor.feature_extractor.pad(features, return_tensors="pt"),
            "labels": torch.tensor([row["labels"] for row in batch]),
        }

    args = Seq2SeqTrainingArguments(
        **arguments(folder, options), per_device_train_batch_size=BATCH, dataloader_num_workers=1
    )
    trainer = clocked(Seq2SeqTrainer, options)(model, args, train_dataset=Padded(), data_collator=collate)
    trainer.train()
    trainer.report()


if __name__ == "__main__":
    main()
