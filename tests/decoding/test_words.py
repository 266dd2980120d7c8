"""Times of words: two programs agree on them, and faster-whisper with both."""

import numpy as np
import pytest
import torch
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer

from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.long_audio import Recording, Transcriber
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.decoding.words import word_times
from whisper_recipe.export.ct2 import export
from whisper_recipe.model.load import load_tokenizer

TEXTS = [" turn on the light, in the kitchen!", "", "三月五号，星期一"]
FRAMES = [700, 500, 333]


@pytest.fixture(scope="module")
def features():
    return torch.randn(3, 80, 700, generator=torch.Generator().manual_seed(1)).clamp(-1, 1.5)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_transformers_and_ctranslate2_find_the_same_times(tiny_model, ct2_model, features, language):
    tokenizer = load_tokenizer(tiny_model)
    texts = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    found = [
        word_times(load_backend(model), tokenizer, features, FRAMES, texts, language, "transcribe")
        for model in (tiny_model, ct2_model)
    ]
    for text, ids, ours, theirs in zip(TEXTS, texts, *found, strict=True):
        assert "".join(word.word for word, _ in ours) == text
        assert sum(count for _, count in ours) == len(ids)
        assert [(word[:3], count) for word, count in ours] == [(word[:3], count) for word, count in theirs]
        assert [word.probability for word, _ in ours] == pytest.approx([word.probability for word, _ in theirs], 1e-4)


def test_words_of_a_translation_are_english_words(tiny_model, features):
    tokenizer = load_tokenizer(tiny_model)
    texts = [tokenizer(TEXTS[0], add_special_tokens=False).input_ids]
    found = word_times(load_backend(tiny_model), tokenizer, features[:1], FRAMES[:1], texts, "zh", "translate")
    assert [word.word.strip() for word, _ in found[0]] == TEXTS[0].split()


@pytest.mark.slow
def test_times_are_those_of_faster_whisper(full_vocabulary_model, features, tmp_path):
    export(full_vocabulary_model, tmp_path / "ct2")
    reader = WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32")
    tokenizer = load_tokenizer(full_vocabulary_model)
    # Without punctuation, which they join to words later.
    text = tokenizer(" turn on the light in the kitchen", add_special_tokens=False).input_ids
    theirs = reader.find_alignment(
        Tokenizer(reader.hf_tokenizer, True, "transcribe", "en"), [text], reader.encode(features[0].numpy()), 700
    )[0]
    ours = word_times(load_backend(tmp_path / "ct2"), tokenizer, features[:1], [700], [text], "en", "transcribe")[0]
    assert [(word.word, word.start, word.end) for word, _ in ours] == [
        (word["word"], word["start"], word["end"]) for word in theirs
    ]
    # Theirs is the mean over a word's tokens, ours the product.
    single = [
        (word.probability, other["probability"]) for (word, ids), other in zip(ours, theirs, strict=True) if ids == 1
    ]
    assert len(single) == 4
    assert [found for found, _ in single] == pytest.approx([expected for _, expected in single])


def test_every_word_is_in_its_segment_and_in_order(ct2_model):
    decoder = Transcriber(ct2_model, word_timestamps=True, search=SearchOptions(max_new_tokens=40))
    samples = [np.random.default_rng(seed).standard_normal(16000 * (2 + seed)).astype(np.float32) for seed in range(4)]
    found = list(decoder.transcribe([Recording(str(n), each) for n, each in enumerate(samples)], "en"))
    assert sum(len(transcript.segments) for transcript in found) > 0
    for transcript in found:
        for segment in transcript.segments:
            assert "".join(word.word for word in segment.words).split() == segment.text.split()
        words = [word for segment in transcript.segments for word in segment.words]
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= time <= transcript.duration + 0.02 for time in times)
