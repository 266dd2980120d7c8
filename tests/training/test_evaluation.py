"""Error rates while training: those of decode and score, of a fixed sample; the best checkpoint and early stopping."""

import csv
import json

import pytest
import torch
from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments, WhisperProcessor

from tests.training.test_train import train, weights
from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.load import load_model
from whisper_recipe.processes import Part
from whisper_recipe.training import evaluation
from whisper_recipe.training.batches import load_cuts
from whisper_recipe.training.evaluation import ErrorRates, check_evaluation


def rates(model, corpus, tiny_model, utterances=50, cuts=None):
    tokenizer = WhisperProcessor.from_pretrained(tiny_model).tokenizer
    return ErrorRates(cuts or load_cuts([corpus]), tokenizer, 80, utterances, 5.0)


def test_error_rates_are_those_of_decode_and_score(corpus, tiny_model, tmp_path):
    measured = rates(None, corpus, tiny_model)
    found = measured.measure(load_model(tiny_model))
    length = str(measured.max_new_tokens)
    options = ["--pad_to_30s", "false", "--batch_duration", "5", "--search.max_new_tokens", length]
    assert main(["decode", str(tiny_model), "--cuts", str(corpus), "--out", str(tmp_path), *options]) == 0
    assert main(["score", str(tmp_path), "--ref", str(corpus)]) == 0
    groups = json.loads((tmp_path / "metrics.json").read_text())["groups"]
    theirs = {name: groups[group]["error_rate"] for name, group in (
        ("wer_en", "en transcribe"), ("cer_zh", "zh transcribe"))}  # fmt: skip
    theirs["error_rate"] = (theirs["wer_en"] + theirs["cer_zh"]) / 2
    assert found == pytest.approx(theirs)


def test_processes_share_the_utterances(corpus, tiny_model, monkeypatch):
    measured, model, shares = rates(None, corpus, tiny_model), load_model(tiny_model), []
    whole = measured.measure(model)
    monkeypatch.setattr(evaluation, "gather_object", lambda found: shares.extend(found) or shares)
    for rank in range(3):
        monkeypatch.setattr(evaluation, "launched", lambda rank=rank: Part(rank, 3))
        before = len(shares)
        found = measured.measure(model)
        assert 0 < len(shares) - before < len(measured.cuts)
    assert found == pytest.approx(whole)
    assert len(shares) == len(measured.cuts)


def test_a_model_in_half_precision_is_measured(corpus, tiny_model):
    """As DeepSpeed holds it; features of another type than the weights are an error."""
    found = rates(None, corpus, tiny_model).measure(load_model(tiny_model).to(torch.bfloat16))
    assert set(found) == {"error_rate", "wer_en", "cer_zh"}


def test_the_sample_is_the_same_whatever_else_is_in_the_set(corpus, tiny_model):
    cuts = list(load_cuts([corpus]))
    names = [cut.id for cut in rates(None, corpus, tiny_model, 2).cuts]
    assert len(names) == 4  # two languages
    assert [cut.id for cut in rates(None, corpus, tiny_model, 2, CutSet.from_cuts(cuts[::-1])).cuts] != []
    fewer = CutSet.from_cuts(cut for cut in cuts if cut.id in names or cut.id < "utt06")
    assert sorted(cut.id for cut in rates(None, corpus, tiny_model, 2, fewer).cuts) == sorted(names)


@pytest.mark.slow
def test_an_adapted_model_is_measured_with_its_adapter(corpus, tiny_model):
    measured = rates(None, corpus, tiny_model)
    plain = measured.measure(load_model(tiny_model))
    torch.manual_seed(0)
    adapted = add_lora(load_model(tiny_model), LoraOptions(rank=2))
    assert measured.measure(adapted) == plain  # an adapter begins as nothing
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=3)
    merged = adapted.merge_and_unload()
    assert measured.measure(merged) != plain


@pytest.mark.slow
def test_rates_are_logged_drawn_and_choose_the_best_checkpoint(corpus, tiny_model, tmp_path, monkeypatch):
    """The rates are made up: 0.9, 0.3, 0.5, 0.6, 0.7."""
    made_up = iter([0.9, 0.3, 0.5, 0.6, 0.7])
    monkeypatch.setattr(ErrorRates, "measure", lambda *_: {"error_rate": next(made_up), "wer_en": 0.25})
    options = ["--method", "full", "--trainer.max_steps", "20", "--trainer.eval_steps", "2", "--eval-wer-steps", "2"]
    options += ["--trainer.save_strategy", "steps", "--trainer.save_steps", "2", "--trainer.learning_rate", "0.01"]
    options += ["--trainer.load_best_model_at_end", "true", "--trainer.metric_for_best_model", "error_rate"]
    assert train(corpus, tiny_model, tmp_path, *options, "--early_stopping_patience", "3") == 0
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert [row["eval_error_rate"] for row in rows if row["eval_error_rate"]] == ["0.9", "0.3", "0.5", "0.6", "0.7"]
    assert "eval_wer_en 0.2500" in (tmp_path / "train.log").read_text()
    assert rows[-1]["step"] == "10"  # three evaluations without a better one
    best = load_model(tmp_path / "checkpoint-4").state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights(tmp_path).items())


@pytest.mark.slow
def test_patience_goes_on_with_a_run_that_was_interrupted(corpus, tiny_model, tmp_path, monkeypatch):
    def run(*made_up):
        found = iter(made_up)
        monkeypatch.setattr(ErrorRates, "measure", lambda *_: {"error_rate": next(found)})
        options = ["--method", "full", "--trainer.max_steps", "20", "--trainer.eval_steps", "2"]
        options += ["--eval-wer-steps", "2", "--trainer.save_strategy", "steps", "--trainer.save_steps", "2"]
        options += ["--trainer.load_best_model_at_end", "true", "--trainer.metric_for_best_model", "error_rate"]
        return train(corpus, tiny_model, tmp_path, *options, "--early_stopping_patience", "3")

    with pytest.raises(StopIteration):
        run(0.3, 0.5)  # the third evaluation fails
    assert run(0.6, 0.7) == 0  # the second and the third that are no better
    assert (tmp_path / "checkpoint-8").exists()
    assert not (tmp_path / "checkpoint-10").exists()


@pytest.mark.parametrize(
    ("options", "wer_steps", "patience", "message"),
    [
        ({"eval_strategy": "no"}, 10, 0, "eval_wer_steps"),
        ({"eval_strategy": "epoch"}, 10, 0, "eval_wer_steps"),
        ({"eval_strategy": "steps", "eval_steps": 4}, 10, 0, "eval_wer_steps"),
        ({"eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "error_rate"}, 10, 0, "metric_for_best"),
        ({"eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "wer_en"}, 0, 0, "metric_for_best"),
        ({"eval_strategy": "steps", "eval_steps": 5}, 5, 3, "early_stopping_patience"),
    ],
)
def test_options_that_contradict_each_other_are_named(tmp_path, options, wer_steps, patience, message):
    args = Seq2SeqTrainingArguments(output_dir=str(tmp_path), report_to="none", **options)
    with pytest.raises(RecipeError, match=message):
        check_evaluation(args, wer_steps, patience)


def test_lower_is_better(tmp_path):
    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), eval_strategy="steps", eval_steps=5, metric_for_best_model="error_rate"
    )
    assert args.greater_is_better is True  # what transformers takes it for
    check_evaluation(args, 5, 0)
    assert args.greater_is_better is False
