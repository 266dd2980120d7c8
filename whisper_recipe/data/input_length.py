"""Length of a model's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from whisper_recipe.data.audio import MAX_SECONDS
from whisper_recipe.data.features import MAX_FRAMES, check_spare_frames, collate_fbank
from whisper_recipe.model.load import natural_length, read_training_record


class InputLength(NamedTuple):
    """Length of a model's inputs: 30 s, or that of the longest in a batch plus some silence."""

    pad_to_30s: bool
    spare_frames: int = 0  # of 10 ms

    @property
    def seconds(self) -> float | None:
        """Seconds to which all inputs are padded; None: those of the longest in a batch."""
        return MAX_SECONDS if self.pad_to_30s else None

    def collate(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Return features (frames, mel bins) as a batch (batch, mel bins, frames)."""
        return collate_fbank(features, MAX_FRAMES if self.pad_to_30s else None, self.spare_frames)


def input_length(folder: str | Path, pad_to_30s: bool | None = None, spare_frames: int | None = None) -> InputLength:
    """Return the requested input length; anything not given is read from the model folder.

    Raises:
        RecipeError: `spare_frames` is negative or exceeds 30 s.
    """
    if pad_to_30s is None:
        pad_to_30s = not natural_length(folder)
    if spare_frames is None:
        spare_frames = (read_training_record(folder) or {}).get("spare_frames", 0)
    return InputLength(pad_to_30s, check_spare_frames(spare_frames, "spare_frames"))
