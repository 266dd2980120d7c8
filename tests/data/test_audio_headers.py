"""Audio whose header is wrong: placeholders, ends cut off, files joined to others; against FFmpeg's libraries."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile

from tests.data.conftest import by_pyav, encoded, tone
from whisper_recipe.data.audio import audio_info, read_audio, read_mono
from whisper_recipe.data.audio_headers import DamagedAudio
from whisper_recipe.data.manifests import prepare
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError

# name -> (format, subtype) of soundfile
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "ulaw.wav": ("WAV", "ULAW"),
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
JOINED_AND_READ = ("au", "flac", "ogg", "opus", "mp3")  # by FFmpeg to the end; of the others the first file
SPEECH = {"cat.mp3": 13.143, "ph_2e9.wav": 11.0, "ph_zero.wav": 11.0, "stream.flac": 11.0}  # shared/cases: seconds


def voice(seconds, rate=16000, seed=0):
    """A tone that comes and goes in some noise: frames of compressed formats differ in size, as those of speech."""
    loudness = 0.6 + 0.4 * np.sin(5 * np.arange(round(seconds * rate)) / rate)
    return tone(seconds, rate) * loudness + np.random.default_rng(seed).standard_normal(len(loudness)) / 100


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """2 s and 5 s in each format: {name: (bytes, bytes)}."""
    folder = tmp_path_factory.mktemp("formats")
    made = {}
    for name, (form, subtype) in FORMATS.items():
        for seconds in (2, 5):
            soundfile.write(folder / f"{seconds}.{name}", voice(seconds, seed=seconds), 16000, subtype, format=form)
        made[name] = tuple((folder / f"{seconds}.{name}").read_bytes() for seconds in (2, 5))
    return made


def written(path, content):
    path.write_bytes(content)
    return path


def seconds_read(path):
    info = audio_info(path)
    seconds = len(read_audio(path)) / 16000
    assert seconds == pytest.approx(info.duration, abs=0.1)
    assert seconds == pytest.approx(len(read_mono(path)[0]) / 16000, abs=0.1)
    return seconds


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read_by_their_path(files, tmp_path, name):
    path = written(tmp_path / f"x.{name}", files[name][1])
    assert seconds_read(path) == pytest.approx(by_pyav(path), abs=0.1) == pytest.approx(5, abs=0.1)
    assert audio_info(path).plain


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.93])
@pytest.mark.parametrize("name", FORMATS)
def test_the_end_is_cut_off(files, tmp_path, name, kept):
    whole = files[name][1]
    path = written(tmp_path / f"x.{name}", whole[: int(kept * len(whole))])
    for read in (audio_info, read_audio):
        with pytest.raises(DamagedAudio, match="truncated: "):
            read(path)
    samples, wrong = read_mono(path)
    assert wrong.startswith("truncated: ")
    assert len(samples) / 16000 == pytest.approx(by_pyav(path), abs=0.1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_files_joined_by_cat(files, tmp_path, name, order):
    path = written(tmp_path / f"x.{name}", b"".join(files[name][index] for index in order))
    if name in JOINED_AND_READ:
        assert seconds_read(path) == pytest.approx(by_pyav(path), abs=0.1) == pytest.approx(7, abs=0.3)
        assert not audio_info(path).plain
    elif name == "sph":  # libsndfile and FFmpeg take the second header for samples
        assert seconds_read(path) == pytest.approx(by_pyav(path), abs=0.1)
    else:
        with pytest.raises(DamagedAudio, match="another file is appended"):
            audio_info(path)
        samples, wrong = read_mono(path)
        assert "appended" in wrong
        assert len(samples) / 16000 == pytest.approx(by_pyav(path), abs=0.1)


@pytest.mark.parametrize("name", ["au", "flac", "ogg", "opus", "mp3"])
def test_a_file_joined_to_itself(files, tmp_path, name):
    path = written(tmp_path / f"x.{name}", 2 * files[name][1])
    assert seconds_read(path) == pytest.approx(by_pyav(path), abs=0.1) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("size", [0, 2_000_000_000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB])
@pytest.mark.parametrize("name", ["wav", "wavex.wav", "au"])
def test_placeholders_for_the_size_of_the_samples(files, tmp_path, name, size):
    content = files[name][1]
    if name == "au" and size not in (0x7FFFFFFF, 0xFFFFFFFF):
        pytest.skip("FFmpeg does not take it for a placeholder")
    at, form = (8, ">I") if name == "au" else (content.index(b"data") + 4, "<I")
    path = written(tmp_path / f"x.{name}", content[:at] + struct.pack(form, size) + content[at + 4 :])
    assert seconds_read(path) == pytest.approx(5, abs=0.01) == pytest.approx(by_pyav(path), abs=0.01)


def streamed(flac):
    """Return FLAC as encoders write it to a pipe: the number of samples, the last 36 bits before the checksum, is 0."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def test_flac_from_an_encoder_that_wrote_to_a_pipe(files, tmp_path):
    path = written(tmp_path / "x.flac", streamed(files["flac"][1]))
    assert seconds_read(path) == pytest.approx(by_pyav(path)) == pytest.approx(5)


def test_mp3_of_variable_bit_rate_without_a_count_of_its_frames(files, tmp_path):
    content = files["mp3"][1]
    assert b"Xing" in content or b"Info" in content
    path = written(tmp_path / "x.mp3", content.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)))
    assert seconds_read(path) == pytest.approx(by_pyav(path), abs=0.1) == pytest.approx(5, abs=0.2)


def test_tags_at_the_end_of_mp3_are_no_audio(files, tmp_path):
    path = written(tmp_path / "x.mp3", files["mp3"][1] + b"TAG".ljust(128, b" "))
    assert seconds_read(path) == pytest.approx(5, abs=0.01)
    assert audio_info(path).plain


def test_truncated_m4a(tmp_path):
    path = encoded(tmp_path / "x.m4a", voice(5), 16000, "aac")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RecipeError, match="can't be read as audio"):
        audio_info(path)


def test_a_playlist_is_no_audio(tmp_path):
    """FFmpeg would read the file that it names; a data file must not choose files or addresses."""
    soundfile.write(tmp_path / "secret.wav", tone(1), 16000)
    for name, content in (
        ("x.m3u8", f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"),
        ("x.wav", f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(RecipeError, match="can't be read as audio"):
            audio_info(tmp_path / name)


def test_manifests_name_files_that_lhotse_reads_to_the_end(files, make_data_dir, tmp_path):
    from lhotse import RecordingSet

    folder = make_data_dir(
        wav="a x.mp3\nb x.flac\nc pipe.flac\n", text="a x\nb x\nc x\n", utt2lang="a en\nb en\nc en\n", utt2spk=None
    )
    (folder / "x.mp3").write_bytes(files["mp3"][0] + files["mp3"][1])
    (folder / "x.flac").write_bytes(files["flac"][1])
    (folder / "pipe.flac").write_bytes(streamed(files["flac"][1]))
    prepare(folder, tmp_path / "out")
    recordings = RecordingSet.from_file(tmp_path / "out/recordings_train.jsonl.gz").to_eager()
    assert recordings["a"].sources[0].source.endswith("out/audio_train/a.flac")
    assert recordings["a"].load_audio().shape[1] / 16000 == pytest.approx(by_pyav(folder / "x.mp3"), abs=0.01)
    assert recordings["b"].sources[0].source == f"{folder}/x.flac"
    assert recordings["c"].duration == recordings["c"].load_audio().shape[1] / 16000 == 5


@pytest.mark.parametrize("decode", [True, False])
def test_validate_lists_truncated_files(files, make_data_dir, capsys, decode):
    names = [name for name in FORMATS if name != "caf"]
    folder = make_data_dir(
        wav="".join(f"{number:02d} x.{name}\n" for number, name in enumerate(names)),
        text="".join(f"{number:02d} x\n" for number in range(len(names))),
        utt2lang="".join(f"{number:02d} en\n" for number in range(len(names))),
        utt2spk=None,
    )
    for name in names:
        (folder / f"x.{name}").write_bytes(files[name][1][: len(files[name][1]) // 2])
    with pytest.raises(RecipeError, match=f"{len(names)} problems"):
        validate(folder, decode=decode, show=0)
    printed = capsys.readouterr().out
    for number, name in enumerate(names, 1):
        assert f"wav.scp:{number}: damaged audio: {folder}/x.{name}: truncated: " in printed


@pytest.mark.parametrize("name", SPEECH)
def test_recorded_files_with_wrong_headers_are_read_to_their_end(shared_cases, name):
    path = shared_cases / name
    assert seconds_read(path) == pytest.approx(SPEECH[name], abs=0.01) == pytest.approx(by_pyav(path), abs=0.01)


@pytest.mark.parametrize("name", ["tr_wavex24.wav", "tr_w64.w64", "tr_ogg.ogg"])
def test_recorded_files_that_were_cut_in_half(shared_cases, name):
    with pytest.raises(DamagedAudio, match="truncated: "):
        audio_info(shared_cases / name)
    samples, wrong = read_mono(shared_cases / name)
    assert wrong.startswith("truncated: ")
    assert len(samples) / 16000 == pytest.approx(by_pyav(shared_cases / name), abs=0.01)
