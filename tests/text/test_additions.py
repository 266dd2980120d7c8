"""New languages and pieces of text in a vocabulary, against transformers, tokenizers and the texts themselves."""

from __future__ import annotations

import pytest
import tokenizers
from transformers import AutoTokenizer, WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_tokenizer, read_tokenizer
from whisper_recipe.text.additions import (
    add_languages,
    add_pieces,
    added_pieces,
    borrow_languages,
    language_of,
    new_languages,
)
from whisper_recipe.text.prompt import prompt_ids
from whisper_recipe.text.tokenizer import decode_text, first_timestamp

MBOSHI = [" wa ámitúúngá obia itsωώ s éléngé", " wó twεrε ya poo yá bísí", " bána bo báatúsá ambángé"]


@pytest.fixture
def tokenizer(full_vocabulary_model):
    return load_tokenizer(full_vocabulary_model)


@pytest.fixture(scope="module")
def unchanged(full_vocabulary_model):
    """For the tests that add nothing."""
    return load_tokenizer(full_vocabulary_model)


def test_a_borrowed_token_stands_in_the_prompt_and_means_the_language_that_borrows_it(tokenizer):
    size = len(tokenizer)
    assert add_languages(tokenizer, {"mdw": "lingala"}) == {}
    assert len(tokenizer) == size
    assert prompt_ids(tokenizer, "mdw", "transcribe") == prompt_ids(tokenizer, "ln", "transcribe")
    assert language_of(tokenizer, "<|ln|>") == "mdw"
    assert language_of(tokenizer, "<|fr|>") == "fr"


def test_a_token_of_its_own_comes_after_all_others_and_starts_from_the_languages(tokenizer):
    old = tokenizer.get_vocab()
    sources = add_languages(tokenizer, {"mdw": "new", "lua": "like ln"})
    # openai/whisper: 99 languages from 50259 (English) to 50357 (Sundanese), Lingala is 50353; times end at 51864.
    assert sources == {51865: list(range(50259, 50358)), 51866: [50353]}
    assert old.items() <= tokenizer.get_vocab().items()
    assert prompt_ids(tokenizer, "mdw", "transcribe") == [50258, 51865, 50359, 50363]
    assert language_of(tokenizer, "<|mdw|>") == "mdw"


def test_a_folder_keeps_the_new_languages_and_pieces(tokenizer, tmp_path):
    add_languages(tokenizer, {"mdw": "new", "lua": "ln"})
    pieces = add_pieces(tokenizer, MBOSHI, 20)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer(MBOSHI[0], add_special_tokens=False).input_ids
    for read in (read_tokenizer, WhisperTokenizer.from_pretrained, AutoTokenizer.from_pretrained):
        again = read(str(tmp_path))
        assert new_languages(again) == {"mdw": "mdw", "lua": "ln"}
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again(MBOSHI[0], add_special_tokens=False).input_ids == ids
        assert again.decode([50258, 51865, *ids], skip_special_tokens=True) == MBOSHI[0]
        assert added_pieces(again) == list(pieces)
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # what faster-whisper reads
    assert plain.encode(MBOSHI[0], add_special_tokens=False).ids == ids


def test_pieces_shorten_the_texts_that_they_were_learned_on_and_leave_all_other_ids(tokenizer):
    old = tokenizer.get_vocab()
    before = [tokenizer(line, add_special_tokens=False).input_ids for line in MBOSHI]
    english = tokenizer(" turn on the light", add_special_tokens=False).input_ids
    sources = add_pieces(tokenizer, MBOSHI, 20)
    after = [tokenizer(line, add_special_tokens=False).input_ids for line in MBOSHI]
    assert 0 < len(sources) <= 20
    assert min(sources) == first_timestamp(tokenizer) + 1501  # after <|30.00|>
    assert old.items() <= tokenizer.get_vocab().items()
    assert sum(map(len, after)) < sum(map(len, before))
    # A piece is written as the old tokens that its row comes from, and texts are what they were.
    assert [[part for index in ids for part in sources.get(index, [index])] for ids in after] == before
    assert [decode_text(tokenizer, ids) for ids in after] == MBOSHI
    assert tokenizer(" turn on the light", add_special_tokens=False).input_ids == english


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"chines": "new"}, r"new_languages.chines: unknown language 'chines'; did you mean chinese"),
        ({"english": "new"}, r"new_languages.english: the model already knows english"),
        ({"mdw": "like lua"}, r"new_languages.mdw: the model does not know the language lua"),
        ({"mdw": "lingalla"}, r"new_languages.mdw: unknown language 'lingalla'; did you mean lingala"),
        ({"mdw": "as ln"}, r"new_languages.mdw: 'as ln' is not a valid value; use CODE, new, or 'like CODE'"),
        ({"mdw": "like"}, r"new_languages.mdw: unknown language 'like'"),
        ({"mdw": ""}, r"new_languages.mdw: unknown language ''"),
    ],
)
def test_what_can_not_be_declared_is_one_line(unchanged, declared, message):
    with pytest.raises(RecipeError, match=message) as raised:
        add_languages(unchanged, declared)
    assert "\n" not in str(raised.value)
    assert not new_languages(unchanged)


def test_a_language_neither_known_nor_declared_suggests_related_ones(unchanged):
    with pytest.raises(RecipeError, match=r"nds: .* no <\|nds\|>; --new_languages.nds CODE borrows .*such as de"):
        prompt_ids(unchanged, "nds", "transcribe")
    with pytest.raises(RecipeError, match="glottolog.org/resource/languoid/iso/mdw"):  # of which CLDR knows nothing
        prompt_ids(unchanged, "mdw", "transcribe")


def test_decoding_borrows_and_adds_nothing(tokenizer):
    borrow_languages(tokenizer, {"mdw": "ln"})
    borrow_languages(tokenizer, {"mdw": "sw"})  # the model was trained with the first
    assert new_languages(tokenizer) == {"mdw": "ln"}
    with pytest.raises(RecipeError, match="only training can add a token"):
        borrow_languages(tokenizer, {"lua": "new"})


def test_a_model_of_english_alone_takes_no_new_language(transcripts, tmp_path):
    from tests.conftest import make_model

    tokenizer = load_tokenizer(make_model(tmp_path / "en", transcripts, vocab_size=51864))
    with pytest.raises(RecipeError, match="the model is English-only"):
        add_languages(tokenizer, {"mdw": "ln"})
