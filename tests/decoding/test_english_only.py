"""OpenAI's models for English alone (tiny.en): their prompt has no language and no task."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AddedToken,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.long_audio import Transcriber
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.decoding.windows import Recording
from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import export
from whisper_recipe.text.tokenizer import build_tokenizer, special_tokens

SEARCH = SearchOptions(max_new_tokens=10)


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """Random weights with the 51,864 ids of tiny.en: GPT-2's 50,256 texts, without the empty one."""
    folder = tmp_path_factory.mktemp("models") / "english"
    bpe = json.loads(build_tokenizer(["turn on the light"], 300).backend_tokenizer.to_str())["model"]
    vocab = {token: index for token, index in bpe["vocab"].items() if token}
    vocab |= {f"<unused{index}>": index for index in range(len(vocab), 50256)}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[tuple(pair) for pair in bpe["merges"]])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens(99)])
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|notimestamps|>"]) == [50256, 50362]  # openai/whisper's
    torch.manual_seed(1)
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256, "decoder_start_token_id": 50257}
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=51864, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.2, **sizes, **ids
        )
    )
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        no_timestamps_token_id=50362,
        begin_suppress_tokens=[220, 50256],
        suppress_tokens=[*range(50257, 50362)],  # random weights would write language tokens
        alignment_heads=[[1, 0]],
        max_length=448,
        **ids,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def english_ct2(english, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "english"
    export(english, out)
    return out


def test_both_backends_decode_as_transformers_does(english, english_ct2):
    features = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(7)).clamp(-1, 1.5)
    theirs = WhisperForConditionalGeneration.from_pretrained(english)
    with torch.inference_mode():
        expected = theirs.generate(features, max_new_tokens=10, return_timestamps=False).tolist()
    for folder in (english, english_ct2):
        backend = load_backend(folder)
        prompt = search_prompt(backend.tokenizer, "en", "transcribe", SEARCH)
        assert prompt == [50257, 50362]
        found = backend.decode(features, [prompt] * 2, SEARCH)
        assert [row[:8] for row in found] == [[token for token in row if token < 50256][:8] for row in expected]
        assert backend.detect_languages(features) == ["en", "en"]


def test_transcribe_writes_times_and_words(english, english_ct2):
    samples = np.random.default_rng(0).standard_normal(16000 * 4).astype(np.float32) * 0.1
    found = [
        next(Transcriber(folder, word_timestamps=True, search=SEARCH).transcribe([Recording("x", samples)]))
        for folder in (english, english_ct2)
    ]
    assert found[0].text == found[1].text != ""
    assert found[0].language == "en"
    assert any(segment.words for segment in found[1].segments)


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("en", "translate")])
def test_another_language_or_task_is_refused(english, language, task):
    with pytest.raises(RecipeError, match="can only transcribe English"):
        search_prompt(load_backend(english).tokenizer, language, task, SEARCH)
