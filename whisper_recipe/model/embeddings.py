"""Embedding rows for tokens added to a vocabulary; Whisper's output layer is tied to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from whisper_recipe.text.additions import Sources

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration


def make_room(model: WhisperForConditionalGeneration, size: int) -> None:
    """Extend the model's embeddings to at least `size` rows; the old ones are unchanged."""
    if size > model.config.vocab_size:
        model.resize_token_embeddings(size, mean_resizing=False)


def add_rows(model: WhisperForConditionalGeneration, sources: Sources) -> None:
    """Add an embedding row for each new id, initialised to the mean of the rows of its source ids.

    The mean is a better start than a random row, which would compete in every prediction from the first step on
    (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """
    make_room(model, 1 + max(sources, default=-1))
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        for index, ids in sources.items():
            rows[index] = rows[ids].mean(0)
