"""The settings of glibc's malloc: who starts anew with them, and what they do."""

import os
import platform
import subprocess
import sys

import pytest

from whisper_recipe import malloc
from whisper_recipe.cli import main
from whisper_recipe.malloc import VARIABLE, restart_with_tunables, tunables

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def run(script, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | variables
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reads the variable")
@pytest.mark.parametrize(("given", "expected"), [({}, tunables()[VARIABLE]), ({VARIABLE: "mine"}, "mine")])
def test_a_process_starts_anew_once_with_its_arguments(given, expected):
    script = (
        "import os, sys\n"
        "from whisper_recipe import malloc\n"
        "malloc.ACCELERATORS = ()\n"
        "print('start', flush=True)\n"
        "malloc.restart_with_tunables()\n"
        f"print(os.environ['{VARIABLE}'], sys.argv[1:])\n"
    )
    starts = "start\n" * (1 if given else 2)
    assert run(script, "a b", "--c", **given) == f"{starts}{expected} ['a b', '--c']"


def test_a_machine_with_a_gpu_is_left_alone(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(malloc, "ACCELERATORS", ("null",))
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started anew"))
    restart_with_tunables()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reads the variable")
def test_of_the_commands_train_starts_anew(monkeypatch):
    started = []
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(malloc, "ACCELERATORS", ())
    monkeypatch.setattr(os, "execve", lambda *_: started.append(sys.argv[1]))
    for command in ("score", "train"):
        monkeypatch.setattr(sys, "argv", ["whisper-recipe", command, "--nonsense"])
        main()
    assert started == ["train"]


@only_glibc
def test_freed_memory_is_kept_for_the_next_step():
    script = (
        "import numpy\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before, block = resident(), numpy.ones(2_500_000)\n"  # 20 MB
        "del block\n"
        "print((resident() - before) / 2**20)\n"
    )
    assert float(run(script, **tunables())) > 15 > 3 > float(run(script))


@only_glibc
def test_small_blocks_do_not_keep_large_ones_apart():
    """Of large blocks with small ones between, all freed, one as large as all of them can be made in their place."""
    script = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]\n"
        "blocks = [libc.malloc(ctypes.c_size_t(size)) for _ in range(6) for size in (1 << 20, 1000)]\n"
        "for block in blocks: libc.free(block)\n"
        "print(blocks[0] <= libc.malloc(ctypes.c_size_t(5 << 20)) <= blocks[-2])\n"
    )
    assert (run(script, **tunables()), run(script)) == ("True", "False")
