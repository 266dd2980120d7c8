"""Audio of utterances for a page: Ogg Opus, about 3 KB per second, and the outline of its waveform."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write

Samples = Callable[[], np.ndarray]  # reads an utterance's samples, float32 (n,), on demand
AudioMode = Literal["none", "linked", "embedded"]
BIT_RATE = 26_000  # bits per second; speech is clear
OPUS = {"application": "voip", "compression_level": "1"}  # a third of the time of the default 10, at the same size
PEAKS = 240  # columns of a waveform's outline
AHEAD = 32  # utterances encoded ahead


class Clip(NamedTuple):
    """The audio of an utterance: a complete Ogg Opus file, and PEAKS bytes with the loudest sample of each stretch."""

    opus: bytes
    peaks: bytes


@dataclass
class Sounds:
    """The clips of a page, by utterance, and how many utterances have none and why.

    Args:
        clips: id -> clip, in the order of the sources.
        over_limit: number of utterances left out by the size limit.
        unreadable: id -> why its audio can't be read.
        folder: name of the folder next to the page with the clips; "" if they are embedded.
    """

    clips: dict[str, Clip] = field(default_factory=dict)
    over_limit: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    folder: str = ""


def encode(samples: np.ndarray, rate: int) -> Clip:
    """Encode samples (n,); Opus supports 8, 12, 16, 24 and 48 kHz."""
    import av  # four times as fast as libsndfile's Opus

    samples = np.nan_to_num(samples)
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as ogg:
        stream = ogg.add_stream("libopus", rate=rate, options=OPUS)
        stream.layout, stream.bit_rate = "mono", BIT_RATE
        if len(samples):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis].astype(np.float32), format="flt", layout="mono")
            frame.sample_rate = rate
            ogg.mux(stream.encode(frame))
        ogg.mux(stream.encode(None))
    return Clip(file.getvalue(), outline(samples))


def outline(samples: np.ndarray) -> bytes:
    """Return PEAKS bytes: the loudest of samples (n,) in each of as many stretches; 255 is full scale."""
    stretches = np.array_split(np.abs(samples), PEAKS)
    peaks = [float(stretch.max()) if len(stretch) else 0.0 for stretch in stretches]
    return np.rint(255 * np.clip(peaks, 0, 1)).astype(np.uint8).tobytes()


def collect(sources: Iterable[tuple[str, Samples]], mode: AudioMode, limit_mb: float, page: Path, rate: int) -> Sounds:
    """Encode the audio of utterances until the page's limit is reached.

    Args:
        sources: (id, function that reads the samples), the most important first. A RecipeError it raises is noted.
        mode: `linked` writes the clips to a folder next to the page.
        limit_mb: maximum size of all audio in megabytes, as stored in the page.
        page: the page's path.
        rate: samples per second.
    """
    sources = [] if mode == "none" else list(sources)
    found = Sounds(folder=f"{page.stem}_audio" if mode == "linked" and sources else "")
    size = 0
    for number, (key, clip) in enumerate(_encoded(sources, rate)):
        if isinstance(clip, RecipeError):
            found.unreadable[key] = str(clip)
            continue
        size += len(clip.opus) if found.folder else len(base64.b64encode(clip.opus))
        if size > 1e6 * limit_mb:
            found.over_limit = len(sources) - number
            break
        found.clips[key] = clip
    if found.folder:
        with atomic_write(page.parent / found.folder, replace_folder=True) as aside:
            aside.mkdir()
            for number, clip in enumerate(found.clips.values()):
                (aside / clip_name(number)).write_bytes(clip.opus)
    return found


def clip_name(number: int) -> str:
    """Return the file name of a linked clip; an id may contain characters that a file name can't."""
    return f"{number:05d}.ogg"


def _encoded(sources: list[tuple[str, Samples]], rate: int) -> Iterator[tuple[str, Clip | RecipeError]]:
    """Yield the clip of each utterance or the error, in order; the encoder releases the interpreter's lock."""
    from tqdm import tqdm

    def clip_or_error(read: Samples) -> Clip | RecipeError:
        try:
            return encode(read(), rate)
        except RecipeError as error:
            return error

    rest = iter(tqdm(sources, desc="audio", unit="utt", delay=2, leave=False))
    with ThreadPoolExecutor() as pool:
        while part := list(islice(rest, AHEAD)):
            yield from zip((key for key, _ in part), pool.map(clip_or_error, (read for _, read in part)), strict=True)
