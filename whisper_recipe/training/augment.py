"""Augmentation of the training data, drawn again each time a cut is loaded: waveform changes and SpecAugment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from lhotse.augmentation.utils import convolve1d
from lhotse.cut import Cut
from lhotse.dataset.signal_transforms import SpecAugment

from whisper_recipe.data.audio import is_longer, read_audio
from whisper_recipe.data.augment import Augmentation, Noises, audio_files, load_samples, speeds
from whisper_recipe.data.features import load_fbank, log_mel
from whisper_recipe.errors import RecipeError, check_proportion


@dataclass
class TrainingAugmentation(Augmentation):
    """Augmentation drawn again each time a cut is loaded; none by default.

    Waveform augmentation needs the audio of the cuts.

    Args:
        speed: factors to draw from (0.9 1.0 1.1).
        noise: a folder of audio files, or a Lhotse recordings manifest (such as MUSAN's); noise is mixed into the
            waveforms.
        noise_snr: range of the signal-to-noise ratio in dB.
        noise_probability: share of the cuts that get noise.
        volume: range of the amplitude factor (0.125 2.0).
        reverberation: a folder of impulse responses, or a Lhotse recordings manifest of them.
        reverberation_probability: share of the cuts that get reverberation.
        spec_augment: share of the cuts whose features are masked and time-warped by lhotse's SpecAugment.
        time_warp: SpecAugment: maximum number of frames to warp by; 0 disables warping.
        frequency_masks: SpecAugment: number of frequency masks.
        frequency_mask_bins: SpecAugment: maximum number of mel bins per mask.
        time_masks: SpecAugment: number of time masks.
        time_mask_frames: SpecAugment: maximum number of frames per mask.
        time_masked: SpecAugment: maximum share of the frames that are masked.
        seed: random seed, in addition to trainer.seed.
    """

    volume: list[float] = field(default_factory=list)
    reverberation: Path | None = None
    reverberation_probability: float = 0.5
    spec_augment: float = 0.0
    time_warp: int = 80
    frequency_masks: int = 2
    frequency_mask_bins: int = 27
    time_masks: int = 10
    time_mask_frames: int = 100
    time_masked: float = 0.15

    def __post_init__(self) -> None:
        copies, self.speed = self.speed, [factor for factor in self.speed if factor != 1]
        super().__post_init__()
        self.speed = copies
        if self.volume and (len(self.volume) != 2 or not 0 < self.volume[0] <= self.volume[1]):
            what = f"must be a range, got {self.volume}"
            raise RecipeError(what, where="augment.volume", cure="expected e.g. 0.125 2.0")
        if self.time_masks < 1 or self.time_masked == 0:
            what = "lhotse's SpecAugment needs at least one time mask"
            cure = "set time_masks to at least 1, and time_masked above 0"
            raise RecipeError(what, where="augment.time_masks, time_masked", cure=cure)
        for name in ("reverberation_probability", "spec_augment", "time_masked"):
            check_proportion(getattr(self, name), f"augment.{name}")

    @property
    def of_waveforms(self) -> bool:
        """Whether waveforms are changed, so that stored features can't be used."""
        return bool(self.speed or self.volume or self.noise or self.reverberation)


class Augmenter:
    """Loads and augments the features of cuts.

    Args:
        options: the augmentation.
        num_mel_bins: number of mel bins.

    Raises:
        RecipeError: noises or impulse responses are missing.
    """

    def __init__(self, options: TrainingAugmentation, num_mel_bins: int) -> None:
        self.options, self.num_mel_bins = options, num_mel_bins
        self.noises = Noises(options) if options.noise else None
        self.responses = []
        if options.reverberation:
            self.responses = audio_files(options.reverberation, "augment.reverberation")
        self.spec_augment = SpecAugment(
            time_warp_factor=options.time_warp,
            num_feature_masks=options.frequency_masks,
            features_mask_size=options.frequency_mask_bins,
            num_frame_masks=options.time_masks,
            frames_mask_size=options.time_mask_frames,
            max_frames_mask_fraction=options.time_masked,
            p=options.spec_augment,
        )

    def load(self, cut: Cut, draw: random.Random) -> tuple[Cut, torch.Tensor]:
        """Return the augmented cut, with its supervision's times adjusted, and its features (frames, mel bins).

        Args:
            cut: a cut with stored features or audio.
            draw: the only source of randomness.

        Raises:
            RecipeError: waveforms are augmented, but the cut has only features.
        """
        if self.options.of_waveforms:
            cut, samples = self._waveform(cut, draw)
            features = log_mel(samples, self.num_mel_bins)
        else:
            features = load_fbank(cut, self.num_mel_bins)
        if self.options.spec_augment:
            with _drawn_from(draw):
                features = self.spec_augment(features[None])[0]
        return cut, features

    def _waveform(self, cut: Cut, draw: random.Random) -> tuple[Cut, np.ndarray]:
        if not cut.has_recording:
            cure = "keep the recordings with the cuts, or use only spec_augment"
            raise RecipeError("waveform augmentation needs audio, not only features", where=cut.id, cure=cure)
        cut = cut.drop_features()
        factor = draw.choice(self.options.speed or [1.0])
        if factor != 1 and not is_longer(cut.duration / factor):
            _, cut = speeds(cut, [factor])
        if self.noises:
            cut = self.noises.note(cut, draw)
        samples = load_samples(cut)
        if self.responses and draw.random() < self.options.reverberation_probability:
            samples = reverberated(samples, read_audio(draw.choice(self.responses)))
        if self.options.volume:
            samples = samples * np.float32(draw.uniform(*self.options.volume))
        return cut, samples


def reverberated(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return samples convolved with a room's impulse response; energy and length are unchanged.

    The response is cut to start at its highest peak, the direct sound, so that nothing moves in time.

    Args:
        samples: (n,) at 16 kHz.
        response: (m,) at 16 kHz.
    """
    response = response[int(np.abs(response).argmax()) :]
    sound = convolve1d(torch.from_numpy(samples), torch.from_numpy(response))[: len(samples)].numpy()
    energy, changed = (float(np.square(signal, dtype=np.float64).sum()) for signal in (samples, sound))
    return sound * np.float32(np.sqrt(energy / changed)) if changed else samples


@contextmanager
def _drawn_from(draw: random.Random) -> Iterator[None]:
    """Seed the random numbers of Python and of torch on the CPU from `draw`; restore their state afterwards."""
    python = random.getstate()
    seed = draw.getrandbits(63)
    random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
            yield
    finally:
        random.setstate(python)
