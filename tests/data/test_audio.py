"""Headers and samples of audio files, against soundfile and against tones whose samples are known."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from whisper_recipe.data.audio import audio_info, decode_fully, read_audio
from whisper_recipe.errors import RecipeError


def tone(seconds, rate, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_in_place(tmp_path, rate):
    soundfile.write(tmp_path / "tone.wav", tone(1.0, rate), rate)
    samples = read_audio(tmp_path / "tone.wav")
    assert samples.dtype == np.float32
    assert samples.shape == (16000,)
    middle = slice(1000, -1000)  # the ends ring
    assert np.abs(samples - tone(1.0, 16000))[middle].max() < 1e-3


def test_a_stretch_of_one_channel(tmp_path):
    left, right = tone(2.0, 16000, 300.0), tone(2.0, 16000, 700.0)
    soundfile.write(tmp_path / "stereo.flac", np.stack([left, right], axis=1), 16000)
    samples = read_audio(tmp_path / "stereo.flac", start=0.5, duration=1.0, channel=1)
    assert np.abs(samples - right[8000:24000]).max() < 1e-4
    assert audio_info(tmp_path / "stereo.flac") == (16000, 32000, 2)


def test_a_stretch_that_ends_just_after_the_file_is_filled_with_silence(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(1.0, 16000), 16000)
    samples = read_audio(tmp_path / "tone.wav", duration=1.05)
    assert samples.shape == (16800,)
    assert not samples[16000:].any()


@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.2), (0.9, 0.3), (5.0, 1.0)])
def test_a_stretch_that_the_file_does_not_have_is_an_error(tmp_path, start, duration):
    soundfile.write(tmp_path / "tone.wav", tone(1.0, 16000), 16000)
    with pytest.raises(RecipeError, match="tone.wav: ends .* s too early"):
        read_audio(tmp_path / "tone.wav", start=start, duration=duration)


def test_wav_that_was_cut_off_is_found_by_its_header(tmp_path):
    whole, part = tmp_path / "whole.wav", tmp_path / "part.wav"
    soundfile.write(whole, tone(1.0, 16000), 16000)
    part.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(RecipeError, match=r"part.wav: truncated: 1000 bytes"):
        audio_info(part)


def test_wav_written_to_a_pipe_has_no_length_in_its_header_and_is_read(tmp_path):
    path = tmp_path / "streamed.wav"
    soundfile.write(path, tone(1.0, 16000), 16000)
    content = path.read_bytes()
    data = content.index(b"data") + 4
    unknown = b"\xff\xff\xff\xff"
    path.write_bytes(content[:4] + unknown + content[8:data] + unknown + content[data + 4 :])
    assert audio_info(path).num_samples == len(read_audio(path)) == 16000


def test_damage_that_the_header_does_not_show_is_found_by_decoding(tmp_path):
    path = tmp_path / "part.flac"
    soundfile.write(path, np.random.default_rng(0).normal(size=64000) / 10, 16000)
    path.write_bytes(path.read_bytes()[:30000])
    assert audio_info(path).num_samples == 64000
    for read in (decode_fully, read_audio):
        with pytest.raises(RecipeError, match="part.flac: can't be decoded"):
            read(path)


def test_decoding_finds_the_peak_and_samples_that_are_no_numbers(tmp_path):
    samples = tone(3.0, 48000)
    soundfile.write(tmp_path / "good.wav", samples, 48000, subtype="FLOAT")
    count, peak, finite = decode_fully(tmp_path / "good.wav")
    assert (count, finite) == (144000, True)
    assert peak == pytest.approx(0.5, abs=1e-4)
    samples[100000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 48000, subtype="FLOAT")
    assert decode_fully(tmp_path / "nan.wav").finite is False


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all " * 100])
def test_a_file_that_is_no_audio_is_one_error(tmp_path, content):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(RecipeError, match="x.wav: can't be read as audio"):
        audio_info(tmp_path / "x.wav")


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(RecipeError, match="none.wav: no such file"):
        audio_info(tmp_path / "none.wav")


@pytest.mark.parametrize(
    ("name", "rate", "channels", "seconds"),
    [
        ("LJ002-0020.wav", 22050, 1, 1.54),
        ("common_voice_en_651325.mp3", 48000, 1, 2.38),
        ("libri-1088-134315-0000.wav", 16000, 1, 16.04),
        ("mono_c0.opus", 8000, 1, 0.505),
        ("stereo.opus", 8000, 2, 1.005),
        ("stereo.sph", 8000, 2, 1.0),
    ],
)
def test_recorded_formats(shared_data, name, rate, channels, seconds):
    path = shared_data / "english" / name
    info = audio_info(path)
    assert (info.sampling_rate, info.num_channels) == (rate, channels)
    assert info.duration == pytest.approx(seconds, abs=0.01)
    samples = read_audio(path, channel=channels - 1)
    assert len(samples) == pytest.approx(seconds * 16000, abs=160)
    # The energy of soundfile's own samples: resampling keeps what lies under 8 kHz, and that is nearly all.
    original = soundfile.read(path, always_2d=True)[0][:, channels - 1]
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(np.sqrt(np.mean(original**2)), rel=0.05)
