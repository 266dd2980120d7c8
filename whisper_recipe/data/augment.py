"""Speed perturbation and noise, noted in the cut and applied to its waveform whenever that is loaded.

Noise is mixed into waveforms: lhotse's own mixing of Whisper features treats them as natural logarithms of energies,
and they are scaled decimal ones. What manifests name is only ever read as a file: they are data, and data runs no
commands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.augmentation import Resample, Speed
from lhotse.cut import Cut, MonoCut
from lhotse.utils import fastcopy

from whisper_recipe.data.audio import SAMPLING_RATE, audio_info, read_audio
from whisper_recipe.errors import RecipeError, check_proportion
from whisper_recipe.files import read_jsonl, require

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph"})


@dataclass
class Augmentation:
    """Augmented copies of the waveforms; none by default.

    Args:
        speed: factors (0.9 1.1); adds a copy of each cut at each speed, as <id>_sp0.9.
        noise: a folder of audio files, or a Lhotse recordings manifest (such as MUSAN's); noise is mixed into the cuts.
        noise_snr: range of the signal-to-noise ratio in dB.
        noise_probability: share of the cuts that get noise.
        seed: random seed; together with the cut's id it determines the augmentation.
    """

    speed: list[float] = field(default_factory=list)
    noise: Path | None = None
    noise_snr: list[float] = field(default_factory=lambda: [5.0, 20.0])
    noise_probability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for factor in self.speed:
            if not 0.5 <= factor <= 2 or factor == 1:
                raise RecipeError(f"must be 0.5 to 2, not 1, got {factor}", where="augment.speed", cure="give 0.9 1.1")
        if len(self.noise_snr) != 2 or self.noise_snr[0] > self.noise_snr[1]:
            raise RecipeError(f"{self.noise_snr} is not a range", where="augment.noise_snr", cure="give 5 20")
        check_proportion(self.noise_probability, "augment.noise_probability")


def speeds(cut: MonoCut, factors: list[float]) -> Iterator[MonoCut]:
    """Yield a cut, and after it its copies at other speeds; times inside of its supervision move with it."""
    yield cut
    for factor in factors:
        copy = cut.perturb_speed(factor)
        copy.supervisions = [_with_times(supervision, factor) for supervision in copy.supervisions]
        yield copy


def _with_times(supervision: SupervisionSegment, factor: float) -> SupervisionSegment:
    custom = dict(supervision.custom or {})
    if custom.get("segments"):
        custom["segments"] = [
            {**row, "start": row["start"] / factor, "end": row["end"] / factor} for row in custom["segments"]
        ]
    return fastcopy(supervision, custom=custom)


class Noises:
    """The noises that there are, and which of them a cut gets."""

    def __init__(self, options: Augmentation) -> None:
        self.options = options
        self.paths = audio_files(options.noise, "augment.noise")

    def note(self, cut: MonoCut, draw: random.Random | None = None) -> MonoCut:
        """Return the cut with a noise noted in it, or as it was: by chance, but the same for the same id or `draw`."""
        draw = draw or random.Random(f"{self.options.seed} {cut.id}")
        if draw.random() >= self.options.noise_probability:
            return cut
        path, place, snr = draw.choice(self.paths), draw.random(), draw.uniform(*self.options.noise_snr)
        start = place * max(0.0, audio_info(path).duration - cut.duration)
        return fastcopy(cut, custom={**(cut.custom or {}), "noise": {"path": path, "start": start, "snr": snr}})


def audio_files(source: Path, option: str) -> list[str]:
    """Return the audio files of a folder, with its subfolders, or of a Lhotse recordings manifest.

    Raises:
        RecipeError: it is missing, damaged, or there are none; `option` has named it.
    """
    require(source, f"give {option} a folder of audio files, or a recordings manifest")
    if source.is_dir():
        found = (path for path in source.absolute().rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        paths = sorted(map(str, found))
    else:
        paths = _of_manifest(source)
    if not paths:
        raise RecipeError("no audio files in it", where=source, cure=f"give {option} another folder or manifest")
    return paths


def _of_manifest(source: Path) -> list[str]:
    paths = []
    for number, row in read_jsonl(source):
        try:
            paths.append(str(_file(Recording.from_dict(row).sources[0], f"{source}:{number}")))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = f"no recording ({type(error).__name__}: {error})"
            raise RecipeError(what, where=f"{source}:{number}", cure="give a Lhotse recordings manifest") from None
    return paths


def _file(source: AudioSource, where: str) -> Path:
    """Return the file that a manifest names; RecipeError where it names anything else."""
    if source.type != "file" or source.source.endswith("|"):
        cure = "give audio files; whisper-recipe prepare --allow_pipes true writes the output of commands to files"
        raise RecipeError(f"the {source.type} {source.source!r} is not an audio file", where=where, cure=cure)
    return Path(source.source)


def load_samples(cut: Cut) -> np.ndarray:
    """Return a cut's waveform at 16 kHz, float32 (n,), at its speed and with the noise that is noted in it.

    Resampling is soxr's, so that a speed is what lhotse's Speed means.

    Raises:
        RecipeError: audio is missing or damaged, or the cut is one that is mixed or changed in other ways.
    """
    transforms = cut.recording.transforms or [] if isinstance(cut, MonoCut) else [cut]
    for transform in transforms:
        if not isinstance(transform, Resample | Speed):
            what = f"lhotse's {type(transform).__name__} is not supported here"
            raise RecipeError(what, where=cut.id, cure="write the audio first (CutSet.save_audios), or store features")
    factor = float(np.prod([transform.factor for transform in transforms if isinstance(transform, Speed)]))
    source = next((source for source in cut.recording.sources if cut.channel in source.channels), None)
    if source is None:
        raise RecipeError(
            f"no audio has its channel {cut.channel}", where=cut.id, cure="run whisper-recipe prepare again"
        )
    count, channel = round(cut.duration * SAMPLING_RATE), source.channels.index(cut.channel)
    samples = read_audio(_file(source, cut.id), cut.start * factor, cut.duration * factor, channel)
    if factor != 1:
        import soxr

        samples = _fitted(soxr.resample(samples, SAMPLING_RATE * factor, SAMPLING_RATE), count)
    noise = (cut.custom or {}).get("noise")
    return samples if noise is None else mix(samples, _noise(noise, count, cut.id), noise["snr"])


def _noise(noise: dict, count: int, where: str) -> np.ndarray:
    path = _file(AudioSource("file", [0], noise["path"]), where)
    rest = audio_info(path).duration - noise["start"]
    samples = read_audio(path, noise["start"], min(rest, count / SAMPLING_RATE))
    return np.resize(samples, count)  # a short noise again and again


def mix(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Return samples with noise, both (n,), so many dB under them; as they were where either is silent."""
    power, noise_power = (float(np.mean(np.square(signal, dtype=np.float64))) for signal in (samples, noise))
    if not power or not noise_power:
        return samples
    return samples + np.float32(np.sqrt(power / noise_power / 10 ** (snr / 10))) * noise


def _fitted(samples: np.ndarray, count: int) -> np.ndarray:
    return np.pad(samples[:count], (0, max(0, count - len(samples))))
