"""The memory that training needs on a device: expected, and measured."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch
from tqdm import tqdm

from whisper_recipe.data.features import FRAMES_PER_SECOND
from whisper_recipe.errors import RecipeError, is_out_of_memory
from whisper_recipe.text.labels import IGNORED
from whisper_recipe.training.trainer import LESS_MEMORY, WhisperTrainer

log = logging.getLogger(__name__)
# Bytes of optimiser state per parameter, by the prefix of trainer.optim; adafactor keeps rows and columns instead.
STATE_BYTES = {"adamw_bnb_8bit": 2, "adamw_8bit": 2, "lion_8bit": 1, "lion": 4, "adafactor": 0, "adamw": 8}


def expected_memory(run: WhisperTrainer, inputs: dict) -> dict[str, float]:
    """Return the expected bytes of weights, gradients, optimiser, and activations of a batch.

    Args:
        run: a trainer, before training.
        inputs: a batch; its forward pass is run, and what it keeps for the backward pass is counted.
    """
    parameters = list(run.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    state = next((size for name, size in STATE_BYTES.items() if str(run.args.optim.value).startswith(name)), 8)
    return {
        "weights": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "gradients": 4 * trained,
        f"optimiser ({run.args.optim.value})": state * trained,
        "activations of the first batch": _kept_for_backward(run, inputs),
    }


def _kept_for_backward(run: WhisperTrainer, inputs: dict) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in run.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output kept undetached would reference itself

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(run, inputs)  # keeps the tensors alive, so that no address is reused
    del loss
    return sum(kept.values())


def _loss(run: WhisperTrainer, inputs: dict) -> torch.Tensor:
    if run.args.gradient_checkpointing:  # the Trainer does it later
        run.model.gradient_checkpointing_enable(run.args.gradient_checkpointing_kwargs)
    run.model.train()
    run.current_gradient_accumulation_steps = 1  # the Trainer sets this and reads it in compute_loss
    inputs = run._prepare_inputs(inputs)
    with run.accelerator.autocast():  # the Trainer wraps the model in it later
        return run.compute_loss(run.model, inputs, num_items_in_batch=(inputs["labels"] != IGNORED).sum())


def find_largest(run: WhisperTrainer, seconds: float, tokens: int) -> float:
    """Return the most seconds of audio per batch with which a whole training step fits into memory.

    Batches of cuts as long as the longest one are tried, doubling their number, then bisecting.

    Args:
        run: a trainer, before training; its weights are changed.
        seconds: duration of the longest cut.
        tokens: number of tokens of the longest text.

    Raises:
        RecipeError: not even one cut fits, or there is no GPU.
    """
    check_device(run.args.device)
    run.create_optimizer()
    with tqdm(unit="trial", desc="find max_duration") as progress:
        count = _largest(lambda count: _fits(run, count, seconds, tokens, progress))
    if not count:
        what = f"not even one cut of {seconds:.2f} s fits into the memory of {run.args.device}"
        raise RecipeError(what, where="find_max_duration", cure=LESS_MEMORY)
    return count * seconds


def check_device(device: torch.device) -> None:
    """Raise RecipeError for a CPU: long before an allocation fails, it swaps or the kernel kills the process."""
    if device.type == "cpu":
        cure = "measure on the GPU that will train"
        raise RecipeError("a CPU has no memory limit to measure", where="find_max_duration", cure=cure)


def _largest(fits: Callable[[int], bool]) -> int:
    """Return about the largest number that fits; 0 if none does."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(run: WhisperTrainer, count: int, seconds: float, tokens: int, progress: tqdm) -> bool:
    progress.set_postfix(cuts=count, seconds=f"{count * seconds:.0f}")
    progress.update()
    config = run.model.config
    try:
        inputs = {
            "input_features": torch.zeros(count, config.num_mel_bins, round(FRAMES_PER_SECOND * seconds)),
            "decoder_input_ids": torch.zeros(count, tokens, dtype=torch.long),
            "labels": torch.zeros(count, tokens, dtype=torch.long),
            "cuts": [],
        }
        run.accelerator.backward(_loss(run, inputs))
        run.optimizer.step()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        run.optimizer.zero_grad()
        gc.collect()
        if run.args.device.type == "cuda":
            torch.cuda.empty_cache()
