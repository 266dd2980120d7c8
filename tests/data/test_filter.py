"""Each rule of filter: what it drops, and what is nearly so and stays."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from whisper_recipe.data.corpus import read_corpus, write_corpus
from whisper_recipe.data.filter import Rules, filter_corpus
from whisper_recipe.data.language_id import identify_languages
from whisper_recipe.data.text_rules import looks_like_machine_text, near_duplicates, script_share
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError


@pytest.fixture
def make_corpus(make_data_dir, tmp_path):
    """Return a function that writes a corpus of utterances given as (text, language, seconds)."""
    audio = make_data_dir() / "wav" / "b.wav"
    soundfile.write(audio, np.ones(16000 * 30) / 2, 16000)

    def make(*rows):
        write_corpus(
            [
                Utterance(f"u{n}", f"r{n}", str(audio), text, language, "transcribe", "s", end=seconds)
                for n, (text, language, seconds) in enumerate(rows)
            ],
            tmp_path / "corpus",
        )
        return tmp_path / "corpus"

    return make


def run(corpus, tmp_path, **rules):
    """Return the ids that are dropped, with their reasons."""
    filter_corpus(corpus, tmp_path / "out", Rules(**rules))
    rows = [line.split("\t") for line in (tmp_path / "out/dropped.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    kept = {row.id for row in read_corpus(tmp_path / "out")}
    assert kept.isdisjoint(row[0] for row in rows)
    assert len(kept) + len(rows) == len(read_corpus(corpus))
    return {row[0]: row[2] for row in rows}


def test_durations(make_corpus, tmp_path):
    corpus = make_corpus(("a", "en", 0.99), ("b", "en", 1.0), ("c", "en", 20.0), ("d", "en", 20.01))
    assert run(corpus, tmp_path, min_duration=1.0, max_duration=20.0) == {
        "u0": "min_duration: 0.99 s, under 1",
        "u3": "max_duration: 20.01 s, over 20",
    }
    validate(tmp_path / "out")


def test_characters_per_second_count_letters_and_digits(make_corpus, tmp_path):
    corpus = make_corpus(
        ("ab, cd! 1", "en", 5.0), ("abcd --- !!!", "en", 5.0), ("abcdefghijk", "en", 1.0), ("你好", "zh", 2.0)
    )
    assert run(corpus, tmp_path, min_chars_per_second=1.0, max_chars_per_second=10.0) == {
        "u1": "min_chars_per_second: 0.80 characters/s, under 1",
        "u2": "max_chars_per_second: 11.00 characters/s, over 10",
    }


def test_repeats_are_counted_but_for_case_and_punctuation(make_corpus, tmp_path, capsys):
    corpus = make_corpus(
        ("Thank you.", "en", 1.0),
        ("thank you", "en", 1.0),
        ("THANK  you!", "en", 1.0),
        ("thank you", "de", 1.0),
        ("thanks", "en", 1.0),
    )
    assert run(corpus, tmp_path, max_repeats=2) == {"u2": "max_repeats: number 3 with this text"}
    table = capsys.readouterr().out.splitlines()
    assert table[2].split() == ["max_repeats", "1", "0.00"]
    assert table[-1].endswith("5 utterances read = 4 kept + 1 dropped (dropped.tsv)")


def test_near_duplicates(make_corpus, tmp_path):
    text = "the quick brown fox jumps over the lazy dog and runs away into the dark forest"
    corpus = make_corpus((text, "en", 9.0), (text.replace("lazy", "hazy"), "en", 9.0), (text[:30], "en", 9.0))
    assert run(corpus, tmp_path, near_duplicates=0.8) == {"u1": "near_duplicates: nearly the text of u0"}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=30), min_size=2, max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_near_duplicates_are_as_alike_as_asked(texts, threshold):
    def pieces(text):
        return {text[start : start + 4] for start in range(max(1, len(text) - 3))}

    rows = {str(number): text for number, text in enumerate(texts)}
    for key, other in near_duplicates(rows.items(), threshold):
        one, two = pieces(rows[key]), pieces(rows[other])
        assert len(one & two) / len(one | two) >= threshold
        assert int(other) < int(key)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("TURN ON THE LIGHT", "all capitals"),
        ("TURN ON THE LIGHT, PLEASE!", "all capitals"),
        ("turn on the light", "all lower case without punctuation"),
        ("don't turn on the co-op's light", "all lower case without punctuation"),
        ("включи свет на кухне", "all lower case without punctuation"),
        ("Turn on the light", None),
        ("turn on the light, please", None),
        ("OK YES", None),
        ("turn on", None),
        ("打开 厨房 的 灯", None),
        ("رقم واحد اثنان ثلاثة", None),
        ("เปิด ไฟ ใน ครัว", None),
        ("1 2 3 4", None),
    ],
)
def test_output_of_other_recognisers(text, how):
    assert looks_like_machine_text(text) == how


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("turn on", "en", 1.0),
        ("turn on", "ru", 0.0),
        ("включи", "ru", 1.0),
        ("здраво", "sr", 1.0),
        ("zdravo", "sr", 1.0),
        ("打开灯", "zh", 1.0),
        ("打開燈", "zh", 1.0),
        ("ライトをつけて電気", "ja", 1.0),
        ("ひらがな", "zh", 0.0),
        ("मुझे हिंदी", "hi", 1.0),
        ("สวัสดี", "th", 1.0),
        ("مرحبا", "ar", 1.0),
        ("शब्द word", "hi", 3 / 7),
        ("안녕", "ko", 1.0),
        ("12 34, ...", "zh", 1.0),
        ("WiFi打开", "zh", 1 / 3),
    ],
)
def test_shares_of_a_languages_scripts(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


def test_machine_text_and_script_in_a_corpus(make_corpus, tmp_path):
    corpus = make_corpus(
        ("turn on the light", "en", 2.0), ("Turn on the light.", "en", 2.0), ("turn on the light", "zh", 2.0)
    )
    found = run(corpus, tmp_path, machine_text=True, min_script_share=0.5)
    assert found == {
        "u0": "machine_text: all lower case without punctuation",
        "u2": "machine_text: all lower case without punctuation; min_script_share: 0% of the letters are of zh",
    }


def test_translations_are_english_text(make_data_dir, tmp_path):
    corpus = make_data_dir(text="a Turn on.\nb 打开\n", utt2lang="a zh\nb zh\n", utt2task="a translate\nb translate\n")
    assert run(corpus, tmp_path, min_script_share=0.9).keys() == {"b"}


def test_languages_are_those_that_transformers_detects(make_corpus, tmp_path, tiny_model):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, rng.standard_normal(16000 * (number + 1)) / 10, 16000, subtype="FLOAT")
        rows.append(Utterance(f"u{number}", f"r{number}", str(path), "x", "en", "transcribe", "s"))
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval()
    samples = [soundfile.read(row.audio, dtype="float32")[0] for row in rows]
    features = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = model.detect_language(features)
    ids = model.generation_config.lang_to_id
    found = list(identify_languages(rows, str(tiny_model)))
    assert [ids[f"<|{language}|>"] for language, _ in found] == expected.flatten().tolist()
    assert all(1 / len(ids) <= probability <= 1 for _, probability in found)
    write_corpus(rows, tmp_path / "heard")
    said = {row.id for row, (language, _) in zip(rows, found, strict=True) if language == "en"}
    if len(said) < 3:  # random weights: what they hear is not English
        with pytest.raises(RecipeError, match="no utterance is left"):
            filter_corpus(
                tmp_path / "heard",
                tmp_path / "o",
                Rules(language_model=str(tiny_model), min_language_probability=0.001),
            )


def test_a_language_that_the_model_is_not_sure_of_drops_nothing(make_corpus, tmp_path, tiny_model):
    corpus = make_corpus(("a", "en", 1.0))
    assert run(corpus, tmp_path, language_model=str(tiny_model), min_language_probability=0.99) == {}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "no rule is given"),
        ({"min_duration": 100.0}, "no utterance is left; loosen the rules"),
        ({"language_model": "/nowhere"}, "/nowhere: the model can't be loaded"),
    ],
)
def test_useless_rules_are_one_error(make_corpus, tmp_path, rules, message):
    with pytest.raises(RecipeError, match=message):
        filter_corpus(make_corpus(("a", "en", 1.0)), tmp_path / "out", Rules(**rules))
    assert not (tmp_path / "out").exists()


def test_shares_beyond_one_are_refused():
    with pytest.raises(RecipeError, match="rules.near_duplicates"):
        Rules(near_duplicates=1.5)
