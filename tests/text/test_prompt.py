"""Token sequences of training and decoding, read back as text."""

import pytest
from transformers import WhisperProcessor

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.prompt import prompt_ids, training_ids


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


@pytest.mark.parametrize(
    ("text", "language", "task", "written"),
    [
        ("turn on", "en", "transcribe", "<|en|><|transcribe|><|notimestamps|> turn on<|endoftext|>"),
        ("三月", "zh", "transcribe", "<|zh|><|transcribe|><|notimestamps|>三月<|endoftext|>"),
        ("march", "zh", "translate", "<|zh|><|translate|><|notimestamps|> march<|endoftext|>"),
        ("", "es", "transcribe", "<|es|><|transcribe|><|notimestamps|> <|endoftext|>"),
    ],
)
def test_one_start_token_in_the_inputs_and_none_in_the_labels(tokenizer, text, language, task, written):
    inputs, labels = training_ids(tokenizer, text, language, task)
    assert tokenizer.decode(labels) == written
    assert tokenizer.decode(inputs) == "<|startoftranscript|>" + written.removesuffix("<|endoftext|>")
    assert inputs[1:] == labels[:-1]


def test_training_starts_with_the_prompt_that_decoding_gives(tokenizer):
    prompt = prompt_ids(tokenizer, "zh", "translate")
    assert training_ids(tokenizer, "march", "zh", "translate")[0][: len(prompt)] == prompt


def test_a_language_the_model_has_no_token_for_is_an_error(tokenizer):
    with pytest.raises(RecipeError, match=r"yue: the model's tokenizer has no <\|yue\|>"):
        prompt_ids(tokenizer, "yue", "transcribe")
