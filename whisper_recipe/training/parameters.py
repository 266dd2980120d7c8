"""How parameters are trained: frozen layers, learning rates for encoder and decoder, and dropout."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from transformers import WhisperForConditionalGeneration

from whisper_recipe.errors import RecipeError, check_proportion

ENCODER, DECODER = ".encoder.", ".decoder."  # in the names of Whisper's parameters


@dataclass
class ParameterOptions:
    """Which parameters are trained, their learning rates, and dropout.

    Args:
        freeze_encoder: train only the decoder (method full).
        freeze_layers: freeze this many of the encoder's first layers, and its convolutions (method full).
        encoder_learning_rate: learning rate of the encoder; None is trainer.learning_rate.
        decoder_learning_rate: learning rate of the decoder; None is trainer.learning_rate.
        dropout: probability of dropping each value of the layers' outputs and of the embedded tokens in training; None
            keeps the base model's, 0 for OpenAI's models.
    """

    freeze_encoder: bool = False
    freeze_layers: int = 0
    encoder_learning_rate: float | None = None
    decoder_learning_rate: float | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None:
            check_proportion(self.dropout, "parameters.dropout")


def freeze(model: WhisperForConditionalGeneration, options: ParameterOptions) -> None:
    """Freeze the encoder, or its first layers, as requested.

    Raises:
        RecipeError: freeze_layers is negative, or more than the encoder has.
    """
    stack, layers = model.get_encoder(), options.freeze_layers
    if not 0 <= layers <= len(stack.layers):
        what = f"must be between 0 and {len(stack.layers)} (the encoder's layers), got {layers}"
        cure = "to freeze the whole encoder, set freeze_encoder"
        raise RecipeError(what, where="parameters.freeze_layers", cure=cure)
    if options.freeze_encoder:
        stack.requires_grad_(False)
    elif layers:
        for module in (stack.conv1, stack.conv2, *stack.layers[:layers]):
            module.requires_grad_(False)


def set_dropout(model: WhisperForConditionalGeneration, probability: float) -> None:
    """Train with this dropout. The model's config, which is saved with the model, does not change."""
    for stack in (model.get_encoder(), model.get_decoder()):
        for module in (stack, *stack.layers):
            module.dropout = probability


def parameter_groups(
    model: nn.Module, options: ParameterOptions, decayed: Container[str], weight_decay: float
) -> list[dict]:
    """Return an optimiser's parameter groups: encoder and decoder, each with weight decay and without.

    Args:
        model: the model; only its trainable parameters are included.
        options: the learning rates.
        decayed: names of the parameters with weight decay (matrices; not biases and norms).
        weight_decay: their weight decay.
    """
    rates = {ENCODER: options.encoder_learning_rate, DECODER: options.decoder_learning_rate}
    groups: dict[tuple[float | None, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for part, rate in rates.items() if part in name), None)
            groups.setdefault((rate, name in decayed), []).append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay * decays} | ({} if rate is None else {"lr": rate})
        for (rate, decays), params in groups.items()
    ]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of trained parameters, and of all parameters."""
    if isinstance(model, PeftModel):
        return model.get_nb_trainable_parameters()  # accounts for 4-bit weights, two per byte
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
