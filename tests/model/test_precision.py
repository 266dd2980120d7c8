"""The precision is that of the card, as PyTorch says of it; cards are stubs here."""

import pytest
import torch

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


def test_a_cpu_computes_in_float32():
    layer = torch.nn.Linear(2, 2)
    with autocast("cpu"):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
