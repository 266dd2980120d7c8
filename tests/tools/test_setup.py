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
    # As if pip had no settings, whatever this machine's are.
    inherited = {name: value for name, value in os.environ.items() if name != "VENV" and not name.startswith("PIP_")}
    environment = {**inherited, "PIP_CONFIG_FILE": "/dev/null", "HOME": str(project), **environment}
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
    assert printed.splitlines()[-1].startswith("setup.sh: error: the installation failed")
    assert setup(project)[2]
    assert setup(project) == (0, "", [])


def test_an_unknown_option_is_named(project):
    assert setup(project, "--devel")[:2] == (1, "setup.sh: error: unknown option --devel; use --dev or nothing\n")


# Stand-ins for Pythons: OLD is 3.10, NEW makes an environment with the stand-in of above.
OLD = "#!/usr/bin/env bash\n[[ $1 != --version ]] || echo Python 3.10.12\n[[ $1 != -c ]]\n"
NEW = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
[[ $1 != -m ]] || { mkdir -p "$3/bin" && cp "$PYTHON" "$3/bin/python"; }
"""
# uv notes what it does; its environments are that stand-in too.
UV = """#!/usr/bin/env bash
echo "uv $*" >>"$CALLS"
mkdir -p "$VENV/bin"
cp "$PYTHON" "$VENV/bin/python"
touch "$VENV/bin/whisper-recipe"
chmod +x "$VENV/bin/whisper-recipe"
"""


def bare(project: Path, **programs: str) -> dict[str, str]:
    """Return the environment of a machine with these programs, and no Python that is new enough but theirs."""
    (project / ".venv/bin/python").rename(project / "python")
    folder = project / "bin"
    folder.mkdir()
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (folder / name).write_text(OLD)
    for name, text in programs.items():
        (folder / name.replace("_", ".")).write_text(text)
    for path in folder.iterdir():
        path.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    return {"PATH": path, "PYTHON": str(project / "python"), "VENV": str(project / "venv")}


def test_a_newer_python_beside_an_old_one_is_found(project):
    status, printed, calls = setup(project, **bare(project, python3_12=NEW))
    assert status == 0, printed
    assert calls[1] == f"python3.12 -m venv {project}/venv"
    assert any("-r requirements.txt" in call for call in calls)


@pytest.mark.parametrize(
    ("system", "advice"),
    [
        ('ID=ubuntu\nVERSION_ID="22.04"\n', "sudo apt install -y python3-pip && python3 -m pip install --user uv"),
        ("ID=debian\nVERSION_ID=11\n", "install python3.11 or newer, or uv"),
    ],
)
def test_where_every_python_is_too_old_one_line_says_what_to_type(project, system, advice):
    (project / "os-release").write_text(system)
    status, printed, calls = setup(project, **bare(project), OS_RELEASE=str(project / "os-release"))
    assert (status, calls) == (1, [])
    (line,) = printed.splitlines()
    assert line.startswith("setup.sh: error: Python 3.11 or newer is required, found Python 3.10.12; ")
    assert advice in line


@pytest.mark.parametrize("where", ["bin", ".local/bin"])
def test_uv_is_used_where_it_is_and_brings_a_python(project, where):
    environment = bare(project, uv=UV)
    (project / where).mkdir(parents=True, exist_ok=True)
    (project / "bin/uv").rename(project / where / "uv")
    status, printed, calls = setup(project, **environment)
    assert status == 0, printed
    assert calls[0] == f"uv venv --quiet --seed --python 3.12 {project}/venv"
    assert all(call.startswith(f"uv pip install --quiet --python {project}/venv/bin/python ") for call in calls[1:])
    assert calls[-2].endswith("-r requirements.txt")
    assert setup(project, **environment) == (0, "", [])


def test_without_a_gpu_the_wheels_of_pytorch_are_those_for_cpus(project):
    if any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "dxg")):
        pytest.skip("this machine has a GPU")
    version = next(line.split()[0] for line in (ROOT / "requirements.txt").open() if line.startswith("torch=="))
    _, _, calls = setup(project)
    assert calls[0].endswith(f"--index-url https://download.pytorch.org/whl/cpu {version}")
    assert calls[1].endswith("-r requirements.txt")


def test_where_slurm_has_gpus_elsewhere_pytorch_is_not_that_for_cpus(project):
    (project / "slurm").mkdir()
    (project / "slurm/sbatch").write_text("#!/bin/bash\n")
    (project / "slurm/sbatch").chmod(0o755)
    _, _, calls = setup(project, PATH=f"{project}/slurm:{os.environ['PATH']}")
    assert not any("whl/cpu" in call for call in calls)


def test_an_index_of_cpu_wheels_that_is_out_of_reach_does_no_harm(project):
    status, printed, calls = setup(project, FAIL="whl/cpu")
    assert status == 0
    assert "no CPU-only PyTorch" in printed
    assert any("-r requirements.txt" in call for call in calls)


@pytest.mark.parametrize("setting", ["PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"])
def test_settings_of_pip_win_over_uv_and_the_cpu_wheels(project, setting):
    (project / "pip.conf").write_text("[global]\nindex-url = https://pypi.example.org/simple\n")
    environment = bare(project, python3_11=NEW, uv=UV)
    status, _, calls = setup(project, **environment, **{setting: str(project / "pip.conf")})
    assert status == 0
    assert not any("uv " in call or "whl/cpu" in call for call in calls)
