"""Work on a Dask cluster of two workers, and on a stand-in of its client."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import distributed
import pytest

from whisper_recipe.cli import main
from whisper_recipe.data import fbank as fbank_module
from whisper_recipe.data import stats as stats_module


def commands(corpus, out):
    fbank = ["fbank", "noise", "--manifests", str(corpus.parents[1] / "manifests"), "--out", str(out)]
    return [[*fbank, "--num_jobs", "1"], ["stats", str(corpus), "--out", str(out / "stats.txt")]]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_as_one_process(corpus, folder, scheduler, monkeypatch):
    monkeypatch.setattr(fbank_module, "PART", 2)
    monkeypatch.setattr(stats_module, "PIECE", 5)
    out = folder / "out"
    for command in commands(corpus, out):
        assert main(command) == 0
    one = contents(out)
    out.rename(folder / "one")
    for command in commands(corpus, out):
        assert main([*command, "--dask", scheduler]) == 0
    assert contents(out) == one


def test_a_cluster_gives_what_one_process_gives(corpus, tmp_path, monkeypatch):
    asked = []

    class Client:
        """As much of distributed.Client as is used."""

        def __init__(self, address, timeout):
            asked.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_executor(self):
            return ThreadPoolExecutor(1)

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    same_as_one_process(corpus, tmp_path, "tcp://10.0.0.1:8786", monkeypatch)
    assert asked == ["tcp://10.0.0.1:8786"] * 2


@pytest.mark.slow
def test_a_real_cluster_gives_what_one_process_gives(corpus, tmp_path, monkeypatch):
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        same_as_one_process(corpus, tmp_path, cluster.scheduler_address, monkeypatch)


def test_no_dask_and_no_scheduler_are_one_line(corpus, tmp_path, monkeypatch, capsys):
    fbank, stats = commands(corpus, tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        assert main([*stats, "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "--dask: Dask is not installed; pip install distributed" in capsys.readouterr().err

    def client(*_, **__):
        raise OSError("Timed out")

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=client))
    assert main([*fbank, "--dask", "tcp://127.0.0.1:1"]) == 1
    assert "no scheduler answers at tcp://127.0.0.1:1 (Timed out)" in capsys.readouterr().err.splitlines()[-1]
