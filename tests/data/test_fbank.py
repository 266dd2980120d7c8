"""Features against transformers.WhisperFeatureExtractor, and cuts against lhotse's own checks."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from lhotse.qa import validate_cut_set
from transformers import WhisperFeatureExtractor

from whisper_recipe.data import fbank as module
from whisper_recipe.data.fbank import (
    WhisperLogMel,
    WhisperLogMelConfig,
    collate_fbank,
    fbank,
    load_fbank,
    silence_value,
)
from whisper_recipe.data.manifests import prepare
from whisper_recipe.errors import RecipeError


def whisper(samples, bins):
    """Return transformers' features of the samples padded to 30 s, (3000, bins)."""
    extractor = WhisperFeatureExtractor(feature_size=bins)
    return extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0].T


def ours(samples, bins=80):
    return WhisperLogMel(WhisperLogMelConfig(bins)).extract(samples, 16000)


def noise(count, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("count", [80, 239, 240, 400, 16000, 16079, 16080, 50001, 479_100, 479_999, 480_000])
def test_frames_equal_whispers_to_the_last_one(count, bins):
    samples = noise(count)
    features = ours(samples, bins)
    assert features.shape == (math.floor(count / 160 + 0.5), bins)
    assert np.abs(features - whisper(samples, bins)[: len(features)]).max() < 1e-3


@pytest.mark.parametrize("bins", [80, 128])
def test_an_utterance_that_is_padded_to_30_s_is_whispers_whole_window(bins):
    samples = np.pad(noise(33333), (0, 480_000 - 33333))
    features = ours(samples, bins)
    assert features.shape == (3000, bins)
    assert np.abs(features - whisper(samples, bins)).max() < 1e-3


def test_recorded_speech_equals_whispers(shared_data):
    paths = [*(shared_data / "aishell_multitask" / "wav").iterdir(), shared_data / "english/libri-1088-134315-0000.wav"]
    for path in paths:
        samples = soundfile.read(path, dtype="float32")[0]
        features = ours(samples)
        assert np.abs(features - whisper(samples, 80)[: len(features)]).max() < 1e-3


@pytest.mark.parametrize("level", [0.5, 1e-3, 1e-7, 0.0])
def test_padding_has_the_value_that_whisper_gives_silence(level):
    samples = noise(20000, level)
    features = torch.from_numpy(ours(samples))
    expected = whisper(samples, 80)
    batch = collate_fbank([features], 3000)
    assert batch.shape == (1, 80, 3000)
    assert batch.dtype == torch.float32
    assert silence_value(features).item() == pytest.approx(expected[-1, 0], abs=1e-3)
    # The two frames after the utterance still see its last samples.
    differences = np.abs(batch[0].numpy().T - expected).max(axis=1)
    assert np.delete(differences, [125, 126]).max() < 1e-3


def test_each_utterance_of_a_batch_is_padded_with_its_own_silence():
    loud, quiet = torch.full((3, 80), 1.0), torch.full((5, 80), 0.4, dtype=torch.float16)
    batch = collate_fbank([loud, quiet])
    assert batch.shape == (2, 80, 5)
    assert batch[0, :, :3].eq(1.0).all()
    assert batch[0, :, 3:].eq(-1.0).all()
    assert torch.allclose(batch[1], torch.tensor(0.4), atol=1e-3)


def test_other_sampling_rates_are_refused():
    with pytest.raises(RecipeError, match="audio at 8000 Hz; resample it to 16000 Hz"):
        WhisperLogMel(WhisperLogMelConfig()).extract(noise(8000), 8000)


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
    fbank("train", manifests, tmp_path / "fbank", bins, storage, num_jobs=1)
    cuts = load(tmp_path / "fbank")
    assert [(cut.id, cut.supervisions[0].id, cut.duration) for cut in cuts.values()] == [
        ("a", "a", 1.0),
        ("b", "b", 2.0),
    ]
    for cut in cuts.values():
        features = load_fbank(cut, bins)
        assert features.dtype == torch.float32
        assert features.shape == (100 * cut.duration, bins)
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
        expected = whisper(samples[1600 * number : 1600 * number + 8000], 80)[:50]
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
    expected = whisper(np.sin(2 * np.pi * 440 * np.arange(count) / 16000) / 2, 80)[: cut.num_frames]
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
    assert files(tmp_path / "fbank") == ["cuts_train.jsonl.gz", "feats_train", "part00000.lca"]


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_damaged_audio_is_one_error_and_leaves_nothing(manifests, tmp_path, make_data_dir):
    (tmp_path / "train" / "wav" / "b.wav").write_text("no audio any more")
    with pytest.raises(RecipeError, match="b.wav: can't be read as audio"):
        fbank("train", manifests, tmp_path / "fbank", num_jobs=2)
    assert files(tmp_path / "fbank") == []


def test_missing_and_empty_manifests(manifests, tmp_path):
    with pytest.raises(RecipeError, match=r"supervisions_none.jsonl.gz: no such file.*stage 1"):
        fbank("none", manifests, tmp_path / "fbank")
    (manifests / "supervisions_train.jsonl.gz").write_bytes(b"")
    with pytest.raises(RecipeError, match="no supervisions in it"):
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
    monkeypatch.setattr(module, "_samples", lambda cut: os._exit(1))
    with pytest.raises(RecipeError, match="a process was killed.*fewer --num_jobs"):
        fbank("train", manifests, tmp_path / "fbank", num_jobs=2)
    assert files(tmp_path / "fbank") == []
