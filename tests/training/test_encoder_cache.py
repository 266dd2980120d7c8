"""Stored outputs of a frozen encoder: the same numbers, the same loss, a decoder that learns, and nothing stale."""

import re

import numpy as np
import pytest
import torch
from lhotse import CutSet
from transformers import WhisperProcessor

from tests.conftest import make_model
from tests.training.test_train import train, weights
from whisper_recipe.data.features import load_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model
from whisper_recipe.training.augment import TrainingAugmentation
from whisper_recipe.training.batches import CutDataset, load_cuts
from whisper_recipe.training.encoder_cache import check_cache, collate_states, load_states, with_encoder_states
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.sampler import Batch, BatchOptions
from whisper_recipe.training.trainer import token_loss

FROZEN = ["--method", "full", "--parameters.freeze_encoder", "--cache-encoder"]


@pytest.fixture
def stored(corpus, tiny_model, tmp_path):
    cuts = load_cuts([corpus])
    return with_encoder_states(cuts, [corpus], str(tiny_model), load_model(tiny_model), tmp_path / "states")


def test_what_is_stored_is_what_the_encoder_gives(corpus, tiny_model, stored):
    encoder = load_model(tiny_model).eval().get_encoder()
    assert [cut.id for cut in stored] == [cut.id for cut in load_cuts([corpus])]
    for cut in stored:
        with torch.no_grad():
            states = encoder(load_fbank(cut).T[None]).last_hidden_state[0]
        torch.testing.assert_close(load_states(cut), states, atol=2e-3, rtol=1e-3)  # float16


def test_the_loss_of_a_cut_is_that_of_its_features(corpus, tiny_model, stored):
    tokenizer, model = WhisperProcessor.from_pretrained(tiny_model).tokenizer, load_model(tiny_model).eval()
    dataset = CutDataset(tokenizer, 80)
    for pair in zip(stored, load_cuts([corpus]), strict=True):
        values = []
        for cut in pair:
            batch = dataset[Batch(0, CutSet([cut]))]
            batch.pop("cuts")
            labels = batch.pop("labels")
            with torch.no_grad():
                values.append(token_loss(model(**batch), labels).item())
        assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_other_processes_wait_for_what_one_writes(corpus, tiny_model, tmp_path, monkeypatch):
    arguments = load_cuts([corpus]), [corpus], str(tiny_model), load_model(tiny_model), tmp_path / "states"
    looks = []

    def sleep(seconds):  # meanwhile the first process begins, and ends
        looks.append(seconds)
        assert len(looks) <= 2
        (tmp_path / "states").mkdir(exist_ok=True)
        if len(looks) == 2:
            with_encoder_states(*arguments)

    monkeypatch.setattr("whisper_recipe.training.encoder_cache.time.sleep", sleep)
    assert len(list(with_encoder_states(*arguments, wait=True))) == 12
    assert len(looks) == 2


def test_padding_repeats_the_last_state():
    batch = collate_states([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0]])])
    assert batch.tolist() == [[[1, 2], [3, 4]], [[5, 6], [5, 6]]]


@pytest.mark.slow
def test_the_decoder_is_trained_and_the_encoder_is_not_even_run(corpus, tiny_model, tmp_path, monkeypatch, capfd):
    options = [*FROZEN, "--trainer.learning_rate", "0.01", "--trainer.max_steps", "20", "--trainer.eval_steps", "10"]
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    before, after = load_model(tiny_model).state_dict(), weights(tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items() if ".encoder." in name)
    name = "model.decoder.layers.0.fc1.weight"
    assert not torch.equal(before[name], after[name])
    losses = [float(found) for found in re.findall(r"eval_loss ([\d.]+)", (tmp_path / "train.log").read_text())]
    assert losses[-1] < losses[0]
    assert capfd.readouterr().err.count("encode: 100%") >= 1
    # A second run reads what is stored, and only that.
    monkeypatch.setattr("whisper_recipe.training.encoder_cache._encoded", None)
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    with pytest.raises(TypeError):  # another model: stored again
        train(corpus, make_model(tmp_path / "other", corpus_text(tmp_path), seed=2), tmp_path, *options)


def corpus_text(folder):
    (folder / "text").write_text("x turn on the light\n")
    return folder / "text"


@pytest.mark.slow
def test_a_short_run_ends_near_one_without_the_cache(corpus, tiny_model, tmp_path):
    """Batches of one cut, so that there is no padding; float16 makes the rest of the difference."""
    options = [
        "--batches.max_cuts",
        "1",
        "--method",
        "full",
        "--parameters.freeze_encoder",
        "--trainer.learning_rate",
        "0.001",
    ]
    assert train(corpus, tiny_model, tmp_path / "plain", *options, "--trainer.max_steps", "10") == 0
    assert train(corpus, tiny_model, tmp_path / "cached", *options, "--cache_encoder", "--trainer.max_steps", "10") == 0
    plain, cached, start = (
        weights(tmp_path / "plain"),
        weights(tmp_path / "cached"),
        load_model(tiny_model).state_dict(),
    )
    name = "model.decoder.layers.1.fc1.weight"
    moved = (plain[name] - start[name]).norm()
    assert (cached[name] - plain[name]).norm() < 0.2 * moved


@pytest.mark.parametrize(
    ("method", "parameters", "augment", "batches", "message"),
    [
        ("lora", {"freeze_encoder": True}, {}, {}, "the encoder changes"),
        ("full", {"freeze_layers": 2}, {}, {}, "the encoder changes"),
        ("full", {"freeze_encoder": True}, {"volume": [0.5, 2.0]}, {}, "augment"),
        ("full", {"freeze_encoder": True}, {"spec_augment": 0.5}, {}, "augment"),
        ("full", {"freeze_encoder": True}, {}, {"pad_to_30s": 0.1}, "own length"),
        ("full", {"freeze_encoder": True}, {}, {"spare_frames": 64}, "own length"),
    ],
)
def test_runs_that_have_no_use_for_it_are_refused(method, parameters, augment, batches, message):
    with pytest.raises(RecipeError, match=f"cache_encoder: .*{message}"):
        check_cache(method, ParameterOptions(**parameters), TrainingAugmentation(**augment), BatchOptions(**batches))


def test_the_file_has_room_for_all_and_no_more_than_a_little(stored):
    cuts = list(stored)
    used = sum(cut.custom["encoder_states"]["frames"] for cut in cuts)
    states = np.load(cuts[0].custom["encoder_states"]["path"], mmap_mode="r")
    assert used <= len(states) <= used + 3 * len(cuts)
    assert states.dtype == np.float16
