"""Silence: <|nospeech|> has the probability that the model gives it, and openai/whisper's rule decides by it."""

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.search import SearchOptions, is_silence, search_prompt
from whisper_recipe.errors import RecipeError
from whisper_recipe.text.prompt import no_speech_id

SEARCH = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def features():
    return torch.randn(3, 80, 3000, generator=torch.Generator().manual_seed(6)).clamp(-1, 1.5)


@pytest.fixture(scope="module", params=["transformers", "ct2"])
def backend(request, tiny_model, ct2_model):
    return load_backend(tiny_model if request.param == "transformers" else ct2_model)


@pytest.mark.parametrize("options", [{}, {"beam_size": 3}, {"prompt": "the light in the kitchen"}])
def test_the_probability_is_that_after_the_start_token(tiny_model, backend, features, options):
    search = SearchOptions(**SEARCH, **options)
    prompt = search_prompt(backend.tokenizer, "en", "transcribe", search)
    start = prompt.index(backend.tokenizer.convert_tokens_to_ids("<|startoftranscript|>"))
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    with torch.inference_mode():
        logits = model(features, decoder_input_ids=torch.tensor([prompt[: start + 1]] * 3)).logits[:, -1]
    expected = logits.softmax(-1)[:, no_speech_id(backend.tokenizer)].tolist()
    found = backend._search(features, [prompt] * 3, search, 0.0, scored=False)
    assert [row.no_speech_prob for row in found] == pytest.approx(expected, rel=1e-3)
    assert len(set(expected)) == 3


def test_silence_has_no_text_when_both_thresholds_say_so(backend, features):
    prompts = [search_prompt(backend.tokenizer, "en", "transcribe", SearchOptions())] * 3
    search = SearchOptions(**SEARCH)
    found = backend._search(features, prompts, search, 0.0, scored=True)
    texts = backend.decode(features, prompts, search)
    assert all(texts)
    rows = sorted(found, key=lambda row: row.no_speech_prob)
    # Between the second and the third: only one utterance is silence.
    middle = (rows[1].no_speech_prob + rows[2].no_speech_prob) / 2
    silent = [row.no_speech_prob > middle for row in found]
    for temperatures in ([0.0], [0.0, 1.0]):  # silence is not decoded again
        asked = SearchOptions(**SEARCH, no_speech_threshold=middle, logprob_threshold=0.0, temperatures=temperatures)
        assert [row == [] for row in backend.decode(features, prompts, asked)] == silent
    sure = SearchOptions(**SEARCH, no_speech_threshold=middle, logprob_threshold=-100.0)
    assert backend.decode(features, prompts, sure) == texts
    off = SearchOptions(**SEARCH, no_speech_threshold=1, logprob_threshold=0.0)
    assert backend.decode(features, prompts, off) == texts
    assert {row.no_speech_prob for row in backend._search(features, prompts, off, 0.0, scored=False)} == {0.0}


def test_the_rule_is_that_of_openai_whisper():
    search = SearchOptions()
    assert is_silence(0.61, -1.01, search)
    assert not is_silence(0.59, -1.01, search)
    assert not is_silence(0.99, -0.99, search)
    with pytest.raises(RecipeError, match=r"search\.no_speech_threshold"):
        SearchOptions(no_speech_threshold=1.1)
