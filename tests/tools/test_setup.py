"""The set-up script, with a stand-in for pip: it is quick when done, and starts again when it was broken off."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ $* != *"${FAIL:-nothing}"* ]] || exit 1
touch "$(dirname "$0")/whisper-recipe"
chmod +x "$(dirname "$0")/whisper-recipe"
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup.sh", tmp_path / "tools")
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    return tmp_path


def setup(project: Path, *options: str, **environment: str) -> tuple[int, str, list[str]]:
    calls = project / "calls"
    calls.write_text("")
    environment = {**{name: value for name, value in os.environ.items() if name != "VENV"}, **environment}
    done = subprocess.run(
        ["bash", str(project / "tools/setup.sh"), *options],
        env={**environment, "CALLS": str(calls)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout, calls.read_text().splitlines()


def test_the_second_set_up_does_nothing(project):
    status, _, calls = setup(project)
    assert status == 0
    assert any("-r requirements.txt" in call for call in calls)
    assert setup(project) == (0, "", [])


def test_what_the_tests_need_holds_what_the_recipes_need(project):
    setup(project, "--dev")
    assert setup(project) == (0, "", [])


def test_changed_requirements_are_installed(project):
    setup(project)
    with open(project / "requirements.txt", "a") as file:
        file.write("six\n")
    assert setup(project)[2]


def test_a_set_up_that_broke_off_starts_again(project):
    status, printed, _ = setup(project, FAIL="no-deps")
    assert status == 1
    assert printed.splitlines()[-1].startswith("setup.sh: error: pip failed")
    assert setup(project)[2]
    assert setup(project) == (0, "", [])


def test_an_unknown_option_is_named(project):
    assert setup(project, "--devel")[:2] == (1, "setup.sh: error: unknown option --devel; use --dev or nothing\n")
