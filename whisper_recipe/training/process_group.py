"""Closing the process group of distributed training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from whisper_recipe.errors import RecipeError

# Messages of gloo and NCCL when a process that they wait for is gone.
LOST = re.compile("Connection (closed|reset)|connection closed|gloo|NCCL|Broken pipe", re.IGNORECASE)


@contextmanager
def closing_process_group(output_dir: Path) -> Iterator[None]:
    """Destroy the process group at the end: otherwise a process may abort at exit.

    Raises:
        RecipeError: another process has died.
    """
    try:
        yield
    except RuntimeError as error:
        if not torch.distributed.is_initialized() or not LOST.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"another process of the run has died ({reason})",
            where=f"process {torch.distributed.get_rank()}",
            cure=f"see {output_dir / 'log'}; the same command resumes from the last checkpoint",
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
