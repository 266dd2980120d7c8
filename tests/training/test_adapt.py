"""Adapting a model to inputs at their own length: against transformers' own model on 30 s."""

import json

import pytest
import torch
from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.cli import main
from whisper_recipe.data.features import MAX_FRAMES, collate_fbank, load_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model, load_processor, natural_length, timestamps
from whisper_recipe.training.adapt import adapt
from whisper_recipe.training.batches import BatchOptions, training_example


def run(corpus, model, folder, steps, *more):
    """Adapt by the command line; return the exit status."""
    options = ["--train_cuts", corpus, "--dev_cuts", corpus, "--output_dir", folder, "--trainer.max_steps", steps]
    options += ["--batches.max_duration", 4, "--batches.num_workers", 0, "--trainer.report_to", "none"]
    options += ["--trainer.learning_rate", 2e-3, "--trainer.logging_steps", 1, "--trainer.save_steps", 2, *more]
    return main(["adapt", "--base_model", *map(str, [model, *options])])


def divergence(model, teacher, cuts):
    """Mean divergence of the predictions of `model` on utterances alone from those of transformers' own on 30 s."""
    ours, tokenizer, total = load_model(model).eval(), load_processor(teacher).tokenizer, []
    theirs = WhisperForConditionalGeneration.from_pretrained(teacher).eval()
    with torch.no_grad():
        for cut in cuts:
            features = load_fbank(cut)
            inputs = torch.tensor([training_example(tokenizer, cut)[0]])
            expected = theirs(collate_fbank([features], MAX_FRAMES), decoder_input_ids=inputs).logits.softmax(-1)
            found = ours(features.T[None], decoder_input_ids=inputs).logits.log_softmax(-1)
            total.append((expected * (expected.log() - found)).sum(-1).mean())
    return float(torch.stack(total).mean())


@pytest.mark.slow
def test_predictions_approach_those_of_30_s_and_the_folder_says_what_it_is_for(corpus, tiny_model, tmp_path):
    evaluated = "--trainer.eval_strategy", "steps", "--trainer.eval_steps", 6
    assert run(corpus, tiny_model, tmp_path / "run", 12, *evaluated) == 0
    cuts = CutSet.from_file(corpus)
    before, after = (divergence(model, tiny_model, cuts) for model in (tiny_model, tmp_path / "run/model"))
    assert after < 0.8 * before
    state = json.loads((tmp_path / "run/checkpoint-12/trainer_state.json").read_text())
    losses = [row["eval_loss"] for row in state["log_history"] if "eval_loss" in row]
    assert losses[-1] < losses[0]
    assert natural_length(tmp_path / "run/model")
    assert timestamps(tmp_path / "run/model")
    before, after = (
        WhisperForConditionalGeneration.from_pretrained(f).state_dict() for f in (tiny_model, tmp_path / "run/model")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.encoder.") and "embed_positions" not in name for name in changed)
    configs = [json.loads((f / "generation_config.json").read_text()) for f in (tiny_model, tmp_path / "run/model")]
    assert configs[0] == configs[1]  # no language is made the only one
    WhisperProcessor.from_pretrained(tmp_path / "run/model")


@pytest.mark.slow
def test_a_run_that_stopped_ends_with_the_weights_of_one_that_did_not(corpus, tiny_model, tmp_path, monkeypatch):
    from whisper_recipe.training.adapt import AdaptTrainer

    assert run(corpus, tiny_model, tmp_path / "whole", 4) == 0
    original = AdaptTrainer.compute_loss

    def stop(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise RecipeError("stopped")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(AdaptTrainer, "compute_loss", stop)
    assert run(corpus, tiny_model, tmp_path / "stopped", 4) == 1
    assert not (tmp_path / "stopped/model").exists()
    monkeypatch.setattr(AdaptTrainer, "compute_loss", original)
    assert run(corpus, tiny_model, tmp_path / "stopped", 4) == 0
    assert "resuming from" in (tmp_path / "stopped/train.log").read_text()
    weights = [load_model(tmp_path / name / "model").state_dict() for name in ("whole", "stopped")]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-5, atol=1e-6)


def test_padded_batches_are_refused(corpus, tiny_model, tmp_path):
    trainer = Seq2SeqTrainingArguments(output_dir=str(tmp_path), report_to=[])
    with pytest.raises(RecipeError, match=r"batches\.pad_to_30s: .*set it to 0"):
        adapt(str(tiny_model), [corpus], [corpus], tmp_path, trainer, BatchOptions(pad_to_30s=0.5))
