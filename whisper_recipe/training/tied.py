"""Tied embeddings on a CPU: lookup, output layer and loss, with the gradient added up where it stands."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration

from whisper_recipe.text.prompt import IGNORED


class TiedEmbeddings:
    """The matrix that is both the decoder's embeddings and its output layer: half the weights of a small Whisper.

    PyTorch makes its gradient (80 MB with whisper-tiny) anew in each step, another as large for the few rows that were
    looked up, and a third for their sum; the loss makes four matrices of tokens by vocabulary. The kernel zeroes the
    pages of all of them: a sixth of a step's time on a CPU.
    """

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        """Take over the lookup of a model whose embeddings `are_trained_tied`."""
        self.model = model
        self.gradient = torch.empty_like(model.proj_out.weight)
        model.get_input_embeddings().forward = self._look_up

    def loss(
        self, inputs: dict[str, torch.Tensor], num_items_in_batch: torch.Tensor | int | None, label_smoothing: float
    ) -> torch.Tensor:
        """Return the cross entropy summed over tokens, over the number of tokens in all micro-batches of the step.

        Args:
            inputs: of the model, with labels of shape (batch, tokens), -100 where there is no token.
            num_items_in_batch: tokens in the whole step; those of the labels where it is None.
            label_smoothing: share of the probability that goes to all tokens alike.
        """
        labels = inputs["labels"].flatten()
        hidden = self.model.model(**{name: value for name, value in inputs.items() if name != "labels"})[0]
        total = _CrossEntropy.apply(
            hidden.flatten(0, 1), self.model.proj_out.weight, labels, label_smoothing, self.gradient
        )
        return over_tokens(total, labels, num_items_in_batch)

    def _look_up(self, ids: torch.Tensor) -> torch.Tensor:
        weight = self.model.proj_out.weight
        rows = functional.embedding(ids, weight.detach())
        if torch.is_grad_enabled():
            # The output layer's backward pass comes first, so the gradient is there.
            rows.requires_grad_().register_hook(lambda grad: _add_rows(weight.grad, ids, grad))
        return rows


def are_trained_tied(model: torch.nn.Module, args: Seq2SeqTrainingArguments) -> bool:
    """Whether TiedEmbeddings can take over: on a CPU, in float32, and in one process.

    Several processes add gradients up before they are whole.
    """
    if args.device.type != "cpu" or args.world_size > 1 or args.deepspeed_plugin is not None or args.bf16 or args.fp16:
        return False
    if not isinstance(model, WhisperForConditionalGeneration):  # adapters
        return False
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = type(embedding) is torch.nn.Embedding and embedding.weight is getattr(head, "weight", None)
    return tied and embedding.weight.requires_grad


def over_tokens(
    total: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """Return a sum over tokens, divided by the number of tokens in the step; by that of the labels where it is None."""
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def _add_rows(gradient: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> None:
    gradient.index_add_(0, ids.flatten(), rows.flatten(0, -2))


class _CrossEntropy(torch.autograd.Function):
    """Output layer and cross entropy in one, so that the logits' gradient takes the place of the probabilities."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        smoothing: float,
        gradient: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sum over tokens; hidden (tokens, d_model), weight (vocabulary, d_model), labels (tokens)."""
        log_probs = functional.log_softmax(functional.linear(hidden, weight), dim=-1)
        ctx.save_for_backward(hidden, weight, labels, log_probs)
        ctx.smoothing, ctx.gradient = smoothing, gradient
        total = functional.nll_loss(log_probs, labels, ignore_index=IGNORED, reduction="sum")
        if smoothing:
            every = -log_probs.mean(dim=-1)[labels != IGNORED].sum()
            total = (1 - smoothing) * total + smoothing * every
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, scale: torch.Tensor) -> tuple:
        """Add to weight.grad; return the gradient of hidden."""
        hidden, weight, labels, log_probs = ctx.saved_tensors
        ignored = labels == IGNORED
        scored = (~ignored).nonzero().squeeze(1)
        grad = log_probs.exp_()  # the probabilities less what the labels say
        if ctx.smoothing:
            grad -= ctx.smoothing / weight.shape[0]
        grad[scored, labels[scored]] -= 1 - ctx.smoothing
        grad[ignored] = 0
        first = weight.grad is None
        if first:
            weight.grad = ctx.gradient
        weight.grad.addmm_(grad.t(), hidden, beta=0 if first else 1, alpha=scale.item())
        return (grad @ weight).mul_(scale), None, None, None, None
