"""The outputs of a frozen encoder, computed once: then the decoder is trained from them."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from whisper_recipe.data.features import load_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json, write_json, write_jsonl
from whisper_recipe.model.precision import autocast
from whisper_recipe.training.augment import TrainingAugmentation
from whisper_recipe.training.cuts import cuts_digest, load_cuts, selected
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.sampler import BatchOptions

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0
FIELD = "encoder_states"  # of a cut's custom fields: {"path", "start", "frames"}


def check_cache(
    method: str, parameters: ParameterOptions, augment: TrainingAugmentation, batches: BatchOptions
) -> None:
    """RecipeError where a run has no use for stored encoder outputs, because they would not stay the same."""
    reason = None
    if method != "full" or not parameters.freeze_encoder:
        reason = "the encoder changes in training", "set method full and parameters.freeze_encoder true"
    elif augment.of_waveforms or augment.spec_augment:
        reason = "augment changes what the encoder sees", "leave augment out"
    elif batches.pad_to_30s or batches.spare_frames:
        reason = "they are stored at the cuts' own length", "set batches.pad_to_30s 0 and batches.spare_frames 0"
    if reason:
        raise RecipeError(reason[0], where="cache_encoder", cure=f"{reason[1]}, or cache_encoder false")


def with_encoder_states(
    cuts: CutSet,
    manifests: list[Path],
    base_model: str,
    model: WhisperForConditionalGeneration,
    folder: Path,
    wait: bool = False,
) -> CutSet:
    """Return the cuts with their encoder outputs, which are computed and stored where they are not there yet.

    Each cut is encoded by itself, at its own length. They take 2 * d_model bytes for 20 ms: for whisper-small 0.27 GB
    an hour.

    Args:
        cuts: to encode.
        manifests: where they come from; when these files or the model change, all is computed again.
        base_model: folder or name of the model.
        model: whose encoder is frozen.
        folder: to write: states.npy, float16 of shape (frames of all cuts, d_model), and cuts.jsonl.gz.
        wait: another process writes it. Looking for the folder takes any time; a barrier of NCCL's ends after minutes.
    """
    made_of = {"base_model": base_model, "model": _digest(model)}
    made_of |= {str(path): cuts_digest(path) for path in manifests}
    while wait and not _is_made_of(folder, made_of):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if not _is_made_of(folder, made_of):
        durations = selected(cuts).durations
        with atomic_write(folder, replace_folder=True) as aside:
            aside.mkdir()
            # One or two frames of features more than the duration has, and half as many states: room for a few more.
            shape = (sum(math.ceil(50 * duration) + 2 for duration in durations), model.config.d_model)
            states = np.lib.format.open_memmap(aside / "states.npy", mode="w+", dtype=np.float16, shape=shape)
            write_jsonl(aside / "cuts.jsonl.gz", _encoded(cuts, len(durations), model, states, folder))
            states.flush()
            write_json(aside / "made_of.json", made_of)
        log.info("%s: encoder outputs of %d cuts, %.2f GB", folder, len(durations), 2 * shape[0] * shape[1] / 1e9)
    return CutSet(selected(load_cuts([folder / "cuts.jsonl.gz"])))


def _is_made_of(folder: Path, made_of: dict) -> bool:
    try:
        return read_json(folder / "made_of.json") == made_of
    except RecipeError:  # not there yet
        return False


@torch.inference_mode()
def _encoded(
    cuts: CutSet, count: int, model: WhisperForConditionalGeneration, states: np.ndarray, folder: Path
) -> Iterator[dict]:
    """Fill in the states; yield the cuts' rows with their places in them."""
    encoder, start = model.eval().get_encoder(), 0
    for cut in tqdm(cuts, total=count, unit="cut", desc="encode"):
        features = load_fbank(cut, model.config.num_mel_bins).T[None].to(model.device, model.dtype)
        with autocast(model):
            found = encoder(features).last_hidden_state[0].float().cpu().numpy()
        states[start : start + len(found)] = found
        place = {"path": str(folder / "states.npy"), "start": start, "frames": len(found)}
        yield {**cut.to_dict(), "custom": {**(cut.custom or {}), FIELD: place}}
        start += len(found)


def _digest(model: WhisperForConditionalGeneration) -> str:
    digest = hashlib.sha256()
    for name, value in model.get_encoder().state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def has_states(cut: Cut) -> bool:
    """Whether a cut has stored encoder outputs."""
    return FIELD in (cut.custom or {})


def load_states(cut: Cut) -> torch.Tensor:
    """Return a cut's encoder outputs, float32 (frames, d_model)."""
    place = cut.custom[FIELD]
    return torch.from_numpy(
        _opened(place["path"])[place["start"] : place["start"] + place["frames"]].astype(np.float32)
    )


@functools.cache
def _opened(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def collate_states(states: list[torch.Tensor]) -> torch.Tensor:
    """Stack encoder outputs to float32 (batch, frames, d_model), each padded with its own last one, which is silence's.

    Encoding the padded batch would give other values in the padding; the decoder learns to pass over either.
    """
    frames = max(map(len, states))
    return torch.stack([torch.cat([row, row[-1:].expand(frames - len(row), -1)]) for row in states])
