"""Language names and codes, against transformers' list of Whisper's languages."""

from __future__ import annotations

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES, LANGUAGES, language_code, related_languages
from whisper_recipe.tasks import check_task


def test_codes_and_names_are_whispers_in_whispers_order():
    assert list(LANGUAGES.items()) == list(WHISPER.items())


@pytest.mark.parametrize(("name", "code"), TO_LANGUAGE_CODE.items())
def test_every_name_that_transformers_knows_gives_its_code(name, code):
    assert language_code(name) == language_code(name.upper()) == language_code(f" {name.title()} ") == code
    assert language_code(code) == language_code(code.upper()) == code


@pytest.mark.parametrize(("name", "near"), [("chines", "chinese"), ("Germann", "german"), ("enlgish", "english")])
def test_unknown_names_list_near_matches(name, near):
    with pytest.raises(RecipeError, match=f"utt2lang:3: unknown language '{name}'; did you mean .*{near}"):
        language_code(name, where="utt2lang:3")


@pytest.mark.parametrize("name", ["", "qqqqqq", "zh-CN-x"])
def test_names_like_no_language_are_errors_too(name):
    with pytest.raises(RecipeError, match="unknown language"):
        language_code(name)


def test_character_languages_are_languages():
    assert CHARACTER_LANGUAGES.issubset(LANGUAGES)


def test_tasks():
    assert [check_task(task) for task in ("transcribe", "translate")] == ["transcribe", "translate"]
    with pytest.raises(RecipeError, match="utt2task:2: unknown task 'Translate'; use one of: transcribe, translate"):
        check_task("Translate", where="utt2task:2")


@pytest.mark.parametrize(
    ("name", "code"),
    # ISO 639-1, -2 (bibliographic and terminologic) and -3; jv is what Whisper calls jw.
    [("mdw", "mdw"), (" MDW", "mdw"), ("eng", "en"), ("ger", "de"), ("deu", "de"), ("jv", "jw"), ("lua", "lua")],
)
def test_iso_codes_name_every_language(name, code):
    assert language_code(name) == code


@pytest.mark.parametrize("name", ["und", "mul", "xyz", "x1", "mboshi"])
def test_what_names_no_one_language_is_an_error(name):
    with pytest.raises(RecipeError, match="unknown language .* use the ISO 639 code"):
        language_code(name)


def test_related_languages_are_near_by_cldr():
    assert related_languages("nb")[0] == "no"
    assert related_languages("nds") == ["de"]  # at home in the same country
    assert related_languages("mdw") == []  # of which CLDR knows nothing: no guess
