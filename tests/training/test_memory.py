"""A look before a training, and what happens where the memory is not enough."""

import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import WhisperForConditionalGeneration

from tests.conftest import SENTENCES
from tests.training.test_train import train
from whisper_recipe.errors import is_out_of_memory
from whisper_recipe.training import memory
from whisper_recipe.training.memory import _largest
from whisper_recipe.training.trainer import WhisperTrainer

START = r"<\|startoftranscript\|> -> <\|(en|zh)\|><\|transcribe\|><\|notimestamps\|>"
EXAMPLE = rf"^utt\d\d: {START} ?(.*)<\|endoftext\|>$"
SAID = {(language, text) for text in SENTENCES for language in ("en", "zh")}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_dry_run_shows_the_run_and_trains_nothing(corpus, tiny_model, tmp_path, capsys, monkeypatch, method):
    monkeypatch.setattr(WhisperTrainer, "train", None)
    assert train(corpus, tiny_model, tmp_path, "--method", method, "--trainer.max_steps", "7", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "steps" in printed and " 7, 1 batches each" in printed
    examples = re.findall(EXAMPLE, printed, re.M)
    assert examples and all((language, text) in SAID for language, text in examples)
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "run.json").exists()


def test_expected_memory_counts_weights_gradients_and_state(corpus, tiny_model, tmp_path, capsys):
    assert train(corpus, tiny_model, tmp_path, "--method", "full", "--dry-run") == 0
    lines = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("memory"))
    found = {name.strip(): float(value.split()[0]) for name, value in lines.items()}
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    every = sum(parameter.numel() for parameter in model.parameters())
    fixed = model.model.encoder.embed_positions.weight.numel()
    assert found["memory: weights"] == pytest.approx(4e-9 * every, abs=1e-3)
    assert found["memory: gradients"] == pytest.approx(4e-9 * (every - fixed), abs=1e-3)
    assert found["memory: optimiser (adamw_torch_fused)"] == pytest.approx(8e-9 * (every - fixed), abs=1e-3)
    assert found["memory: activations of the first batch"] > 0.001


def test_memory_is_expected_in_the_precision_of_the_training(corpus, full_vocabulary_model, tmp_path, capsys):
    found = []
    for number, precision in enumerate(([], ["--trainer.bf16", "true"])):
        options = ["--method", "lora", "--trainer.use_cpu", "true", "--dry-run", *precision]
        assert train(corpus, full_vocabulary_model, tmp_path / f"{number}", *options) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        found.append({row[1]: float(row[-2]) for row in rows if row[:1] == ["memory:"]})
    whole, half = found
    assert half["weights"] < 0.8 * whole["weights"]  # the adapters stay float32
    assert half["activations"] < whole["activations"]  # mostly logits, which the loss takes in float32


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_out_of_memory_names_the_batch_and_what_lowers_it(corpus, tiny_model, tmp_path, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(WhisperTrainer, "compute_loss", fail)
    assert train(corpus, tiny_model, tmp_path, "--method", "full") == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "out of memory on a batch of" in line and "encoder input (" in line and "labels (" in line
    assert all(cure in line for cure in ("batches.max_duration", "gradient_checkpointing", "method lora"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
        ("The size of tensor a (3) must match the size of tensor b (4)", False),
    ],
)
def test_cublas_and_cudnn_say_out_of_memory_in_their_own_words(message, expected):
    assert is_out_of_memory(RuntimeError(message)) is expected


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 64, 100, 1000])
def test_the_largest_that_fits_is_found_to_a_sixteenth(limit):
    tried = []
    found = _largest(lambda count: tried.append(count) or count <= limit)
    assert found <= limit
    assert limit - found <= max(0, limit // 16)
    assert max(tried, default=0) <= 2 * limit + 1


class Allocator(TorchDispatchMode):
    """Says no to tensors of more than some bytes."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        if any(
            isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() > self.limit for one in tree_leaves(made)
        ):
            raise torch.OutOfMemoryError("out of memory")
        return made


@pytest.mark.parametrize("limit", [10_000_000, 20_000_000])
def test_max_duration_is_measured_where_the_memory_has_an_edge(
    corpus, tiny_model, tmp_path, capsys, monkeypatch, limit
):
    monkeypatch.setattr(memory, "check_device", lambda device: None)
    with Allocator(limit):
        assert train(corpus, tiny_model, tmp_path, "--method", "full", "--find-max-duration") == 0
    printed = capsys.readouterr().out
    cuts = float(printed.split("batches.max_duration: ")[1].split()[0]) / 2.8
    tokens = int(re.search(r"measured with the longest cut \(2.80 s, (\d+) tokens\)", printed)[1])
    # The largest tensors are the logits, in float32.
    edge = limit // (4 * tokens * WhisperForConditionalGeneration.from_pretrained(tiny_model).config.vocab_size)
    assert edge * 15 / 16 - 1 <= cuts <= edge + 0.5  # the seconds are rounded
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("padded", "seconds"), [("0", 2.8), ("0.1", 30)])
def test_max_duration_is_measured_with_the_longest_input_there_can_be(
    corpus, tiny_model, tmp_path, capsys, monkeypatch, padded, seconds
):
    measured = []
    monkeypatch.setattr("whisper_recipe.training.train.find_largest", lambda _, *longest: measured.append(longest) or 9)
    options = ["--method", "full", "--find-max-duration", "--batches.pad_to_30s", padded]
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    assert [longest for longest, _ in measured] == [pytest.approx(seconds)]


def test_a_cpu_is_not_filled_up(corpus, tiny_model, tmp_path, capsys):
    assert train(corpus, tiny_model, tmp_path, "--method", "full", "--find-max-duration") == 1
    assert "a CPU has no memory limit to measure" in capsys.readouterr().err.splitlines()[-1]
