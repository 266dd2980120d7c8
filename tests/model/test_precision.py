"""The precision is that of the card, as PyTorch says of it; cards are stubs here."""

import pytest
import torch

from whisper_recipe.model.load import load_model
from whisper_recipe.model.precision import autocast, pick_precision


def stub(monkeypatch, bf16):
    """A card that has bfloat16, or one that only emulates it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)


@pytest.mark.parametrize(
    ("device", "bf16", "expected"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda:1", True, torch.bfloat16),
        ("cuda", False, torch.float32),
        ("cpu", True, torch.float32),
        ("mps", True, torch.float32),
    ],
)
def test_bfloat16_where_the_card_has_it(monkeypatch, device, bf16, expected):
    stub(monkeypatch, bf16)
    assert pick_precision(device) == expected


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_a_cpu_computes_in_the_precision_of_the_weights(tiny_model, held):
    model = load_model(tiny_model).to(held)
    with autocast(model):
        assert model.model.decoder.layers[0].fc1(torch.ones(1, 32)).dtype == held


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_a_4_bit_base_computes_in_the_precision_of_the_card(tiny_model, monkeypatch, precision):
    monkeypatch.setattr("whisper_recipe.model.load.pick_precision", lambda device: precision)
    assert load_model(tiny_model, "4bit").model.decoder.layers[0].fc1.compute_dtype == precision
