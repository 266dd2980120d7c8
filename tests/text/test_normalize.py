"""Normalisers: what counts as the same text."""

import unicodedata

import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters, normalizer_of

SPANISH = "¿Enciende (por favor) la luz — nº 5, año 2024?"
VIETNAMESE = unicodedata.normalize("NFD", "Bật đèn phòng bếp!")  # decomposed, as macOS writes it
HINDI, THAI, TAMIL = "हिन्दी में बात करें।", "ช่วยเปิดไฟให้หน่อย", "விளக்கை ஏற்று!"


@pytest.mark.parametrize(
    ("language", "written", "normal"),
    [
        ("zh", "打開廚房的燈。", "打开厨房的灯"),
        ("zh", "設定２９度！", "设定29度"),
        ("zh", "你好,世界", "你好 世界"),
        ("zh", "溫度是３．５度，濕度５０％。", "温度是3.5度 湿度50%"),
        ("zh", "第一.打开%灯.", "第一 打开 灯"),
        ("yue", "開燈啦!", "开灯啦"),
        ("en", "Mr. Brown won't set it to twenty-nine.", "mister brown will not set it to 29"),
        ("es", "¿Enciende la luz?", "enciende la luz"),
    ],
)
def test_whispers_normalisers_and_the_chinese_one(language, written, normal):
    assert " ".join(get_normalizer("whisper", language)(written).split()) == normal


def test_the_choice_is_by_language_and_only_where_it_is_left_open():
    chosen = {language: normalizer_of("whisper", language) for language in ("en", "zh", "yue", "es", "hi")}
    assert chosen == {"en": "english", "zh": "chinese", "yue": "chinese", "es": "basic_marks", "hi": "basic_marks"}
    assert normalizer_of("none", "en") == "none"
    assert get_normalizer("chinese", "en")("開 Light。") == "开 light"


def test_english_and_basic_are_those_of_transformers():
    text = "Mr. Brown's got $20 and a half, hasn't he? (laughs) Café [noise]"
    assert get_normalizer("english", "en")(text) == EnglishTextNormalizer({})(text)
    for text in (SPANISH, HINDI, "Ünïcode ﬁ １２"):
        assert get_normalizer("basic", "es")(text) == BasicTextNormalizer()(text)


@pytest.mark.parametrize("text", [SPANISH, VIETNAMESE, "ﾊﾞﾅﾅ、「りんご」。", "불을 켜 줘!"])
def test_keeping_marks_changes_nothing_where_letters_are_composed(text):
    assert get_normalizer("basic_marks", "es")(text) == BasicTextNormalizer()(text)


@pytest.mark.parametrize(("language", "text"), [("hi", HINDI), ("th", THAI), ("ta", TAMIL)])
def test_combining_marks_stay(language, text):
    def marks(written):
        return [c for c in unicodedata.normalize("NFKC", written) if unicodedata.category(c)[0] == "M"]

    normal = get_normalizer("whisper", language)(text)
    assert marks(normal) == marks(text) != []
    assert len(normal.split()) == len(text.split())
    assert "!" not in normal
    assert "।" not in normal
    assert not marks(get_normalizer("basic", language)(text))  # which is why


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
