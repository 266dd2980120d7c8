"""`whisper-recipe watch`: show a training run in the terminal, read from its log, without importing torch."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.files import require

# As training/logs.py writes it: `2026-01-02 03:04:05,678 INFO step 10/400  loss 2.5000  learning_rate 1.000e-05`
STEP = re.compile(r"(?P<time>[\d-]+ [\d:]+),\d+ INFO step (?P<step>\d+)/(?P<total>\d+)  (?P<values>\S.*)")
VALUE = re.compile(r"(\S+) (\S+)(?:  |$)")
SPARKS = "▁▂▃▄▅▆▇█"
RECENT = 20  # logged steps that the speed is measured over
WARNINGS = 3  # the last ones are shown
HIDDEN = ("epoch",)
RESULTS = ("model", "adapter")  # written when a run is finished: by method full, by method lora


class Logged(NamedTuple):
    """A line of train.log with the values measured after a step."""

    time: datetime
    step: int
    total: int
    values: dict[str, float]


def watch(run: Path, interval: float = 5.0, once: bool = False) -> None:
    """Display a training run: progress, remaining time, losses, learning rate, error rates and warnings.

    Exits when the run finishes, or on Ctrl-C, which does not stop the run.

    Args:
        run: the run's folder, exp/<name>.
        interval: seconds between updates.
        once: print the current state and exit; the default if the output is not a terminal.

    Raises:
        RecipeError: there is no log.
    """
    log = require(run / "train.log", "give the output_dir of whisper-recipe train")
    once = once or not sys.stdout.isatty()
    try:
        while True:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            finished = any((run / name).is_dir() for name in RESULTS)
            text = describe(run.absolute().name, lines, shutil.get_terminal_size().columns, finished)
            print(text if once else f"\x1b[H\x1b[J{text}", flush=True)
            if once or finished:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        return


def describe(name: str, lines: Iterable[str], width: int, finished: bool) -> str:
    """Return a summary of the lines of a run's log, at most `width` columns wide."""
    lines = list(lines)
    logged = [row for row in map(_parse, lines) if row is not None]
    if not logged:
        return f"{name}: nothing is logged yet"
    last = logged[-1]
    share = last.step / last.total
    bar = "█" * round(share * 20)
    state = "finished" if finished else _time_left(logged)
    parts = [f"{name}: step {last.step:,}/{last.total:,} {bar:░<20} {share:.0%}, {state}", ""]
    measured: dict[str, dict[int, float]] = {}
    for row in logged:  # a run that resumes from a checkpoint logs steps again: the later ones count
        for key, value in row.values.items():
            measured.setdefault(key, {})[row.step] = value
    keys = [key for key in measured if key not in HIDDEN]
    widest = max(map(len, keys), default=0)
    for key in keys:
        values = list(measured[key].values())
        parts.append(
            f"{key:{widest}}  {values[-1]:<10.4g} {_against(key, values):15} "
            f"{_sparkline(values, max(8, width - widest - 32))}"
        )
    warnings = [line for line in lines if " WARNING " in line or " ERROR " in line]
    if warnings:
        parts += ["", f"warnings: {len(warnings)}, the last:", *(line[:width] for line in warnings[-WARNINGS:])]
    return "\n".join(part.rstrip() for part in parts)


def _against(key: str, values: list[float]) -> str:
    """Return the value to compare the last one with: the best one, or for a canary the one before training."""
    if key in ("learning_rate", "grad_norm"):
        return ""
    return f"first {values[0]:.4g}" if key.startswith("eval_canary") else f"best {min(values):.4g}"


def _parse(line: str) -> Logged | None:
    found = STEP.fullmatch(line)
    if found is None:
        return None
    values = {key: float(value) for key, value in VALUE.findall(found["values"])}
    at = datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S")
    return Logged(at, int(found["step"]), int(found["total"]), values)


def _time_left(logged: list[Logged]) -> str:
    """Return the remaining time at the speed of the last steps, including pauses for evaluation."""
    recent = logged[-1:]
    for row in reversed(logged[:-1]):
        if row.step > recent[0].step or len(recent) == RECENT:  # the run resumed after that row
            break
        recent.insert(0, row)
    first, last = recent[0], recent[-1]
    if last.step == first.step or last.time == first.time:
        return f"last logged {last.time:%H:%M:%S}"
    each = (last.time - first.time) / (last.step - first.step)
    left = timedelta(seconds=round((each * (last.total - last.step)).total_seconds()))
    return f"{left} left ({each.total_seconds():.3g} s a step), last logged {last.time:%H:%M:%S}"


def _sparkline(values: list[float], width: int) -> str:
    """Return values as a line of bars; if there are more values than columns, each bar is a mean of several."""
    if len(values) > width:
        edges = [len(values) * column // width for column in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    finite = [value for value in values if abs(value) < float("inf")]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    levels = [(value - low) / span if span and abs(value) < float("inf") else 0 for value in values]
    return "".join(SPARKS[round(level * (len(SPARKS) - 1))] for level in levels)
