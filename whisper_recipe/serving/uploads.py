"""Uploaded audio: its length is checked before decoding, and it is deleted afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from whisper_recipe.data.audio import read_mono
from whisper_recipe.data.audio_decoding import FORMATS
from whisper_recipe.errors import RecipeError


class TooLong(RecipeError):
    """The audio is longer than the server allows."""


@contextmanager
def private_copy(upload: BinaryIO) -> Iterator[str]:
    """Yield the path of a temporary file with the upload's bytes.

    The file has no name in any folder, so nobody else can open it, and nothing is left if the process is killed. The
    client's file name is ignored.
    """
    with tempfile.TemporaryFile() as file:
        upload.seek(0)
        shutil.copyfileobj(upload, file)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if Path("/proc/self/fd").exists() else f"/dev/fd/{file.fileno()}"


def read_upload(path: str, most: float) -> tuple[np.ndarray, str]:
    """Return the samples, float32 (n,) at 16 kHz, and what is wrong with them ("" if nothing).

    Args:
        path: of the private copy.
        most: maximum seconds.

    Raises:
        TooLong: the audio is longer.
        RecipeError: the file can't be read as audio.
    """
    check_seconds(path, most)
    try:
        return read_mono(path)
    except RecipeError as error:
        raise RecipeError(error.what, where="file", cure="send WAV, FLAC, MP3, OGG, M4A, WebM or the like") from None


def check_seconds(path: str, most: float) -> None:
    """Raise TooLong if audio is longer than `most` seconds, without decoding it.

    The duration in a header may be wrong, and browsers' recordings have none, so the packets are counted too: by the
    sum of their durations, or by their number and the codec's packet length, whichever is more.
    """
    with suppress(soundfile.SoundFileError), soundfile.SoundFile(path) as file:
        _check(file.frames / file.samplerate, most)
    import av

    unreadable = (av.FFmpegError, ArithmeticError, ValueError)  # reported when it is read
    with suppress(*unreadable), av.open(f"file:{path}", options={"format_whitelist": FORMATS}) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        each = stream.codec_context.frame_size / (stream.codec_context.sample_rate or 1)
        claimed = 0.0
        for packets, packet in enumerate(container.demux(stream)):
            claimed += float((packet.duration or 0) * packet.time_base)
            _check(max(claimed, packets * each), most)


def _check(seconds: float, most: float) -> None:
    if seconds > most:
        raise TooLong(f"the audio is longer than the {most / 60:g} minutes that this server allows", where="file")
