"""Headers and samples of audio files, against soundfile and against tones whose samples are known."""

from __future__ import annotations

import kaldiio
import numpy as np
import pytest
import soundfile

from tests.data.conftest import encoded
from whisper_recipe.data.audio import audio_info, decode_fully, is_longer, opened, read_audio
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
    assert audio_info(tmp_path / "stereo.flac") == (16000, 32000, 2, True)


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
    content = bytearray(path.read_bytes())
    content[30000:50000] = bytes(20000)
    path.write_bytes(content)
    assert audio_info(path).num_samples == 64000
    for read in (decode_fully, read_audio):
        with pytest.raises(RecipeError, match="part.flac: can't be decoded"):
            read(path)


def test_decoding_finds_the_peak_and_samples_that_are_no_numbers(tmp_path):
    samples = tone(3.0, 48000)
    soundfile.write(tmp_path / "good.wav", samples, 48000, subtype="FLOAT")
    found = decode_fully(tmp_path / "good.wav")
    assert (found.info, found.signals.num_samples, found.signals.faults(0)) == ((48000, 144000, 1, True), 144000, [])
    assert found.signals.high[0] == pytest.approx(0.5, abs=1e-4)
    samples[100000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 48000, subtype="FLOAT")
    assert [kind for kind, _ in decode_fully(tmp_path / "nan.wav").signals.faults(0)] == ["not a number"]


def test_ark_entries_are_what_kaldiio_wrote(tmp_path):
    """In both of kaldiio's forms, which are also ESPnet's: 16-bit WAV, and FLAC in an AUDIO entry."""
    rng = np.random.default_rng(0)
    written = {key: rng.integers(-9000, 9000, size=8000 + number, dtype=np.int16) for number, key in enumerate("abc")}
    for options in ({}, {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}):
        ark, scp = tmp_path / "x.ark", tmp_path / "x.scp"
        kaldiio.save_ark(str(ark), {key: (8000, samples) for key, samples in written.items()}, scp=str(scp), **options)
        for key, entry in (line.split() for line in scp.read_text().splitlines()):
            assert audio_info(entry) == (8000, len(written[key]), 1, False)
            with opened(entry) as file:
                assert np.array_equal(file.read() * 32768, written[key])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PKLcos\nsystem\n(S'touch pwned'\ntR.", "no audio at this offset"),
        (b"\0BFM \4\1\0\0\0\4\1\0\0\0\0\0\0\0", "no audio at this offset"),
        (b"RIFF\1\0\0\0junk", "can't be read as audio"),
        (b"AUDIO\7\7", "can't be read as audio"),
        (b"", "no audio at this offset"),
    ],
)
def test_an_ark_entry_that_is_no_audio_is_not_unpickled(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.ark").write_bytes(b"key " + content)
    with pytest.raises(RecipeError, match=message):
        audio_info(tmp_path / "x.ark:4")
    assert not (tmp_path / "pwned").exists()


def test_a_missing_ark_is_one_error(tmp_path):
    with pytest.raises(RecipeError, match="x.ark:7: no such file"):
        audio_info(tmp_path / "x.ark:7")


def test_a_pipe_is_what_its_command_writes(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(1.0, 8000), 8000)
    command = f"cat {tmp_path}/tone.wav | tee /dev/null |"
    assert audio_info(command) == (8000, 8000, 1, False)
    assert np.array_equal(read_audio(command), read_audio(tmp_path / "tone.wav"))


@pytest.mark.parametrize(
    ("command", "message"), [("echo some > /dev/stderr; false | cat |", "some"), ("true |", "can't be read as audio")]
)
def test_a_pipe_that_fails_is_one_error(command, message):
    with pytest.raises(RecipeError, match=message) as error:
        audio_info(command)
    assert "\n" not in str(error.value)


def test_m4a(tmp_path):
    path = encoded(tmp_path / "x: y.m4a", tone(2.0, 44100), 44100, "aac")
    samples = read_audio(path)
    assert len(samples) == pytest.approx(32000, abs=1600)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert audio_info(path)[::2] == (44100, 1)
    assert not audio_info(path).plain


def test_windows_of_exactly_30_s_are_not_longer():
    """32.20 - 2.20 is 30.000000000000004: of the windows that begin at hundredths some seem a little too long."""
    windows = [(hundredths + 3000) / 100 - hundredths / 100 for hundredths in range(10_000)]
    assert any(seconds > 30 for seconds in windows)
    assert not any(map(is_longer, windows))
    assert is_longer(30 + 1 / 16000)


def test_a_channel_that_is_not_there_is_one_error_and_mono_audio_has_but_one(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(1.0, 16000), 16000)
    assert np.array_equal(read_audio(tmp_path / "tone.wav", channel=1), read_audio(tmp_path / "tone.wav"))
    soundfile.write(tmp_path / "both.wav", np.zeros((16000, 2)), 16000)
    for channel in (2, -1):
        with pytest.raises(RecipeError, match=f"channel {channel} of 2"):
            read_audio(tmp_path / "both.wav", channel=channel)


@pytest.mark.parametrize(
    "name", ["a\0b.wav", "x" * 5000 + ".wav", ".", "\udcff.wav", ":3", "x.ark:99999999999999999999"]
)
def test_names_that_no_file_can_have_are_one_error(name):
    with pytest.raises(RecipeError):
        audio_info(name)


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
