"""The exception for errors that users can correct, printed as one line."""

from __future__ import annotations

from pathlib import Path

OUT_OF_MEMORY = (  # in libraries' error messages
    "out of memory",  # PyTorch and CTranslate2 on a GPU
    "can't allocate memory",  # PyTorch on a CPU
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED and ..._HOST_...
    "unable to find an engine",  # cuDNN, when no algorithm's workspace fits
)


class RecipeError(Exception):
    """An error in the user's data, configuration or call.

    Args:
        what: what is wrong.
        where: file, `file:line` or configuration key.
        cure: what to do about it.
    """

    status = 1  # exit status of the command

    def __init__(self, what: str, where: str | Path | None = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        line = f"{where}: {what}" if where is not None else what
        super().__init__(f"{line}; {cure}" if cure else line)


def check_proportion(value: float, option: str) -> None:
    """Raise RecipeError unless an option's value is between 0 and 1."""
    if not 0 <= value <= 1:
        raise RecipeError(f"must be between 0 and 1, got {value}", where=option)


def no_cuts(manifest: Path) -> RecipeError:
    """Return the error for a manifest without cuts."""
    return RecipeError("contains no cuts", where=manifest, cure="check the data directory it was made from")


class PartialFailure(RecipeError):
    """Some inputs were skipped, each with a line that gives the reason; the results for the others are complete."""

    status = 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means out of memory, by its message; most libraries have no exception type for it."""
    return any(sign in str(error) for sign in OUT_OF_MEMORY)
