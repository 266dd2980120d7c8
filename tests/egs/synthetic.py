"""Recipes run as users run them, in a folder of their own, on corpora of tones and with a tiny model."""

import re
import shutil
from pathlib import Path

import numpy as np
import soundfile

from tests.egs import helpers

SAMPLING_RATE = 16000


def place(name: str, folder: Path, as_name: str | None = None) -> Path:
    """Copy egs/NAME and the project's tools to a folder; return the recipe's. Trainings there take two steps."""
    tools = shutil.copytree(helpers.ROOT / "tools", folder / "tools")
    (tools / "setup.sh").write_text("exit 0\n")  # the environment is the tests'
    recipe = folder / "egs" / (as_name or name)
    shutil.copytree(helpers.ROOT / "egs" / name, recipe, ignore=shutil.ignore_patterns("data", "exp"))
    for path in recipe.glob("conf/train_*.yaml"):
        path.write_text(re.sub("^trainer:$", "trainer:\n  max_steps: 2", path.read_text(), flags=re.MULTILINE))
    return recipe


def run(recipe: Path, *options: str, cwd: Path | None = None) -> str:
    """Run a recipe's script; return what it printed. AssertionError with its end where it fails."""
    status, printed = try_to_run(recipe, *options, cwd=cwd)
    assert status == 0, printed[-3000:]
    return printed


def try_to_run(recipe: Path, *options: str, cwd: Path | None = None) -> tuple[int, str]:
    """Run a recipe's script; return its exit status and what it printed."""
    done = helpers.run(recipe, *options, cwd=cwd or recipe)
    return done.returncode, done.stdout


def write_tones(path: Path, pitch: float, seconds: float = 0.8) -> Path:
    """Write a tone of `pitch` Hz with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(SAMPLING_RATE * seconds)) / SAMPLING_RATE
    noise = np.random.default_rng(round(pitch)).standard_normal(len(times))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * times) + 0.01 * noise, SAMPLING_RATE, subtype="PCM_16")
    return path


def write_tables(folder: Path, **tables: dict[str, str]) -> Path:
    """Write a Kaldi data directory from table -> id -> value; `wav_scp` stands for wav.scp."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        lines = "".join(f"{key} {value}\n" for key, value in sorted(rows.items()))
        (folder / name.replace("_", ".")).write_text(lines, encoding="utf-8")
    return folder


def table_rows(recipe: Path) -> dict[str, dict[str, str]]:
    """Return run -> column -> cell of the first table of exp/RESULTS.md."""
    lines = [line for line in (recipe / "exp/RESULTS.md").read_text().splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = split[0]
    rows = {}
    for cells in split[2:]:
        if len(cells) != len(header) or cells[0].startswith("minus"):
            break
        rows[cells[0]] = dict(zip(header, cells, strict=True))
    return rows
