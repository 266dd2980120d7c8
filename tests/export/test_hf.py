"""The plain transformers folder: transformers itself and whisper.cpp's converter find what they look for."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.hf import export


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("hf") / "folder"
    export(tiny_model, out)
    return out


def test_any_user_of_transformers_loads_it_and_gets_the_same_text(tiny_model, exported):
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1.5)
    ours, theirs = (
        WhisperForConditionalGeneration.from_pretrained(folder).generate(
            features, language="zh", task="translate", max_new_tokens=20
        )
        for folder in (exported, tiny_model)
    )
    assert ours.tolist() == theirs.tolist()
    assert WhisperProcessor.from_pretrained(exported).tokenizer.get_vocab() == (
        WhisperProcessor.from_pretrained(tiny_model).tokenizer.get_vocab()
    )


def test_the_pipeline_of_transformers_takes_it_by_its_path(exported):
    recognize = pipeline("automatic-speech-recognition", model=str(exported))
    audio = torch.randn(16000, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
    result = recognize(audio, generate_kwargs={"language": "en", "task": "transcribe", "max_new_tokens": 8})
    assert isinstance(result["text"], str)


def test_files_of_transformers_before_version_5_are_there(exported):
    """whisper.cpp's models/convert-h5-to-ggml.py opens vocab.json and added_tokens.json."""
    files = {name: json.loads((exported / name).read_text()) for name in ("vocab.json", "added_tokens.json")}
    vocabulary = WhisperProcessor.from_pretrained(exported).tokenizer.get_vocab()
    assert files["vocab.json"] | files["added_tokens.json"] == vocabulary
    config = json.loads((exported / "tokenizer_config.json").read_text())
    assert "<|zh|>" in config["additional_special_tokens"]  # version 4 fails on extra_special_tokens
    assert WhisperProcessor.from_pretrained(exported).tokenizer.all_special_ids[-1] == vocabulary["<|notimestamps|>"]
    assert "<|zh|>" in files["added_tokens.json"] and "<|zh|>" not in files["vocab.json"]


def test_weights_are_stored_in_the_type_that_is_asked_for_as_safetensors_alone(tiny_model, tmp_path):
    old = shutil.copytree(tiny_model, tmp_path / "old")
    torch.save(WhisperForConditionalGeneration.from_pretrained(old).state_dict(), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    export(old, tmp_path / "new", "float16")
    assert not (tmp_path / "new/pytorch_model.bin").exists()
    with safe_open(tmp_path / "new/model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_what_the_model_was_trained_for_goes_with_it(tiny_model, tmp_path):
    ours = shutil.copytree(tiny_model, tmp_path / "model")
    (ours / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    export(ours, tmp_path / "out")
    record = json.loads((tmp_path / "out/whisper_recipe.json").read_text())
    assert record == {"natural_length": True, "timestamps": False}


def test_a_feature_extractor_of_another_model_is_an_error(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for name in ("preprocessor_config.json", "processor_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"feature_size": 80', '"feature_size": 128'))
    with pytest.raises(RecipeError, match="128 mel bins, but the weights expect 80"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
