"""Decoding of sets: killed runs resume, several processes share a set, and unreadable cuts are listed."""

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import wait_until
from whisper_recipe.cli import main
from whisper_recipe.decoding.backends import Backend
from whisper_recipe.files import read_jsonl

pytestmark = pytest.mark.slow

SLOW = """
import sys, time
from whisper_recipe.cli import main
from whisper_recipe.decoding.backends import Backend
plain = Backend.decode
Backend.decode = lambda *args: (time.sleep(0.5), plain(*args))[1]
sys.exit(main(sys.argv[1:]))
"""
ONE_BY_ONE = ["--batch_duration", "0.1", "--search.max_new_tokens", "10"]


def command(model, corpus, out, *options):
    return ["decode", str(model), "--cuts", str(corpus), "--out", str(out), *ONE_BY_ONE, *options]


def hypotheses(out):
    return {row["id"]: row for _, row in read_jsonl(out / "hyp.jsonl")}


def pieces(out):
    return sorted(out.glob(".unfinished_hyp.*/part*.jsonl"))


@pytest.fixture(scope="module")
def whole(tiny_model, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert main(command(tiny_model, corpus, out)) == 0
    return hypotheses(out)


@pytest.fixture
def calls(monkeypatch):
    """The batches that are decoded from now on, by their sizes."""
    sizes, plain = [], Backend.decode
    monkeypatch.setattr(Backend, "decode", lambda *args: sizes.append(len(args[2])) or plain(*args))
    return sizes


@pytest.fixture
def killed(tiny_model, corpus, tmp_path):
    """The folder of a decoding that was killed after its third of twelve batches, in the middle of writing one."""
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SLOW, *command(tiny_model, corpus, out)])
    wait_until(lambda: len(pieces(out)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "hyp.jsonl").exists()
    pieces(out)[0].with_name(f".{process.pid}@machine.partial.part000011.jsonl").write_bytes(b'{"seconds": 1, "ro')
    return out


def test_killed_decoding_goes_on_after_the_last_batch(tiny_model, corpus, whole, killed, calls, capsys):
    done = len(pieces(killed))
    assert main(command(tiny_model, corpus, killed)) == 0
    assert f"resuming, {done} of 12 batches are done" in capsys.readouterr().out
    assert len(calls) == 12 - done
    assert hypotheses(killed) == whole
    assert list(hypotheses(killed)) == list(whole)
    assert {path.name for path in killed.iterdir()} == {"hyp.jsonl", "decode.json"}
    record = json.loads((killed / "decode.json").read_text())
    assert record["processing_seconds"] > 0.5 * done  # what the killed process took counts


def test_other_settings_start_anew_and_say_which(tiny_model, corpus, killed, calls, capsys):
    assert main(command(tiny_model, corpus, killed, "--search.beam_size", "2")) == 0
    assert "unfinished, with different beam_size: starting over" in capsys.readouterr().out
    assert len(calls) == 12
    assert {path.name for path in killed.iterdir()} == {"hyp.jsonl", "decode.json"}


def test_processes_share_a_set_and_write_what_one_writes(tiny_model, corpus, whole, tmp_path):
    out = tmp_path / "out"
    # Not --cpu: on one machine accelerate takes that for one process.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "whisper_recipe"]
    done = subprocess.run([*launch, *command(tiny_model, corpus, out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "decode.json").read_text())["processes"] == 2
    assert hypotheses(out) == whole
    assert list(hypotheses(out)) == list(whole)
    assert not pieces(out)


def test_each_process_decodes_its_own_batches(tiny_model, corpus, tmp_path, calls, monkeypatch, whole):
    monkeypatch.setenv("WORLD_SIZE", "2")
    counts = []
    for rank in (1, 0):  # the main process waits for the others' batches
        monkeypatch.setenv("RANK", str(rank))
        assert main(command(tiny_model, corpus, tmp_path)) == 0
        counts.append(len(calls))
    assert counts == [6, 12]
    assert hypotheses(tmp_path) == whole


def changed(corpus, path, change):
    """Write the manifest again, each row changed by a function of (number, row)."""
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            change(number, row)
            file.write(json.dumps(row) + "\n")
    return path


def test_a_cut_that_can_not_be_read_is_told_and_the_others_are_decoded(tiny_model, corpus, whole, tmp_path, capfd):
    def lose(number, row):
        if number in (3, 7):
            row["features"]["storage_path"] = "nowhere"

    cuts = changed(corpus, tmp_path / "cuts_x.jsonl.gz", lose)
    assert main(command(tiny_model, cuts, tmp_path / "out")) == 2
    lines = capfd.readouterr().err.splitlines()
    for key in ("utt03", "utt07"):
        assert any(line.startswith(f"{key} is skipped: ") and "nowhere" in line for line in lines)
    assert "2 of 12 cuts can't be read and have no hypothesis (utt03 first)" in lines[-1]
    assert hypotheses(tmp_path / "out") == {key: row for key, row in whole.items() if key not in ("utt03", "utt07")}
    assert json.loads((tmp_path / "out/decode.json").read_text())["skipped"].keys() == {"utt03", "utt07"}


def test_a_set_that_can_not_be_read_at_all_is_an_error(tiny_model, corpus, tmp_path, capfd):
    cuts = changed(corpus, tmp_path / "cuts_x.jsonl.gz", lambda _, row: row["features"].update(storage_path="nowhere"))
    assert main(command(tiny_model, cuts, tmp_path / "out")) == 1
    assert "none of the 12 cuts can be read" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out/hyp.jsonl").exists()


def test_empty_audio_gives_empty_text(tiny_model, corpus, whole, tmp_path):
    def empty(number, row):
        if number == 5:
            row["duration"] = 0.0

    cuts = changed(corpus, tmp_path / "cuts_x.jsonl.gz", empty)
    assert main(command(tiny_model, cuts, tmp_path / "out")) == 0
    rows = hypotheses(tmp_path / "out")
    assert rows["utt05"]["text"] == ""
    assert {key: row for key, row in rows.items() if key != "utt05"} == {
        key: row for key, row in whole.items() if key != "utt05"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, row: row.update(id="x"), "cut x occurs twice"),
        (lambda _, row: row.update(duration=30.5), "lasts 30.50 s, over 30"),
        (lambda _, row: row["supervisions"][0].update(language=None), "has no language; give --language CODE"),
    ],
)
def test_what_a_set_lacks_is_one_line(tiny_model, corpus, tmp_path, capfd, change, message):
    cuts = changed(corpus, tmp_path / "cuts_x.jsonl.gz", change)
    assert main(command(tiny_model, cuts, tmp_path / "out")) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_language_and_task_can_be_given_for_all_or_detected(tiny_model, corpus, tmp_path, monkeypatch):
    seen = []
    plain = Backend.decode
    monkeypatch.setattr(Backend, "decode", lambda *args: seen.extend(args[2]) or plain(*args))
    assert main(command(tiny_model, corpus, tmp_path / "a", "--language", "Spanish", "--task", "translate")) == 0
    assert {(row["language"], row["task"]) for row in hypotheses(tmp_path / "a").values()} == {("es", "translate")}
    assert len({tuple(prompt) for prompt in seen}) == 1
    monkeypatch.setattr(
        "whisper_recipe.decoding.backends.transformers.TransformersBackend.detect_languages", lambda *_: ["zh"]
    )
    assert main(command(tiny_model, corpus, tmp_path / "b", "--language", "detect")) == 0
    assert {row["language"] for row in hypotheses(tmp_path / "b").values()} == {"zh"}
    assert main(command(tiny_model, corpus, tmp_path / "c", "--language", "klingon")) == 1


def test_options_of_the_search_reach_the_backend(tiny_model, corpus, tmp_path, monkeypatch):
    seen = []
    plain = Backend.decode
    monkeypatch.setattr(Backend, "decode", lambda *args: seen.append(args[3]) or plain(*args))
    options = {"beam_size": "2", "temperatures": "[0.0,0.4]", "prompt": "set 29", "no_repeat_ngram_size": "3"}
    flags = [part for name, value in options.items() for part in (f"--search.{name}", value)]
    assert main(command(tiny_model, corpus, tmp_path, *flags)) == 0
    assert (seen[0].beam_size, seen[0].temperatures, seen[0].prompt, seen[0].no_repeat_ngram_size) == (
        2, [0.0, 0.4], "set 29", 3,
    )  # fmt: skip
    assert json.loads((tmp_path / "decode.json").read_text())["prompt"] == "set 29"


def test_the_same_command_with_other_weights_starts_anew(tiny_model, corpus, killed, calls):
    weights = tiny_model / "model.safetensors"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    try:
        assert main(command(tiny_model, corpus, killed)) == 0
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(calls) == 12
