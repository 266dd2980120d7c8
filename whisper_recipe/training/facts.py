"""What a trained model folder records of its training: decoding obeys it, the model card tells it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.model.adapters import LoraOptions
from whisper_recipe.training.batches import BatchOptions
from whisper_recipe.training.cuts import outlines


def training_facts(
    base_model: str,
    manifests: list[Path],
    cuts: CutSet,
    method: str,
    lora: LoraOptions,
    batches: BatchOptions,
    trainer: Seq2SeqTrainingArguments,
) -> dict:
    """Return the facts for whisper_recipe.json, all but the steps that were made in the end.

    `natural_length`: inputs were not all padded to 30 s. `timestamps`: labels had timestamp tokens. `data`: a row for
    each language and task, with utterances and hours of the cuts that were trained on.
    """
    timed = batches.timestamps > 0 and any(supervision_of(cut).segments for cut in outlines(cuts))
    facts = {
        "natural_length": batches.pad_to_30s < 1,
        "pad_to_30s": batches.pad_to_30s,
        "timestamps": timed,
        "base_model": base_model,
        "train_cuts": [str(path) for path in manifests],
        "data": _count(cuts),
        "method": method,
        "learning_rate": trainer.learning_rate,
        "lr_scheduler_type": str(trainer.lr_scheduler_type.value),
        "warmup_steps": trainer.warmup_steps,
        "weight_decay": trainer.weight_decay,
        "batch_seconds": batches.max_duration * trainer.gradient_accumulation_steps * trainer.world_size,
        "seed": trainer.seed,
    }
    return facts | ({"lora": asdict(lora)} if method == "lora" else {})


def _count(cuts: CutSet) -> list[dict]:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cut in outlines(cuts):
        supervision = supervision_of(cut)
        seconds[supervision.language, supervision.task].append(cut.duration)
    return [
        {"language": language, "task": task, "utterances": len(durations), "hours": round(sum(durations) / 3600, 4)}
        for (language, task), durations in sorted(seconds.items())
    ]
