"""A wheel of the package: the command line works from it, without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.egs.helpers import write_noise

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "whisper_recipe", source / "whisper_recipe", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run(build, check=True)
    (path,) = out.glob("whisper_recipe-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with what pip installs of the wheel; the dependencies are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(install, check=True)
    return folder


def run(installed: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    """Run the wheel's console script in a folder that is not the checkout."""
    return subprocess.run(
        [sys.executable, installed / "bin/whisper-recipe", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else_is(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "whisper_recipe").rglob("*") if path.is_file()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in files if "__pycache__" not in name}


def test_the_wheel_requires_what_the_requirements_list(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    required = {Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist: ")}
    required = {requirement for requirement in required if "extra" not in str(requirement.marker)}
    listed = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert required == {Requirement(line) for line in listed if line}


def test_the_command_of_the_wheel_runs_outside_of_the_checkout(installed, tmp_path):
    where = "import whisper_recipe; print(whisper_recipe.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(installed)
    assert "validate" in run(installed, "--help", cwd=tmp_path).stdout
    write_noise(tmp_path / "data/a.wav", 1)
    for table, value in {"wav.scp": "a.wav", "text": "hello", "utt2lang": "en"}.items():
        (tmp_path / "data" / table).write_text(f"a {value}\n")
    done = run(installed, "validate", "data", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 utterances" in done.stdout
