"""Estimate the batches.max_duration that fits on a GPU, by model, method and memory.

    python tools/bench/fits.py

The bytes are those that `whisper-recipe train --dry-run` expects, in bfloat16 autocast with AdamW, for cuts with 6
tokens per second. They are linear in layers and in cuts, so models with one and two layers are measured on the CPU and
the rest is extrapolated, plus one recomputed layer with gradient checkpointing. A tenth of the GPU's memory is left for
CUDA and for what the allocator can't use, a quarter of the rest for temporary tensors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
from corpus import SHAPES
from gpu import whisper
from gpu_measure import forget
from tabulate import tabulate
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.encoder import accept_any_length
from whisper_recipe.model.memory_efficient import make_memory_efficient
from whisper_recipe.training.memory import FRAMES_PER_SECOND, expected_memory
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.trainer import WhisperTrainer

CARDS = (16, 24, 40, 80)  # GB
SECONDS, TOKENS = 4, 24  # of a cut; a short one suffices, since all is linear
USABLE, LASTING = 0.9, 0.75  # of the GPU's memory; of what is left for activations
STEP = 20  # seconds: results are rounded down to multiples of it
MOST = 2400  # seconds: larger batches don't train faster
METHODS = {"full": (False, False), "full, checkpointing": (False, True), "LoRA": (True, False)}
METHODS["LoRA, checkpointing"] = (True, True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=[shape for shape in SHAPES if shape != "micro"])
    options = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1"}
    rows = []
    for shape in options.shapes:
        plain = {lora: needed(shape, lora, False) for lora in (False, True)}
        for method, (lora, checkpointing) in METHODS.items():
            fixed, each = (needed(shape, lora, True) if checkpointing else plain[lora])[:2]
            if checkpointing:
                each += plain[lora][2]
            rows.append(
                {"whisper": shape, "method": method} | {f"{card} GB": fitting(card, fixed, each) for card in CARDS}
            )
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))


def fitting(card: int, fixed: float, each: float) -> str:
    """Return the seconds of audio that fit on a GPU, as shown in the table.

    Args:
        card: its memory in GB.
        fixed: bytes independent of the batch.
        each: bytes per cut.
    """
    cuts = LASTING * (USABLE * card * 1e9 - fixed) / each
    seconds = min(MOST, int(cuts * SECONDS / STEP) * STEP)
    return f"{seconds}" if seconds >= 30 else "-"  # the longest cut must fit


def needed(shape: str, lora: bool, checkpointing: bool) -> tuple[float, float, float]:
    """Return the bytes independent of the batch, those per cut, and those per cut in one encoder layer."""
    found = {}
    for layers in ((1, 1), (2, 1), (1, 2)):
        one, two = (measured(shape, layers, cuts, lora, checkpointing) for cuts in (1, 2))
        found[layers] = np.array([2 * one - two, two - one], float)
    encoder, decoder = found[2, 1] - found[1, 1], found[1, 2] - found[1, 1]
    more = [SHAPES[shape][f"{part}_layers"] - 1 for part in ("encoder", "decoder")]
    fixed, each = found[1, 1] + more[0] * encoder + more[1] * decoder
    return fixed, each, encoder[1]


def measured(shape: str, layers: tuple[int, int], cuts: int, lora: bool, checkpointing: bool) -> int:
    """Return the bytes for training a model with the given numbers of encoder and decoder layers."""
    forget()  # frees the previous model, which its Trainer refers to and vice versa
    model = whisper(shape, encoder_layers=layers[0], decoder_layers=layers[1])
    model = make_memory_efficient(accept_any_length(model)).cpu()
    if lora:
        model = add_lora(model.to(torch.bfloat16), LoraOptions())
    with tempfile.TemporaryDirectory() as folder:
        args = Seq2SeqTrainingArguments(
            folder, max_steps=1, bf16=True, use_cpu=True, report_to="none", gradient_checkpointing=checkpointing
        )
        nothing = SimpleNamespace(dataset=[0])
        run = WhisperTrainer(model, args, nothing, nothing, ParameterOptions())
        inputs = {
            "input_features": torch.zeros(cuts, model.config.num_mel_bins, SECONDS * FRAMES_PER_SECOND),
            "decoder_input_ids": torch.zeros(cuts, TOKENS, dtype=torch.long),
            "labels": torch.zeros(cuts, TOKENS, dtype=torch.long),
            "cuts": [],
        }
        return sum(expected_memory(run, inputs).values())


if __name__ == "__main__":
    main()
