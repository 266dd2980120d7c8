"""How glibc's malloc serves a training on a CPU: its settings are read when a process starts, so before Python runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
# A step's tensors are kept for the next one, since the kernel zeroes the pages of new ones: up to a third of a step's
# time with a small model. Small blocks go back to where they were at once: those that malloc holds ready (tcache,
# fastbins) lie between large ones and keep these from becoming one again, which took half as much memory again.
TUNABLES = {"tcache_count": 0, "mxfast": 0, "mmap_threshold": 32 << 20, "trim_threshold": (1 << 31) - 1}
VARIABLE = "GLIBC_TUNABLES"
ACCELERATORS = ("nvidiactl", "kfd", "dxg")  # of NVIDIA, AMD and WSL; the tensors are in their memory then


def tunables() -> dict[str, str]:
    """Return the variable of the environment that holds the settings."""
    return {VARIABLE: ":".join(f"glibc.malloc.{name}={value}" for name, value in TUNABLES.items())}


def restart_with_tunables() -> None:
    """Start this process anew with the settings, once, where it has none and no GPU; nothing on other systems."""
    has_gpu = any((Path("/dev") / name).exists() for name in ACCELERATORS)
    if sys.platform == "linux" and VARIABLE not in os.environ and not has_gpu:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | tunables())
