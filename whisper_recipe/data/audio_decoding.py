"""Decode audio that libsndfile can't read, or misreads, with FFmpeg's libraries, which are bundled with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from whisper_recipe.data.audio_headers import CURE, DamagedAudio

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

# Formats that keep all audio in one file. Others (playlists, HLS) may refer to other files and URLs; data must not.
FORMATS = "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,mov,mp4,m4a,3gp,matroska,webm,asf,amr,nistsphere,voc,wv,ape,tta,ac3,dts"
BAD_PACKETS = 100  # one in this many may be bad: tags between joined files


class ByFfmpeg(NamedTuple):
    """Audio decoded by FFmpeg's libraries.

    Args:
        sound: an open sound file in memory.
        claimed: duration in seconds according to the container, 0 if unknown.
        bad: number of packets that can't be decoded; they are skipped.
        packets: number of packets in the file.
    """

    sound: soundfile.SoundFile
    claimed: float
    bad: int
    packets: int

    @property
    def damaged(self) -> bool:
        """Whether more packets are bad than joined files can explain."""
        return self.bad > 1 + self.packets // BAD_PACKETS


def decode(source: str | Path | io.BytesIO, where: str | Path) -> ByFfmpeg:
    """Decode audio of any kind into memory: as 16 bits if it is lossy or has at most 16 bits, else as float32.

    Raises:
        DamagedAudio: it contains no audio that can be decoded.
    """
    import av

    memory = io.BytesIO()
    # `file:` keeps a name with a colon from being read as a protocol.
    name = io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else f"file:{Path(source).absolute()}"
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        with av.open(name, options=options) as container:
            if not container.streams.audio:
                raise DamagedAudio("can't be read as audio (no audio stream)", where=where, cure=CURE)
            written = _write(container, memory)
    except (av.FFmpegError, soundfile.SoundFileError, ArithmeticError, MemoryError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DamagedAudio(f"can't be read as audio ({reason})", where=where, cure=CURE) from None
    memory.seek(0)
    return ByFfmpeg(soundfile.SoundFile(memory), *written)


def _write(container: InputContainer, memory: io.BytesIO) -> tuple[float, int, int]:
    """Write all samples; return the container's duration in seconds, and the numbers of bad and of all packets."""
    stream = container.streams.audio[0]
    claimed = float(stream.duration * stream.time_base) if stream.duration and "mp4" in container.format.name else 0.0
    counts = {"bad": 0, "packets": 0}
    frames = _frames(container, counts)
    first = next(frames, None)
    if first is None:
        raise ValueError("nothing in it can be decoded")
    as_float = stream.codec_context.codec.lossless and first.format.name.removesuffix("p") not in ("s16", "u8")
    form, rate, layout = "flt" if as_float else "s16", first.sample_rate, first.layout
    subtype, dtype = ("FLOAT", np.float32) if as_float else ("PCM_16", np.int16)
    channels = layout.nb_channels
    with soundfile.SoundFile(memory, "w", rate, channels, subtype, format="W64") as file:
        for frame in _alike(first, frames, form, rate, layout):
            file.write(frame.to_ndarray().reshape(-1, channels).astype(dtype, copy=False))
    return claimed, counts["bad"], counts["packets"]


def _frames(container: InputContainer, counts: dict[str, int]) -> Iterator[AudioFrame]:
    import av

    for packet in container.demux(container.streams.audio[0]):
        counts["packets"] += 1
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            counts["bad"] += 1


def _alike(
    first: AudioFrame, others: Iterator[AudioFrame], form: str, rate: int, layout: object
) -> Iterator[AudioFrame]:
    """Yield all frames in one format; joined files may differ in sampling rate and channels."""
    import av

    resampler, kind = None, None
    for frame in (frame for group in ([first], others) for frame in group):
        frame.pts = None  # gaps in the timestamps must not become samples
        if kind != (kind := (frame.format.name, frame.sample_rate, frame.layout.name)):
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(form, layout, rate)
        yield from resampler.resample(frame)
    yield from resampler.resample(None)
