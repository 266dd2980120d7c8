"""Shared by the benchmarks: a command's time and memory, the machine's name, and the table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate


class Cost(NamedTuple):
    """Time and memory that a command took."""

    seconds: float
    megabytes: float  # peak of it and the processes it waited for


def cost(*command: str) -> Cost:
    """Run a command, discarding its output; return its time and memory.

    Raises:
        SystemExit: the command failed.
    """
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.execvp(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def child(script: str, what: str, folder: str, *launcher: str, **variables: str) -> str:
    """Run a benchmark's script in a child process, for one of its measurements; return its output.

    Args:
        script: the benchmark's, run with this process's options and `--child what folder`.
        what: what to measure.
        folder: of its data and models.
        launcher: options of Python before the script, such as -m torch.distributed.run.
        variables: additional environment variables.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **variables}
    command = [sys.executable, *launcher, script, *sys.argv[1:], "--child", what, folder]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def machine() -> str:
    """Return processor, cores, load and Python version, for results."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def spread(values: list[float], digits: int = 1) -> str:
    """Return `median (lowest to highest)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(title: str, rows: list[dict[str, object]]) -> None:
    """Print a benchmark's table under its title and the machine's name."""
    print(f"\n{title}\n{machine()}\n")
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
