"""Audio of every kind: what its header says, and its samples at Whisper's sampling rate.

Audio is named by a path; by an entry of a Kaldi ark, `/x.ark:123`; or by a shell command that ends in `|`, which gets
here only where the user has allowed it. Files that libsndfile can't read go through ffmpeg.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
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
ARK_ENTRY = re.compile(r"(.+\.ark):(\d+)")
# What kaldiio may read at an ark's offset. It would also unpickle what begins with PKL, and a pickle can run code.
ARK_AUDIO = (b"RIFF", b"AUDIO")
FFMPEG_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".3gp"})


class AudioInfo(NamedTuple):
    """What an audio file's header says; `num_samples` counts one channel."""

    sampling_rate: int
    num_samples: int
    num_channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


def is_plain_file(audio: str | Path) -> bool:
    """Whether audio is a file that libsndfile, and so any Lhotse program, reads by its path."""
    name = str(audio)
    return not (name.endswith("|") or ARK_ENTRY.fullmatch(name) or Path(name).suffix.lower() in FFMPEG_SUFFIXES)


def audio_info(audio: str | Path) -> AudioInfo:
    """Read the header of audio (WAV, FLAC, MP3, OGG, OPUS, SPHERE and whatever else libsndfile or ffmpeg have).

    Raises:
        RecipeError: it is missing, unreadable or empty, or shorter than its header says.
    """
    with opened(audio) as file:
        return _info(file, audio)


def _info(file: soundfile.SoundFile, audio: str | Path) -> AudioInfo:
    missing = _missing_bytes(file.extra_info) if file.format == "WAV" else 0
    if missing:
        raise RecipeError(f"truncated: {missing} bytes of its samples are missing", where=audio, cure=CURE)
    if not file.frames:
        raise RecipeError("no samples in it", where=audio, cure=CURE)
    return AudioInfo(file.samplerate, file.frames, file.channels)


def opened(audio: str | Path) -> soundfile.SoundFile:
    """Open audio of any kind; close it after use.

    Raises:
        RecipeError: it is missing or unreadable.
    """
    name = str(audio)
    if name.endswith("|"):
        source = _output(["bash", "-c", f"set -o pipefail; {name[:-1]}"], audio)
    elif entry := ARK_ENTRY.fullmatch(name):
        source = _ark_entry(entry[1], int(entry[2]), audio)
    else:
        source = Path(name)
        try:
            if not source.is_file():
                cure = "check the path in wav.scp; where the data has moved, run whisper-recipe prepare again"
                raise RecipeError("no such file", where=audio, cure=cure)
        except OSError as error:  # a name that no file can have
            raise RecipeError(f"can't be read as audio ({error.strerror})", where=audio, cure=CURE) from None
        if source.suffix.lower() in FFMPEG_SUFFIXES:
            source = _through_ffmpeg(name)
    try:
        return soundfile.SoundFile(source)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise RecipeError(f"can't be read as audio ({error})", where=audio, cure=CURE) from None


def _output(command: list[str], audio: str | Path) -> io.BytesIO:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise RecipeError(f"{command[0]} failed ({reason[0]})", where=audio, cure=CURE)
    return io.BytesIO(done.stdout)


def _through_ffmpeg(path: str) -> io.BytesIO:
    if shutil.which("ffmpeg") is None:
        what = "libsndfile can't read this kind of file and ffmpeg is not on the PATH"
        raise RecipeError(what, where=path, cure="install ffmpeg, or convert the file to FLAC")
    # `file:` keeps a name with a colon from being read as a protocol; -xerror keeps a truncated file from being whole.
    reading = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}"]
    return _output([*reading, "-vn", "-f", "wav", "-c:a", "pcm_s16le", "-"], path)


def _ark_entry(path: str, offset: int, audio: str | Path) -> io.BytesIO:
    """Return an entry of a Kaldi ark as a WAV file."""
    from kaldiio.matio import read_kaldi

    try:
        with open(path, "rb") as ark:
            ark.seek(offset)
            if not ark.read(5).startswith(ARK_AUDIO):
                raise RecipeError("no audio at this offset of the ark", where=audio, cure="check the offset in wav.scp")
            ark.seek(offset)
            rate, samples = read_kaldi(ark)
    except FileNotFoundError:
        raise RecipeError("no such file", where=audio, cure="check the path in wav.scp") from None
    except RecipeError:
        raise
    except Exception as error:  # kaldiio's own are of many types, AssertionError among them
        raise RecipeError(f"can't be read as audio ({error or type(error).__name__})", where=audio, cure=CURE) from None
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if samples.dtype == np.int16 else "FLOAT")
    file.seek(0)
    return file


def _missing_bytes(log: str) -> int:
    """Return how many bytes of samples a WAV file lacks, by libsndfile's log of its header.

    libsndfile itself takes a truncated file for a shorter one.
    """
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if found is None or int(found[1]) > STREAMED_BYTES:
        return 0
    return max(0, int(found[1]) - int(found[2]))


def read_audio(audio: str | Path, start: float = 0.0, duration: float | None = None, channel: int = 0) -> np.ndarray:
    """Return one channel's samples from `start` for `duration` seconds (None: to the end), float32 (n,) at 16 kHz.

    Where the audio ends within the tolerance before the duration is full, silence is added. Resampling is soxr's:
    lhotse's needs torchaudio.

    Raises:
        RecipeError: the audio is missing, unreadable, or ends early, or it has no such channel.
    """
    import soxr

    with opened(audio) as file:
        rate = file.samplerate
        first = round(start * rate)
        count = file.frames - first if duration is None else round(duration * rate)
        check_channel(channel, file.channels, audio)
        try:
            file.seek(min(first, file.frames))
            samples = file.read(count, dtype="float32", always_2d=True)[:, channel]
        except soundfile.SoundFileError as error:
            raise RecipeError(f"can't be decoded ({error})", where=audio, cure=CURE) from None
    lacking = (count - len(samples)) / rate
    if lacking > DURATION_TOLERANCE:
        raise RecipeError(f"ends {lacking:.2f} s too early", where=audio, cure=CURE)
    if rate != SAMPLING_RATE:
        samples = soxr.resample(samples, rate, SAMPLING_RATE)
    wanted = round(count / rate * SAMPLING_RATE) if duration is None else round(duration * SAMPLING_RATE)
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))


def check_channel(channel: int, channels: int, where: str | Path) -> None:
    """RecipeError where audio of so many channels has no such channel."""
    if not 0 <= channel < channels:
        what = f"channel {channel} of {channels} (they count from 0)"
        raise RecipeError(what, where=where, cure="choose another --channel, or mix")


class Decoded(NamedTuple):
    """What a full decoding of audio finds.

    Args:
        info: what the header says.
        num_samples: of one channel.
        peak: the loudest sample's size, 1 is full scale.
        finite: all samples are numbers.
    """

    info: AudioInfo
    num_samples: int
    peak: float
    finite: bool


def decode_fully(audio: str | Path) -> Decoded:
    """Decode all samples of audio, a block at a time.

    Raises:
        RecipeError: it is missing or damaged.
    """
    total, peak, finite = 0, 0.0, True
    with opened(audio) as file:
        info = _info(file, audio)
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                total += len(block)
                finite = finite and bool(np.isfinite(block).all())
                peak = max(peak, float(np.abs(block).max()))
        except soundfile.SoundFileError as error:
            raise RecipeError(f"can't be decoded ({error})", where=audio, cure=CURE) from None
    return Decoded(info, total, peak, finite)


def copy_as_flac(audio: str | Path, path: Path, mix: bool = False) -> None:
    """Write audio as FLAC at its own sampling rate: 16 bits, or 24 where the source has more.

    Args:
        audio: of any kind.
        path: the file to write.
        mix: the mean of the channels instead of all of them.

    Raises:
        RecipeError: the audio is missing or damaged.
    """
    with opened(audio) as file:
        channels = 1 if mix else file.channels
        subtype = "PCM_24" if file.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
        try:
            with soundfile.SoundFile(path, "w", file.samplerate, channels, subtype, format="FLAC") as flac:
                while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                    flac.write(block.mean(axis=1, keepdims=True) if mix else block)
        except soundfile.SoundFileError as error:
            raise RecipeError(f"can't be copied as FLAC ({error})", where=audio, cure=CURE) from None
