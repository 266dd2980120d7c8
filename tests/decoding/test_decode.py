"""Decoding through both backends: equal to transformers' own generate and to each other, and honest about errors."""

import json
import shutil

import ctranslate2
import pytest
import torch
from lhotse import CutSet
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.cli import main
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.backends.ctranslate2 import CTranslate2Backend
from whisper_recipe.decoding.backends.transformers import TransformersBackend
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import export
from whisper_recipe.files import read_jsonl
from whisper_recipe.text.prompt import prompt_ids


@pytest.fixture(scope="module")
def features():
    return torch.randn(3, 80, 3000, generator=torch.Generator().manual_seed(1)).clamp(-1, 1.5)


@pytest.fixture(scope="module")
def processor(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def silent_about_time(tiny_model, processor, tmp_path_factory):
    """The tiny model without timestamps: where random weights yield one, Whisper's own `generate` begins a segment."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "tiny")
    config = json.loads((folder / "generation_config.json").read_text())
    config["suppress_tokens"] += range(config["no_timestamps_token_id"] + 1, len(processor.tokenizer))
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("beam_size", [1, 3])
def test_transformers_backend_equals_whispers_own_generate_at_30_seconds(
    silent_about_time, processor, features, beam_size
):
    model = WhisperForConditionalGeneration.from_pretrained(silent_about_time)
    theirs = model.generate(features, language="zh", task="translate", max_new_tokens=20, num_beams=beam_size)
    prompts = [prompt_ids(processor.tokenizer, "zh", "translate")] * 3
    ours = TransformersBackend(silent_about_time, "default").decode(features, prompts, SearchOptions(beam_size, 20))
    text = processor.tokenizer.batch_decode
    assert text(ours, skip_special_tokens=True) == text(theirs, skip_special_tokens=True)


@pytest.mark.parametrize("frames", [77, 500, 3000])
@pytest.mark.parametrize("max_new_tokens", [3, 40, 224])
def test_ctranslate2_equals_transformers_at_any_length(
    tiny_model, ct2_model, processor, features, frames, max_new_tokens
):
    prompts = [prompt_ids(processor.tokenizer, language, "transcribe") for language in ("en", "zh", "es")]
    search = SearchOptions(1, max_new_tokens)
    cut = features[:, :, :frames]
    theirs = TransformersBackend(tiny_model, "default").decode(cut, prompts, search)
    ours = CTranslate2Backend(ct2_model, "default").decode(cut, prompts, search)
    end = processor.tokenizer.eos_token_id
    assert ours == [row[: row.index(end)] if end in row else row for row in theirs]
    assert max(map(len, ours)) <= max_new_tokens


def test_exported_folder_has_what_other_programs_look_for(ct2_model):
    names = {path.name for path in ct2_model.iterdir()}
    assert {"model.bin", "config.json", "vocabulary.json", "tokenizer.json", "preprocessor_config.json"} <= names
    assert ctranslate2.models.Whisper(str(ct2_model)).n_mels == 80


def test_export_with_128_mel_bins_says_so(transcripts, tmp_path):
    from tests.conftest import make_model

    export(make_model(tmp_path / "model", transcripts, num_mel_bins=128), tmp_path / "ct2")
    assert json.loads((tmp_path / "ct2/preprocessor_config.json").read_text())["feature_size"] == 128
    assert load_backend(tmp_path / "ct2").num_mel_bins == 128


def test_int8_export_is_smaller(tiny_model, ct2_model, tmp_path):
    export(tiny_model, tmp_path / "int8", "int8")
    assert (tmp_path / "int8/model.bin").stat().st_size < 0.6 * (ct2_model / "model.bin").stat().st_size


def decode(model, corpus, out, *options):
    return main(
        ["decode", str(model), "--cuts", str(corpus), "--out", str(out), "--search.max_new_tokens", "10", *options]
    )


def test_every_cut_has_one_hypothesis_with_its_language_and_task(tiny_model, corpus, tmp_path):
    assert decode(tiny_model, corpus, tmp_path / "out") == 0
    rows = {row["id"]: row for _, row in read_jsonl(tmp_path / "out/hyp.jsonl")}
    cuts = {cut.id: cut for cut in CutSet.from_jsonl_lazy(corpus)}
    assert rows.keys() == cuts.keys()
    for key, row in rows.items():
        assert (row["language"], row["task"]) == (cuts[key].supervisions[0].language, "transcribe")
        assert row["duration"] == cuts[key].duration
    record = json.loads((tmp_path / "out/decode.json").read_text())
    assert record["audio_seconds"] == pytest.approx(sum(cut.duration for cut in cuts.values()), abs=0.01)
    assert record["rtf"] == pytest.approx(record["processing_seconds"] / record["audio_seconds"], rel=0.05)


@pytest.mark.slow
def test_stock_models_are_padded_to_30_seconds_and_ours_are_not(tiny_model, corpus, tmp_path):
    ours = shutil.copytree(tiny_model, tmp_path / "model")
    (ours / "whisper_recipe.json").write_text('{"natural_length": true}')
    padded = {}
    for name, model, options in [
        ("stock", tiny_model, []),
        ("ours", ours, []),
        ("asked", ours, ["--pad-to-30s", "true"]),
    ]:
        assert decode(model, corpus, tmp_path / name, *options) == 0
        padded[name] = json.loads((tmp_path / name / "decode.json").read_text())["pad_to_30s"]
    assert padded == {"stock": True, "ours": False, "asked": True}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model.bin").unlink(), "model.bin: no such file"),
        (lambda folder: (folder / "model.bin").write_bytes(b"nonsense"), "can't be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    ],
)
def test_a_damaged_ctranslate2_folder_is_one_clear_line(ct2_model, corpus, tmp_path, capsys, break_it, message):
    folder = shutil.copytree(ct2_model, tmp_path / "ct2")
    break_it(folder)
    assert decode(folder, corpus, tmp_path / "out") == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_features_that_do_not_fit_the_model_are_named(corpus, transcripts, tmp_path, capsys):
    from tests.conftest import make_model

    model = make_model(tmp_path / "model", transcripts, num_mel_bins=128)
    assert decode(model, corpus, tmp_path / "out") == 1
    assert "80 mel bins, but the model expects 128" in capsys.readouterr().err


def test_impossible_search_options_are_refused():
    with pytest.raises(RecipeError, match="beam_size"):
        SearchOptions(beam_size=0)
    with pytest.raises(RecipeError, match="max_new_tokens"):
        SearchOptions(max_new_tokens=225)
