"""Languages heard by a Whisper model, against transformers' own detection."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from whisper_recipe.data.corpus import read_corpus, write_corpus
from whisper_recipe.data.filter import Rules, filter_corpus
from whisper_recipe.data.language_id import identify_languages
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError

RATE = 16000


@pytest.fixture
def noise(tmp_path):
    """Utterances of noise, 1 to 33 s: whole recordings, and a part of one."""
    rng = np.random.default_rng(0)
    rows = []
    for number, seconds in enumerate([1, 2, 33, 3]):
        path = tmp_path / f"{number}.wav"
        loudness = np.exp(rng.standard_normal(seconds)).repeat(RATE)
        soundfile.write(path, rng.standard_normal(RATE * seconds) * loudness / 50, RATE, subtype="FLOAT")
        span = {"start": 1.25, "end": 2.5} if number == 3 else {}
        rows.append(Utterance(f"u{number}", f"r{number}", str(path), "x", "en", "transcribe", "s", **span))
    return rows


@pytest.fixture
def copied_model(tiny_model, tmp_path):
    """A copy of the tiny model to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def detected(folder, rows):
    """Return the ids of language tokens that transformers detects, and their probabilities."""
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    samples = [
        soundfile.read(row.audio, start=int(row.start * RATE), stop=row.end and int(row.end * RATE), dtype="float32")[0]
        for row in rows
    ]
    features = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        languages = model.detect_language(features).flatten()
        logits = model(features, decoder_input_ids=torch.full((len(rows), 1), 0) + model.config.decoder_start_token_id)
    ids = list(model.generation_config.lang_to_id.values())
    return model.generation_config.lang_to_id, languages.tolist(), logits.logits[:, -1, ids].softmax(-1).amax(-1)


def test_languages_are_those_that_transformers_detects(noise, tiny_model):
    ids, expected, probabilities = detected(tiny_model, noise)
    found = list(identify_languages(noise, str(tiny_model)))
    assert [ids[f"<|{language}|>"] for language, _ in found] == expected
    assert [probability for _, probability in found] == pytest.approx(probabilities.tolist(), rel=1e-3)


def test_more_utterances_than_a_batch_come_in_order(noise, tiny_model):
    once = list(identify_languages(noise, str(tiny_model)))
    many = list(identify_languages(noise[:2] * 17, str(tiny_model)))
    assert [language for language, _ in many] == [language for language, _ in once[:2] * 17]
    assert [p for _, p in many] == pytest.approx([p for _, p in once[:2] * 17], rel=1e-4)


def test_a_model_stored_in_float16_is_used_as_it_is(noise, copied_model):
    WhisperForConditionalGeneration.from_pretrained(copied_model).half().save_pretrained(copied_model)
    ids, expected, _ = detected(copied_model, noise[:2])
    assert [ids[f"<|{language}|>"] for language, _ in identify_languages(noise[:2], str(copied_model))] == expected


def test_only_utterances_in_another_language_are_dropped(noise, tiny_model, tmp_path):
    heard = [language for language, _ in identify_languages(noise[:1], str(tiny_model))][0]
    right, wrong = noise[0], noise[1]
    other = next(language for language in ("de", "fr") if language != heard)
    rows = [
        Utterance("right", "r", right.audio, "x", heard, "transcribe", "s"),
        Utterance("right-en", "r", right.audio, "x", heard, "translate", "s"),
        Utterance("wrong", "r", right.audio, "x", other, "transcribe", "s"),
        Utterance("wrong-en", "r", right.audio, "x", other, "translate", "s"),
        Utterance("silent", "q", wrong.audio, "", other, "transcribe", "s", segments=()),  # without speech
    ]
    write_corpus(rows, tmp_path / "all.jsonl")
    rules = Rules(language_model=str(tiny_model), min_language_probability=0)
    filter_corpus(tmp_path / "all.jsonl", tmp_path / "kept.jsonl", rules)
    assert {row.id for row in read_corpus(tmp_path / "kept.jsonl")} == {"right", "right-en", "silent"}
    listed = (tmp_path / "kept.jsonl.dropped.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in listed] == ["wrong", "wrong-en"]
    assert f"language_model: sounds like {heard} (" in listed[0]
    rules = Rules(language_model=str(tiny_model), min_language_probability=1.0)
    filter_corpus(tmp_path / "all.jsonl", tmp_path / "kept.jsonl", rules)
    assert len(read_corpus(tmp_path / "kept.jsonl")) == 5


def drop_languages(folder):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "lang_to_id"}))


def drop_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.decoder.layer_norm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such model folder"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"none"), "the model can't be loaded"),
        (drop_weights, "1 weights are missing, model.decoder.layer_norm.weight first"),
        (drop_languages, "has no languages"),
    ],
)
def test_models_that_tell_no_language_are_one_error(noise, copied_model, damage, message):
    damage(copied_model)
    with pytest.raises(RecipeError, match=message) as caught:
        list(identify_languages(noise, str(copied_model)))
    assert str(caught.value).startswith(str(copied_model))


def test_a_missing_relative_folder_is_not_asked_of_the_hub(noise):
    for name in ("exp/model", "./model", "model", "a/b/c"):
        with pytest.raises(RecipeError, match="no such model folder"):
            list(identify_languages(noise, name))


def test_of_a_long_recording_no_more_is_decoded_than_is_heard(noise, tiny_model, monkeypatch):
    asked = []
    from whisper_recipe.data import language_id

    read = language_id.read_audio
    monkeypatch.setattr(language_id, "read_audio", lambda *span: asked.append(span) or read(*span))
    list(identify_languages(noise[2:3], str(tiny_model)))
    assert [seconds for _, _, seconds in asked] == [30.0]
