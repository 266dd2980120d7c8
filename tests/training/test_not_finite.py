"""Gradients that are not finite: the step changes nothing, in any process, and too many in a row stop the run."""

import subprocess

import pytest
import torch
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from tests.training.test_distributed import NO_COMPILER, TORCHRUN, command, zero
from tests.training.test_train import weights
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.training.batches import BatchOptions, load_cuts
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders


class Look(TrainerCallback):
    """Copies of weights and optimiser state after each step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model, optimizer, **kwargs):
        states = [value for row in optimizer.state.values() for value in row.values()]
        self.steps.append([tensor.detach().clone() for tensor in [*model.parameters(), *states]])


def make_run(corpus, tiny_model, folder, broken, **options):
    """A training in which the gradients of the steps `broken` hold a NaN."""
    args = Seq2SeqTrainingArguments(
        str(folder), report_to="none", max_steps=4, learning_rate=0.01, weight_decay=0.1, save_strategy="no",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    cuts, model = load_cuts([corpus]), load_model(tiny_model)
    loaders = make_loaders(cuts, cuts, load_tokenizer(tiny_model), BatchOptions(num_workers=0, max_cuts=2), 80, args)
    run = WhisperTrainer(model, args, *loaders, ParameterOptions(), **options)
    run.add_callback(look := Look())
    weight = model.model.decoder.layers[0].fc1.weight

    def poison(gradient):
        return torch.full_like(gradient, float("nan")) if run.state.global_step in broken else gradient

    weight.register_hook(poison)
    return run, look


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(corpus, tiny_model, tmp_path, caplog):
    run, look = make_run(corpus, tiny_model, tmp_path, broken={1})
    run.train()
    first, second, third, _ = look.steps
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(second, third, strict=True))
    assert all(tensor.isfinite().all() for tensor in look.steps[-1])
    assert run.skipped == 1
    assert [line for line in caplog.messages if line.startswith("step 1 is skipped: ") and "cuts: utt" in line]


def test_the_log_keeps_to_finite_losses_without_transformers_filter(corpus, tiny_model, tmp_path, monkeypatch):
    """That filter asks the GPU twice in each batch; the loss before stands for one that is not finite."""
    run, _ = make_run(corpus, tiny_model, tmp_path, broken=())
    run.args.logging_nan_inf_filter, run.args.logging_steps = False, 1
    plain, seen = run.loss, []

    def broken(*args, **kwargs):
        seen.append(plain(*args, **kwargs))
        return seen[-1] * (float("nan") if len(seen) == 3 else 1)

    run.compute_loss_func = broken
    run.train()
    logged = [row["loss"] for row in run.state.log_history if "loss" in row]
    seen = [loss.item() for loss in seen]
    assert logged == pytest.approx([seen[0], seen[1], seen[1], seen[3]], abs=1e-4)
    assert run.skipped == 1


def test_many_in_a_row_stop_the_run(corpus, tiny_model, tmp_path):
    run, look = make_run(corpus, tiny_model, tmp_path, broken={0, 2, 3}, max_skipped_steps=2)
    with pytest.raises(RecipeError, match="step 3: the loss or a gradient was not finite in 2 steps in a row"):
        run.train()
    assert len(look.steps) == 3


SCRIPT = """
import sys
from whisper_recipe.cli import main
from whisper_recipe.training.trainer import WhisperTrainer

plain = WhisperTrainer.loss

def loss(self, *args, **kwargs):
    bad = self.model.training and self.args.process_index == 1 and self.state.global_step == 1
    return plain(self, *args, **kwargs) * (float("nan") if bad else 1)

WhisperTrainer.loss = loss
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_all_processes_skip_the_step_of_one(corpus, tiny_model, tmp_path, monkeypatch, stage):
    """Without DeepSpeed, and with ZeRO 2 and 3; one process's loss is NaN."""
    if stage and NO_COMPILER:
        pytest.skip(NO_COMPILER)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script, out = tmp_path / "poisoned.py", tmp_path / "exp"
    script.write_text(SCRIPT)
    options = ["--trainer.max_steps", "3", "--batches.max_cuts", "2", *(zero(stage) if stage else [])]
    done = subprocess.run(
        command([*TORCHRUN, str(script)], corpus, tiny_model, out, *options), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for log in ("train.log", "log/rank1.log"):
        assert (out / log).read_text().count("step 1 is skipped: ") == 1
    before, after = load_model(tiny_model).state_dict(), weights(out)
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())
    assert "1 steps were skipped" in done.stdout
