"""Model folders that are not whole end in one clear line."""

import os
import shutil
import subprocess
import sys

import pytest

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import (
    is_hub_name,
    load_model,
    load_processor,
    load_tokenizer,
    natural_length,
    timestamps,
)


def test_no_such_folder(tmp_path):
    with pytest.raises(RecipeError, match="no such model folder"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("file", "message"),
    [("config.json", "config.json: no such file"), ("model.safetensors", "none of model.safetensors")],
)
def test_a_missing_file_is_named(tiny_model, tmp_path, file, message):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(RecipeError, match=message):
        load_model(folder)


def test_truncated_weights_are_an_error_that_names_the_folder(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RecipeError, match="can't be loaded"):
        load_model(folder)


def test_weights_of_another_shape_are_an_error(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"d_model": 32', '"d_model": 64'))
    with pytest.raises(RecipeError, match="can't be loaded"):
        load_model(folder)


def test_missing_tokenizer_is_named(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match="tokenizer.json"):
        load_processor(folder)


def test_weights_missing_from_the_file_are_an_error_not_random(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.decoder.layers.0.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="model.decoder.layers.0.fc1.weight"):
        load_model(folder)


def test_pickled_code_in_old_weights_never_runs(tiny_model, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RecipeError, match="can't be loaded"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_local_folder_never_causes_network_access(tiny_model, tmp_path):
    code = """
import socket, sys
def refuse(*arguments, **options):
    raise SystemExit(f"network access: {arguments}")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
from pathlib import Path
from whisper_recipe.export.ct2 import export
from whisper_recipe.model.adapters import LoraOptions, add_lora, merge
from whisper_recipe.model.load import is_hub_name, load_model, load_processor, natural_length, timestamps
model, out = sys.argv[1], Path(sys.argv[2])
load_processor(model)
add_lora(load_model(model), LoraOptions(rank=2)).save_pretrained(out / "adapter", save_embedding_layers=False)
(out / "adapter/whisper_recipe.json").write_text("{}")
merge(out)
export(out / "model", out / "ct2")
print("done")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.endswith("done\n")


def test_stock_models_may_be_asked_for_timestamps_and_ours_as_they_record(tiny_model, tmp_path):
    assert timestamps(tiny_model) and not natural_length(tiny_model)
    ours = shutil.copytree(tiny_model, tmp_path / "model")
    (ours / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    assert natural_length(ours) and not timestamps(ours)
    for recorded, expected in (("true", True), ("0.0", False), ("0.002", False), ("0.43", True), ("1.0", True)):
        (ours / "whisper_recipe.json").write_text(f'{{"timestamps": {recorded}}}')
        assert timestamps(ours) is expected


def test_weights_are_readable_by_whoever_may_read_the_configuration(tiny_model):
    modes = {name: (tiny_model / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert modes["model.safetensors"] == modes["config.json"]


@pytest.mark.parametrize(
    ("name", "on_the_hub"),
    [
        ("openai/whisper-small", True),
        ("exp/base", False),
        ("./a/b", False),
        ("/a", False),
        ("a", False),
        ("a/b/c", False),
    ],
)
def test_names_on_the_hub_are_told_from_paths(name, on_the_hub):
    assert is_hub_name(name) == on_the_hub


def test_a_name_that_is_nowhere_is_not_taken_for_a_damaged_tokenizer(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match="nowhere/ct2: the config can't be loaded .*: give a local folder"):
        load_tokenizer("nowhere/ct2")
