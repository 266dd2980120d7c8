"""What the tests of recipes share: a recipe in a folder of its own, its run, and speech that is only noise."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
import yaml

from tests import preloaded

ROOT = Path(__file__).parents[2]
ONE_JOB = ("--num_jobs", "1")  # a second process takes longer to start than all features to compute


def place(recipe: Path, folder: Path) -> Path:
    """Copy a recipe, without what a run left there, to folder/egs beside the project's tools."""
    (folder / "egs").mkdir(exist_ok=True)
    if not (folder / "tools").exists():
        (folder / "tools").symlink_to(ROOT / "tools")
    left = shutil.ignore_patterns("data", "exp", "download")
    return shutil.copytree(recipe, folder / "egs" / recipe.name, ignore=left)


def place_for_a_trial(name: str, folder: Path) -> Path:
    """Place a recipe of egs/ and have its trainings take two steps on a CPU."""
    recipe = place(ROOT / "egs" / name, folder)
    for path in recipe.glob("conf/**/train_*.yaml"):
        options = yaml.safe_load(path.read_text())
        options["trainer"] |= {"max_steps": 2, "warmup_steps": 0, "bf16": False}
        options["batches"]["num_workers"] = 0
        path.write_text(yaml.safe_dump(options))
    return recipe


def run(recipe: Path, *options: str, cwd: Path | None = None, preload: bool = True) -> subprocess.CompletedProcess:
    """Run a recipe's script as a user does who stands in `cwd`, in the tests' virtual environment.

    Its commands are those of tests/preloaded.py, or the real ones without `preload`.
    """
    venv = preloaded.environment() if preload else {"VENV": sys.prefix}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **venv}
    return subprocess.run(
        ["bash", str(recipe / "run.sh"), *map(str, options)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
    )


def load_script(name: str) -> ModuleType:
    """Import egs/<name>/local/make_data.py."""
    specification = importlib.util.spec_from_file_location(f"{name}_data", ROOT / "egs" / name / "local/make_data.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write_noise(path: Path, seconds: float, sampling_rate: int = 16000, **options) -> None:
    """Write an audio file of noise, of the format that its suffix means."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(path)))
    soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * sampling_rate)), sampling_rate, **options)


def pack(archive: Path, folder: Path, *names: str) -> Path:
    """Write a .tar.gz of some entries of a folder, as `tar -czf archive -C folder names` does."""
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    return archive


def table(folder: Path, name: str) -> dict[str, str]:
    """Return a table of a Kaldi data directory: id -> the rest of the line."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)
