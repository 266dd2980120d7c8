"""The outputs of a frozen encoder, computed once; the decoder is then trained from them."""

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
FIELD = "encoder_states"  # in a cut's custom fields: {"path", "start", "frames"}


def check_cache(
    method: str, parameters: ParameterOptions, augment: TrainingAugmentation, batches: BatchOptions
) -> None:
    """Raise RecipeError if a run can't use stored encoder outputs, because they would not stay the same."""
    reason = None
    if method != "full" or not parameters.freeze_encoder:
        reason = "the encoder changes in training", "set method full and parameters.freeze_encoder true"
    elif augment.of_waveforms or augment.spec_augment:
        reason = "augment changes the encoder's input", "remove augment"
    elif batches.pad_to_30s or batches.spare_frames:
        cure = "set batches.pad_to_30s 0 and batches.spare_frames 0"
        reason = "encoder outputs are stored at the cuts' own length", cure
    if reason:
        raise RecipeError(reason[0], where="cache_encoder", cure=f"{reason[1]}, or set cache_encoder false")


def with_encoder_states(
    cuts: CutSet,
    manifests: list[Path],
    base_model: str,
    model: WhisperForConditionalGeneration,
    folder: Path,
    wait: bool = False,
) -> CutSet:
    """Return the cuts with their encoder outputs, which are computed and stored if missing.

    Each cut is encoded separately, at its own length. The outputs take 2 * d_model bytes per 20 ms: 0.27 GB per hour
    for whisper-small.

    Args:
        cuts: the cuts to encode.
        manifests: the manifests of the cuts; if these files or the model change, the outputs are regenerated.
        base_model: folder or name of the model.
        model: the model with the frozen encoder.
        folder: output folder: states.npy, float16 of shape (frames of all cuts, d_model), and cuts.jsonl.gz.
        wait: wait for another process to write the folder, by polling: an NCCL barrier times out after minutes.
    """
    sources = {"base_model": base_model, "model": _digest(model)}
    sources |= {str(path): cuts_digest(path) for path in manifests}
    while wait and not _is_current(folder, sources):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if not _is_current(folder, sources):
        durations = selected(cuts).durations
        with atomic_write(folder, replace_folder=True) as aside:
            aside.mkdir()
            # Features have one or two frames more than the duration, states half as many: leave room for a few more.
            shape = (sum(math.ceil(50 * duration) + 2 for duration in durations), model.config.d_model)
            states = np.lib.format.open_memmap(aside / "states.npy", mode="w+", dtype=np.float16, shape=shape)
            write_jsonl(aside / "cuts.jsonl.gz", _encoded(cuts, len(durations), model, states, folder))
            states.flush()
            write_json(aside / "made_of.json", sources)
        log.info("%s: encoder outputs of %d cuts, %.2f GB", folder, len(durations), 2 * shape[0] * shape[1] / 1e9)
    return CutSet(selected(load_cuts([folder / "cuts.jsonl.gz"])))


def _is_current(folder: Path, sources: dict) -> bool:
    try:
        return read_json(folder / "made_of.json") == sources
    except RecipeError:  # not written yet
        return False


@torch.inference_mode()
def _encoded(
    cuts: CutSet, count: int, model: WhisperForConditionalGeneration, states: np.ndarray, folder: Path
) -> Iterator[dict]:
    """Fill `states`; yield the cuts' rows with their location in it."""
    encoder, start = model.eval().get_encoder(), 0
    for cut in tqdm(cuts, total=count, unit="cut", desc="encode"):
        features = load_fbank(cut, model.config.num_mel_bins).T[None].to(model.device, model.dtype)
        with autocast(model):
            output = encoder(features).last_hidden_state[0].float().cpu().numpy()
        states[start : start + len(output)] = output
        place = {"path": str(folder / "states.npy"), "start": start, "frames": len(output)}
        yield {**cut.to_dict(), "custom": {**(cut.custom or {}), FIELD: place}}
        start += len(output)


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
    """Stack encoder outputs to float32 (batch, frames, d_model), each padded with its own last frame, which is silence.

    Encoding the padded batch would give other values in the padding; the decoder learns to ignore either.
    """
    frames = max(map(len, states))
    return torch.stack([torch.cat([row, row[-1:].expand(frames - len(row), -1)]) for row in states])
