"""Manifests of prepare, read back by lhotse itself."""

from __future__ import annotations

import json

import kaldiio
import numpy as np
import pytest
import soundfile
from lhotse import RecordingSet, SupervisionSet
from lhotse.qa import validate_recordings_and_supervisions

from tests.data.conftest import tone
from whisper_recipe.data.manifests import prepare
from whisper_recipe.errors import RecipeError


def read(folder, split):
    recordings = RecordingSet.from_file(folder / f"recordings_{split}.jsonl.gz").to_eager()
    supervisions = SupervisionSet.from_file(folder / f"supervisions_{split}.jsonl.gz").to_eager()
    validate_recordings_and_supervisions(recordings, supervisions)
    return recordings, supervisions


def test_lhotse_loads_recordings_and_supervisions(make_data_dir, tmp_path):
    folder = make_data_dir("dev", utt2task="b translate\n")
    prepare(folder, tmp_path / "manifests")
    recordings, supervisions = read(tmp_path / "manifests", "dev")
    assert {recording.id: recording.duration for recording in recordings} == {"a": 1.0, "b": 2.0}
    expected = soundfile.read(folder / "wav" / "a.wav", dtype="float32")[0]
    assert np.array_equal(recordings["a"].load_audio()[0], expected)
    second = supervisions["b"]
    assert (second.recording_id, second.start, second.duration) == ("b", 0, 2.0)
    assert (second.text, second.language, second.speaker, second.custom) == ("你好", "zh", "bai", {"task": "translate"})


def test_segments_share_a_recording_and_end_with_it(make_data_dir, tmp_path):
    folder = make_data_dir(
        wav="r wav/b.wav\n", segments="a r 0.25 0.75\nb r 1.0 2.004\n", text="a x\nb x\n", utt2spk=None
    )
    prepare(folder, tmp_path)
    recordings, supervisions = read(tmp_path, "train")
    assert len(recordings) == 1
    assert {s.id: (s.recording_id, s.start, s.duration) for s in supervisions} == {
        "a": ("r", 0.25, 0.5),
        "b": ("r", 1.0, 1.0),
    }


def test_segments_outside_their_recording_are_an_error(make_data_dir, tmp_path):
    folder = make_data_dir(segments="a a 0 1\nb b 1 2.5\n")
    with pytest.raises(RecipeError, match=f"{folder}/segments:2: b: 1.0 to 2.5 s lies outside its recording of 2.00 s"):
        prepare(folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_what_lhotse_cannot_read_by_its_path_is_copied(make_data_dir, tmp_path):
    folder = make_data_dir(utt2spk=None)
    with kaldiio.WriteHelper(f"ark,scp:{folder}/x.ark,{folder}/x.scp") as writer:
        writer("b", (16000, np.arange(-4000, 4000, dtype=np.int16)))
    (folder / "wav.scp").write_text(f"a cat {folder}/wav/a.wav |\n" + (folder / "x.scp").read_text())
    with pytest.raises(RecipeError, match="wav.scp:1: pipe"):
        prepare(folder, tmp_path / "out")
    prepare(folder, tmp_path / "out", allow_pipes=True)
    recordings, _ = read(tmp_path / "out", "train")
    assert {recording.sources[0].type for recording in recordings} == {"file"}
    expected = soundfile.read(folder / "wav" / "a.wav", dtype="float32")[0]
    assert np.array_equal(recordings["a"].load_audio()[0], expected)
    assert np.array_equal(recordings["b"].load_audio()[0] * 32768, np.arange(-4000, 4000))


@pytest.mark.parametrize("channel", [0, 1, "mix"])
def test_a_channel_is_chosen_or_all_are_mixed(make_data_dir, tmp_path, channel):
    folder = make_data_dir(utt2spk=None)
    both = np.stack([np.full(16000, 0.5), np.full(16000, -0.25)], axis=1)
    soundfile.write(folder / "wav" / "a.wav", both, 16000)
    soundfile.write(folder / "wav" / "b.wav", both, 16000)
    prepare(folder, tmp_path / "out", channel=channel)
    recordings, supervisions = read(tmp_path / "out", "train")
    said = supervisions["a"].channel
    expected = {0: 0.5, 1: -0.25, "mix": 0.125}[channel]
    assert recordings["a"].load_audio(channels=said) == pytest.approx(np.full((1, 16000), expected), abs=1e-4)
    assert (tmp_path / "out/audio_train").exists() == (channel == "mix")


def test_mono_and_stereo_recordings_in_one_corpus(make_data_dir, tmp_path):
    folder = make_data_dir()
    quiet = tone(2.0) / 100
    soundfile.write(folder / "wav" / "b.wav", np.stack([quiet, tone(2.0), quiet], axis=1), 16000)
    for channel, expected in ((1, 1), ("auto", 1), (2, 2), (0, 0)):
        prepare(folder, tmp_path / str(channel), channel=channel)
        _, supervisions = read(tmp_path / str(channel), "train")
        assert {key: supervisions[key].channel for key in "ab"} == {"a": 0, "b": expected}


def test_recordings_that_cannot_be_read_are_left_out_and_listed(make_data_dir, tmp_path, capsys):
    folder = make_data_dir(
        text="a x\nb x\nc x\n", wav="a wav/a.wav\nb wav/b.wav\nc wav/c.wav\n", utt2lang="a en\nb en\nc en\n"
    )
    soundfile.write(folder / "wav" / "b.wav", np.zeros((16000, 2)), 16000)
    prepare(folder, tmp_path / "out", channel=3)
    recordings, supervisions = read(tmp_path / "out", "train")
    assert [recording.id for recording in recordings] == [row.recording_id for row in supervisions] == ["a"]
    rows = [row.split("\t") for row in (tmp_path / "out/dropped_train.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [["b", f"{folder}/wav.scp:2"], ["c", f"{folder}/wav.scp:3"]]
    assert "channel 3 of 2" in rows[0][2]
    assert "no such file" in rows[1][2]
    assert not (tmp_path / "out/audio_train").exists()
    assert "2 recordings can't be read and are dropped" in capsys.readouterr().out


def test_a_list_with_times_and_without_speech(make_data_dir, tmp_path):
    wav = make_data_dir() / "wav" / "b.wav"
    rows = [
        {"id": "z", "audio": str(wav), "sentence": "", "sentences": [], "language": "en"},
        {
            "id": "y",
            "audio": {"path": str(wav), "start_time": 1.0},
            "sentence": "one",
            "sentences": [{"start": 0.2, "end": 0.8, "text": "one"}],
            "language": "en",
        },
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "test.jsonl", tmp_path / "out")
    recordings, supervisions = read(tmp_path / "out", "test")
    assert len(recordings) == 1
    assert (supervisions["y"].start, supervisions["y"].duration) == (1.0, 1.0)
    assert supervisions["y"].custom["segments"] == [{"start": 0.2, "end": 0.8, "text": "one"}]
    assert (supervisions["z"].text, supervisions["z"].custom["segments"]) == ("", [])


def test_the_supervisions_of_a_recording_stand_together(make_data_dir, tmp_path):
    folder = make_data_dir(
        wav="r wav/a.wav\ns wav/b.wav\n",
        text="a x\nb x\nc x\n",
        segments="a s 0 1\nb r 0 1\nc s 1 2\n",
        utt2lang="a en\nb en\nc en\n",
        utt2spk=None,
    )
    prepare(folder, tmp_path)
    recordings, supervisions = read(tmp_path, "train")
    assert [recording.id for recording in recordings] == ["r", "s"]
    assert [supervision.id for supervision in supervisions] == ["b", "a", "c"]


def test_audio_is_found_from_any_directory(make_data_dir, tmp_path, monkeypatch):
    folder = make_data_dir()
    monkeypatch.chdir(folder.parent)
    prepare("train", "out")
    monkeypatch.chdir("/")
    recordings, _ = read(tmp_path / "out", "train")
    assert recordings["a"].load_audio().shape == (1, 16000)


def test_the_same_directory_gives_the_same_bytes(make_data_dir, tmp_path):
    folder = make_data_dir()
    prepare(folder, tmp_path / "one")
    prepare(folder, tmp_path / "two")
    for name in ("recordings_train.jsonl.gz", "supervisions_train.jsonl.gz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_copy_that_fails_half_way_leaves_no_file(make_data_dir, tmp_path):
    folder = make_data_dir(wav="a wav/a.wav\nb cat wav/b.flac |\n".replace("wav/b", f"{tmp_path}/train/wav/b"))
    path = folder / "wav" / "b.flac"
    soundfile.write(path, np.random.default_rng(0).normal(size=640000) / 10, 16000)
    content = bytearray(path.read_bytes())
    content[200_000:300_000] = bytes(100_000)
    path.write_bytes(content)
    prepare(folder, tmp_path / "out", allow_pipes=True)
    assert "b.flac |: can't be decoded" in (tmp_path / "out/dropped_train.tsv").read_text()
    assert not (tmp_path / "out/audio_train").exists()


def test_where_no_audio_can_be_read_the_old_manifests_stay(make_data_dir, tmp_path):
    folder = make_data_dir()
    prepare(folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in "ab":
        (folder / "wav" / f"{name}.wav").write_text("no audio")
    with pytest.raises(RecipeError, match=r"no audio can be read; the first error: .*a.wav: can't be read as audio"):
        prepare(folder, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_recorded_multitask_rows(shared_data, tmp_path):
    prepare(shared_data / "aishell_multitask", tmp_path)
    recordings, supervisions = read(tmp_path, "aishell_multitask")
    assert (len(recordings), len(supervisions)) == (10, 20)
    for supervision in supervisions:
        key, _, task = supervision.id.split("|")
        assert (supervision.recording_id, supervision.custom["task"], supervision.language) == (key, task, "zh")
        wav = shared_data / "aishell_multitask" / "wav" / f"{key}.wav"
        assert supervision.duration == pytest.approx(soundfile.info(wav).duration)


def test_recorded_formats(shared_data, tmp_path):
    files = sorted((shared_data / "english").iterdir())
    folder = tmp_path / "formats"
    folder.mkdir()
    (folder / "wav.scp").write_text("".join(f"{path.stem}{path.suffix} {path}\n" for path in files))
    (folder / "text").write_text("".join(f"{path.name} something\n" for path in files))
    (folder / "utt2lang").write_text("".join(f"{path.name} en\n" for path in files))
    prepare(folder, tmp_path / "out")
    recordings, supervisions = read(tmp_path / "out", "formats")
    rates = {recording.id: (recording.sampling_rate, recording.num_channels) for recording in recordings}
    assert rates["common_voice_en_651325.mp3"] == (48000, 1)
    assert rates["stereo.sph"] == (8000, 2)
    assert len(supervisions) == len(files) == 7
