"""What a run writes in addition to its model: its logs, its curves, and its environment."""

from __future__ import annotations

import csv
import logging
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from whisper_recipe import __version__
from whisper_recipe.files import atomic_write, write_json
from whisper_recipe.processes import is_main_process

log = logging.getLogger(__name__)

LOGGED = {"loss": ".4f", "eval_loss": ".4f", "learning_rate": ".3e", "grad_norm": ".3f", "epoch": ".2f"}
RATES = re.compile("eval_(wer|cer|error_rate|canary)")  # shares, by language; see training/evaluation.py


def _forms(logs: dict) -> dict[str, str]:
    """Return the format of each measured value, in order."""
    return {key: LOGGED.get(key, ".4f") for key in (*LOGGED, *filter(RATES.match, logs)) if key in logs}


class LogCallback(TrainerCallback):
    """Writes loss, learning rate, gradient norm and epoch to the run's log, one line per `logging_steps`."""

    def __init__(self, log: logging.Logger) -> None:
        self.log = log

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs
    ) -> None:
        """Log what the Trainer just measured."""
        forms = _forms(logs or {})
        parts = [f"{key} {float(logs[key]):{form}}" for key, form in forms.items()]
        if forms.keys() - {"epoch"}:  # the last call only sums up the run's speed
            self.log.info("step %d/%d  %s", state.global_step, state.max_steps, "  ".join(parts))


def write_curves(folder: Path, history: list[dict]) -> None:
    """Write curves.csv, one row per logged step, and curves.png: losses, learning rate and error rates by step.

    Args:
        folder: the run's folder.
        history: the Trainer's log_history.
    """
    from matplotlib.figure import Figure

    rows: dict[int, dict] = {}
    for entry in history:
        rows.setdefault(entry["step"], {}).update({key: entry[key] for key in _forms(entry)})
    rates = sorted({key for row in rows.values() for key in row if RATES.match(key)})
    with atomic_write(folder / "curves.csv") as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["step", *LOGGED, *rates])
        table.writeheader()
        table.writerows({"step": step, **row} for step, row in rows.items())
    panels = [(["loss", "eval_loss"], "cross entropy per token"), (["learning_rate"], "learning rate")]
    panels += [(rates, "error rate")] if rates else []
    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    for axes, (keys, label) in zip(figure.subplots(len(panels), 1, sharex=True), panels, strict=True):
        for key in keys:
            points = [(step, float(row[key])) for step, row in rows.items() if row.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=key, marker="o" if key.startswith("eval") else None)
        axes.set(ylabel=label, yscale="log" if "loss" in keys else "linear")
        if len(keys) > 1 and axes.lines:
            axes.legend()
    axes.set(xlabel="step")
    with atomic_write(folder / "curves.png") as aside:
        figure.savefig(aside, dpi=120, format="png")


def log_and_print(message: str) -> None:
    """Write a message to the run's log, and in the main process also to the terminal."""
    log.info(message)
    if is_main_process():
        print(message)


@contextmanager
def log_to_file(folder: Path, rank: int = 0) -> Iterator[None]:
    """Append the package's log messages to a run's log within the context.

    The log is train.log for the main process, and log/rank<N>.log for the others.
    """
    path = folder / "log" / f"rank{rank}.log" if rank else folder / "train.log"
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("whisper_recipe")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def write_environment(folder: Path) -> None:
    """Write environment.json: the command, the versions, the git revision, the machine."""
    packages = ["torch", "transformers", "peft", "accelerate", "lhotse", "ctranslate2", "numpy"]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    write_json(
        folder / "environment.json",
        {
            "command": sys.argv,
            "python": platform.python_version(),
            "whisper_recipe": __version__,
            "git_revision": _git_revision(),
            "packages": {package: version(package) for package in packages},
            "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "gpus": gpus},
        },
    )


def _git_revision() -> str | None:
    """Return the commit of this checkout; None if it is not one or git is not installed."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
