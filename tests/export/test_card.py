"""The model card says what is on record, and nothing else."""

import json
import os
import shutil

import pytest
from huggingface_hub import ModelCard

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.card import Export, write_card
from whisper_recipe.export.export import TARGETS

RECORD = {
    "natural_length": True,
    "timestamps": False,
    "base_model": "openai/whisper-small",
    "train_cuts": ["data/fbank_whisper80/cuts_train.jsonl.gz"],
    "data": [
        {"language": "no", "task": "transcribe", "utterances": 1200, "hours": 1.5},
        {"language": "zh", "task": "translate", "utterances": 800, "hours": 2.25},
    ],
    "method": "lora",
    "lora": {"rank": 32, "target_modules": ["q_proj", "fc1"]},
    "steps": 1500,
    "learning_rate": 0.0015,
}
ROW = {"unit": "WER", "error_rate": 0.0404, "ins_rate": 0.0044, "del_rate": 0.0029, "sub_rate": 0.0331}
METRICS = {"set": "test", "normalizer": "whisper", "groups": {"no transcribe": ROW, "all": ROW}}
DECODE = {"model": "exp/lora/model", "backend": "transformers", "compute_type": "float32", "beam_size": 5,
          "pad_to_30s": False}  # fmt: skip


@pytest.fixture
def model(tiny_model, tmp_path, monkeypatch):
    """exp/lora/model, in a recipe's folder."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(tiny_model, tmp_path / "exp/lora/model")
    (folder / "whisper_recipe.json").write_text(json.dumps(RECORD))
    return folder


def decoded(beside, name, metrics=METRICS, **record):
    folder = beside.parent / name
    folder.mkdir()
    (folder / "decode.json").write_text(json.dumps(DECODE | record))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def card(model, to="hf", license="apache-2.0", out="ct2_int8", checked=None):
    folder = model.parent / "aside"
    folder.mkdir(exist_ok=True)
    quantization = "int8" if to == "ct2" else "float32"
    write_card(folder, Export(model, model.parent / out, TARGETS[to], quantization, license, checked))
    return ModelCard.load(folder / "README.md")


def test_front_matter_is_what_the_hub_reads(model):
    decoded(model, "decode_test_transformers")
    data = card(model).data
    assert data.language == ["no", "zh"]  # a bare `no` would be false in YAML
    assert (data.license, data.library_name, data.base_model) == ("apache-2.0", "transformers", "openai/whisper-small")
    assert data.pipeline_tag == "automatic-speech-recognition"
    [result] = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("test", "wer", 4.04)


def test_data_settings_and_results_are_those_on_record(model):
    decoded(model, "decode_test_transformers")
    text = " ".join(card(model).text.split())
    assert "| no | transcribe | 1200 | 1.50 |" in text
    assert "| all | all | 2000 | 3.75 |" in text
    assert "| steps | 1500 |" in text
    assert "| lora | rank 32, target_modules q_proj fc1 |" in text
    assert "| model | transformers float32, beam 5, natural length | 4.04 (0.44, 0.29, 3.31) |" in text


def test_no_results_are_no_figures(model):
    loaded = card(model)
    assert "None were recorded" in loaded.text
    assert loaded.data.eval_results is None


def test_results_of_other_and_of_older_models_are_left_out_and_said_so(model, capsys):
    decoded(model, "decode_other", model="exp/base/model")
    old = decoded(model, "decode_old")
    before = (model / "model.safetensors").stat().st_mtime - 60
    os.utime(old / "decode.json", (before, before))
    foreign = decoded(model, "decode_foreign")
    (foreign / "decode.json").unlink()
    assert "None were recorded" in card(model).text
    printed = capsys.readouterr().out
    assert "decode_other was decoded with exp/base/model" in printed
    assert "decode_old is older" in printed
    assert "decode_foreign does not record" in printed


def test_only_its_own_results_stand_in_the_front_matter_of_an_export(model):
    decoded(model, "decode_test_transformers")
    worse = METRICS | {"groups": {"no transcribe": ROW | {"error_rate": 0.05}}}
    decoded(model, "decode_test_ct2_int8", worse, model="exp/lora/ct2_int8", backend="ct2")
    assert [result.metric_value for result in card(model, "ct2").data.eval_results] == [5.0]
    assert [result.metric_value for result in card(model, "hf").data.eval_results] == [4.04]


def test_programs_that_ask_for_timestamps_and_that_pad_are_warned_of(model):
    text = card(model, "ct2").text
    assert "Don't request timestamps from this model" in text
    assert "faster-whisper/issues/1099" in text
    assert "Decode this model at natural length" in text
    assert "without_timestamps=True" in text


@pytest.mark.parametrize("to", ["ct2", "hf"])
def test_the_example_asks_for_the_language_of_the_most_hours(model, to):
    written = {"ct2": "language='zh', task='translate'", "hf": "{'language': 'zh', 'task': 'translate'}"}
    assert written[to] in card(model, to).text


def test_a_stock_model_has_no_warnings_and_no_made_up_training(model):
    (model / "whisper_recipe.json").unlink()
    loaded = card(model, "ct2", license="unknown")
    assert "timestamps" not in loaded.text and "natural length" not in loaded.text
    assert loaded.text.count("Not recorded.") == 2
    assert loaded.data.language is None and loaded.data.base_model is None


def test_a_base_model_in_a_folder_is_no_name_on_the_hub(model):
    (model / "whisper_recipe.json").write_text(json.dumps(RECORD | {"base_model": "exp/base/model"}))
    assert card(model).data.base_model is None
    assert "`exp/base/model`" in card(model).text


def test_a_damaged_result_is_named(model):
    decoded(model, "decode_test", metrics={"nonsense": 1})
    with pytest.raises(RecipeError, match="decode_test: not a result of decode and score"):
        card(model)


def test_what_the_training_forgot_is_told(model):
    assert "Forgetting" not in card(model).content
    record = RECORD | {"canaries": {"en": {"before": 0.041, "after": 0.0523}}}
    (model / "whisper_recipe.json").write_text(json.dumps(record))
    text = card(model).content
    assert "## Forgetting" in text
    assert "4.10 → 5.23" in text
