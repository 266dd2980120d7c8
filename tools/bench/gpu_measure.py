"""Shared by gpu_check.py and gpu.py: results that survive being cut off, and a GPU's memory, waits and matrix peak."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measure import machine
from tabulate import tabulate

from whisper_recipe.files import atomic_write, write_json

PARTS = ("tests", "training", "decoding", "bench")  # of the report, in this order
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
SYNCHRONIZING = "called a synchronizing CUDA operation"  # in the warnings of torch.cuda.set_sync_debug_mode


class Results:
    """The rows of one part of a check, written to out/<part>.json and, with the other parts, to out/report.md."""

    def __init__(self, out: Path, part: str, title: str) -> None:
        self.out, self.part, self.title, self.rows = out, part, title, []
        self.failed = 0
        out.mkdir(parents=True, exist_ok=True)
        self._write(finished=False)

    def add(self, row: dict[str, object]) -> None:
        """Add a row and write the results."""
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        self._write(finished=False)

    def attempt(self, what: str, measure: Callable[[], dict[str, object]]) -> dict[str, object] | None:
        """Add the row that `measure` returns for `what`, or the reason why it failed."""
        try:
            row = measure()
        except Exception as error:  # one failure must not prevent the others
            self.failed += 1
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.add({"what": what, "remark": f"FAILED: {reason}"})
            return None
        self.add({"what": what, **row})
        return row

    def finish(self) -> None:
        """Record that nothing was cut off."""
        self._write(finished=True)

    def _write(self, finished: bool) -> None:
        found = {"title": self.title, "machine": f"{card()}; {machine()}", "finished": finished, "rows": self.rows}
        write_json(self.out / f"{self.part}.json", found)
        write_report(self.out)


def write_report(out: Path) -> None:
    """Write out/report.md from the JSON files of the parts."""
    text = ["# GPU check"]
    for path in filter(Path.exists, (out / f"{part}.json" for part in PARTS)):
        part = json.loads(path.read_text(encoding="utf-8"))
        table = tabulate(part["rows"], headers="keys", tablefmt="github", disable_numparse=True)
        cut_off = "" if part["finished"] else f"\n\nNot finished: cut off after {len(part['rows'])} rows."
        text.append(f"## {part['title']}\n\n{part['machine']}\n\n{table}{cut_off}")
    with atomic_write(out / "report.md") as aside:
        aside.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def card() -> str:
    """Return the GPU's name and the versions of torch and transformers."""
    import transformers

    name = torch.cuda.get_device_name() if GPU else "no GPU"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"


def synchronize() -> None:
    """Wait for the GPU."""
    if GPU:
        torch.cuda.synchronize()


def forget() -> None:
    """Free memory and reset its peak."""
    import gc

    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes() -> str:
    """Return PyTorch's peak memory since `forget`."""
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if GPU else ""


@contextmanager
def card_memory(every: float = 0.02) -> Iterator[list[int]]:
    """Sample the GPU's bytes in use every `every` seconds, because CTranslate2 has its own allocator."""
    used, ended = [0], threading.Event()

    def look() -> None:
        while GPU and not ended.wait(every):
            free, total = torch.cuda.mem_get_info()
            used.append(total - free)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join()


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count the places where the program waits for the GPU (https://docs.pytorch.org/docs/stable/notes/cuda.html)."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if GPU:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if GPU:
                torch.cuda.set_sync_debug_mode("default")
            for warning in caught:
                if SYNCHRONIZING in str(warning.message):
                    found["/".join(Path(warning.filename).parts[-2:]) + f":{warning.lineno}"] += 1


def matrix_peak(size: int = 8192, rounds: int = 10) -> float:
    """Return the operations per second that the device reaches in a product of two bfloat16 matrices."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        a @ b
    synchronize()
    return 2 * size**3 * rounds / (time.perf_counter() - start)


def forward_operations(config: object, batch: int, frames: int, tokens: int) -> int:
    """Return the operations of Whisper's forward pass in matrix products, padding included.

    Args:
        config: WhisperConfig.
        batch: number of utterances.
        frames: log-mel frames per utterance.
        tokens: tokens per utterance.
    """
    width, positions = config.d_model, (frames + 1) // 2
    convolutions = 3 * width * (config.num_mel_bins * frames + width * positions)
    encoder_layer = positions * (4 * width**2 + 2 * width * config.encoder_ffn_dim) + 2 * positions**2 * width
    decoder_layer = (
        tokens * (6 * width**2 + 2 * width * config.decoder_ffn_dim)  # both attentions except cross keys and values
        + 2 * positions * width**2
        + 2 * tokens * (tokens + positions) * width
    )
    layers = config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer
    return 2 * batch * (convolutions + layers + tokens * width * config.vocab_size)
