"""Small Kaldi data directories for the tests of the data room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
