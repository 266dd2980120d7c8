"""Normalisers: what counts as the same text."""

import unicodedata

import pytest
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from whisper_recipe.errors import RecipeError
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


# tests/test_normalizer.py of openai/whisper
OPENAI = {
    "two": "2", "thirty one": "31", "five twenty four": "524",
    "nineteen ninety nine": "1999", "twenty nineteen": "2019",
    "two point five million": "2500000", "four point two billions": "4200000000s", "200 thousand dollars": "$200000",
    "$20 million": "$20000000", "€52.4 million": "€52400000", "£77 thousands": "£77000s", "two double o eight": "2008",
    "forty three thousand two hundred and sixty": "43260", "nineteen fifties": "1950s", "thirty first": "31st",
    "thirty three thousand and three hundred and thirty third": "33333rd", "millions": "1000000s",
    "august twenty sixth twenty twenty one": "august 26th 2021", "3 14": "3 14", "3 point 14": "3.14",
    "two point two five dollars": "$2.25", "seventy six per cent": "76%", "double oh seven": "007",
    "one triple oh one": "10001", "thirty two thousandth": "32000th", "minus 500": "-500",
    "positive twenty thousand": "+20000", "two dollars and seventy cents": "$2.70", "3 cents": "¢3", "$0.36": "¢36",
    "three euros and sixty five cents": "€3.65", "three and a half million": "3500000", "b747": "b 747",
    "10 th": "10th",
    "mobilisation": "mobilization", "cancelation": "cancellation",
    "Let's": "let us", "he's like": "he is like", "she's been like": "she has been like", "10km": "10 km",
    "RC232": "rc 232",
    "Mr. Park visited Assoc. Prof. Kim Jr.": "mister park visited associate professor kim junior",
}  # fmt: skip


@pytest.mark.parametrize(("written", "normal"), OPENAI.items())
def test_english_has_the_results_of_openais_own_tests(written, normal):
    assert get_normalizer("english", "en")(written) == normal


def test_english_and_basic_are_those_of_transformers():
    # The table of a tokenizer's folder on the hub is passed to it as here.
    reference = EnglishTextNormalizer({"colour": "color", "grey": "gray"})
    for text in ("Mr. Brown's got $20 and a half, hasn't he? (laughs) Café [noise]", "the colour is grey 'cause kinda"):
        assert get_normalizer("english", "en")(text) == reference(text)
    for text in (SPANISH, HINDI, "Ünïcode ﬁ １２"):
        assert get_normalizer("basic", "es")(text) == BasicTextNormalizer()(text)


@pytest.mark.parametrize(
    ("name", "language"), [("english", "en"), ("basic_marks", "es"), ("chinese", "zh"), ("arabic", "ar")]
)
@pytest.mark.parametrize("invisible", "\u200b\u200d\u200e\u200f\u202b\u2060\ufeff\u00ad\u061c\ufe0f")
def test_invisible_characters_are_no_errors(name, language, invisible):
    plain, marked = "the lamp 开灯", f"{invisible}the la{invisible}mp{invisible} 开{invisible}灯"
    normalize = get_normalizer(name, language)
    assert normalize(marked).split() == normalize(plain).split()


@pytest.mark.parametrize("language", ["tr", "az", "en"])
def test_the_dot_of_the_turkish_capital_i_is_no_error(language):
    normalize = get_normalizer("whisper", language)
    for written in ("İstanbul'da", "I\u0307stanbul'da"):
        assert normalize(written).split() == normalize("istanbul'da").split()
    assert normalize("ısı") != normalize("isi")  # two letters


def test_arabic_without_vowel_signs_tatweel_and_its_own_digits():
    normalize = get_normalizer("arabic", "ar")
    assert normalize("السَّلامُ عَلَيْكُـــم، ٢٥").split() == ["السلام", "عليكم", "25"]
    assert normalize("قرآن أكل").split() == ["قرآن", "أكل"]  # madda and hamza belong to their letters
    assert normalize(unicodedata.normalize("NFD", "قرآن أكل")).split() == ["قرآن", "أكل"]


def test_persian_letters_and_the_non_joiner():
    normalize = get_normalizer("persian", "fa")
    assert normalize("مي\u200cخواهم كتاب ۲۰۲۴").split() == ["می", "خواهم", "کتاب", "2024"]


def test_the_leaderboards_normaliser_is_that_of_the_users_checkout(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="PYTHONPATH"):
        get_normalizer("open_asr_leaderboard", "en")
    with pytest.raises(RecipeError, match="for English, not for de"):
        get_normalizer("open_asr_leaderboard", "de")
    (tmp_path / "normalizer").mkdir()
    (tmp_path / "normalizer/__init__.py").touch()
    code = "class EnglishTextNormalizer:\n    def __call__(self, text):\n        return text.swapcase()\n"
    (tmp_path / "normalizer/normalizer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert get_normalizer("open_asr_leaderboard", "en")("Ab") == "aB"
    finally:
        get_normalizer.cache_clear()


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
