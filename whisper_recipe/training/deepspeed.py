"""DeepSpeed: partitioned models and checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import deepspeed

from whisper_recipe.errors import RecipeError
from whisper_recipe.processes import is_main_process
from whisper_recipe.training.logs import log_and_print


@contextmanager
def built_whole(args: TrainingArguments) -> Iterator[None]:
    """Create models whole within the context; DeepSpeed partitions them later.

    With ZeRO 3, transformers 5.23 would create them partitioned, and Whisper's initialiser of sinusoids fails on that.
    """
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if args.deepspeed_plugin is not None:
            deepspeed.set_hf_deepspeed_config(args.deepspeed_plugin.hf_ds_config)


def report_locks() -> None:
    """Report the locks that DeepSpeed will wait for: silently, and forever if the owner was killed.

    A process that compiles a part of DeepSpeed, or only checks whether it must, holds a lock (torch.utils.file_baton).
    """
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob("**/lock"):
        log_and_print(
            f"DeepSpeed is waiting for the lock {lock}: if no other run is starting, delete it (left by a killed run)"
        )


def gathered(model: torch.nn.Module) -> AbstractContextManager:
    """Gather the parameters partitioned by ZeRO 3 within the context; all processes must enter it."""
    partitioned = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(partitioned)


def load_other_partitions(checkpoint: Path, args: TrainingArguments) -> None:
    """Let DeepSpeed resume with another number of processes, through its universal checkpoint format.

    Raises:
        RecipeError: DeepSpeed can't convert it.
    """
    if is_main_process():
        [state] = checkpoint.glob("global_step*[0-9]")  # not an earlier conversion's global_step<N>_universal
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        command += ["--input_folder", str(state), "--output_folder", f"{state}_universal"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            what = f"DeepSpeed can't convert the checkpoint ({done.stderr.strip().splitlines()[-1]})"
            raise RecipeError(what, where=checkpoint, cure="use the number of processes that wrote it")
    torch.distributed.barrier()
    args.deepspeed_plugin.hf_ds_config.config["checkpoint"] = {"load_universal": True}
