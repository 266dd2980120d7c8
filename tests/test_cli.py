"""The command line: quick help, one-line errors, and options as users write them."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from whisper_recipe.cli import COMMANDS, main


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from whisper_recipe.cli import main; main(['--help']); "
        "print(*{'torch', 'transformers', 'lhotse', 'ctranslate2', 'jsonargparse'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.split("\n")[:-1]
    assert loaded == ""
    assert all(any(line.strip().startswith(command + " ") for line in text) for command in COMMANDS)


@pytest.mark.slow
def test_libraries_say_nothing_of_their_own_at_a_start():
    done = subprocess.run([sys.executable, "-m", "whisper_recipe", "train", "--help"], capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: whisper-recipe " + command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nonsense"], "unknown command 'nonsense'"),
        (["score"], "command line:"),
        (["merge", "/nowhere"], "/nowhere/adapter/adapter_config.json: no such file"),
        (["fbank", "x", "--num-mel-bins", "81"], "num_mel_bins"),
        (["fbank", "x", "--num-mel-bin", "80"], "--num_mel_bin"),
    ],
)
def test_errors_are_one_line_with_status_1(argv, message, capsys):
    assert main(argv) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"whisper-recipe {argv[0]}: error: ")
    assert message in lines[0]


def test_debug_shows_the_traceback(capsys):
    assert main(["merge", "/nowhere", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_lists_and_hyphens_are_taken_as_users_write_them(transcripts, tmp_path):
    sizes = ["--d-model", "32", "--encoder-layers=1", "--decoder-layers", "1", "--attention-heads", "2"]
    assert main(["init-model", str(tmp_path / "m"), "--text", str(transcripts), str(transcripts), *sizes]) == 0
    assert (tmp_path / "m/model.safetensors").exists()


def test_a_flag_needs_no_value(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(8000)) / 2, 16000)
    for table, value in (("wav.scp", f"cat {tmp_path}/a.wav |"), ("text", "one"), ("utt2lang", "en")):
        (tmp_path / table).write_text(f"a {value}\n")
    assert main(["validate", str(tmp_path)]) == 1
    assert main(["validate", str(tmp_path), "--allow-pipes"]) == 0
    assert main(["validate", "--allow-pipes", "--corpus", str(tmp_path)]) == 0


def test_options_that_contradict_each_other_are_one_line(capsys):
    inputs = ["--base_model", "model", "--train_cuts", "train", "--dev_cuts", "dev", "--output_dir", "exp"]
    assert main(["train", *inputs, "--trainer.fp16", "true", "--trainer.bf16", "true"]) == 1
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert "incompatible options" in printed[0]
    assert "16" in printed[0]
