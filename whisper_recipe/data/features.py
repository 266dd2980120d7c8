"""Whisper's log-mel features: computed as in transformers, padded with silence, loaded for a cut."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from math import isclose
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut, MixedCut
from lhotse.features.base import FeatureExtractor, register_extractor
from lhotse.utils import compute_num_frames_from_samples
from transformers.audio_utils import mel_filter_bank

from whisper_recipe.data.audio import MAX_SECONDS, SAMPLING_RATE
from whisper_recipe.data.augment import load_samples
from whisper_recipe.data.shar_reader import SHARD, features_of
from whisper_recipe.errors import RecipeError

# whisper/audio.py of openai/whisper
N_FFT = 400  # samples per window: 25 ms
HOP_LENGTH = 160  # samples between frames: 10 ms
MAX_SAMPLES = MAX_SECONDS * SAMPLING_RATE
MAX_FRAMES = MAX_SAMPLES // HOP_LENGTH
FRAMES_PER_SECOND = SAMPLING_RATE // HOP_LENGTH
DYNAMIC_RANGE = 2.0  # silence is this far below the loudest value: 8 decades, divided by 4 in the scaling
LOWEST = -1.5  # lowest possible value: mel energies are at least 1e-10


@dataclass
class WhisperLogMelConfig:
    """Mel bins: 80, or 128 for large-v3 and models derived from it."""

    num_mel_bins: int = 80

    def to_dict(self) -> dict:
        """Return the configuration as lhotse stores it."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict) -> WhisperLogMelConfig:
        """Return the configuration that lhotse has stored."""
        return WhisperLogMelConfig(**data)


@register_extractor
class WhisperLogMel(FeatureExtractor):
    """Whisper's log-mel as a lhotse extractor.

    lhotse's WhisperFbank reflects the waveform at the utterance's end, where Whisper sees silence, so its last frames
    differ, and it pads with 0, which is a loud value here (silence is 2 below the loudest value).
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
        """Return features of shape (frames, mel bins) for samples of shape (n,) or (1, n) at 16 kHz.

        As lhotse requires, there are as many frames as the duration has; `log_mel` also returns those after the end.
        """
        if sampling_rate != SAMPLING_RATE:
            raise RecipeError(f"sampling rate must be {SAMPLING_RATE} Hz, got {sampling_rate}", cure="resample it")
        samples = torch.as_tensor(samples, dtype=torch.float32).reshape(-1)
        frames = compute_num_frames_from_samples(len(samples), self.frame_shift, SAMPLING_RATE)
        return log_mel(samples, self.config.num_mel_bins)[:frames].numpy()


# lhotse's features differ only in the last frames.
WHISPER_FEATURES = (WhisperLogMel.name, "whisper-fbank")


def log_mel(samples: np.ndarray | torch.Tensor, num_mel_bins: int) -> torch.Tensor:
    """Return Whisper's log-mel of an utterance, float32 (frames, mel bins): all frames that overlap its samples.

    Padded with silence (`collate_fbank`), they are what Whisper sees of the utterance padded to 30 s.

    Args:
        samples: (n,) at 16 kHz.
        num_mel_bins: 80 or 128.
    """
    samples = torch.as_tensor(samples, dtype=torch.float32)
    count = len(samples)
    # Silence after the end; at 30 s there is no room left, and Whisper's own window reflects there too.
    room = MAX_SAMPLES - count if count <= MAX_SAMPLES else 2 * N_FFT
    samples = torch.nn.functional.pad(samples, (0, min(2 * N_FFT, room)))
    spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=_window(), return_complex=True)[:, :-1]
    mel = mel_filters(num_mel_bins) @ spectrum.abs().square()
    log_mel = mel.clamp(min=1e-10).log10()
    log_mel = (torch.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0
    return log_mel[:, : num_frames(count)].T.contiguous()


def num_frames(num_samples: int) -> int:
    """Return the number of frames that overlap so many samples at 16 kHz, up to those of 30 s.

    Frame t covers the samples from 160 t - 199 to 160 t + 199: a Hann window of 400 begins with a zero. Audio over
    30 s, which is not a single Whisper input, has as many as lhotse counts.
    """
    most = max(MAX_FRAMES, compute_num_frames_from_samples(num_samples, HOP_LENGTH / SAMPLING_RATE, SAMPLING_RATE))
    return min(most, (num_samples - 1 + N_FFT // 2 - 1) // HOP_LENGTH + 1)


@functools.cache
def _window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@functools.cache
def mel_filters(num_mel_bins: int) -> torch.Tensor:
    """Return Whisper's mel filters, shape (mel bins, N_FFT / 2 + 1)."""
    filters = mel_filter_bank(
        N_FFT // 2 + 1, num_mel_bins, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters.T.astype(np.float32)).contiguous()


def silence_value(features: torch.Tensor) -> torch.Tensor:
    """Return the value of silence in the features (frames, mel bins) of an utterance, a scalar tensor."""
    return (features.max() - DYNAMIC_RANGE).clamp(min=LOWEST)


def collate_fbank(features: list[torch.Tensor], frames: int | None = None, spare: int = 0) -> torch.Tensor:
    """Stack utterances, each padded with its own silence; return float32 of shape (batch, mel bins, frames).

    Args:
        features: of each utterance, (frames, mel bins).
        frames: number of frames to pad to; default: the longest utterance's, plus `spare`.
        spare: frames of silence after the longest utterance, up to 30 s.
    """
    frames = frames or min(max(len(utterance) for utterance in features) + spare, MAX_FRAMES)
    batch = torch.stack([silence_value(utterance.float()) for utterance in features])
    batch = batch[:, None, None].repeat(1, features[0].shape[1], frames)
    for row, utterance in zip(batch, features, strict=True):
        row[:, : len(utterance)] = utterance.T
    return batch


def check_spare_frames(spare: int, where: str) -> int:
    """Return the number of spare frames; raise RecipeError if it is out of range."""
    if not 0 <= spare <= MAX_FRAMES:
        raise RecipeError(f"must be between 0 and {MAX_FRAMES}, got {spare}", where=where, cure="64 frames are 0.64 s")
    return spare


def load_fbank(cut: Cut, num_mel_bins: int = 80) -> torch.Tensor:
    """Return a cut's features, float32 (frames, mel bins): the stored ones, or computed if none are stored.

    There are `num_frames` of them, up to two more than the cut's duration has. If the cut is a part of the stored one,
    or its features were stored by another program, there are as many as lhotse returns.
    """
    if not _has_own_features(cut):
        return log_mel(load_samples(cut), num_mel_bins)
    _check_type(cut, cut.id)
    shard = (cut.custom or {}).get(SHARD)
    stored = features_of(cut.id, shard) if shard else cut.features
    whole = isclose(stored.start, cut.start) and stored.num_frames == num_frames(round(cut.duration * SAMPLING_RATE))
    values = stored.load() if whole else stored.load(cut.start, cut.duration) if shard else cut.load_features()
    return torch.from_numpy(values).float()


def check_features(cut: Cut, num_mel_bins: int, where: str | Path) -> None:
    """Raise RecipeError if a cut's stored features are not Whisper's or don't have the model's number of mel bins."""
    if not _has_own_features(cut):
        return
    _check_type(cut, where)
    if cut.num_features != num_mel_bins:
        raise RecipeError(
            f"the features have {cut.num_features} mel bins, but the model expects {num_mel_bins}",
            where=where,
            cure=f"compute them with whisper-recipe fbank --num_mel_bins {num_mel_bins}",
        )


def _has_own_features(cut: Cut) -> bool:
    # Lhotse would mix or pad the features of a mixed cut's tracks, which only waveforms support (see WhisperLogMel).
    return cut.has_features and not isinstance(cut, MixedCut)


def _check_type(cut: Cut, where: str | Path) -> None:
    # Other features may have the same number of bins, but would be noise to the model.
    if cut.features.type not in WHISPER_FEATURES:
        raise RecipeError(
            f"the features of cut {cut.id} are {cut.features.type}, not Whisper's log-mel",
            where=where,
            cure="compute them with whisper-recipe fbank, or drop them (CutSet.drop_features)",
        )
