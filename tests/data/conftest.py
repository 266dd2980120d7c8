"""Small Kaldi data directories for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

TABLES = {
    "wav.scp": "a wav/a.wav\nb wav/b.wav\n",
    "text": "a hello there\nb 你好\n",
    "utt2lang": "a English\nb zh\n",
    "utt2spk": "a anna\nb bai\n",
}


def tone(seconds: float, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    """Return a sine of half of full scale, float32 (n,)."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(path: Path, samples: np.ndarray, rate: int, codec: str) -> Path:
    """Write samples (n,) with a codec of FFmpeg's, which libsndfile may not have, as the path's suffix says."""
    with av.open(f"file:{path}", "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate = rate
        for part in [frame, None]:
            container.mux(stream.encode(part))
    return path


def by_pyav(path: Path) -> float:
    """Return the seconds of audio that FFmpeg's libraries read of a file, as faster-whisper does; 0 where none."""
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            seconds = 0.0
            for packet in container.demux(container.streams.audio[0]):
                with suppress(av.InvalidDataError):
                    seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
            return seconds
    except (av.FFmpegError, IndexError, ValueError, ZeroDivisionError):
        return 0.0


@pytest.fixture
def make_data_dir(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a data directory of two utterances (1 s and 2 s); tables given replace its own.

    A table that is None is left out; `utt2lang` and so on are given by keyword, wav.scp as `wav`.
    """

    def make(name: str = "train", **tables: str | bytes | None) -> Path:
        folder = tmp_path / name
        (folder / "wav").mkdir(parents=True)
        for utterance, seconds in (("a", 1.0), ("b", 2.0)):
            soundfile.write(folder / "wav" / f"{utterance}.wav", tone(seconds), 16000)
        if "wav" in tables:
            tables["wav.scp"] = tables.pop("wav")
        for table, content in {**TABLES, **tables}.items():
            if content is not None:
                (folder / table).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make
