"""Normalisers: what counts as the same text."""

import pytest

from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters


@pytest.mark.parametrize(
    ("language", "written", "normal"),
    [
        ("zh", "打開廚房的燈。", "打开厨房的灯"),
        ("zh", "設定２９度！", "设定29度"),
        ("zh", "你好,世界", "你好 世界"),
        ("en", "Mr. Brown won't set it to twenty-nine.", "mister brown will not set it to 29"),
        ("es", "¿Enciende la luz?", "enciende la luz"),
    ],
)
def test_whispers_normalisers_and_the_chinese_one(language, written, normal):
    assert " ".join(get_normalizer("whisper", language)(written).split()) == normal


def test_basic_is_the_same_for_every_language():
    for language in ("en", "zh", "es"):
        normal = get_normalizer("basic", language)("Twenty-nine, 打開。")
        assert " ".join(normal.split()) == "twenty nine 打開"


def test_none_changes_nothing_but_the_ends():
    assert get_normalizer("none", "zh")(" 打開，燈。 ") == "打開，燈。"


@pytest.mark.parametrize(
    ("language", "task", "characters"),
    [("zh", "transcribe", True), ("ja", "transcribe", True), ("zh", "translate", False), ("en", "transcribe", False)],
)
def test_unit_follows_the_language_of_the_text(language, task, characters):
    assert is_counted_in_characters(language, task) is characters
