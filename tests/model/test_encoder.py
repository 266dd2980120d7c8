"""The any-length encoder against transformers' own."""

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model


@pytest.fixture(scope="module")
def ours(tiny_model):
    return load_model(tiny_model).eval()


def test_equals_transformers_on_30_seconds(ours, tiny_model):
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval()
    features = torch.randn(2, 80, 3000)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.get_encoder()(features).last_hidden_state, theirs.get_encoder()(features).last_hidden_state
        )


@pytest.mark.parametrize("frames", [2, 302, 2998])
def test_short_inputs_equal_transformers_built_for_that_length(ours, tiny_model, frames):
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval().get_encoder()
    theirs.config.max_source_positions = frames // 2
    theirs.embed_positions = torch.nn.Embedding.from_pretrained(theirs.embed_positions.weight[: frames // 2])
    features = torch.randn(1, 80, frames)
    with torch.no_grad():
        torch.testing.assert_close(ours.get_encoder()(features).last_hidden_state, theirs(features).last_hidden_state)


def test_an_odd_number_of_frames_is_taken(ours):
    assert ours.get_encoder()(torch.randn(1, 80, 301)).last_hidden_state.shape == (1, 151, 32)


def test_more_than_30_seconds_is_an_error(ours):
    with pytest.raises(RecipeError, match="3001 frames is longer than the 3000"):
        ours.get_encoder()(torch.zeros(1, 80, 3001))


def test_other_models_keep_transformers_encoder(ours, tiny_model):
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match="3000"):
        theirs.get_encoder()(torch.zeros(1, 80, 100))
