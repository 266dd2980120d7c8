"""Parts of one command on several machines, stood in for by processes: the same files as of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whisper_recipe.cli import main
from whisper_recipe.data import fbank as fbank_module
from whisper_recipe.data import stats as stats_module
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl
from whisper_recipe.processes import Part, parse_part
from whisper_recipe.resumable import ResumableWork

SLURM = Path(__file__).parents[1] / "tools/slurm.sh"
SMALL_PIECES = """
import sys
from whisper_recipe.cli import main
from whisper_recipe.data import fbank, stats
fbank.PART, stats.PIECE = 2, 3
sys.exit(main(sys.argv[1:]))
"""


def array_job(parts, command, folder, **environment):
    """Run the tasks of a Slurm job array side by side, as Slurm starts them; return what each printed."""
    venv = folder / "venv/bin"
    venv.mkdir(parents=True, exist_ok=True)
    (venv / "whisper-recipe").write_text(f"#!{sys.executable}\n{SMALL_PIECES}")
    (venv / "whisper-recipe").chmod(0o755)
    own = {**os.environ, "VENV": str(venv.parent), "SLURM_ARRAY_TASK_MAX": str(max(parts)), **environment}
    tasks = [
        subprocess.Popen(
            ["bash", str(SLURM), "whisper-recipe", *command],
            env=own | {"SLURM_ARRAY_TASK_ID": str(part)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for part in parts
    ]
    said = [task.communicate()[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0] * len(tasks), said
    return said


def contents(folder):
    """Name -> bytes of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ids(manifest):
    return [row["id"] for _, row in read_jsonl(manifest)]


def fbank_command(corpus, out, *options):
    return ["fbank", "noise", "--manifests", str(corpus.parents[1] / "manifests"), "--out", str(out), *options]


@pytest.mark.slow
def test_features_of_three_tasks_are_those_of_one_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(fbank_module, "PART", 2)
    command = fbank_command(corpus, tmp_path / "out", "--num_jobs", "1")
    assert main(command) == 0
    whole = contents(tmp_path / "out")
    assert len(whole) == 7  # the manifest, six pieces of two cuts
    (tmp_path / "out").rename(tmp_path / "one")
    said = array_job([1, 2, 3], command, tmp_path)
    assert contents(tmp_path / "out") == whole
    assert sum("finishes last merges them" in text for text in said) == 2
    assert not list((tmp_path / "out").glob(".*"))


def test_what_a_failed_task_left_is_done_by_the_command_without_a_part(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fbank_module, "PART", 2)
    command = fbank_command(corpus, tmp_path / "out", "--num_jobs", "1")
    for part in ("1/3", "3/3"):
        assert main([*command, "--part", part]) == 0
    assert not (tmp_path / "out/cuts_noise.jsonl.gz").exists()
    assert main([*command, "--num_mel_bins", "128", "--part", "2/3"]) == 1
    assert (
        "unfinished work with different num_mel_bins; if no other process is working on it" in capsys.readouterr().err
    )
    assert main(command) == 0
    assert "4 parts of 2 cuts are done" in capsys.readouterr().out
    assert ids(tmp_path / "out/cuts_noise.jsonl.gz") == ids(corpus)


def test_who_was_killed_while_putting_together_is_followed_by_the_command_without_a_part(corpus, tmp_path, monkeypatch):
    command = fbank_command(corpus, tmp_path, "--num_jobs", "1")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(fbank_module, "_finish", lambda *_: 1 / 0)
        main([*command, "--part", "1/1"])
    assert main(command) == 0
    assert (tmp_path / "cuts_noise.jsonl.gz").exists()


@pytest.mark.slow
def test_statistics_of_three_tasks_are_those_of_one_process(corpus, tmp_path, tiny_model, capsys):
    options = ["--tokenizer", str(tiny_model)]
    assert main(["stats", str(corpus), str(corpus), "--out", str(tmp_path / "one/stats.txt"), *options]) == 0
    printed = capsys.readouterr().out
    one = (tmp_path / "one/stats.txt").read_text()
    assert printed.strip() == one.strip()
    assert "24" in one
    command = ["stats", str(corpus), str(corpus), "--out", str(tmp_path / "many/stats.txt"), *options]
    said = array_job([1, 2, 3], command, tmp_path)
    assert contents(tmp_path / "many") == {"stats.txt": one.encode()}
    assert sum(one.strip() in text for text in said) == 1


def test_statistics_by_pieces_are_those_of_all_at_once(corpus, tmp_path, monkeypatch):
    texts = []
    for piece in (1, 5, 10_000):
        monkeypatch.setattr(stats_module, "PIECE", piece)
        assert main(["stats", str(corpus), "--out", str(tmp_path / "stats.txt")]) == 0
        texts.append((tmp_path / "stats.txt").read_text())
    assert len(set(texts)) == 1


@pytest.mark.slow
def test_hypotheses_of_two_tasks_are_those_of_one_process(corpus, tiny_model, tmp_path):
    options = ["--batch_duration", "3", "--search.max_new_tokens", "10"]
    command = ["decode", str(tiny_model), "--cuts", str(corpus), *options]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    array_job([1, 2], [*command, "--out", str(tmp_path / "many")], tmp_path)
    assert (tmp_path / "many/hyp.jsonl").read_bytes() == (tmp_path / "one/hyp.jsonl").read_bytes()
    assert json.loads((tmp_path / "many/decode.json").read_text())["processes"] == 2
    assert set(contents(tmp_path / "many")) == {"hyp.jsonl", "decode.json"}


def test_tasks_of_a_decoding_may_run_one_after_the_other(corpus, tiny_model, tmp_path, capsys):
    command = ["decode", str(tiny_model), "--cuts", str(corpus), "--out", str(tmp_path / "out")]
    command += ["--batch_duration", "3", "--search.max_new_tokens", "5"]
    for part in ("1/3", "3/3"):  # neither waits
        assert main([*command, "--part", part]) == 0
        assert "the part that finishes last" in capsys.readouterr().out
        assert not (tmp_path / "out/hyp.jsonl").exists()
    assert main([*command, "--part", "2/3"]) == 0
    assert ids(tmp_path / "out/hyp.jsonl") == ids(corpus)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"hyp.jsonl", "decode.json"}


def test_every_piece_belongs_to_one_part():
    parts = [parse_part(f"{number}/7") for number in range(1, 8)]
    assert all(sum(part.has(piece) for part in parts) == 1 for piece in range(100))
    assert parse_part(None) == Part(0, 1)
    assert str(parts[2]) == "3/7"


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5"])
def test_no_part_is_one_line(part):
    with pytest.raises(RecipeError, match="invalid part .*; expected e.g. 1/8"):
        parse_part(part)


def test_only_one_puts_together(tmp_path):
    works = [ResumableWork(tmp_path / "work", {"a": 1}, Part(index, 2)) for index in range(2)]
    works[0].open()
    works[0].write(0, [{"x": 1}])
    assert not any(work.is_ours_to_finish(2) for work in works)
    works[1].write(1, [{"x": "ü"}, {"x": 3}])
    assert [work.is_ours_to_finish(2) for work in works] == [True, False]
    assert [row["x"] for row in works[1].rows()] == [1, "ü", 3]
    works[0].discard()
    assert not list(tmp_path.iterdir())


def test_only_work_of_the_same_name_is_started_over(tmp_path, capsys):
    for name, settings in (("train", {"a": 1}), ("train.clean", {"a": 1}), ("train", {"a": 2})):
        ResumableWork(tmp_path / name, settings).open()
    assert "unfinished, with different a: starting over" in capsys.readouterr().out
    assert sorted(path.name.rpartition(".")[0] for path in tmp_path.iterdir()) == [
        ".unfinished_train",
        ".unfinished_train.clean",
    ]


def test_parts_of_several_processes_divide_the_pieces(tmp_path):
    works = [
        ResumableWork(tmp_path / "work", {}, Part(part, 3), Part(rank, 2)) for part in range(3) for rank in range(2)
    ]
    assert sorted(number for work in works for number in work.to_do(20)) == list(range(20))
    works[0].open()
    works[0].write(6, [])
    assert works[0].to_do(20) == [0, 12, 18]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "not in a job array"),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MAX": "7"}, "counted from 1"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "3", "PARTS": "2"}, "part 3 of 2 does not exist"),
    ],
)
def test_wrong_arrays_are_one_line(environment, message):
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    done = subprocess.run(["bash", str(SLURM), "true"], env=own | environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
