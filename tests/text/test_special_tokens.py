"""Special tokens are known by their ids: a folder without the tokenizer's list of them gives the same texts."""

import json
import shutil

import pytest
from transformers import WhisperTokenizer

from whisper_recipe.model.load import load_tokenizer
from whisper_recipe.text.prompt import prompt_ids, readable
from whisper_recipe.text.tokenizer import decode_text, text_only


@pytest.fixture(scope="module")
def without_list(tiny_model, tmp_path_factory):
    """As many folders on the hub are: `additional_special_tokens` (`extra_special_tokens`) is missing."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "plain")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config.pop("extra_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|startoftranscript|>") not in tokenizer.all_special_ids
    return tokenizer


def ids_of(tokenizer):
    words = [tokenizer(text, add_special_tokens=False).input_ids for text in (" turn on", " the light")]
    times = [tokenizer.convert_tokens_to_ids(f"<|{time:.2f}|>") for time in (0.0, 1.5, 30.0)]
    prompt = prompt_ids(tokenizer, "en", "transcribe")
    return [*prompt[:-1], times[0], *words[0], times[1], times[1], *words[1], times[2], tokenizer.eos_token_id]


def test_texts_are_those_of_transformers_with_and_without_the_list(tiny_model, without_list):
    whole = load_tokenizer(tiny_model)
    ids = ids_of(whole)
    for tokenizer in (whole, without_list):
        assert decode_text(tokenizer, ids) == whole.decode(ids, skip_special_tokens=True)
        assert readable(tokenizer, ids) == (
            "<|startoftranscript|><|en|><|transcribe|><|0.00|> turn on<|1.50|><|1.50|> the light<|30.00|><|endoftext|>"
        )
        assert decode_text(tokenizer, prompt_ids(tokenizer, "en", "transcribe")) == ""


def test_timestamps_may_be_kept_and_tokens_after_them_are_text_unless_they_look_special(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    size = len(tokenizer)
    tokenizer.add_tokens(["Whisperish", "<|nds|>"])
    time = tokenizer.convert_tokens_to_ids("<|0.00|>")
    assert text_only(tokenizer, [time, 5, size, size + 1, tokenizer.eos_token_id]) == [5, size]
    assert text_only(tokenizer, [time, 5, size, size + 1, tokenizer.eos_token_id], timestamps=True) == [time, 5, size]
