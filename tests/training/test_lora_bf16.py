"""LoRA in bfloat16: the frozen weights are held in it, the adapters are not."""

import pytest
from safetensors.torch import load_file

from tests.training.test_train import train


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "dora", "adalora"])
def test_adapters_are_trained_in_float32_beside_a_bfloat16_base(corpus, tiny_model, tmp_path, variant):
    options = ["--method", "lora", "--lora.variant", variant, "--trainer.bf16", "true", "--trainer.use_cpu", "true"]
    options += ["--trainer.gradient_checkpointing", "true", "--eval_wer_steps", "3"]
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(tensor.element_size() == 4 for tensor in adapter.values())
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
