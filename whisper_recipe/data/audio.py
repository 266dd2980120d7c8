"""Audio of every kind: what its header says, and its samples at Whisper's sampling rate.

Audio is named by a path; by an entry of a Kaldi ark, `/x.ark:123`; or by a shell command that ends in `|`, which gets
here only where the user has allowed it. libsndfile reads it. What it can't read, or misreads because the header is
wrong (see audio_headers.py), goes through FFmpeg's libraries (audio_decoding.py).
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from whisper_recipe.data.audio_headers import CURE, DamagedAudio, claim_in_doubt, truncated
from whisper_recipe.data.signals import INTEGER_SCALE, Signals
from whisper_recipe.errors import RecipeError

SAMPLING_RATE = 16000  # whisper/audio.py of openai/whisper
MAX_SECONDS = 30  # one input of Whisper
# Seconds by which a header, utt2dur, segments and the samples may disagree: rounding, and the padding of MP3 frames.
DURATION_TOLERANCE = 0.1
RATES = (1000, 1_000_000)  # Hz; beyond are damaged headers
BLOCK = 1 << 16  # samples decoded at a time
ARK_ENTRY = re.compile(r"(.+\.ark):(\d+)")
# What kaldiio may read at an ark's offset. It would also unpickle what begins with PKL, and a pickle can run code.
ARK_AUDIO = (b"RIFF", b"AUDIO")
FFMPEG_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".3gp"})

Channel = int | Literal["mix", "auto"]


class AudioInfo(NamedTuple):
    """What an audio file's header says, after it was compared with the file.

    Args:
        sampling_rate: in Hz.
        num_samples: of one channel.
        num_channels: 1 for mono.
        plain: libsndfile, and so any Lhotse program, reads it right by its path.
    """

    sampling_rate: int
    num_samples: int
    num_channels: int
    plain: bool = True

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


def is_longer(seconds: float) -> bool:
    """Whether audio has more samples than one input of Whisper; 32.20 - 2.20 s are 30 s, not a little more."""
    return round(seconds * SAMPLING_RATE) > MAX_SECONDS * SAMPLING_RATE


def audio_info(audio: str | Path) -> AudioInfo:
    """Read the header of audio (WAV, FLAC, MP3, OGG, OPUS, SPHERE and whatever else libsndfile or FFmpeg have).

    Raises:
        RecipeError: it is missing, unreadable or empty, or shorter than its header says.
    """
    with opened(audio) as file:
        return _info(file, audio)


def _info(file: soundfile.SoundFile, audio: str | Path) -> AudioInfo:
    if not file.frames:
        raise RecipeError("no samples in it", where=audio, cure=CURE)
    return AudioInfo(file.samplerate, file.frames, file.channels, plain=isinstance(file.name, str))


def opened(audio: str | Path) -> soundfile.SoundFile:
    """Open audio of any kind; close it after use. Its `frames` are right, whatever the header says.

    Raises:
        DamagedAudio: it is truncated, or can't be decoded.
        RecipeError: it is missing.
    """
    source = _source(audio)
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):
        file = None
    try:
        right = _right(file, source, audio)
        if not RATES[0] <= right.samplerate <= RATES[1]:
            raise DamagedAudio(f"{right.samplerate} Hz by its header", where=audio, cure=CURE)
    except BaseException:
        if file is not None:
            file.close()
        raise
    if file is not None and right is not file:
        file.close()
    return right


def _right(file: soundfile.SoundFile | None, source: str | io.BytesIO, audio: str | Path) -> soundfile.SoundFile:
    """Return the file as libsndfile opened it, if it could and is right about its length, or as FFmpeg decodes it."""
    try:
        in_memory = isinstance(source, io.BytesIO)
        with io.BytesIO(source.getvalue()) if in_memory else open(source, "rb", buffering=0) as raw:
            claimed = claim_in_doubt(raw, file, audio)
    except OSError as error:
        raise RecipeError(f"can't be read as audio ({error.strerror})", where=audio, cure=CURE) from None
    if file is None:
        return _by_ffmpeg(source, audio)
    if claimed is None:
        return file
    decoded = _by_ffmpeg(source, audio, claimed / file.samplerate)
    alike = (decoded.samplerate, decoded.channels) == (file.samplerate, file.channels)
    return file if alike and abs(decoded.frames - file.frames) <= DURATION_TOLERANCE * file.samplerate else decoded


def _by_ffmpeg(source: str | io.BytesIO, audio: str | Path, claimed: float = 0.0) -> soundfile.SoundFile:
    """Decode audio that claims to last so many seconds (0: it doesn't say); DamagedAudio where it is shorter."""
    from whisper_recipe.data.audio_decoding import decode

    found = decode(source, audio)
    seconds, claimed = found.sound.frames / found.sound.samplerate, claimed or found.claimed
    if claimed - seconds > DURATION_TOLERANCE:
        raise truncated(f"{seconds:.2f} s of samples, {claimed:.2f} s by its header", audio)
    if found.damaged:
        raise DamagedAudio(f"can't be decoded ({found.bad} of {found.packets} packets)", where=audio, cure=CURE)
    return found.sound


def _source(audio: str | Path) -> str | io.BytesIO:
    """Return the path of a file, or what a command or an ark's entry gives."""
    name = str(audio)
    if name.endswith("|"):
        return _output(["bash", "-c", f"set -o pipefail; {name[:-1]}"], audio)
    if entry := ARK_ENTRY.fullmatch(name):
        return _ark_entry(entry[1], int(entry[2]), audio)
    if os.path.isfile(name):  # noqa: PTH113 (pathlib takes longer than all else that is done to a header)
        return name
    cure = "check the path in wav.scp; where the data has moved, run whisper-recipe prepare again"
    raise RecipeError("no such file", where=audio, cure=cure)


def _output(command: list[str], audio: str | Path) -> io.BytesIO:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise RecipeError(f"{command[0]} failed ({reason[0]})", where=audio, cure=CURE)
    return io.BytesIO(done.stdout)


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


def read_audio(audio: str | Path, start: float = 0.0, duration: float | None = None, channel: int = 0) -> np.ndarray:
    """Return one channel's samples from `start` for `duration` seconds (None: to the end), float32 (n,) at 16 kHz.

    Where the audio ends within the tolerance before the duration is full, silence is added. Resampling is soxr's:
    lhotse's needs torchaudio.

    Raises:
        RecipeError: the audio is missing, unreadable, or ends early, or it has no such channel.
    """
    with opened(audio) as file:
        rate = file.samplerate
        first = round(start * rate)
        count = file.frames - first if duration is None else round(duration * rate)
        channel = spoken_channel(channel, file.channels, audio)
        try:
            file.seek(min(first, file.frames))
            samples = file.read(count, dtype="float32", always_2d=True)[:, channel]
        except soundfile.SoundFileError as error:
            raise DamagedAudio(f"can't be decoded ({error})", where=audio, cure=CURE) from None
    lacking = (count - len(samples)) / rate
    if lacking > DURATION_TOLERANCE:
        raise DamagedAudio(f"ends {lacking:.2f} s too early", where=audio, cure=CURE)
    wanted = round(count / rate * SAMPLING_RATE) if duration is None else round(duration * SAMPLING_RATE)
    samples = _resampled(samples, rate)[:wanted]
    return np.pad(samples, (0, wanted - len(samples)))


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLING_RATE:
        return samples
    import soxr

    return soxr.resample(samples, rate, SAMPLING_RATE)


def read_mono(audio: str | Path) -> tuple[np.ndarray, str]:
    """Return all that can be read of audio, float32 (n,) at 16 kHz, and what is wrong with it ("" where nothing is).

    Channels are mixed, unless they cancel each other: then the loudest is taken. Of audio that is truncated or damaged
    the rest is returned.

    Raises:
        RecipeError: the audio is missing, or nothing in it can be read.
    """
    try:
        with opened(audio) as file:
            return _mono(file, audio)
    except DamagedAudio as error:
        from whisper_recipe.data.audio_decoding import decode

        with decode(_source(audio), audio).sound as file:
            samples, _ = _mono(file, audio)
        if not len(samples):
            raise
        return samples, error.what


def _mono(file: soundfile.SoundFile, audio: str | Path) -> tuple[np.ndarray, str]:
    power, blocks = Signals(file.channels), []
    for block in _blocks(file, audio):
        power.add(block)
        blocks.append(block.mean(axis=1))
    wrong = ""
    if power.cancelled:
        file.seek(0)
        blocks = [block[:, power.loudest].copy() for block in _blocks(file, audio)]
        wrong = f"its channels cancel each other, so channel {power.loudest} alone is used"
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    lacking = (file.frames - len(samples)) / file.samplerate
    if lacking > DURATION_TOLERANCE:
        wrong = f"ends {lacking:.2f} s too early"
    if not np.isfinite(samples).all():
        raise RecipeError("has samples that are NaN or infinite", where=audio, cure=CURE)
    if power.high.max() > INTEGER_SCALE:
        wrong = "floating-point samples in the scale of 16 bits, which are divided by 32,768"
        samples = samples / np.float32(1 << 15)
    samples = _resampled(samples, file.samplerate)
    return samples, wrong if len(samples) else "no samples in it"


def _blocks(file: soundfile.SoundFile, audio: str | Path) -> Iterator[np.ndarray]:
    """Yield all samples, float32 (n, channels); DamagedAudio where they can't be decoded."""
    try:
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            yield block
    except soundfile.SoundFileError as error:
        raise DamagedAudio(f"can't be decoded ({error})", where=audio, cure=CURE) from None


def spoken_channel(channel: int, channels: int, where: str | Path) -> int:
    """Return which of so many channels is meant: mono audio has but one, so it is that.

    Raises:
        RecipeError: there is no such channel.
    """
    if not 0 <= channel < channels and (channels > 1 or channel < 0):
        what = f"channel {channel} of {channels} (they count from 0)"
        raise RecipeError(what, where=where, cure="choose another --channel, mix or auto")
    return channel if channels > 1 else 0


class Decoded(NamedTuple):
    """What a full decoding of audio finds: its header, and the measures of its channels."""

    info: AudioInfo
    signals: Signals

    def index(self, channel: Channel, where: str | Path) -> int:
        """Return the row of `signals` that `channel` means; RecipeError where there is no such channel."""
        if channel == "mix":
            return self.info.num_channels
        return self.signals.loudest if channel == "auto" else spoken_channel(channel, self.info.num_channels, where)


def decode_fully(audio: str | Path) -> Decoded:
    """Decode all samples of audio, a block at a time.

    Raises:
        RecipeError: it is missing or damaged.
    """
    with opened(audio) as file:
        info, signals = _info(file, audio), Signals(file.channels)
        for block in _blocks(file, audio):
            signals.add(block)
    return Decoded(info, signals)


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
                for block in _blocks(file, audio):
                    flac.write(block.mean(axis=1, keepdims=True) if mix else block)
        except soundfile.SoundFileError as error:
            path.unlink(missing_ok=True)
            raise RecipeError(f"can't be copied as FLAC ({error})", where=audio, cure=CURE) from None
        except RecipeError:
            path.unlink(missing_ok=True)
            raise
