"""Training from mixed corpora and from shards: a killed run ends with the weights of one that was not."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import wait_until
from whisper_recipe.cli import main


def command(model, cuts, dev, out):
    options = ["--trainer.max_steps", "12", "--trainer.save_steps", "3", "--trainer.save_strategy", "steps"]
    options += ["--trainer.learning_rate", "0.001", "--batches.max_duration", "4", "--trainer.report_to", "none"]
    inputs = ["--base_model", model, "--train_cuts", *cuts, "--dev_cuts", dev, "--output_dir", out]
    return ["train", "--method", "full", *map(str, inputs), *options]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixed", "shards"])
def test_a_killed_run_ends_with_the_same_weights(corpus, tiny_model, tmp_path, kind):
    if kind == "mixed":
        cuts = [f"{corpus}:0.8", f"{shutil.copy(corpus, tmp_path / 'other.jsonl.gz')}:0.2"]
    else:
        cuts = [tmp_path / "shar"]
        assert main(["shar", str(corpus), "--out", str(cuts[0]), "--shard_size", "4"]) == 0
    assert main(command(tiny_model, cuts, corpus, tmp_path / "whole")) == 0
    killed = command(tiny_model, cuts, corpus, tmp_path / "killed")
    running = subprocess.Popen([sys.executable, "-m", "whisper_recipe", *killed])
    wait_until(lambda: list((tmp_path / "killed").glob("checkpoint-*")), running)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed/model").exists()
    assert main(killed) == 0
    whole, again = (load_file(tmp_path / run / "model/model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
