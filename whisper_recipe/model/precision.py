"""The precision to train, evaluate, store encoder outputs and decode in, decided in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration


def pick_precision(device: torch.device | str) -> torch.dtype:
    """Return the precision of matrix products on a device, by its reported capabilities.

    bfloat16 on GPUs that compute in it (NVIDIA's from Ampere on, AMD's); float32 on others, with TF32 if the GPU has
    it, and on CPUs.
    """
    # Older GPUs emulate bfloat16, which PyTorch counts as support unless told not to.
    if torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def pick_decoding_precision(device: torch.device | str) -> torch.dtype:
    """Return the precision to decode in: float16 on GPUs, the default of openai/whisper, and float32 on CPUs."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.float32


def use_tf32() -> None:
    """Let GPUs compute products of float32 matrices in TF32; those without it ignore this."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def attend_without_plans() -> None:
    """Disable cuDNN's attention in PyTorch, which builds a plan for each new shape.

    In half precision PyTorch prefers it on Hopper GPUs. Here every batch and every generation step has a different
    length: on an H200, decoding in float16 took four times as long as in float32 until it was disabled.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def autocast(model: WhisperForConditionalGeneration) -> AbstractContextManager:
    """Return the context to run a model in: float32 weights in the device's precision, others in their own."""
    device = model.device.type
    precision = pick_precision(device) if model.dtype == torch.float32 else model.dtype
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device, precision)
