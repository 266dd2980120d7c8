"""Token sequences that the decoder starts from, and texts."""

import pytest
from transformers import WhisperProcessor, WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.prompt import prompt_ids, text_ids


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


def test_a_language_the_model_has_no_token_for_is_an_error(tokenizer):
    with pytest.raises(RecipeError, match=r"yue: the model's tokenizer has no <\|yue\|>"):
        prompt_ids(tokenizer, "yue", "transcribe")


@pytest.mark.parametrize("text", ["a <|0.00|> b", "<|endoftext|>", "x<|en|>y", "<|notimestamps|> <|a|>", "<<||>", ""])
def test_text_never_becomes_a_special_token(full_vocabulary_model, text):
    tokenizer = WhisperTokenizer.from_pretrained(full_vocabulary_model)
    ids = text_ids(tokenizer, text, "en", "transcribe")
    assert all(index < 50257 for index in ids)  # special from <|endoftext|> on
    # Not decode, which takes out of the text what looks like a time.
    assert tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)) == f" {text}"


def test_other_text_has_the_tokenizers_own_ids(tiny_model):
    tokenizer = WhisperTokenizer.from_pretrained(tiny_model)
    for text in ("turn on the light", "a < b | c > d", "三月五号"):
        assert (
            text_ids(tokenizer, text, "en", "transcribe") == tokenizer(f" {text}", add_special_tokens=False).input_ids
        )
