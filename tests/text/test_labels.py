"""Token sequences of training, read back as text."""

import pytest
from transformers import WhisperProcessor

from whisper_recipe.text.labels import training_ids
from whisper_recipe.text.prompt import prompt_ids


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


@pytest.mark.parametrize(
    ("text", "language", "task", "written"),
    [
        ("turn on", "en", "transcribe", "<|en|><|transcribe|><|notimestamps|> turn on<|endoftext|>"),
        ("三月", "zh", "transcribe", "<|zh|><|transcribe|><|notimestamps|>三月<|endoftext|>"),
        ("march", "zh", "translate", "<|zh|><|translate|><|notimestamps|> march<|endoftext|>"),
        ("", "es", "transcribe", "<|nospeech|><|endoftext|>"),
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


def test_times_stand_around_their_texts(tokenizer):
    segments = [(0.0, 1.201, "turn on"), (1.4, 2.0, "the light")]
    inputs, labels = training_ids(tokenizer, "turn on the light", "en", "transcribe", segments)
    written = "<|en|><|transcribe|><|0.00|> turn on<|1.20|><|1.40|> the light<|2.00|><|endoftext|>"
    assert tokenizer.decode(labels, decode_with_timestamps=True) == written
    assert inputs[1:] == labels[:-1]


def test_previous_text_is_read_and_not_asked_for(tokenizer):
    plain = training_ids(tokenizer, "turn on", "en", "transcribe")
    inputs, labels = training_ids(tokenizer, "turn on", "en", "transcribe", previous="set 29 degrees")
    before = len(inputs) - len(plain[0])
    assert tokenizer.decode(inputs[:before]) == "<|startofprev|> set 29 degrees"
    assert inputs[before:] == plain[0]
    assert labels == [-100] * before + plain[1]


def test_long_previous_text_gives_its_end_and_fits_into_the_context(tokenizer):
    text, previous = "turn on " * 120, "the light " * 300 + "in the kitchen"
    inputs, _ = training_ids(tokenizer, text, "en", "transcribe", previous=previous)
    plain, _ = training_ids(tokenizer, text, "en", "transcribe")
    assert len(plain) > 224
    assert len(inputs) == 448
    assert tokenizer.decode(inputs[: len(inputs) - len(plain)]).endswith("in the kitchen")
    short, _ = training_ids(tokenizer, "turn", "en", "transcribe", previous=previous)
    assert short.index(tokenizer.convert_tokens_to_ids("<|startoftranscript|>")) == 224
