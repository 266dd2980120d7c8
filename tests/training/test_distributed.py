"""Processes that train together: what one would have learned, each cut once, going on, and ending together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.file_baton import FileBaton

from tests import preloaded
from tests.training.test_train import wait_for, weights
from whisper_recipe.processes import Part
from whisper_recipe.training.batches import BatchOptions, BatchSampler, load_cuts
from whisper_recipe.training.deepspeed import report_locks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
ACCELERATE_ZERO = [*ACCELERATE[:3], *ACCELERATE[4:], "--use_deepspeed", "--deepspeed_config_file"]
ALONE = [sys.executable]
NO_COMPILER = not shutil.which(os.environ.get("CXX", "c++")) and "on a CPU DeepSpeed needs a C++ compiler (c++ or CXX)"
CONFIGS = Path(__file__).parents[2] / "egs/template/conf"


def command(program, corpus, model, out, *options):
    return [
        *program, "train", "--method", "full", "--base_model", str(model),
        "--train_cuts", str(corpus), "--dev_cuts", str(corpus), "--output_dir", str(out), "--batches.num_workers", "0",
        "--trainer.use_cpu", "true", "--trainer.save_strategy", "no", "--trainer.report_to", "none",
        "--trainer.logging_steps", "1", *options,
    ]  # fmt: skip


def run(launcher, corpus, model, out, *options):
    return preloaded.call(*command((), corpus, model, out, *options), launcher=launcher)


def sampler(corpus, part=Part()):  # noqa: B008
    return BatchSampler(load_cuts([corpus]), BatchOptions(max_duration=4, num_buckets=2), True, 3, part)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_cut_is_seen_once_an_epoch_by_one_of_the_processes(corpus, processes):
    ranks = [sampler(corpus, Part(rank, processes)) for rank in range(processes)]
    assert len({len(rank) for rank in ranks}) == 1
    assert ranks[0].batches % 3 or ranks[0].batches % 2, "there should be a remainder"
    seen = [item for _ in range(4) for rank in ranks for [item] in rank]
    order = [cut.id for batch in sorted(seen, key=lambda batch: batch.number) for cut in batch.cuts]
    assert len({batch.number for batch in seen}) == len(seen)
    every = [cut.id for cut in load_cuts([corpus])]
    for epoch in range(3):
        assert sorted(order[epoch * len(every) : (epoch + 1) * len(every)]) == every


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_evaluation_measures_each_cut_once_in_each_pass(corpus, processes):
    options = BatchOptions(max_duration=4, num_buckets=2)
    ranks = [BatchSampler(load_cuts([corpus]), options, False, 3, Part(rank, processes)) for rank in range(processes)]
    assert len({len(rank) for rank in ranks}) == 1
    for _ in range(2):
        batches = [batch for rank in ranks for [batch] in rank]
        assert len(batches) == processes * len(ranks[0])
        measured = sorted(cut.id for batch in batches if not batch.repeated for cut in batch.cuts)
        assert measured == [cut.id for cut in load_cuts([corpus])]


def test_a_run_with_another_number_of_processes_goes_on_where_the_data_was(corpus):
    one = sampler(corpus)
    whole = [sorted(cut.id for cut in batch.cuts) for _ in range(3) for [batch] in one]
    two = [sampler(corpus, Part(rank, 2)) for rank in range(2)]
    first = [[sorted(cut.id for cut in batch.cuts) for [batch] in rank] for rank in two]
    done = sum(map(len, first))
    three = [sampler(corpus, Part(rank, 3)) for rank in range(3)]
    for rank in three:
        rank.pass_over(done)
    rest = [[sorted(cut.id for cut in batch.cuts) for [batch] in rank] for rank in three]
    dealt = [batch for group in zip(*first, strict=True) for batch in group]
    dealt += [batch for group in zip(*rest, strict=True) for batch in group]
    assert dealt == whole[: len(dealt)]


def zero(stage):
    return ["--trainer.deepspeed", str(CONFIGS / f"deepspeed_zero{stage}.json")]


STEPS = ("1", "4")
PLAIN = ["--trainer.optim", "sgd", "--trainer.learning_rate", "1.0", "--trainer.max_grad_norm", "0"]
PLAIN += ["--trainer.lr_scheduler_type", "constant", "--batches.max_cuts", "2"]
WAYS = {
    "torchrun": (TORCHRUN, [], STEPS),
    "accelerate": (ACCELERATE, [], STEPS[1:]),
    "zero1": (TORCHRUN, zero(1), STEPS[1:]),
    "zero2": (TORCHRUN, zero(2), STEPS[1:]),
    "zero3": (TORCHRUN, zero(3), STEPS),
    "accelerate zero2": ([*ACCELERATE_ZERO, str(CONFIGS / "deepspeed_zero2.json")], [], STEPS[1:]),
}


@pytest.fixture(scope="module")
def alone(corpus, tiny_model, tmp_path_factory):
    """Folders of runs of one process with twice the accumulation, by their steps."""
    folder = tmp_path_factory.mktemp("alone")
    for steps in STEPS:
        twice = ["--trainer.gradient_accumulation_steps", "2", "--trainer.max_steps", steps]
        run(ALONE, corpus, tiny_model, folder / steps, *PLAIN, *twice)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(corpus, tiny_model, alone, tmp_path, way):
    if "zero" in way and NO_COMPILER:
        pytest.skip(NO_COMPILER)
    launcher, options, counts = WAYS[way]
    for steps in counts:
        together = tmp_path / steps
        done = run(launcher, corpus, tiny_model, together, *PLAIN, "--trainer.max_steps", steps, *options)
        start, theirs, ours = weights_of(tiny_model), weights(alone / steps), weights(together)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=0)
        assert any(not torch.equal(start[name], tensor) for name, tensor in ours.items())
    assert done.stdout.count("parameters are trained") == 1
    assert "step 4/4" in (together / "train.log").read_text()
    assert "parameters are trained" in (together / "log/rank1.log").read_text()


def weights_of(folder):
    from whisper_recipe.model.load import load_model

    return load_model(folder).state_dict()


def started(launcher, corpus, model, out, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [*launcher, "-m", "whisper_recipe"]
    return subprocess.Popen(
        command(program, corpus, model, out, *options), env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=open(out.with_suffix(".err"), "w"),  # noqa: SIM115
    )  # fmt: skip


@pytest.mark.slow
def test_killed_processes_go_on_as_many_or_as_one(corpus, tiny_model, tmp_path):
    options = ["--batches.max_duration", "4", "--trainer.num_train_epochs", "6", "--trainer.save_strategy", "steps"]
    options += ["--trainer.save_steps", "3"]
    run(TORCHRUN, corpus, tiny_model, tmp_path / "whole", *options)
    for name, launcher in (("same", TORCHRUN), ("one", ALONE)):
        out = tmp_path / name
        process = started(TORCHRUN, corpus, tiny_model, out, *options)
        wait_for(out / "train.log", "step 5/", process, seconds=180)
        subprocess.run(["pkill", "-KILL", "-f", f"output_dir {out}"], check=True)  # torchrun and all of its processes
        process.wait()
        assert not (out / "model").exists()
        done = run(launcher, corpus, tiny_model, out, *options)
        assert "resuming from" in done.stdout
    assert all(
        torch.equal(weights(tmp_path / "whole")[key], value) for key, value in weights(tmp_path / "same").items()
    )
    # One process makes a step of each batch that was left.
    steps = [
        json.loads((tmp_path / name / "model/whisper_recipe.json").read_text())["steps"] for name in ("same", "one")
    ]
    log = (tmp_path / "one/train.log").read_text()
    at = int(log.split("checkpoint-")[1].split()[0])
    batches = sampler_length(corpus)
    assert steps[0] == 6 * -(-batches // 2)  # a pass of two processes is rounded up to whole steps
    assert steps[1] == at + 6 * batches - 2 * at


def sampler_length(corpus):
    return BatchSampler(load_cuts([corpus]), BatchOptions(max_duration=4), True, 42).batches


@pytest.mark.slow
@pytest.mark.skipif(bool(NO_COMPILER), reason=str(NO_COMPILER))
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_goes_on_with_as_many_processes_or_one(corpus, tiny_model, tmp_path, stage):
    options = [*zero(stage), "--batches.max_duration", "4", "--trainer.num_train_epochs", "4"]
    options += ["--trainer.save_strategy", "steps", "--trainer.save_steps", "3"]
    whole = tmp_path / "whole"
    run(TORCHRUN, corpus, tiny_model, whole, *options)
    for name, launcher in (("same", TORCHRUN), ("one", [*TORCHRUN[:-1], "1"])):
        out = tmp_path / name
        shutil.copytree(whole, out, ignore=shutil.ignore_patterns("model", "checkpoint-[!3]*"))
        assert "resuming from" in run(launcher, corpus, tiny_model, out, *options).stdout
    same, one = weights(tmp_path / "same"), weights(tmp_path / "one")
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights(whole).items())
    assert one.keys() == same.keys()
    steps = json.loads((tmp_path / "one/model/whisper_recipe.json").read_text())["steps"]
    assert steps == 3 + 4 * sampler_length(corpus) - 2 * 3
    # What the first three steps taught is there: each step moves a weight by little more than the learning rate.
    start = weights_of(tiny_model)
    assert all((one[name] - tensor).abs().max() < 2 * steps * 5e-5 for name, tensor in start.items())
    assert any((one[name] - tensor).abs().max() > 1e-5 for name, tensor in start.items())


def test_a_lock_that_deepspeed_would_wait_for_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    report_locks()
    assert capsys.readouterr().out == ""
    lock = tmp_path / "deepspeed_shm_comm/lock"
    lock.parent.mkdir()
    assert FileBaton(str(lock)).try_acquire()  # and is killed
    report_locks()
    assert str(lock) in capsys.readouterr().out


@pytest.mark.slow
def test_the_best_weights_are_those_of_every_process(corpus, tiny_model, tmp_path):
    options = ["--trainer.eval_strategy", "steps", "--trainer.eval_steps", "2", "--trainer.save_strategy", "steps"]
    options += ["--trainer.save_steps", "2", "--trainer.max_steps", "6", "--trainer.learning_rate", "1.0"]
    options += ["--trainer.load_best_model_at_end", "true", "--trainer.metric_for_best_model", "eval_loss"]
    done = run(TORCHRUN, corpus, tiny_model, tmp_path, *options)
    assert "Could not locate the best model" not in done.stderr
    state = json.loads((tmp_path / "checkpoint-6/trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    theirs = load_file(tmp_path / f"checkpoint-{best}/model.safetensors")
    ours = weights(tmp_path)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if name in ours)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_its_checkpoint_stays(corpus, tiny_model, tmp_path):
    out = tmp_path / "exp"
    options = ["--trainer.max_steps", "100000", "--trainer.save_strategy", "steps", "--trainer.save_steps", "5"]
    process = started(TORCHRUN, corpus, tiny_model, out, *options, "--trainer.save_total_limit", "2")
    wait_for(out / "train.log", "step 12/", process, seconds=180)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    begin = time.monotonic()
    assert process.wait(timeout=60) != 0
    assert time.monotonic() - begin < 60
    assert list(out.glob("checkpoint-*"))
    assert not (out / "model").exists()
    assert "exitcode  : -9" in (tmp_path / "exp.err").read_text()
