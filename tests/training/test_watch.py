"""watch against logs that training's own callback writes."""

import logging
import subprocess
import sys
import time

import pytest
from transformers import TrainerControl, TrainerState

from whisper_recipe.cli import main
from whisper_recipe.training.logs import LogCallback, log_to_file
from whisper_recipe.training.watch import describe


def line(second, step, values):
    return f"2026-01-02 03:{second // 60:02d}:{second % 60:02d},678 INFO step {step}/400  {values}"


def test_what_training_logs_is_shown(tmp_path, capsys):
    with log_to_file(tmp_path):
        callback = LogCallback(logging.getLogger("whisper_recipe"))
        for step, logs in (
            (10, {"loss": 2.5, "learning_rate": 1e-5, "eval_canary_en": 0.2}),
            (20, {"eval_loss": 1.25, "eval_wer_cs": 0.5, "eval_canary_en": 0.3}),
        ):
            state = TrainerState(global_step=step, max_steps=40)
            callback.on_log(None, state, TrainerControl(), logs={**logs, "epoch": 0.5})
        logging.getLogger("whisper_recipe").warning("step 20: cut x can't be read and is dropped: gone")
    assert main(["watch", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "step 20/40 ██████████░░░░░░░░░░ 50%" in printed
    assert "eval_canary_en  0.3        first 0.2 " in printed
    rows = {row.split()[0]: row.split()[1] for row in printed.splitlines() if row and " " in row}
    assert (rows["loss"], rows["eval_loss"], rows["eval_wer_cs"]) == ("2.5", "1.25", "0.5")
    assert "warnings: 1, the last:" in printed and "cut x can't be read" in printed


def test_the_time_left_is_that_of_the_last_steps():
    lines = [line(10 * number, 10 * number, f"loss {4 / number:.4f}  epoch 0.10") for number in range(1, 31)]
    shown = describe("run", lines, 80, finished=False)
    assert "0:01:40 left (1 s a step), last logged 03:05:00" in shown  # 100 steps of a second
    # It was killed after step 300 and resumes from 200, twice as slow.
    lines += [line(600 + 20 * number, 200 + 10 * number, "loss 0.1000") for number in range(1, 4)]
    shown = describe("run", lines, 80, finished=False)
    assert "step 230/400" in shown
    assert "0:05:40 left (2 s a step)" in shown


def test_curves_fall_and_fit_the_terminal():
    lines = [line(number, number, f"loss {1000 - number}.0000") for number in range(1, 400)]
    shown = describe("run", lines, 60, finished=True)
    assert "finished" in shown
    curve = shown.splitlines()[2].split()[-1]
    assert list(curve) == sorted(curve, reverse=True) and len(set(curve)) == 8
    assert all(len(row) <= 60 for row in shown.splitlines()[2:])


@pytest.mark.parametrize("result", ["model", "adapter"])
def test_in_a_terminal_the_run_is_shown_until_it_is_finished(tmp_path, monkeypatch, capsys, result):
    (tmp_path / "train.log").write_text(line(1, 10, "loss 2.0000") + "\n")

    def train_on(seconds):
        with (tmp_path / "train.log").open("a") as log:
            log.write(line(2, 400, "loss 1.0000") + "\n")
        (tmp_path / result).mkdir()

    monkeypatch.setattr(time, "sleep", train_on)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["watch", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.split("\x1b[H\x1b[J")[1:]
    assert "step 10/400" in first and "finished" not in first
    assert "step 400/400" in second and "100%, finished" in second


def test_a_log_without_steps_and_no_log_are_told(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 1
    assert "give the output_dir of whisper-recipe train" in capsys.readouterr().err
    (tmp_path / "train.log").write_text("2026-01-02 03:04:05,678 INFO model: loaded\n")
    assert main(["watch", str(tmp_path)]) == 0
    assert "nothing is logged yet" in capsys.readouterr().out


def test_watching_loads_no_torch(tmp_path):
    (tmp_path / "train.log").write_text("")
    program = "import sys; from whisper_recipe.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, "watch", str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.endswith("False\n")
