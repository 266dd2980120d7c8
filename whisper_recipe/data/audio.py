"""Read audio of any kind: its header, and its samples at Whisper's sampling rate.

Audio is a path, an entry of a Kaldi ark (`/x.ark:123`), or a shell command that ends in `|`, which gets here only if
the user has allowed it. libsndfile reads it. Audio that it can't read, or misreads because the header is wrong (see
audio_headers.py), is decoded by FFmpeg's libraries (audio_decoding.py).
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
RATES = (1000, 1_000_000)  # Hz; headers outside this range are damaged
BLOCK = 1 << 16  # samples decoded at a time
ARK_ENTRY = re.compile(r"(.+\.ark):(\d+)")
# Data that kaldiio may read at an ark's offset. It would also unpickle data that begins with PKL, which can run code.
ARK_AUDIO = (b"RIFF", b"AUDIO")
FFMPEG_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".3gp"})

Channel = int | Literal["mix", "auto"]


class AudioInfo(NamedTuple):
    """An audio file's header, checked against the file.

    Args:
        sampling_rate: in Hz.
        num_samples: of one channel.
        num_channels: 1 for mono.
        plain: whether libsndfile, and so any Lhotse program, reads it correctly from its path.
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
    """Return whether audio has more samples than one Whisper input; 32.20 - 2.20 s is 30 s, despite rounding errors."""
    return round(seconds * SAMPLING_RATE) > MAX_SECONDS * SAMPLING_RATE


def audio_info(audio: str | Path) -> AudioInfo:
    """Read an audio header (WAV, FLAC, MP3, OGG, OPUS, SPHERE and any other format that libsndfile or FFmpeg support).

    Raises:
        RecipeError: it is missing, unreadable or empty, or shorter than its header says.
    """
    with opened(audio) as file:
        return _info(file, audio)


def _info(file: soundfile.SoundFile, audio: str | Path) -> AudioInfo:
    if not file.frames:
        raise RecipeError("contains no samples", where=audio, cure=CURE)
    return AudioInfo(file.samplerate, file.frames, file.channels, plain=isinstance(file.name, str))


def opened(audio: str | Path) -> soundfile.SoundFile:
    """Open audio of any kind; the caller closes it. Its `frames` are correct even if the header is wrong.

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
            what = f"sampling rate must be between {RATES[0]} and {RATES[1]} Hz, got {right.samplerate}"
            raise DamagedAudio(what, where=audio, cure=CURE)
    except BaseException:
        if file is not None:
            file.close()
        raise
    if file is not None and right is not file:
        file.close()
    return right


def _right(file: soundfile.SoundFile | None, source: str | io.BytesIO, audio: str | Path) -> soundfile.SoundFile:
    """Return the file as opened by libsndfile if its length is correct, else as decoded by FFmpeg."""
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
    """Decode audio with a claimed duration in seconds (0: unknown); raise DamagedAudio if it is shorter or damaged."""
    from whisper_recipe.data.audio_decoding import decode

    decoded = decode(source, audio)
    seconds, claimed = decoded.sound.frames / decoded.sound.samplerate, claimed or decoded.claimed
    if claimed - seconds > DURATION_TOLERANCE:
        raise truncated(f"{seconds:.2f} s of samples, {claimed:.2f} s in the header", audio)
    if decoded.damaged:
        raise DamagedAudio(f"can't be decoded ({decoded.bad} of {decoded.packets} packets)", where=audio, cure=CURE)
    return decoded.sound


def _source(audio: str | Path) -> str | io.BytesIO:
    """Return the path of a file, or the contents of a command's output or an ark's entry."""
    name = str(audio)
    if name.endswith("|"):
        return _output(["bash", "-c", f"set -o pipefail; {name[:-1]}"], audio)
    if entry := ARK_ENTRY.fullmatch(name):
        return _ark_entry(entry[1], int(entry[2]), audio)
    if os.path.isfile(name):  # noqa: PTH113 (pathlib takes longer than the rest of reading a header)
        return name
    cure = "check the path in wav.scp; if the data has moved, run whisper-recipe prepare again"
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
                raise RecipeError("no audio at this offset in the ark", where=audio, cure="check the offset in wav.scp")
            ark.seek(offset)
            rate, samples = read_kaldi(ark)
    except FileNotFoundError:
        raise RecipeError("no such file", where=audio, cure="check the path in wav.scp") from None
    except RecipeError:
        raise
    except Exception as error:  # kaldiio raises many types, including AssertionError
        raise RecipeError(f"can't be read as audio ({error or type(error).__name__})", where=audio, cure=CURE) from None
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16" if samples.dtype == np.int16 else "FLOAT")
    file.seek(0)
    return file


def read_audio(audio: str | Path, start: float = 0.0, duration: float | None = None, channel: int = 0) -> np.ndarray:
    """Return one channel's samples from `start` for `duration` seconds (None: to the end), float32 (n,) at 16 kHz.

    Audio that ends early, but within the tolerance, is padded with silence. Resampling uses soxr: lhotse's needs
    torchaudio.

    Raises:
        RecipeError: the audio is missing or unreadable, ends early, or has no such channel.
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
    missing = (count - len(samples)) / rate
    if missing > DURATION_TOLERANCE:
        raise DamagedAudio(f"ends {missing:.2f} s too early", where=audio, cure=CURE)
    wanted = round(count / rate * SAMPLING_RATE) if duration is None else round(duration * SAMPLING_RATE)
    samples = _resampled(samples, rate)[:wanted]
    return np.pad(samples, (0, wanted - len(samples)))


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLING_RATE:
        return samples
    import soxr

    return soxr.resample(samples, rate, SAMPLING_RATE)


def read_mono(audio: str | Path) -> tuple[np.ndarray, str]:
    """Return all readable samples, float32 (n,) at 16 kHz, and what is wrong with the audio ("" if nothing is).

    Channels are mixed, unless they cancel each other out: then only the loudest is used. If the audio is truncated or
    damaged, the readable part is returned.

    Raises:
        RecipeError: the audio is missing or unreadable, or has samples that are NaN or infinite.
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
        wrong = f"its channels cancel each other out, so only channel {power.loudest} is used"
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    missing = (file.frames - len(samples)) / file.samplerate
    if missing > DURATION_TOLERANCE:
        wrong = f"ends {missing:.2f} s too early"
    if not np.isfinite(samples).all():
        raise RecipeError("has samples that are NaN or infinite", where=audio, cure=CURE)
    if power.high.max() > INTEGER_SCALE:
        wrong = "floating-point samples in the range of 16-bit integers, divided by 32,768"
        samples = samples / np.float32(1 << 15)
    samples = _resampled(samples, file.samplerate)
    return samples, wrong if len(samples) else "contains no samples"


def _blocks(file: soundfile.SoundFile, audio: str | Path) -> Iterator[np.ndarray]:
    """Yield all samples, float32 (n, channels); raise DamagedAudio if they can't be decoded."""
    try:
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            yield block
    except soundfile.SoundFileError as error:
        raise DamagedAudio(f"can't be decoded ({error})", where=audio, cure=CURE) from None


def spoken_channel(channel: int, channels: int, where: str | Path) -> int:
    """Return the channel to use of `channels`: for mono audio, always 0.

    Raises:
        RecipeError: there is no such channel.
    """
    if not 0 <= channel < channels and (channels > 1 or channel < 0):
        what = f"channel {channel} of {channels} does not exist (channels count from 0)"
        raise RecipeError(what, where=where, cure="choose another --channel, mix or auto")
    return channel if channels > 1 else 0


class Decoded(NamedTuple):
    """Result of decoding audio fully: its header, and the measurements of its channels."""

    info: AudioInfo
    signals: Signals

    def index(self, channel: Channel, where: str | Path) -> int:
        """Return the row of `signals` for `channel`; raise RecipeError if there is no such channel."""
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
    """Write audio as FLAC at its own sampling rate: 16 bits, or 24 if the source has more.

    Args:
        audio: of any kind.
        path: the file to write.
        mix: write the mean of the channels instead of all of them.

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
