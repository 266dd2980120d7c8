"""The tokenizers made here have Whisper's layout, as transformers reads it."""

import pytest
from transformers import WhisperProcessor
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER_LANGUAGES

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.tokenizer import build_tokenizer, special_tokens

LINES = ["turn on the light", "三月五号星期一", "enciende la luz"]

# Ids of OpenAI's multilingual models: openai/whisper, whisper/tokenizer.py, and the README of its models.
OPENAI_IDS = {
    "<|endoftext|>": 50257,
    "<|startoftranscript|>": 50258,
    "<|en|>": 50259,
    "<|zh|>": 50260,
    "<|su|>": 50357,
    "<|translate|>": 50358,
    "<|transcribe|>": 50359,
    "<|startoflm|>": 50360,
    "<|startofprev|>": 50361,
    "<|nospeech|>": 50362,
    "<|notimestamps|>": 50363,
    "<|0.00|>": 50364,
    "<|30.00|>": 51864,
}


def test_full_vocabulary_has_the_ids_of_openai_models():
    tokenizer = build_tokenizer(LINES, 300, vocab_size=51865)
    assert len(tokenizer) == 51865
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in OPENAI_IDS} == OPENAI_IDS


def test_large_v3_vocabulary_has_cantonese_and_everything_after_it_one_higher():
    tokenizer = build_tokenizer(LINES, 300, vocab_size=51866)
    assert len(tokenizer) == 51866
    assert tokenizer.convert_tokens_to_ids("<|yue|>") == 50358
    assert tokenizer.convert_tokens_to_ids("<|0.00|>") == 50365


def test_small_vocabulary_keeps_the_order_of_the_special_tokens():
    tokenizer = build_tokenizer(LINES, 300)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in OPENAI_IDS]
    assert ids == sorted(ids)
    assert len(tokenizer) == ids[-1] + 1 < 2000
    assert special_tokens(100)[2:102] == [f"<|{code}|>" for code in WHISPER_LANGUAGES]


def test_saved_tokenizer_is_what_transformers_expects_of_whisper(tiny_model):
    tokenizer = WhisperProcessor.from_pretrained(tiny_model).tokenizer
    tokenizer.set_prefix_tokens(language="chinese", task="translate", predict_timestamps=False)
    ids = tokenizer("turn on the light").input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:4] == ["<|startoftranscript|>", "<|zh|>", "<|translate|>", "<|notimestamps|>"]
    assert tokens[-1] == "<|endoftext|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "turn on the light"
    half_second = tokenizer.convert_tokens_to_ids("<|0.50|>")
    assert tokenizer.decode([*ids[4:-1], half_second], decode_with_timestamps=True) == "turn on the light<|0.50|>"
    assert tokenizer.decode([*ids[4:-1], half_second], skip_special_tokens=True) == "turn on the light"


@pytest.mark.parametrize("text", ["turn on", "三月五号 ¿qué? Ünïcode 🎉", "a\tb"])
def test_every_text_survives_the_byte_level_bpe(text):
    tokenizer = build_tokenizer(LINES, 300)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_same_text_gives_the_same_tokens():
    lines = [f"{a}{b} light {b}{a}" for a in "abcdefgh" for b in "stuvwxyz"] * 5
    assert build_tokenizer(lines, 400).get_vocab() == build_tokenizer(lines, 400).get_vocab()


@pytest.mark.parametrize(
    ("lines", "bpe_size", "vocab_size", "named"),
    [(LINES, 300, 1000, "vocab_size"), (LINES, 100, 0, "bpe_size"), (["", " "], 300, 0, "text")],
)
def test_impossible_sizes_and_empty_text_are_named(lines, bpe_size, vocab_size, named):
    with pytest.raises(RecipeError, match=named):
        build_tokenizer(lines, bpe_size, vocab_size)
