"""`whisper-recipe fbank`: Whisper's log-mel features through lhotse, equal to transformers' own."""

from __future__ import annotations

import functools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lhotse import CutSet, RecordingSet, SupervisionSet
from lhotse.cut import MonoCut
from lhotse.features.base import FeatureExtractor, register_extractor
from lhotse.features.io import LilcomChunkyWriter
from lhotse.utils import compute_num_frames_from_samples
from transformers.audio_utils import mel_filter_bank

from whisper_recipe.data.manifests import manifest_path
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require, written_aside

# whisper/audio.py of openai/whisper
SAMPLING_RATE = 16000
N_FFT = 400  # samples of a window: 25 ms
HOP_LENGTH = 160  # samples between frames: 10 ms
MAX_SAMPLES = 30 * SAMPLING_RATE
MAX_FRAMES = MAX_SAMPLES // HOP_LENGTH
DYNAMIC_RANGE = 2.0  # silence lies this far under the loudest value: 8 decades, divided by 4 in the scaling


@dataclass
class WhisperLogMelConfig:
    """Mel bins: 80, or 128 for large-v3 and its descendants."""

    num_mel_bins: int = 80

    def to_dict(self) -> dict:
        """As lhotse stores it."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict) -> WhisperLogMelConfig:
        """As lhotse reads it."""
        return WhisperLogMelConfig(**data)


@register_extractor
class WhisperLogMel(FeatureExtractor):
    """Whisper's log-mel of an utterance, as it is at the beginning of the same utterance padded to 30 s.

    lhotse's own WhisperFbank reflects the waveform at the utterance's end where Whisper sees silence, so its last
    frames differ, and it pads with 0, which is a loud value here (silence lies 2 under the loudest value).
    """

    name = "whisper-log-mel"
    config_type = WhisperLogMelConfig

    @property
    def frame_shift(self) -> float:
        """Seconds between frames."""
        return HOP_LENGTH / SAMPLING_RATE

    def feature_dim(self, sampling_rate: int) -> int:
        """Return the number of mel bins."""
        return self.config.num_mel_bins

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray:
        """Return features of shape (frames, mel bins) for samples of shape (n,) or (1, n) at 16 kHz."""
        if sampling_rate != SAMPLING_RATE:
            raise RecipeError(f"audio at {sampling_rate} Hz", cure=f"resample it to {SAMPLING_RATE} Hz")
        samples = torch.as_tensor(samples, dtype=torch.float32).reshape(-1)
        count = len(samples)
        # Silence after the end; at 30 s there is no more room, and Whisper's own window reflects there too.
        samples = torch.nn.functional.pad(samples, (0, min(2 * N_FFT, max(0, MAX_SAMPLES - count))))
        spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=_window(), return_complex=True)[:, :-1]
        mel = _mel_filters(self.config.num_mel_bins) @ spectrum.abs().square()
        log_mel = mel.clamp(min=1e-10).log10()
        log_mel = (torch.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0
        frames = compute_num_frames_from_samples(count, self.frame_shift, SAMPLING_RATE)
        return log_mel[:, :frames].T.contiguous().numpy()


@functools.cache
def _window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@functools.cache
def _mel_filters(num_mel_bins: int) -> torch.Tensor:
    """Return Whisper's mel filters, shape (mel bins, N_FFT / 2 + 1)."""
    filters = mel_filter_bank(
        N_FFT // 2 + 1, num_mel_bins, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters.T.astype(np.float32)).contiguous()


def collate_fbank(features: list[torch.Tensor], frames: int | None = None) -> torch.Tensor:
    """Stack features of shape (frames, mel bins), each padded with its own silence, to (batch, mel bins, frames).

    Args:
        features: of each utterance.
        frames: pad to so many; by default to the longest utterance's.
    """
    frames = frames or max(len(utterance) for utterance in features)
    batch = torch.stack([utterance.max() - DYNAMIC_RANGE for utterance in features])
    batch = batch[:, None, None].repeat(1, features[0].shape[1], frames)
    for row, utterance in zip(batch, features, strict=True):
        row[:, : len(utterance)] = utterance.T
    return batch


def fbank(
    split: str,
    manifests: Path = Path("data/manifests"),
    out: Path = Path("data/fbank_whisper80"),
    num_mel_bins: Literal[80, 128] = 80,
    num_jobs: int = 2,
) -> None:
    """Compute Whisper's log-mel features; write out/cuts_<split>.jsonl.gz and out/feats_<split>/.

    Args:
        split: name of the split, as in the manifests' names.
        manifests: the folder that `whisper-recipe prepare` wrote.
        out: the folder for cuts and features.
        num_mel_bins: 80; 128 for large-v3 and its descendants.
        num_jobs: processes.

    Raises:
        RecipeError: a manifest is missing or empty, or audio can't be read.
    """
    cuts = _cuts(manifests, split)
    final, path = Path(out) / f"feats_{split}", manifest_path(out, "cuts", split)
    extractor = WhisperLogMel(WhisperLogMelConfig(num_mel_bins))
    # The manifest is the sign that the features are whole: it goes first and comes back last.
    path.unlink(missing_ok=True)
    with written_aside(final) as aside:
        aside.mkdir(parents=True)
        with ProcessPoolExecutor(num_jobs, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            try:
                cuts = cuts.compute_and_store_features(
                    extractor, aside / "feats", num_jobs, storage_type=FineLilcomWriter, executor=executor
                )
            except Exception as error:  # each audio backend raises its own types
                raise RecipeError(
                    f"features can't be computed ({error})", where=manifests, cure="run validate"
                ) from error
        cuts = cuts.map(functools.partial(_moved, str(aside), str(final))).to_eager()
    with written_aside(path) as aside:
        cuts.to_file(aside)
    seconds = sum(cut.duration for cut in cuts)
    print(f"{path}: {len(cuts)} cuts, {seconds / 3600:.2f} h, {num_mel_bins} mel bins")


class FineLilcomWriter(LilcomChunkyWriter):
    """lhotse's default storage, in steps that are small for Whisper's scaled log-mel (about -1 to 1.5)."""

    def __init__(self, storage_path: Path) -> None:
        super().__init__(storage_path, tick_power=-8)


def _cuts(manifests: Path, split: str) -> CutSet:
    """One cut a supervision, with its id, resampled to 16 kHz where it has to be."""
    cure = "run stage 1 (whisper-recipe prepare) first"
    recordings = RecordingSet.from_file(require(manifest_path(manifests, "recordings", split), cure))
    recordings = {recording.id: recording.resample(SAMPLING_RATE) for recording in recordings}
    path = require(manifest_path(manifests, "supervisions", split), cure)
    cuts = [
        MonoCut(
            id=supervision.id,
            start=supervision.start,
            duration=supervision.duration,
            channel=0,
            supervisions=[supervision.with_offset(-supervision.start)],
            recording=recordings[supervision.recording_id],
        )
        for supervision in SupervisionSet.from_file(path)
    ]
    if not cuts:
        raise RecipeError("no supervisions in it", where=path, cure="check the data directory it was made from")
    return CutSet.from_cuts(cuts)


def _moved(before: str, after: str, cut: MonoCut) -> MonoCut:
    cut.features.storage_path = cut.features.storage_path.replace(before, after, 1)
    return cut
