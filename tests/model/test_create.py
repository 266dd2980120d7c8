"""A model created here is a plain Whisper folder to transformers and CTranslate2, and to faster-whisper."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from tests.conftest import make_model
from whisper_recipe.errors import RecipeError


def test_transformers_loads_and_generates_with_its_own_processor(tiny_model):
    processor = AutoProcessor.from_pretrained(tiny_model)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_model)
    features = processor(np.zeros(16000, dtype=np.float32), sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(features, language="zh", task="translate", max_new_tokens=5, return_dict_in_generate=True)
    prompt = processor.tokenizer.convert_ids_to_tokens(ids.sequences[0][:4])
    assert prompt == ["<|startoftranscript|>", "<|zh|>", "<|translate|>", "<|notimestamps|>"]
    assert model.config.architectures == ["WhisperForConditionalGeneration"]


def test_mel_bins_are_recorded_where_other_programs_look(transcripts, tmp_path):
    folder = make_model(tmp_path / "model", transcripts, num_mel_bins=128)
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 128
    assert json.loads((folder / "config.json").read_text())["num_mel_bins"] == 128


def test_same_seed_gives_the_same_weights_and_another_does_not(transcripts, tmp_path):
    from safetensors.torch import load_file

    weights = [
        load_file(make_model(tmp_path / f"model{n}", transcripts, seed=seed) / "model.safetensors")
        for n, seed in enumerate([1, 1, 2])
    ]
    name = "model.encoder.layers.0.fc1.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_impossible_width_names_the_option_and_leaves_nothing(transcripts, tmp_path):
    with pytest.raises(RecipeError, match="d_model"):
        make_model(tmp_path / "model", transcripts, d_model=33)
    assert list(tmp_path.iterdir()) == []
