"""Canaries: at which length and when they are measured, where the rates are to be seen, and what too high ones do."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.test_train import train, weights
from whisper_recipe.cli import main
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.training.evaluation import ErrorRates


@pytest.fixture
def english(corpus, tmp_path):
    """The English half of the corpus: three sentences of 7, 6 and 3 words, three times each."""
    path = tmp_path / "cuts_english.jsonl"
    write_jsonl(path, (row for _, row in read_jsonl(corpus) if row["supervisions"][0]["language"] == "en"))
    return path


@pytest.mark.slow
def test_the_base_model_is_measured_at_30_s_and_the_trained_one_at_natural_length(
    corpus, english, tiny_model, tmp_path, monkeypatch, capsys
):
    """The hypotheses are made up: 14 errors in 16 words for inputs of 30 s, and 13 for others, counted by hand."""
    tokenizer = load_tokenizer(tiny_model)

    def generate(model, features, prompts, **options):
        text = "turn on the light in the kitchen" if features.shape[-1] == 3000 else "set 29 degrees"
        return [tokenizer(text, add_special_tokens=False).input_ids for _ in prompts]

    monkeypatch.setattr("whisper_recipe.training.evaluation.generate", generate)
    options = ["--method", "full", "--trainer.max_steps", "5"]
    run = tmp_path / "run"
    assert train(corpus, tiny_model, run, *options, "--canary", f"noise={english}", "--eval_wer_steps", "3") == 0
    facts = json.loads((run / "model/whisper_recipe.json").read_text())["canaries"]
    assert facts == {"noise": {"before": 14 / 16, "after": 13 / 16}}
    rows = {
        row["step"]: row["eval_canary_noise"] for row in csv.DictReader((run / "curves.csv").read_text().splitlines())
    }
    assert {step: float(rate) for step, rate in rows.items() if rate} == {"0": 14 / 16, "3": 13 / 16, "5": 13 / 16}
    [events] = {path.parent for path in run.rglob("events.out.tfevents*")}
    logged = EventAccumulator(str(events)).Reload().Scalars("eval/canary_noise")
    assert [(event.step, event.value) for event in logged] == [(0, 14 / 16), (3, 13 / 16), (5, 13 / 16)]
    capsys.readouterr()
    assert main(["watch", str(run)]) == 0
    assert "eval_canary_noise  0.8125     first 0.875" in capsys.readouterr().out
    # Looking changes nothing.
    assert train(corpus, tiny_model, tmp_path / "without", *options) == 0
    without = load_file(tmp_path / "without/model/model.safetensors")
    assert all(
        torch.equal(tensor, without[name]) for name, tensor in load_file(run / "model/model.safetensors").items()
    )


EVALUATED = ["--method", "full", "--trainer.max_steps", "8", "--trainer.eval_steps", "2", "--eval_wer_steps", "2"]


def made_up(monkeypatch, *found):
    """Let ErrorRates find these: the canary before the training, and then the dev cuts and the canary by turns."""
    rates = iter(found)
    monkeypatch.setattr(ErrorRates, "measure", lambda *_: {"error_rate": next(rates)})


@pytest.mark.slow
def test_a_canary_that_rises_too_far_stops_the_run(corpus, tiny_model, tmp_path, monkeypatch, capsys):
    made_up(monkeypatch, 0.10, 0.9, 0.119, 0.8, 0.125)
    limit = ["--canary", f"en={corpus}", "--canary_max_rise", "2"]
    assert train(corpus, tiny_model, tmp_path, *EVALUATED, *limit) == 0
    assert "step 4: canary_en rose from 10.00 to 12.50 %: the run stops" in capsys.readouterr().out
    facts = json.loads((tmp_path / "model/whisper_recipe.json").read_text())
    assert (facts["steps"], facts["canaries"]) == (4, {"en": {"before": 0.10, "after": 0.125}})


@pytest.mark.slow
def test_the_best_checkpoint_is_one_where_no_canary_has_risen_too_far(corpus, tiny_model, tmp_path, monkeypatch):
    """The run is interrupted too: what the canary was before the training is known all the same."""
    options = [*EVALUATED, "--trainer.save_strategy", "steps", "--trainer.save_steps", "2"]
    options += ["--trainer.load_best_model_at_end", "true", "--trainer.metric_for_best_model", "error_rate"]
    options += ["--canary", f"en={corpus}", "--canary_max_rise", "2"]
    made_up(monkeypatch, 0.10, 0.9, 0.11)
    with pytest.raises(StopIteration):
        train(corpus, tiny_model, tmp_path, *options)
    made_up(monkeypatch, 0.3, 0.2, 0.5, 0.12, 0.6, 0.10)
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    best = load_model(tmp_path / "checkpoint-6").state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights(tmp_path).items())
    facts = json.loads((tmp_path / "model/whisper_recipe.json").read_text())["canaries"]
    assert facts == {"en": {"before": 0.10, "after": 0.12}}


@pytest.fixture
def without_text(corpus, tmp_path):
    path = tmp_path / "cuts_mute.jsonl"
    rows = [row for _, row in read_jsonl(corpus)]
    for row in rows:
        row["supervisions"][0]["text"] = ""
    write_jsonl(path, rows)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--canary", "en"], "canary: 'en' is not NAME=CUTS"),
        (["--canary", "=cuts.jsonl"], "canary: '=cuts.jsonl' is not NAME=CUTS"),
        (["--canary", "en=none.jsonl.gz"], "none.jsonl.gz: no such file"),
        (["--canary", "en={corpus}", "en={corpus}"], "two canaries are named 'en'"),
        (["--canary", "en={mute}"], "none of the cuts has text"),
        (["--canary_max_rise", "2"], "canary_max_rise: it needs a canary"),
        (["--canary", "en={corpus}", "--canary_max_rise", "-1"], "canary_max_rise: must be at least 0, got -1"),
        (["--canary", "en={corpus}", "--canary_max_rise", "2"], "canary_max_rise: canaries are not measured"),
    ],
)
def test_bad_canaries_are_one_line(corpus, tiny_model, tmp_path, without_text, capsys, options, message):
    options = [option.format(corpus=corpus, mute=without_text) for option in options]
    assert train(corpus, tiny_model, tmp_path / "run", *options) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line
