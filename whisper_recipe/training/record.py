"""The training record in a model folder: decoding follows it, and the model card reports it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.model.adapters import LoraOptions
from whisper_recipe.training.batches import BatchOptions
from whisper_recipe.training.cuts import Selection, selected


def training_record(
    base_model: str,
    manifests: list[Path],
    cuts: CutSet,
    method: str,
    lora: LoraOptions,
    batches: BatchOptions,
    trainer: Seq2SeqTrainingArguments,
) -> dict:
    """Return the record for whisper_recipe.json, except what is known only at the end: steps, epochs and canaries.

    `natural_length`: inputs were not all padded to 30 s. `timestamps`: share of the cuts trained with timestamp
    tokens. `data`: one row per language and task, with the number and hours of the training utterances.
    """
    data = selected(cuts)
    record = {
        "natural_length": batches.natural_length,
        "pad_to_30s": batches.pad_to_30s,
        "spare_frames": batches.spare_frames,
        "timestamps": round(batches.timestamps * _timed(data), 4),
        "base_model": base_model,
        "train_cuts": [str(path) for path in manifests],
        "data": _count(data),
        "method": method,
        "learning_rate": trainer.learning_rate,
        "lr_scheduler_type": str(trainer.lr_scheduler_type.value),
        "warmup_steps": trainer.warmup_steps,
        "weight_decay": trainer.weight_decay,
        "batch_seconds": batches.max_duration * trainer.gradient_accumulation_steps * trainer.world_size,
        "seed": trainer.seed,
    }
    return record | ({"lora": asdict(lora)} if method == "lora" else {})


def _timed(cuts: Selection) -> float:
    """Return the share of the cuts that have segments with times."""
    counts = np.bincount(cuts.kind, minlength=len(cuts.kinds))
    return sum(count for kind, count in zip(cuts.kinds, counts.tolist(), strict=True) if kind.has_segments) / len(cuts)


def _count(cuts: Selection) -> list[dict]:
    found: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    counts, seconds = np.bincount(cuts.kind), np.bincount(cuts.kind, weights=cuts.durations)
    for kind, count, duration in zip(cuts.kinds, counts.tolist(), seconds.tolist(), strict=True):
        row = found[kind.language, kind.task]
        row[0] += count
        row[1] += duration
    return [
        {"language": language, "task": task, "utterances": count, "hours": round(duration / 3600, 4)}
        for (language, task), (count, duration) in sorted(found.items())
    ]
