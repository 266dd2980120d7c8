"""Options of transformers' Trainer that don't apply here: rejected by name, or adjusted."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from pathlib import Path

import torch
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.precision import pick_precision, use_tf32
from whisper_recipe.training.logs import log_and_print

# Batches are made before the Trainer sees them; see training/batches.py.
INSTEAD = {
    "per_device_train_batch_size": "batches.max_duration or batches.max_cuts",
    "per_device_eval_batch_size": "batches.max_duration or batches.max_cuts",
    "auto_find_batch_size": "--find-max-duration",
    "dataloader_num_workers": "batches.num_workers",
}
REFUSED = (*INSTEAD, "dataloader_")  # names or prefixes
SET_BY_TRANSFORMERS = "dataloader_pin_memory"  # on a CPU


def adjust(args: Seq2SeqTrainingArguments, output_dir: Path, auto_precision: bool) -> None:
    """Check the Trainer's options and adjust them to this machine and the run's folder.

    Raises:
        RecipeError: an option has no effect here.
    """
    check_trainer_options(args)
    if auto_precision:
        set_precision(args)
    spare_time(args)
    args.output_dir = str(output_dir)
    if "wandb" in args.report_to:
        os.environ.setdefault("WANDB_DIR", str(output_dir))  # by default, wandb writes to the working directory


def check_trainer_options(args: Seq2SeqTrainingArguments) -> None:
    """Reject options of the Trainer that would be silently ignored.

    Raises:
        RecipeError: one of them differs from its default, or FSDP is requested.
    """
    for option in fields(args):
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if option.name == SET_BY_TRANSFORMERS:
            continue
        if option.name.startswith(REFUSED) and getattr(args, option.name) != default:
            use = INSTEAD.get(option.name)
            cure = f"use {use}" if use else "remove it; the options under batches control data loading"
            raise RecipeError("this option has no effect here", where=f"trainer.{option.name}", cure=cure)
    if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        cure = "partition a model across GPUs with trainer.deepspeed (see docs/scale.md)"
        raise RecipeError("FSDP is not supported", where="trainer.fsdp", cure=cure)


def set_precision(args: Seq2SeqTrainingArguments) -> None:
    """Train in bfloat16 if the GPU supports it, otherwise in float32 with TF32, unless a precision is set.

    With DeepSpeed, its own configuration decides.
    """
    if args.fp16 or args.bf16 or args.deepspeed_plugin is not None:
        return
    if pick_precision(args.device) == torch.bfloat16:
        args.bf16, args.mixed_precision = True, "bf16"  # the second is what the Trainer reads
    if args.device.type == "cuda":
        use_tf32()


def spare_time(args: Seq2SeqTrainingArguments) -> None:
    """Turn off what costs time in each step and is not needed here; the gain was not measured.

    DistributedDataParallel need not look for unused parameters, since each is used in every step. The Trainer's filter
    of NaN losses waits for the GPU twice per batch; `WhisperTrainer.training_step` filters without waiting.
    """
    args.ddp_find_unused_parameters = bool(args.ddp_find_unused_parameters)
    args.logging_nan_inf_filter = False


def use_one_gpu(args: Seq2SeqTrainingArguments) -> None:
    """Train on one GPU per process, and report how to use the others.

    If a process sees several GPUs, transformers wraps the model in DataParallel, which splits the number of tokens that
    the loss is divided by, and is slower than a process per GPU (https://pytorch.org/docs/stable/notes/cuda.html).
    """
    count = args.n_gpu
    if count > 1:
        args._n_gpu = 1
        log_and_print(
            f"using 1 of {count} GPUs; to use all of them, start with "
            f"accelerate launch --multi_gpu --num_processes {count} -m whisper_recipe train ... (see docs/scale.md)"
        )
