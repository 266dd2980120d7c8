"""The one exception for what a user can cause and correct: it prints as a single clear line."""

from __future__ import annotations

from pathlib import Path

OUT_OF_MEMORY = (  # how libraries say so
    "out of memory",  # PyTorch and CTranslate2 on a GPU
    "can't allocate memory",  # PyTorch on a CPU
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED and ..._HOST_...
    "unable to find an engine",  # cuDNN, where no algorithm's workspace fits
)


class RecipeError(Exception):
    """An error of the user's data, configuration or call.

    Args:
        what: what is wrong.
        where: file, `file:line` or configuration key.
        cure: what to do about it.
    """

    status = 1  # of the command that it ends

    def __init__(self, what: str, where: str | Path | None = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        line = f"{where}: {what}" if where is not None else what
        super().__init__(f"{line}; {cure}" if cure else line)


def check_proportion(value: float, option: str) -> None:
    """RecipeError where an option's value is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise RecipeError(f"must be between 0 and 1, got {value}", where=option)


class PartialFailure(RecipeError):
    """Some of the inputs were skipped, each with a line that says why; the results of the others are complete."""

    status = 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory is full; most libraries have no type of their own for that."""
    return any(sign in str(error) for sign in OUT_OF_MEMORY)
