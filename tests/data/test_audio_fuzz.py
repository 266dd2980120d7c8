"""Headers of audio files, changed at random: one line of error, or the length that FFmpeg's libraries read.

`AUDIO_FUZZ=2000 pytest tests/data/test_audio_fuzz.py` tries more of them.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import soundfile

from tests.data.conftest import by_pyav, encoded
from whisper_recipe.data.audio import DURATION_TOLERANCE, audio_info, decode_fully, read_audio, read_mono
from whisper_recipe.errors import RecipeError

COUNT = int(os.environ.get("AUDIO_FUZZ", 120))
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "wavex.wav": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
CODECS = {"m4a": "aac", "webm": "libopus", "aac": "aac"}  # that libsndfile does not read
SPECIAL = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\0\x94\x35\x77"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """0.8 and 1.5 s in each format, one and two channels: {name: [bytes, bytes]}."""
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(0)
    made = {}
    for name, (form, subtype) in FORMATS.items():
        made[name] = []
        for seconds, channels in ((0.8, 1), (1.5, 2)):
            noise = rng.standard_normal((round(seconds * 16000), channels)) / 10
            soundfile.write(folder / name, noise, 16000, subtype, format=form)
            made[name].append((folder / name).read_bytes())
    for name, codec in CODECS.items():
        noise = [rng.standard_normal(round(seconds * 48000)) / 10 for seconds in (0.8, 1.5)]
        made[name] = [encoded(folder / f"x.{name}", samples, 48000, codec).read_bytes() for samples in noise]
    return made


def mutated(contents, draw):
    """Change some bytes of a header, and sometimes the end, of one of the contents."""
    content = bytearray(draw.choice(contents))
    header = min(len(content) - 8, draw.choice([32, 64, 128, 1200]))
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(header)
        match draw.randrange(4):
            case 0:
                content[at] = draw.randrange(256)
            case 1:
                content[at] ^= 1 << draw.randrange(8)
            case 2:
                content[at // 4 * 4 : at // 4 * 4 + 4] = draw.choice(SPECIAL)
            case 3:
                content[at] = (content[at] + draw.choice([1, -1])) % 256
    match draw.randrange(8):
        case 0:
            del content[draw.randrange(len(content)) :]
        case 1:
            content += draw.choice(contents)
        case 2:
            content += draw.randbytes(draw.choice([1, 100, 5000]))
    return bytes(content)


def fault(path, seconds):
    """Return what is wrong with how a file is read that lasts so many seconds by FFmpeg; "" where all is well."""
    damaged = False
    for read in (decode_fully, audio_info, read_audio, read_mono):
        try:
            found = read(path)
        except RecipeError as error:
            if "\n" in str(error):
                return f"{read.__name__}: {error!r} has several lines"
            damaged = damaged or read is decode_fully
            continue
        if damaged and read is audio_info:  # which knows the header alone
            continue
        wrong = ""
        match read.__name__:
            case "audio_info":
                ours = found.duration
            case "decode_fully":
                ours = found.signals.num_samples / found.info.sampling_rate
            case "read_audio":
                ours = len(found) / 16000
            case "read_mono":
                ours, wrong = len(found[0]) / 16000, found[1]
        if not ours and not wrong:
            return f"{read.__name__}: nothing, without a word"
        if seconds and abs(ours - seconds) > DURATION_TOLERANCE and not (wrong and ours < seconds):
            return f"{read.__name__}: {ours:.2f} s, by FFmpeg {seconds:.2f} s {wrong}"
    return ""


@pytest.mark.slow
def test_mutated_headers(originals, tmp_path):
    faults = []
    for seed in range(COUNT):
        draw = random.Random(seed)
        name = draw.choice(list(originals))
        path = tmp_path / f"x.{name}"
        path.write_bytes(mutated(originals[name], draw))
        if found := fault(path, by_pyav(path)):
            faults.append(f"{seed} {name}: {found}")
    assert not faults, "\n".join(faults)
