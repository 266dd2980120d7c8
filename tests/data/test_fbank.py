"""Features against transformers.WhisperFeatureExtractor, and cuts against lhotse's own checks."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.audio import AudioSource
from lhotse.cut import MonoCut
from lhotse.qa import validate_cut_set
from lhotse.utils import fastcopy
from transformers import WhisperFeatureExtractor

from tests.conftest import make_model
from tests.data.conftest import tone
from whisper_recipe.data import fbank as module
from whisper_recipe.data.augment import Augmentation, Noises, load_samples
from whisper_recipe.data.fbank import fbank
from whisper_recipe.data.features import load_fbank
from whisper_recipe.data.manifests import prepare
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.resumable import ResumableWork


def whisper(samples, bins):
    """Return transformers' features of the samples padded to 30 s, (3000, bins)."""
    extractor = WhisperFeatureExtractor(feature_size=bins)
    return extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0].T


def noise(count, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@pytest.fixture
def manifests(make_data_dir, tmp_path):
    """Manifests of a directory with two utterances, 1 s and 2 s."""
    prepare(make_data_dir(), tmp_path / "manifests")
    return tmp_path / "manifests"


def load(folder, split="train"):
    cuts = CutSet.from_file(folder / f"cuts_{split}.jsonl.gz").to_eager()
    return {cut.id: cut for cut in cuts}


@pytest.mark.parametrize(
    ("storage", "bins", "error"), [("lilcom_chunky", 80, 2**-9 + 1e-3), ("float16", 128, 1.5e-3), ("none", 128, 1e-3)]
)
def test_stored_features_are_as_exact_as_the_help_says(manifests, tmp_path, storage, bins, error):
    fbank("train", manifests, tmp_path / "fbank", num_mel_bins=bins, storage=storage, num_jobs=1)
    cuts = load(tmp_path / "fbank")
    assert [(cut.id, cut.supervisions[0].id, cut.duration) for cut in cuts.values()] == [
        ("a", "a", 1.0),
        ("b", "b", 2.0),
    ]
    for cut in cuts.values():
        features = load_fbank(cut, bins)
        assert features.dtype == torch.float32
        assert features.shape == (100 * cut.duration + 2, bins)  # two more see the last samples
        samples = soundfile.read(cut.recording.sources[0].source, dtype="float32")[0]
        assert np.abs(features.numpy() - whisper(samples, bins)[: len(features)]).max() <= error


@pytest.mark.slow
def test_lhotse_reads_the_cuts_without_this_package(manifests, tmp_path):
    for storage in ("lilcom_chunky", "float16"):
        fbank("train", manifests, tmp_path / storage, storage=storage, num_jobs=1)
    code = f"""if True:
        import sys
        from lhotse import CutSet
        from lhotse.qa import validate_cut_set
        for storage in ("lilcom_chunky", "float16"):
            cuts = CutSet.from_file(f"{tmp_path}/{{storage}}/cuts_train.jsonl.gz")
            validate_cut_set(cuts, read_data=True)
            print([cut.load_features().shape for cut in cuts], "whisper_recipe" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout == "[(100, 80), (200, 80)] False\n" * 2, done.stderr


def test_many_cuts_over_several_processes_stay_in_order(make_data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    ids = [f"u{number:02d}" for number in range(11)]
    folder = make_data_dir(
        wav="r wav/b.wav\n",
        segments="".join(f"{key} r {number / 10} {number / 10 + 0.5}\n" for number, key in enumerate(ids)),
        text="".join(f"{key} x\n" for key in ids),
        utt2lang="".join(f"{key} en\n" for key in ids),
        utt2spk=None,
    )
    samples = noise(32000)  # no two stretches of noise are alike
    soundfile.write(folder / "wav" / "b.wav", samples, 16000, subtype="FLOAT")
    prepare(folder, tmp_path / "manifests")
    fbank("train", tmp_path / "manifests", tmp_path / "fbank", num_jobs=2)
    cuts = load(tmp_path / "fbank")
    assert list(cuts) == ids
    validate_cut_set(CutSet.from_cuts(cuts.values()), read_data=True)
    for number, cut in enumerate(cuts.values()):
        expected = whisper(samples[1600 * number : 1600 * number + 8000], 80)[:52]
        assert np.abs(load_fbank(cut).numpy() - expected).max() < 2**-9 + 1e-3


def test_audio_at_other_rates_is_resampled(make_data_dir, tmp_path):
    folder = make_data_dir(text="a x\n", utt2lang="a en\n", utt2spk=None, wav="a wav/a.wav\n")
    rate = 22050
    tone = np.sin(2 * np.pi * 440 * np.arange(33333) / rate) / 2
    soundfile.write(folder / "wav" / "a.wav", tone, rate)
    prepare(folder, tmp_path / "manifests")
    fbank("train", tmp_path / "manifests", tmp_path / "fbank", num_jobs=1)
    cut = load(tmp_path / "fbank")["a"]
    validate_cut_set(CutSet.from_cuts([cut]))
    assert cut.sampling_rate == cut.recording.sampling_rate == 16000
    count = round(33333 / rate * 16000)
    expected = whisper(np.sin(2 * np.pi * 440 * np.arange(count) / 16000) / 2, 80)[: cut.num_frames + 2]
    features = load_fbank(cut).numpy()
    assert features.shape == expected.shape
    # The tone's own bins; far under them lies what the resampler leaves.
    assert np.abs(features - expected)[5:-5][expected[5:-5] > 0.5].max() < 0.01


def test_recorded_rows_of_both_tasks(shared_data, tmp_path):
    prepare(shared_data / "aishell_multitask", tmp_path)
    fbank("aishell_multitask", tmp_path, tmp_path, num_jobs=1)
    cuts = load(tmp_path, "aishell_multitask")
    assert len(cuts) == 20
    key = "BAC009S0150W0001|chinese|"
    transcribe, translate = (load_fbank(cuts[key + task]) for task in ("transcribe", "translate"))
    assert torch.equal(transcribe, translate)
    assert cuts[key + "translate"].supervisions[0].custom["task"] == "translate"


def test_float16_takes_two_bytes_a_value(manifests, tmp_path):
    fbank("train", manifests, tmp_path / "fbank", storage="float16", num_jobs=1)
    assert load(tmp_path / "fbank")["a"].load_features().dtype == np.float16


def test_features_computed_anew_replace_the_old_ones(manifests, tmp_path):
    for storage in ("float16", "lilcom_chunky"):
        fbank("train", manifests, tmp_path / "fbank", storage=storage, num_jobs=1)
    assert files(tmp_path / "fbank") == ["cuts_train.jsonl.gz", "feats_train", "part000000.lca"]


def files(folder):
    """What stands there under a final name."""
    return sorted(path.name for path in folder.rglob("*") if ".unfinished" not in str(path))


def test_audio_that_cannot_be_read_is_left_out_and_listed(manifests, tmp_path, capsys):
    (tmp_path / "train" / "wav" / "b.wav").write_text("no audio any more")
    fbank("train", manifests, tmp_path / "fbank", num_jobs=2)
    assert list(load(tmp_path / "fbank")) == ["a"]
    assert "1 cuts are dropped" in capsys.readouterr().out
    rows = (tmp_path / "fbank/dropped_train.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["b"]
    assert "b.wav: can't be read as audio" in rows[0]


def test_where_no_audio_can_be_read_the_first_error_is_told(manifests, tmp_path):
    for name in "ab":
        (tmp_path / "train" / "wav" / f"{name}.wav").unlink()
    with pytest.raises(RecipeError, match="no audio can be read; the first: .*a.wav: no such file"):
        fbank("train", manifests, tmp_path / "fbank", num_jobs=1)
    assert not list((tmp_path / "fbank").glob("cuts*"))


def test_missing_and_empty_manifests(manifests, tmp_path):
    with pytest.raises(RecipeError, match=r"supervisions_none.jsonl.gz: no such file.*stage 1"):
        fbank("none", manifests, tmp_path / "fbank")
    (manifests / "supervisions_train.jsonl.gz").write_bytes(b"")
    with pytest.raises(RecipeError, match="contains no supervisions"):
        fbank("train", manifests, tmp_path / "fbank")
    assert not (tmp_path / "fbank").exists()


def test_a_supervision_without_its_recording_is_an_error_with_its_line(manifests, tmp_path):
    prepare(tmp_path / "train", tmp_path / "other")
    (tmp_path / "other" / "recordings_train.jsonl.gz").write_bytes(b"")
    with pytest.raises(RecipeError, match="supervisions_train.jsonl.gz:1: no recording a"):
        fbank("train", tmp_path / "other", tmp_path / "fbank")


def test_an_utterance_under_a_frame_is_an_error_with_its_line(make_data_dir, tmp_path):
    prepare(make_data_dir(segments="a a 0 1\nb b 1.0 1.004\n"), tmp_path / "manifests")
    with pytest.raises(RecipeError, match="supervisions_train.jsonl.gz:2: b is shorter than a frame"):
        fbank("train", tmp_path / "manifests", tmp_path / "fbank")
    assert files(tmp_path / "fbank") == []


def test_a_killed_process_is_one_error_and_leaves_nothing(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_samples", lambda cut: os._exit(1))
    with pytest.raises(RecipeError, match="a process was killed.*fewer --num_jobs"):
        fbank("train", manifests, tmp_path / "fbank", num_jobs=2)
    assert files(tmp_path / "fbank") == []


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_was_not_done(make_data_dir, tmp_path):
    ids = [f"u{number:04d}" for number in range(1200)]
    folder = make_data_dir(
        wav="r wav/b.wav\n",
        segments="".join(f"{key} r {number % 100 / 100} {number % 100 / 100 + 1}\n" for number, key in enumerate(ids)),
        text="".join(f"{key} x\n" for key in ids),
        utt2lang="".join(f"{key} en\n" for key in ids),
        utt2spk=None,
    )
    prepare(folder, tmp_path / "manifests")
    out = tmp_path / "fbank"
    command = [sys.executable, "-m", "whisper_recipe", "fbank", "train", "--manifests", str(tmp_path / "manifests")]
    command += ["--out", str(out), "--num_jobs", "1"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob(".unfinished_train.*/part000001.jsonl")):
        assert running.poll() is None
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert files(out) == []
    done = {path.name: path.stat().st_mtime_ns for path in out.glob(".unfinished_train.*/part*.jsonl")}
    assert 2 <= len(done) < 6
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{len(done)} parts of 200 cuts are done" in again.stdout
    fbank("train", tmp_path / "manifests", tmp_path / "whole", num_jobs=1)
    for part in range(6):  # what was done before stands as it was written then
        old = (out / f"feats_train/part{part:06d}.lca").stat().st_mtime_ns
        assert (f"part{part:06d}.jsonl" in done) == (old <= max(done.values()))
    cuts, whole = (load(folder) for folder in (out, tmp_path / "whole"))
    assert list(cuts) == list(whole)
    assert sorted(cuts) == ids
    assert all(torch.equal(load_fbank(cuts[key]), load_fbank(whole[key])) for key in ids[::50])
    assert files(out) == files(tmp_path / "whole")


def test_other_settings_start_anew(manifests, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", lambda *_: 1 / 0)  # breaks off when all parts are done
        with pytest.raises(ZeroDivisionError):
            fbank("train", manifests, tmp_path, num_jobs=1)
    fbank("train", manifests, tmp_path, num_jobs=1, num_mel_bins=128)
    said = capsys.readouterr().out
    assert "unfinished, with different num_mel_bins: starting over" in said
    assert "resuming" not in said
    assert load(tmp_path)["a"].num_features == 128


@pytest.mark.parametrize("step", ["replace", "rename", "discard"])
def test_a_run_that_broke_off_while_names_were_given_goes_on(manifests, tmp_path, monkeypatch, step):
    fbank("train", manifests, tmp_path, num_jobs=1)
    target = ResumableWork if step == "discard" else pathlib.Path
    real = getattr(target, step)

    def break_off(*arguments):
        """Leave the rest undone, once the features are finished."""
        final = arguments[1] if len(arguments) > 1 else tmp_path
        if final == tmp_path or final.name in ("feats_train", "cuts_train.jsonl.gz"):
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(target, step, break_off)
        fbank("train", manifests, tmp_path, num_jobs=1)
    monkeypatch.setattr(module, "load_samples", None)  # nothing is computed again
    fbank("train", manifests, tmp_path, num_jobs=1)
    validate_cut_set(CutSet.from_cuts(load(tmp_path).values()), read_data=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "train") == [
        "cuts_train.jsonl.gz",
        "feats_train",
        "manifests",
    ]


def test_ids_that_are_no_file_names(make_data_dir, tmp_path):
    ids = ["../../a", "a.1", "a.2", "b/c|en|transcribe"]
    folder = make_data_dir(
        wav="r wav/b.wav\n",
        segments="".join(f"{key} r {number / 4} {number / 4 + 0.5}\n" for number, key in enumerate(ids)),
        text="".join(f"{key} x\n" for key in ids),
        utt2lang="".join(f"{key} en\n" for key in ids),
        utt2spk=None,
    )
    samples = noise(32000)
    soundfile.write(folder / "wav" / "b.wav", samples, 16000, subtype="FLOAT")
    prepare(folder, tmp_path)
    fbank("train", tmp_path, tmp_path / "fbank", storage="float16", num_jobs=1)
    for number, cut in enumerate(load(tmp_path / "fbank").values()):
        expected = whisper(samples[4000 * number : 4000 * number + 8000], 80)[:52]
        assert np.abs(load_fbank(cut).numpy() - expected).max() < 2e-3
    assert all(path.is_relative_to(tmp_path / "fbank" / "feats_train") for path in tmp_path.rglob("*.npy"))


def test_a_cut_over_30_s_has_the_frames_that_lhotse_counts(make_data_dir, tmp_path):
    folder = make_data_dir()
    soundfile.write(folder / "wav" / "a.wav", noise(480_100), 16000)
    prepare(folder, tmp_path)
    fbank("train", tmp_path, tmp_path, storage="float16", num_jobs=1)
    cut = load(tmp_path)["a"]
    validate_cut_set(CutSet.from_cuts([cut]), read_data=True)
    assert len(load_fbank(cut)) == len(cut.load_features()) == 3001


def test_mel_bins_are_those_of_the_base_model(manifests, tmp_path, transcripts):
    model = make_model(tmp_path / "model", transcripts, num_mel_bins=128)
    fbank("train", manifests, tmp_path, base_model=str(model), storage="none")
    fbank("train", manifests, tmp_path / "stored", base_model=str(model), num_jobs=1)
    assert load(tmp_path / "stored")["a"].num_features == 128
    with pytest.raises(RecipeError, match="no Whisper configuration"):
        fbank("train", manifests, tmp_path, base_model="nobody/nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RecipeError, match="no num_mel_bins, so it is not a Whisper model"):
        fbank("train", manifests, tmp_path, base_model=str(tmp_path / "other"))


def test_the_base_model_may_be_a_name_in_the_hubs_cache(tmp_path, monkeypatch):
    cache = tmp_path / "models--openai--whisper-large-v3"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cache / "snapshots" / ("0" * 40) / "config.json").write_text('{"model_type": "whisper", "num_mel_bins": 128}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert module.mel_bins("openai/whisper-large-v3") == 128


def test_the_channel_that_prepare_was_told(make_data_dir, tmp_path):
    folder = make_data_dir(utt2spk=None)
    left, right = noise(16000, seed=1), noise(16000, seed=2)
    for name in "ab":
        soundfile.write(folder / "wav" / f"{name}.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    prepare(folder, tmp_path, channel=1)
    for storage in ("none", "float16"):
        fbank("train", tmp_path, tmp_path / storage, storage=storage, num_jobs=1)
        cut = load(tmp_path / storage)["a"]
        assert cut.channel == 1
        assert np.abs(load_fbank(cut).numpy() - whisper(right, 80)[:102]).max() < 2e-3


def test_a_channel_in_a_file_of_its_own(tmp_path):
    for channel in (0, 1):
        soundfile.write(tmp_path / f"{channel}.wav", noise(16000, seed=channel), 16000, subtype="FLOAT")
    sources = [AudioSource("file", [channel], str(tmp_path / f"{channel}.wav")) for channel in (0, 1)]
    recording = Recording("r", sources, 16000, 16000, 1.0, channel_ids=[0, 1])
    for channel in (0, 1):
        assert np.array_equal(
            load_samples(MonoCut("c", 0, 1.0, channel, recording=recording)), noise(16000, seed=channel)
        )


@pytest.mark.parametrize("place", ["recordings", "noise manifest", "noise in a cut"])
def test_commands_in_manifests_are_not_run(manifests, tmp_path, place):
    command = f"touch {tmp_path}/ran; cat {tmp_path}/train/wav/a.wav |"
    path, augment = manifests / "recordings_train.jsonl.gz", Augmentation()
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        row["sources"][0]["source"] = command
    if place == "recordings":
        write_jsonl(path, rows)
    elif place == "noise manifest":
        write_jsonl(tmp_path / "noise.jsonl", rows)
        augment = Augmentation(noise=tmp_path / "noise.jsonl", noise_probability=1.0)
    with pytest.raises(RecipeError, match="'touch .* is not an audio file"):
        if place == "noise in a cut":
            fbank("train", manifests, tmp_path, storage="none")
            load_samples(fastcopy(load(tmp_path)["a"], custom={"noise": {"path": command, "start": 0.0, "snr": 10.0}}))
        else:
            fbank("train", manifests, tmp_path, num_jobs=1, augment=augment)
    assert not (tmp_path / "ran").exists()


def test_what_lhotse_would_do_to_a_waveform_is_not_left_out_silently(manifests, tmp_path):
    fbank("train", manifests, tmp_path, storage="none")
    cut = load(tmp_path)["a"]
    for other, name in ((cut.perturb_volume(2.0), "Volume"), (cut.append(cut), "MixedCut")):
        with pytest.raises(RecipeError, match=f"lhotse's {name} is not supported here; write the audio first"):
            load_samples(other)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("supervisions", {"start": None}, "supervisions_train.jsonl.gz:2: not a supervision"),
        ("supervisions", {"unknown": 1}, "supervisions_train.jsonl.gz:2: not a supervision .*unknown"),
        ("supervisions", {"channel": [0, 1]}, r"supervisions_train.jsonl.gz:2: b has channel \[0, 1\], .* has \[0\]"),
        ("supervisions", {"channel": 3}, r"supervisions_train.jsonl.gz:2: b has channel 3, its recording has \[0\]"),
        ("recordings", {"sources": 5}, "recordings_train.jsonl.gz: b is not a recording"),
        ("recordings", {"id": None}, "supervisions_train.jsonl.gz:2: no recording b"),
    ],
)
def test_rows_that_other_programs_have_damaged(manifests, tmp_path, kind, change, message):
    path = manifests / f"{kind}_train.jsonl.gz"
    first, second = (row for _, row in read_jsonl(path))
    write_jsonl(path, [first, second | change])
    with pytest.raises(RecipeError, match=message):
        fbank("train", manifests, tmp_path, storage="none")


def test_manifests_in_other_orders_are_joined_too(make_data_dir, tmp_path):
    folder = make_data_dir(
        wav="r wav/a.wav\ns wav/b.wav\nt wav/a.wav\n",
        segments="".join(f"{key} {recording} 0 1\n" for key, recording in zip("abcdefg", "strstrs", strict=True)),
        text="".join(f"{key} x\n" for key in "abcdefg"),
        utt2lang="".join(f"{key} en\n" for key in "abcdefg"),
        utt2spk=None,
    )
    prepare(folder, tmp_path)
    path = tmp_path / "supervisions_train.jsonl.gz"
    write_jsonl(path, sorted((row for _, row in read_jsonl(path)), key=lambda row: row["id"]))
    fbank("train", tmp_path, tmp_path, storage="none")
    cuts = load(tmp_path)
    assert [(key, cut.recording.id) for key, cut in cuts.items()] == list(zip("abcdefg", "strstrs", strict=True))


@pytest.mark.parametrize("storage", ["none", "lilcom_chunky"])
def test_copies_at_other_speeds(make_data_dir, tmp_path, storage):
    folder = make_data_dir(text="a x\nb two\n", utt2segments='b [{"start": 0.9, "end": 1.8, "text": "two"}]\n')
    prepare(folder, tmp_path)
    fbank("train", tmp_path, tmp_path, storage=storage, num_jobs=1, augment=Augmentation(speed=[0.9, 1.1]))
    cuts = load(tmp_path)
    assert list(cuts) == ["a", "a_sp0.9", "a_sp1.1", "b", "b_sp0.9", "b_sp1.1"]
    assert cuts["b_sp0.9"].duration == pytest.approx(2 / 0.9, abs=1e-3)
    assert cuts["b_sp0.9"].supervisions[0].custom["segments"] == [{"start": 1.0, "end": 2.0, "text": "two"}]
    # The recordings are tones of 440 Hz: at other speeds they have another pitch.
    for key, hertz in (("b", 440), ("b_sp0.9", 396), ("b_sp1.1", 484)):
        count = round(cuts[key].duration * 16000)
        tone = (0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / 16000)).astype(np.float32)
        features, expected = load_fbank(cuts[key]).numpy(), whisper(tone, 80)
        assert len(features) == pytest.approx(count / 160, abs=2.5)
        middle = slice(20, -20)  # the resampler rings at the ends
        differences = np.abs(features - expected[: len(features)])[middle]
        assert differences[expected[: len(features)][middle] > 0.5].max() < 0.02


def test_slowed_copies_over_30_s_are_left_out_and_listed(make_data_dir, tmp_path, capsys):
    folder = make_data_dir()
    soundfile.write(folder / "wav" / "b.wav", noise(28 * 16000), 16000)
    prepare(folder, tmp_path)
    fbank("train", tmp_path, tmp_path, storage="none", augment=Augmentation(speed=[0.9]))
    assert list(load(tmp_path)) == ["a", "a_sp0.9", "b"]
    assert (tmp_path / "dropped_train.tsv").read_text() == "b_sp0.9\tover 30 s at this speed\n"
    assert "1 cuts are dropped" in capsys.readouterr().out


def test_noise_is_mixed_into_the_waveform_at_the_ratio_noted(make_data_dir, tmp_path):
    prepare(make_data_dir(), tmp_path)
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hum.wav", noise(8000, 0.01), 16000, subtype="FLOAT")  # shorter than the cuts
    augment = Augmentation(noise=tmp_path / "noise", noise_snr=[3.0, 9.0], noise_probability=1.0)
    fbank("train", tmp_path, tmp_path / "none", storage="none", augment=augment)
    fbank("train", tmp_path, tmp_path / "stored", storage="float16", num_jobs=1, augment=augment)
    clean, cut = tone(2.0), load(tmp_path / "none")["b"]
    added = load_samples(cut) - clean
    snr = 10 * np.log10(np.mean(clean**2) / np.mean(added**2))
    assert 3 <= cut.custom["noise"]["snr"] <= 9
    assert snr == pytest.approx(cut.custom["noise"]["snr"], abs=0.01)
    expected = whisper(clean + added, 80)[:202]
    for folder in ("none", "stored"):
        assert np.abs(load_fbank(load(tmp_path / folder)["b"]).numpy() - expected).max() < 2e-3


def test_some_cuts_get_noise_and_always_the_same(make_data_dir, tmp_path):
    prepare(make_data_dir(), tmp_path)
    (tmp_path / "noise").mkdir()
    for number in range(5):
        soundfile.write(tmp_path / "noise" / f"{number}.wav", noise(80_000, seed=number), 16000)
    noises = Noises(Augmentation(noise=tmp_path / "noise"))
    fbank("train", tmp_path, tmp_path, storage="none")
    cuts = [fastcopy(load(tmp_path)["a"], id=f"{number}") for number in range(400)]
    noted = [(noises.note(cut).custom or {}).get("noise") for cut in cuts]
    assert 160 < sum(note is not None for note in noted) < 240
    assert len({note["path"] for note in noted if note}) == 5
    assert noted == [(noises.note(cut).custom or {}).get("noise") for cut in cuts]


@pytest.mark.parametrize(
    ("options", "where"),
    [({"speed": [1.0]}, "speed"), ({"noise_snr": [5.0]}, "noise_snr"), ({"noise_probability": 2.0}, "probability")],
)
def test_wrong_augmentation_is_named(options, where):
    with pytest.raises(RecipeError, match=f"augment.*{where}"):
        Augmentation(**options)
