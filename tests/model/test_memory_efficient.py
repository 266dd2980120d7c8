"""Layers that keep and copy less compute what transformers' own do."""

import weakref

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import WhisperForConditionalGeneration

from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.load import load_model
from whisper_recipe.model.memory_efficient import (
    MemoryEfficientAttention,
    MemoryEfficientEncoderLayer,
    Recomputed,
    make_memory_efficient,
)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_outputs_and_gradients_are_those_of_transformers(tiny_model, attention, checkpointing):
    ours, theirs = (
        WhisperForConditionalGeneration.from_pretrained(tiny_model, attn_implementation=attention).train()
        for _ in range(2)
    )
    make_memory_efficient(ours)
    assert {type(layer) for layer in ours.model.encoder.layers} == {MemoryEfficientEncoderLayer}
    assert {type(layer.encoder_attn) for layer in ours.model.decoder.layers} == {MemoryEfficientAttention}
    if checkpointing:
        ours.gradient_checkpointing_enable()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 80, 3000, generator=generator)
    ids = torch.randint(0, 300, (2, 7), generator=generator)
    results = []
    for model in (ours, theirs):
        result = model(input_features=features, decoder_input_ids=ids, labels=ids.flip(1), use_cache=False)
        result.loss.backward()
        results.append(result.logits.detach())
    torch.testing.assert_close(*results)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_a_mask_and_a_cache_are_heeded(tiny_model):
    ours, theirs = (WhisperForConditionalGeneration.from_pretrained(tiny_model).eval() for _ in range(2))
    make_memory_efficient(ours)
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(10).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.no_grad():
        for options in ({"use_cache": False}, {"use_cache": True}):
            found, expected = (
                model(input_features=features, decoder_input_ids=ids, decoder_attention_mask=mask, **options).logits
                for model in (ours, theirs)
            )
            torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])
        found, expected = (model.generate(features, max_new_tokens=5) for model in (ours, theirs))
    assert torch.equal(found, expected)


def test_what_is_recomputed_is_not_kept():
    called = []

    def function(tensor):
        called.append(tensor.shape)
        return torch.nn.functional.gelu(tensor)

    layer = torch.nn.Linear(4, 3)
    inner = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with Recomputed(function, inner) as activated:
        outer = layer(activated)
    outer.square().sum().backward()
    assert len(called) == 2
    found = inner.grad, layer.weight.grad
    plain = inner.detach().requires_grad_()
    expected = torch.autograd.grad(layer(torch.nn.functional.gelu(plain)).square().sum(), (plain, layer.weight))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("lean", "kept"), [(False, 2), (True, 0)])
def test_gelu_s_outputs_are_gone_after_the_forward_pass(tiny_model, lean, kept):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model).train()
    layers = (make_memory_efficient(model) if lean else model).model.encoder.layers
    outputs = []

    class Gelu(torch.nn.GELU):
        def forward(self, tensor):
            result = super().forward(tensor)
            outputs.append(weakref.ref(result))
            return result

    for layer in layers:
        layer.activation_fn = Gelu()
    last = model.model.encoder(torch.ones(1, 80, 3000)).last_hidden_state
    assert sum(output() is not None for output in outputs) == kept
    last.sum().backward()


class Made(TorchDispatchMode):
    """Notes the memory that operations take, to see later how much of it is still held."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[StorageWeakRef(storage)] = storage.nbytes()
        return result

    def held(self):
        return sum(size for storage, size in self.storages.items() if not storage.expired())


def bytes_held(model, checkpointing=False):
    """Return the bytes that the encoder holds for its backward pass."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    with Made() as made:
        last = model.get_encoder()(torch.ones(2, 80, 3000)).last_hidden_state
        held = made.held()
    last.float().sum().backward()
    return held


def test_checkpointing_holds_no_more_than_that_of_transformers(tiny_model):
    ours, theirs = (WhisperForConditionalGeneration.from_pretrained(tiny_model) for _ in range(2))
    make_memory_efficient(ours)
    held = {checkpointing: bytes_held(ours, checkpointing) for checkpointing in (False, True)}
    plain = {checkpointing: bytes_held(theirs, checkpointing) for checkpointing in (False, True)}
    assert held[True] == plain[True] < 0.5 * plain[False]
    assert held[False] < 0.8 * plain[False]


@pytest.mark.parametrize("variant", ["lora", "adalora"])
def test_adapters_in_bfloat16_don_t_keep_copies_that_peft_makes(tiny_model, variant):
    """The inputs that peft casts to float32 are bfloat16 to autocast again: nothing else changes without the casts."""
    held, gradients = [], []
    for casts in (True, False):
        torch.manual_seed(0)
        model = load_model(tiny_model).to(torch.bfloat16)
        adapted = add_lora(model, LoraOptions(rank=2, variant=variant), steps=10)
        for layer in adapted.modules():
            if hasattr(layer, "cast_input_dtype_enabled"):
                layer.cast_input_dtype_enabled |= casts
        with torch.autocast("cpu", torch.bfloat16):
            held.append(bytes_held(adapted.get_base_model()))
        gradients.append([tensor.grad for tensor in adapted.parameters() if tensor.grad is not None])
    assert held[1] < 0.8 * held[0]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
