"""Audio files: what their headers say, and their samples at Whisper's sampling rate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from whisper_recipe.errors import RecipeError

SAMPLING_RATE = 16000  # whisper/audio.py of openai/whisper
# Seconds by which a header, utt2dur, segments and the samples may disagree: rounding, and the padding of MP3 frames.
DURATION_TOLERANCE = 0.1
# Larger sizes in a WAV header are placeholders of programs that write to a pipe and don't know the length.
STREAMED_BYTES = 0x7FFF0000
BLOCK = 1 << 16  # samples decoded at a time
CURE = "find it with whisper-recipe validate, then replace or remove it"


class AudioInfo(NamedTuple):
    """What an audio file's header says; `num_samples` counts one channel."""

    sampling_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


def audio_info(path: Path) -> AudioInfo:
    """Read the header of an audio file (WAV, FLAC, MP3, OGG, OPUS, SPHERE and whatever else libsndfile has).

    Raises:
        RecipeError: the file is missing, unreadable or empty, or shorter than its header says.
    """
    with _opened(path) as file:
        missing = _missing_bytes(file.extra_info) if file.format == "WAV" else 0
        if missing:
            raise RecipeError(f"truncated: {missing} bytes of its samples are missing", where=path, cure=CURE)
        if not file.frames:
            raise RecipeError("no samples in it", where=path, cure=CURE)
        return AudioInfo(file.samplerate, file.frames, file.channels)


def _opened(path: Path) -> soundfile.SoundFile:
    path = Path(path)
    if not path.is_file():
        raise RecipeError("no such file", where=path, cure="check the path in wav.scp")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise RecipeError(f"can't be read as audio ({error})", where=path, cure=CURE) from None


def _missing_bytes(log: str) -> int:
    """Return how many bytes of samples a WAV file lacks, by libsndfile's log of its header.

    libsndfile itself takes a truncated file for a shorter one.
    """
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found is None or int(found[1]) > STREAMED_BYTES:
        return 0
    return max(0, int(found[1]) - int(found[2]))


def read_audio(path: Path, start: float = 0.0, duration: float | None = None, channel: int = 0) -> np.ndarray:
    """Return one channel's samples from `start` for `duration` seconds (None: to the end), float32 (n,) at 16 kHz.

    Where the file ends within the tolerance before the duration is full, silence is added. Resampling is soxr's:
    lhotse's needs torchaudio.

    Raises:
        RecipeError: the file is missing, unreadable, or ends early.
    """
    import soxr

    with _opened(path) as file:
        rate = file.samplerate
        first = round(start * rate)
        count = file.frames - first if duration is None else round(duration * rate)
        try:
            file.seek(min(first, file.frames))
            samples = file.read(count, dtype="float32", always_2d=True)[:, channel]
        except soundfile.SoundFileError as error:
            raise RecipeError(f"can't be decoded ({error})", where=path, cure=CURE) from None
    lacking = (count - len(samples)) / rate
    if lacking > DURATION_TOLERANCE:
        raise RecipeError(f"ends {lacking:.2f} s too early", where=path, cure=CURE)
    if rate != SAMPLING_RATE:
        samples = soxr.resample(samples, rate, SAMPLING_RATE)
    wanted = round(count / rate * SAMPLING_RATE) if duration is None else round(duration * SAMPLING_RATE)
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))


class SampleFaults(NamedTuple):
    """What a full decoding of a file finds: samples of one channel, the loudest, and whether all are numbers."""

    num_samples: int
    peak: float
    finite: bool


def decode_fully(path: Path) -> SampleFaults:
    """Decode all samples of a file, a block at a time.

    Raises:
        RecipeError: the file is missing or damaged.
    """
    total, peak, finite = 0, 0.0, True
    with _opened(path) as file:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                total += len(block)
                finite = finite and bool(np.isfinite(block).all())
                peak = max(peak, float(np.abs(block).max()))
        except soundfile.SoundFileError as error:
            raise RecipeError(f"can't be decoded ({error})", where=path, cure=CURE) from None
    return SampleFaults(total, peak, finite)
