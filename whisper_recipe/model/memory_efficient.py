"""Whisper that keeps less for the backward pass and copies less, with the same results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperEncoderLayer


def make_memory_efficient(model: WhisperForConditionalGeneration) -> WhisperForConditionalGeneration:
    """Let this model's layers keep and copy less; return the model.

    Parameters, their names, and saved folders are unchanged.
    """
    for module in model.modules():
        if type(module) is WhisperAttention:
            module.__class__ = MemoryEfficientAttention
        elif type(module) is WhisperEncoderLayer:
            module.__class__ = MemoryEfficientEncoderLayer
    return model


class MemoryEfficientAttention(WhisperAttention):
    """WhisperAttention that passes queries, keys and values to PyTorch's attention without copying them.

    transformers' own copies each of them, and the result.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        past_key_values: object = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the attended states (batch, length, d_model), and None in place of the weights.

        With a cache, or an attention implementation other than PyTorch's, transformers' own is used.
        """
        if past_key_values is not None or self.config._attn_implementation != "sdpa":
            return super().forward(hidden_states, key_value_states, past_key_values, attention_mask, **kwargs)
        source = hidden_states if key_value_states is None else key_value_states
        projected = self.q_proj(hidden_states), self.k_proj(source), self.v_proj(source)
        query, key, value = (states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for states in projected)
        context = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.is_causal and attention_mask is None and hidden_states.shape[1] > 1,
            scale=self.scaling,
        )
        return self.out_proj(context.transpose(1, 2).flatten(2)), None


class MemoryEfficientEncoderLayer(WhisperEncoderLayer):
    """WhisperEncoderLayer that recomputes GELU in the backward pass: its output is a quarter of what is kept."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """Return the layer's output, of the shape of its input (batch, frames, d_model)."""
        if self.gradient_checkpointing and self.training:
            # The whole layer is recomputed. Our hooks in it would keep what the checkpoint's hooks should free: of
            # nested saved_tensors_hooks, only the innermost are called.
            return super().forward(hidden_states, attention_mask, **kwargs)
        attended, _ = self.self_attn(self.self_attn_layer_norm(hidden_states), attention_mask=attention_mask, **kwargs)
        hidden = hidden_states + self._dropped(attended)
        inner = self.fc1(self.final_layer_norm(hidden))
        with Recomputed(self.activation_fn, inner) as activated:
            outer = self.fc2(nn.functional.dropout(activated, p=self.activation_dropout, training=self.training))
        hidden = hidden + self._dropped(outer)
        if hidden.dtype == torch.float16:  # as in transformers' own layer
            most = torch.finfo(hidden.dtype).max - 1000
            hidden = torch.clamp(hidden, min=-most, max=most)
        return hidden

    def _dropped(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(hidden, p=self.dropout, training=self.training)


class Recomputed(saved_tensors_hooks):
    """Context that returns function(inner); operations in it recompute that for the backward pass, and keep no copy."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], inner: torch.Tensor) -> None:
        self.result, inner = function(inner), inner.detach()
        address, size = self.result.data_ptr(), self.result.numel()

        def pack(tensor: torch.Tensor) -> torch.Tensor | torch.Size:
            whole = tensor.data_ptr() == address and tensor.numel() == size and tensor.is_contiguous()
            return tensor.shape if whole else tensor

        def unpack(kept: torch.Tensor | torch.Size) -> torch.Tensor:
            return function(inner).view(kept) if isinstance(kept, torch.Size) else kept

        super().__init__(pack, unpack)

    def __enter__(self) -> torch.Tensor:
        super().__enter__()
        return self.__dict__.pop("result")
