"""`train --dry-run`: what a training run would do, before it costs a night."""

from __future__ import annotations

from tabulate import tabulate
from transformers import WhisperTokenizer

from whisper_recipe.text.labels import IGNORED
from whisper_recipe.text.prompt import readable
from whisper_recipe.training.batches import encoder_input
from whisper_recipe.training.memory import expected_memory
from whisper_recipe.training.parameters import count_parameters
from whisper_recipe.training.trainer import WhisperTrainer


def describe(run: WhisperTrainer, tokenizer: WhisperTokenizer) -> str:
    """Return steps, parameters, expected memory, and the first batch as text with its special tokens."""
    inputs = next(iter(run.train_loader))
    trained, every = count_parameters(run.model)
    memory = expected_memory(run, dict(inputs))
    rows = [
        ("batches in an epoch", f"{len(run.train_loader):,}"),
        ("steps", f"{run.args.max_steps:,}, {run.args.gradient_accumulation_steps} batches each"),
        ("parameters", f"{every:,}, of which {trained:,} are trained ({trained / every:.1%})"),
        *((f"memory: {name}", f"{size / 1e9:.3f} GB") for name, size in memory.items()),
        ("memory: all", f"{sum(memory.values()) / 1e9:.3f} GB"),
        ("first batch", f"{len(inputs['cuts'])} cuts, encoder input {tuple(encoder_input(inputs).shape)}"),
    ]
    texts = [_example(tokenizer, inputs, row) for row in range(len(inputs["cuts"]))]
    return "\n".join([tabulate(rows, tablefmt="plain", disable_numparse=True), "", *texts])


def _example(tokenizer: WhisperTokenizer, inputs: dict, row: int) -> str:
    """Return the decoder's input and, after an arrow, its expected output."""
    labels = inputs["labels"][row].tolist()
    end = max(position for position, label in enumerate(labels) if label != IGNORED) + 1
    asked = [label for label in labels[:end] if label != IGNORED]
    read = inputs["decoder_input_ids"][row][: end - len(asked) + 1].tolist()
    return f"{inputs['cuts'][row]}: {readable(tokenizer, read)} -> {readable(tokenizer, asked)}"
