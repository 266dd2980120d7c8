"""Speed perturbation and noise, recorded in the cut and applied whenever its waveform is loaded.

Noise is mixed into waveforms: lhotse's mixing of Whisper features treats them as natural logarithms of energies, but
they are scaled decimal logarithms. Audio named in manifests is only ever read as a file: manifests are data, and data
must not run commands.
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
    """Augmentation of the waveforms; none by default.

    Args:
        speed: factors, e.g. 0.9 1.1; adds a copy of each cut at each speed, as <id>_sp0.9.
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
                what = f"must be between 0.5 and 2, and not 1, got {factor}"
                raise RecipeError(what, where="augment.speed", cure="expected e.g. 0.9 1.1")
        if len(self.noise_snr) != 2 or self.noise_snr[0] > self.noise_snr[1]:
            what = f"must be a range, got {self.noise_snr}"
            raise RecipeError(what, where="augment.noise_snr", cure="expected e.g. 5 20")
        check_proportion(self.noise_probability, "augment.noise_probability")


def speeds(cut: MonoCut, factors: list[float]) -> Iterator[MonoCut]:
    """Yield a cut, then its copies at other speeds; the times of segments in their supervisions are scaled too."""
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
    """The available noises, and the choice of one for each cut."""

    def __init__(self, options: Augmentation) -> None:
        self.options = options
        self.paths = audio_files(options.noise, "augment.noise")

    def note(self, cut: MonoCut, draw: random.Random | None = None) -> MonoCut:
        """Return the cut with a random noise recorded in it, or unchanged; reproducible for the same id or `draw`."""
        draw = draw or random.Random(f"{self.options.seed} {cut.id}")
        if draw.random() >= self.options.noise_probability:
            return cut
        path, place, snr = draw.choice(self.paths), draw.random(), draw.uniform(*self.options.noise_snr)
        start = place * max(0.0, audio_info(path).duration - cut.duration)
        return fastcopy(cut, custom={**(cut.custom or {}), "noise": {"path": path, "start": start, "snr": snr}})


def audio_files(source: Path, option: str) -> list[str]:
    """Return the audio files in a folder and its subfolders, or in a Lhotse recordings manifest.

    Raises:
        RecipeError: the source, set by `option`, is missing or damaged, or contains no audio files.
    """
    require(source, f"set {option} to a folder of audio files or a recordings manifest")
    if source.is_dir():
        files = (path for path in source.absolute().rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        paths = sorted(map(str, files))
    else:
        paths = _of_manifest(source)
    if not paths:
        raise RecipeError("contains no audio files", where=source, cure=f"set {option} to another folder or manifest")
    return paths


def _of_manifest(source: Path) -> list[str]:
    paths = []
    for number, row in read_jsonl(source):
        try:
            paths.append(str(_file(Recording.from_dict(row).sources[0], f"{source}:{number}")))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = f"not a recording ({type(error).__name__}: {error})"
            raise RecipeError(what, where=f"{source}:{number}", cure="give a Lhotse recordings manifest") from None
    return paths


def _file(source: AudioSource, where: str) -> Path:
    """Return the file named in a manifest; raise RecipeError if it names anything else."""
    if source.type != "file" or source.source.endswith("|"):
        cure = "give audio files; whisper-recipe prepare --allow_pipes true writes the output of commands to files"
        raise RecipeError(f"the {source.type} {source.source!r} is not an audio file", where=where, cure=cure)
    return Path(source.source)


def load_samples(cut: Cut) -> np.ndarray:
    """Return a cut's waveform at 16 kHz, float32 (n,), at its speed and with the noise recorded in it.

    Speeds mean the same as in lhotse's Speed. Resampling uses soxr.

    Raises:
        RecipeError: audio is missing or damaged, or the cut is mixed or transformed in other ways.
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
            f"no audio source has channel {cut.channel}", where=cut.id, cure="run whisper-recipe prepare again"
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
    return np.resize(samples, count)  # a short noise is repeated


def mix(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Return samples mixed with noise, both (n,), `snr` dB below them; unchanged if either is silent."""
    power, noise_power = (float(np.mean(np.square(signal, dtype=np.float64))) for signal in (samples, noise))
    if not power or not noise_power:
        return samples
    return samples + np.float32(np.sqrt(power / noise_power / 10 ** (snr / 10))) * noise


def _fitted(samples: np.ndarray, count: int) -> np.ndarray:
    return np.pad(samples[:count], (0, max(0, count - len(samples))))
