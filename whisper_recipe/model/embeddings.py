"""Rows of the embeddings for tokens that a vocabulary gained; Whisper's output layer is tied to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from whisper_recipe.text.additions import Sources

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration


def make_room(model: WhisperForConditionalGeneration, size: int) -> None:
    """Give the model's embeddings at least `size` rows; the old ones stay as they are."""
    if size > model.config.vocab_size:
        model.resize_token_embeddings(size, mean_resizing=False)


def add_rows(model: WhisperForConditionalGeneration, sources: Sources) -> None:
    """Give the model a row for each new id: the mean of the rows of the ids that it comes from.

    The mean is a better start than a random row, which would take part in every step's choice from the first one on
    (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """
    make_room(model, 1 + max(sources, default=-1))
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        for index, ids in sources.items():
            rows[index] = rows[ids].mean(0)
