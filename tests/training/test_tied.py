"""Loss and gradients of tied embeddings against those of transformers' model and PyTorch's cross entropy."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration

from whisper_recipe.text.prompt import IGNORED
from whisper_recipe.training.tied import TiedEmbeddings, are_trained_tied


@pytest.mark.parametrize(("smoothing", "atol"), [(0.0, 1e-7), (0.1, 5e-7)])
def test_loss_and_gradients_are_those_of_pytorch(tiny_model, smoothing, atol):
    ours, theirs = (WhisperForConditionalGeneration.from_pretrained(tiny_model).train() for _ in range(2))
    tied = TiedEmbeddings(ours)
    ids = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.flip(1)
    labels[1, 4:] = IGNORED
    tokens = (labels != IGNORED).sum() + (labels[1:] != IGNORED).sum()
    for _ in range(2):  # the second step finds the first one's gradient in its place
        for model in (ours, theirs):
            model.zero_grad()
        for rows in (slice(0, 3), slice(1, 3)):  # two micro-batches
            inputs = {"input_features": torch.ones(len(ids[rows]), 80, 3000), "decoder_input_ids": ids[rows]}
            mine = tied.loss({**inputs, "labels": labels[rows]}, tokens, smoothing)
            mine.backward()
            logits = theirs(**inputs).logits.flatten(0, 1)
            other = torch.nn.functional.cross_entropy(
                logits, labels[rows].flatten(), reduction="sum", label_smoothing=smoothing
            )
            (other / tokens).backward()
            torch.testing.assert_close(mine.detach(), (other / tokens).detach())
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None), name
            if mine.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad, atol=atol, rtol=1e-5)


def test_without_a_number_of_tokens_it_is_the_batch_s_own(tiny_model):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval()
    ids = torch.arange(6).view(1, 6)
    inputs = {"input_features": torch.ones(1, 80, 3000), "decoder_input_ids": ids}
    labels = torch.tensor([[1, 2, 3, IGNORED, IGNORED, 4]])
    with torch.no_grad():
        theirs = model(**inputs, labels=labels).loss
        ours = TiedEmbeddings(model).loss({**inputs, "labels": labels}, None, 0.0)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("frozen", "options", "expected"),
    [(False, {}, True), (True, {}, False), (False, {"bf16": True}, False)],
)
def test_it_is_for_embeddings_that_are_trained_in_float32(tiny_model, tmp_path, frozen, options, expected):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    model.get_input_embeddings().requires_grad_(not frozen)
    args = Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert are_trained_tied(model, args) == expected


def test_embeddings_that_are_not_tied_are_left_alone(tiny_model, tmp_path):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    model.proj_out.weight = torch.nn.Parameter(model.proj_out.weight.detach().clone())
    assert not are_trained_tied(model, Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
