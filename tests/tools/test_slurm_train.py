"""tools/slurm_train.sh: two nodes, each in a network namespace of its own, learn what one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.test_distributed import ALONE, PLAIN, command, run, weights

SCRIPT = Path(__file__).parents[2] / "tools/slurm_train.sh"
SRUN = """#!/usr/bin/env bash
shift  # --ntasks-per-node=1
for node in 0 1; do
  SLURM_NODEID=$node GLOO_SOCKET_IFNAME=wr$node ip netns exec {name}$node "$@" &
done
wait -n && wait -n
"""
SCONTROL = "#!/usr/bin/env bash\nprintf '10.77.0.%s\\n' 1 2\n"


@pytest.fixture
def two_nodes(tmp_path):
    """A folder with srun and scontrol that stand for a cluster of two nodes on one cable."""
    name = f"wr{os.getpid()}n"
    wire = [f"link add wr0 netns {name}0 type veth peer name wr1 netns {name}1"]
    for node in (0, 1):
        wire += [f"-n {name}{node} addr add 10.77.0.{node + 1}/24 dev wr{node}"]
        wire += [f"-n {name}{node} link set {device} up" for device in (f"wr{node}", "lo")]
    try:
        for line in (f"netns add {name}0", f"netns add {name}1", *wire):
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces can't be made here (root and iproute2 are needed): {error}")
    else:
        for file, text in (("srun", SRUN.format(name=name)), ("scontrol", SCONTROL)):
            (tmp_path / file).write_text(text)
            (tmp_path / file).chmod(0o755)
        yield tmp_path
    finally:
        for node in (0, 1):
            subprocess.run(["ip", "netns", "del", f"{name}{node}"], capture_output=True)


def submit(*words, **environment):
    environment = {**os.environ, "VENV": sys.prefix, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_does(corpus, tiny_model, tmp_path, two_nodes):
    options = [*PLAIN, "--trainer.max_steps", "4"]
    run(ALONE, corpus, tiny_model, tmp_path / "alone", *options, "--trainer.gradient_accumulation_steps", "2")
    nodes = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "PATH": f"{two_nodes}:{os.environ['PATH']}"}
    out = tmp_path / "together"
    done = submit(*command(["whisper-recipe"], corpus, tiny_model, out, *options), **nodes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--main_process_ip 10.77.0.1" in done.stdout
    for key, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(out)[key], tensor, atol=1e-5, rtol=0)
    assert "step 4/4" in (out / "train.log").read_text()
    assert (out / "log/rank1.log").exists()


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        (["python", "train.py"], {}, "not a training command; give whisper-recipe train"),
        (["whisper-recipe", "train"], {}, "not in a Slurm job; submit it with sbatch"),
        (["whisper-recipe", "train"], {"SLURM_JOB_NODELIST": "a", "PROCESSES": "x"}, "PROCESSES must be a number"),
    ],
)
def test_what_can_not_be_started_says_so(words, environment, says):
    done = submit(*words, **environment)
    assert done.returncode == 1
    assert says in done.stderr
