"""The cost of padding to 30 s: fine-tune a real model on real speech in several ways, with equal data and steps.

    python tools/bench/padding.py --model openai/whisper-base --language cs \
        --train_cuts egs/fillets/data/fbank_whisper80/cuts_train.jsonl.gz \
        --test_cuts egs/fillets/data/fbank_whisper80/cuts_test.jsonl.gz --out exp/padding [--steps 60] [--bf16 true]

The ways are `whisper-recipe train` at natural length and with a quarter, half or all of the cuts padded to 30 s, and
Seq2SeqTrainer as in Hugging Face's course on fine-tuning Whisper: WhisperFeatureExtractor, which pads to 30 s, a
collator that pads the labels, batches drawn at random. All have the same number of cuts per batch and of steps, and
the same optimizer and learning rate. The models are exported to CTranslate2 int8 and decoded greedily at natural
length and at 30 s; faster-whisper also transcribes with its defaults and the given language. The time is that of
training alone, with features computed ahead for all; the memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from datetime import datetime
from pathlib import Path

from measure import child, cost, report

COMMON = "Seq2SeqTrainer"
WAYS = {"natural length": 0, "a quarter padded": 0.25, "half padded": 0.5, "all padded": 1, COMMON: None}


def main() -> None:
    """Train, export, decode and score each way; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--language", required=True)
    parser.add_argument("--train_cuts", required=True)
    parser.add_argument("--test_cuts", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=15)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--bf16", default="false", choices=["true", "false"])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_common(Path(options.child[1]), options)
        return
    rows = []
    for name, share in WAYS.items():
        folder = Path(options.out) / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cost.json").exists():
            found = train_as_users(folder) if name == COMMON else train_ours(folder, options, share)
            (folder / "cost.json").write_text(json.dumps(found))
        rows.append({"trained": name} | json.loads((folder / "cost.json").read_text()) | rates(folder, options))
    report(f"{options.steps} steps of {options.batch} cuts, learning rate {options.learning_rate:g}", rows)


def shared(options: argparse.Namespace) -> dict[str, object]:
    """Return the Trainer's arguments that are the same for all."""
    return {
        "max_steps": options.steps, "learning_rate": options.learning_rate, "warmup_steps": 10,
        "lr_scheduler_type": "cosine", "seed": 1, "save_strategy": "no", "eval_strategy": "no", "logging_steps": 1,
        "report_to": "none", "bf16": options.bf16 == "true", "use_cpu": options.bf16 == "true",
    }  # fmt: skip


def train_ours(folder: Path, options: argparse.Namespace, share: float) -> dict:
    """Train with `whisper-recipe train` and a share of the cuts padded; return its minutes and peak memory."""
    # As many cuts per batch as Seq2SeqTrainer, whatever their lengths.
    batches = {"max_cuts": options.batch, "max_duration": 30 * options.batch, "pad_to_30s": share}
    command = ["whisper-recipe", "train", "--method", "full", "--base_model", options.model]
    command += ["--train_cuts", options.train_cuts, "--dev_cuts", options.test_cuts, "--output_dir", str(folder)]
    for group, values in (("trainer", shared(options)), ("batches", batches)):
        for name, value in values.items():
            command += [f"--{group}.{name}", str(value).lower()]
    used = cost(*command)
    log = [line for line in (folder / "train.log").read_text().splitlines() if " INFO " in line]
    start = next(line for line in log if "parameters are trained" in line)
    return costs((logged_at(log[-1]) - logged_at(start)).total_seconds(), used.megabytes, options)


def logged_at(line: str) -> datetime:
    """Return the time at the start of a line of train.log."""
    return datetime.strptime(" ".join(line.split()[:2]), "%Y-%m-%d %H:%M:%S,%f")


def train_as_users(folder: Path) -> dict:
    """Train with Seq2SeqTrainer in a separate process, to measure its memory."""
    return json.loads(child(__file__, "common", str(folder)).splitlines()[-1])


def costs(seconds: float, megabytes: float, options: argparse.Namespace) -> dict:
    """Return a training run's columns of the table."""
    speed = options.steps * options.batch / seconds
    return {"minutes": round(seconds / 60, 1), "cuts/s": round(speed, 2), "peak MB": round(megabytes)}


def rates(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Return a model's error rates with their intervals, by padding of its input."""
    int8, found = folder / "ct2_int8", {}
    if not int8.exists():
        run("export", str(folder / "model"), "--out", str(int8), "--quantization", "int8")
    for name, padded in (("WER, natural length", "false"), ("WER, 30 s", "true"), ("WER, faster-whisper", None)):
        out = folder / (f"decode_padded_{padded}" if padded else "decode_faster_whisper")
        if not (out / "metrics.json").exists():
            if padded:
                run("decode", str(int8), "--cuts", options.test_cuts, "--out", str(out), "--pad_to_30s", padded)
            else:
                transcribe_as_users(int8, options, out)
            run("score", str(out), "--ref", options.test_cuts, "--audio", "none")
        rate = json.loads((out / "metrics.json").read_text())["groups"]["all"]
        low, high = rate["interval_95"]
        found[name] = f"{100 * rate['error_rate']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return found


def transcribe_as_users(model: Path, options: argparse.Namespace, out: Path) -> None:
    """Transcribe each utterance with faster-whisper and its defaults; write hyp.jsonl."""
    from faster_whisper import WhisperModel
    from lhotse import CutSet
    from lhotse.cut import Cut

    from whisper_recipe.files import write_jsonl

    out.mkdir(exist_ok=True)
    whisper = WhisperModel(str(model), compute_type="int8")

    def row(cut: Cut) -> dict:
        segments, _ = whisper.transcribe(cut.load_audio()[0], language=options.language)
        text = "".join(segment.text for segment in segments).strip()
        spoken = {"language": options.language, "task": "transcribe", "duration": cut.duration}
        return {"id": cut.id, "text": text} | spoken

    write_jsonl(out / "hyp.jsonl", map(row, CutSet.from_jsonl_lazy(options.test_cuts)))


def run(*command: str) -> None:
    """Run a whisper-recipe command, discarding its output."""
    subprocess.run(["whisper-recipe", *command], check=True, stdout=subprocess.DEVNULL)


def train_common(folder: Path, options: argparse.Namespace) -> None:
    """Train as Hugging Face's course on fine-tuning Whisper does; print minutes and peak memory."""
    import resource

    import numpy as np
    import torch
    from lhotse import CutSet
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    processor = WhisperProcessor.from_pretrained(options.model, language=options.language, task="transcribe")
    model = WhisperForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32)
    cuts = list(CutSet.from_jsonl_lazy(options.train_cuts))
    (folder / "features").mkdir(exist_ok=True)
    for number, cut in enumerate(cuts):
        features = processor.feature_extractor(cut.load_audio()[0], sampling_rate=16000).input_features[0]
        np.save(folder / "features" / str(number), features)

    class Padded(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(cuts)

        def __getitem__(self, index: int) -> dict:
            labels = processor.tokenizer(cuts[index].supervisions[0].text).input_ids
            return {"input_features": np.load(folder / "features" / f"{index}.npy"), "labels": labels}

    def collate(batch: list[dict]) -> dict:
        features = [{"input_features": row["input_features"]} for row in batch]
        padded = processor.feature_extractor.pad(features, return_tensors="pt")
        labels = processor.tokenizer.pad([{"input_ids": row["labels"]} for row in batch], return_tensors="pt")
        ids = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        return {**padded, "labels": ids[:, 1:]}  # the model itself adds the start token

    args = Seq2SeqTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=options.batch, dataloader_num_workers=1,
        remove_unused_columns=False, **shared(options),
    )  # fmt: skip
    trainer = Seq2SeqTrainer(model, args, train_dataset=Padded(), data_collator=collate)
    seconds = trainer.train().metrics["train_runtime"]
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    trainer.save_model(str(folder / "model"))
    processor.save_pretrained(str(folder / "model"))
    print(json.dumps(costs(seconds, megabytes, options)))


if __name__ == "__main__":
    main()
