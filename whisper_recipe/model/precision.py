"""One place that decides in which precision to train, evaluate, store encoder outputs and decode."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration


def pick_precision(device: torch.device | str) -> torch.dtype:
    """Return the precision of matrix products on a device, by what it says of itself.

    bfloat16 where a card computes in it (NVIDIA's from Ampere on, AMD's); float32 elsewhere, with TF32 where the card
    has it, and on CPUs.
    """
    # Older cards emulate bfloat16, which PyTorch counts as support unless it is asked not to.
    if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def pick_decoding_precision(device: torch.device | str) -> torch.dtype:
    """Return the precision to decode in: float16 on GPUs, as openai/whisper has it by default, float32 on CPUs."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def use_tf32() -> None:
    """Let a GPU compute products of float32 matrices in TF32; cards without it pass over this."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def attend_without_plans() -> None:
    """Keep PyTorch from attention by cuDNN, which builds a plan for each new shape.

    In half precision PyTorch prefers it on Hopper cards. Here every batch has a length of its own, and every step of
    generation: on an H200 decoding in float16 took four times as long as in float32 until it was switched off.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def autocast(model: WhisperForConditionalGeneration) -> AbstractContextManager:
    """Return the context in which a model is run: float32 weights in the device's precision, others in their own."""
    device = model.device.type
    precision = pick_precision(device) if model.dtype == torch.float32 else model.dtype
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device, precision)
