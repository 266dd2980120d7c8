"""Whisper's encoder for inputs of any length up to 30 s, so that nothing has to be padded to 30 s."""

from __future__ import annotations

import torch
from torch import nn
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.memory_efficient import Recomputed


class AnyLengthEncoder(WhisperEncoder):
    """WhisperEncoder that accepts 1 to 3,000 frames and uses only as many of the positions as it needs.

    transformers' own rejects anything but 3,000 frames. The parameters and their names are the same, so a model
    with this encoder loads from and saves to plain Whisper folders.
    """

    def forward(self, input_features: torch.Tensor, attention_mask: None = None, **kwargs) -> BaseModelOutput:
        """Encode log-mel features of shape (batch, mel bins, frames) to (batch, ceil(frames / 2), d_model).

        Raises:
            RecipeError: the input has more frames than the model has positions for.
        """
        with Recomputed(nn.functional.gelu, self.conv1(input_features)) as hidden:
            hidden = self.conv2(hidden)
        hidden = nn.functional.gelu(hidden).transpose(1, 2)
        length = hidden.shape[1]
        if length > self.max_source_positions:
            raise RecipeError(
                f"an input of {input_features.shape[-1]} frames is longer than the {2 * self.max_source_positions} "
                "that the model accepts",
                cure="cut the audio into pieces of at most 30 s",
            )
        hidden = hidden + self.embed_positions.weight[:length]
        hidden = nn.functional.dropout(hidden, p=self.dropout, training=self.training)
        for layer in self.layers:
            # LayerDrop (https://huggingface.co/papers/1909.11556), as in transformers' own encoder.
            if self.training and self.layerdrop > 0 and torch.rand([]) < self.layerdrop:
                continue
            hidden = layer(hidden, None)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))


def accept_any_length(model: WhisperForConditionalGeneration) -> WhisperForConditionalGeneration:
    """Let this model's encoder accept inputs of any length up to 30 s; return the model.

    Only this encoder's class changes: transformers' is not patched, and the model still saves as plain Whisper.
    """
    model.get_encoder().__class__ = AnyLengthEncoder
    return model
