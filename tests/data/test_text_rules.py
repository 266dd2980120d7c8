"""What text rules find, and what is nearly so and is none."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_recipe.data.text_rules import (
    count_characters,
    looks_like_machine_text,
    near_duplicates,
    normalised,
    script_share,
    scripts_of,
)
from whisper_recipe.languages import LANGUAGES

CAPITALS, LOWER = "all capitals", "all lower case without punctuation"


@pytest.mark.parametrize(
    ("text", "language", "how"),
    [
        ("TURN ON THE LIGHT", "en", CAPITALS),
        ("TURN ON 2 LIGHTS, PLEASE!", "en", CAPITALS),
        ("turn on the light", "en", LOWER),
        ("don't turn on the co-op's light", "en", LOWER),
        ("включи свет на кухне", "ru", LOWER),
        ("ВКЛЮЧИ СВЕТ НА КУХНЕ", "ru", CAPITALS),
        ("включи wifi на кухне", "ru", LOWER),
        ("upali svetlo u kuhinji", "sr", LOWER),
        ("упали светло у кухињи", "sr", LOWER),
        ("ıslak sokak iyi değil", "tr", LOWER),
        ("İYİ GÜNLER DİLERİM", "tr", CAPITALS),
        ("άναψε το φως", "el", LOWER),
        ("միացրու խոհանոցի լույսը", "hy", LOWER),
        ("Turn on the light", "en", None),
        ("turn on the light, please", "en", None),
        ("включи свет. на кухне", "ru", None),
        ("միացրու խոհանոցի լույսը։", "hy", None),  # the Armenian full stop
        ("Upali svetlo u kuhinji", "sr", None),
        ("OK YES", "en", None),
        ("turn on", "en", None),
        ("no 5 4 3 2", "en", None),  # one word with letters
        ("打开厨房的灯", "zh", None),
        ("我 的 wifi router app 坏了", "zh", None),
        ("キッチンの wifi app usb を つけて", "ja", None),
        ("मैं wifi router app चालू करता हूँ", "hi", None),
        ("رقم واحد اثنان ثلاثة", "ar", None),
        ("เปิด ไฟ ใน ครัว", "th", None),
        ("გამარჯობა როგორ ხარ დღეს", "ka", None),  # Georgian has capitals in Unicode and none in texts
        ("1 2 3 4", "en", None),
    ],
)
def test_output_of_other_recognisers(text, language, how):
    assert looks_like_machine_text(text, language) == how


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("turn on", "en", 1.0),
        ("turn on", "ru", 0.0),
        ("включи", "ru", 1.0),
        ("здраво", "sr", 1.0),
        ("zdravo", "sr", 1.0),
        ("здраво", "hr", 0.0),
        ("打开灯", "zh", 1.0),
        ("打開燈", "yue", 1.0),
        ("打开灯", "ja", 1.0),
        ("ライトをつけて電気", "ja", 1.0),
        ("コーヒー", "ja", 1.0),  # the long vowel belongs to Hiragana too
        ("ひらがな", "zh", 0.0),
        ("안녕 漢字", "ko", 1.0),
        ("मुझे हिंदी", "hi", 1.0),
        ("शब्द word", "hi", 3 / 7),
        ("สวัสดีครับ", "th", 1.0),
        ("مرحبا", "ar", 1.0),
        ("مرحبا", "he", 0.0),
        ("salom", "uz", 1.0),
        ("салом", "uz", 1.0),
        ("WiFi打开", "zh", 1 / 3),
        ("12 34, ...", "zh", 1.0),
    ],
)
def test_shares_of_a_languages_scripts(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


def test_all_languages_have_scripts_of_unicode():
    from fontTools.unicodedata import Scripts

    known = set(Scripts.VALUES)
    assert {
        language for language in LANGUAGES if not scripts_of(language) or not scripts_of(language) <= known
    } == set()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("ab, cd! 1", 5),
        ("… — !?", 0),
        ("你好，世界", 4),
        ("Привет!", 6),
        ("नमस्ते", 4),  # न म स त; the vowel sign and the virama are marks
        ("ที่นี่", 2),
        ("مرحبا", 5),
    ],
)
def test_letters_and_digits_are_counted(text, count):
    assert count_characters(text) == count


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Thank you.", "THANK  you!", True),
        ("don't", "don’t", True),
        ("你好，世界。", "你好 世界", True),
        ("Straße", "STRASSE", True),
        ("ＡＢＣ１", "abc1", True),
        ("Привет, мир", "привет мир", True),
        ("thank you", "thanks you", False),
        ("हिंदी", "हदी", False),
        ("設定", "设定", False),
    ],
)
def test_case_punctuation_and_spaces_make_no_difference(one, other, same):
    assert (normalised(one) == normalised(other)) == same


def pieces(text: str) -> set[str]:
    return {text[start : start + 4] for start in range(max(1, len(text) - 3))}


def alike(one: str, other: str) -> float:
    one, other = pieces(one), pieces(other)
    return len(one & other) / len(one | other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=30), min_size=2, max_size=12), st.sampled_from([0.3, 0.8, 1.0]))
def test_near_duplicates_are_as_alike_as_asked(texts, threshold):
    rows = {str(number): text for number, text in enumerate(texts)}
    found = dict(near_duplicates(rows.items(), threshold))
    for key, other in found.items():
        assert alike(rows[key], rows[other]) >= threshold
        assert int(other) < int(key)
        assert other not in found


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_few_near_duplicates_are_missed(threshold):
    rng = random.Random(0)
    texts = []
    for _ in range(200):
        text = rng.choices(string.ascii_lowercase, k=300)
        texts.append("".join(text))
        for _ in range(rng.randint(1, 20)):
            text[rng.randrange(300)] = rng.choice(string.ascii_lowercase)
        texts.append("".join(text))
    found = {key for key, _ in near_duplicates(enumerate(texts), threshold)}
    expected = {key for key in range(1, 400, 2) if alike(texts[key - 1], texts[key]) >= threshold}
    assert 20 < len(expected) < 200
    assert found <= expected
    assert len(expected - found) <= 0.03 * len(expected)


def test_equal_texts_are_near_duplicates_at_any_threshold():
    texts = list(zip("abcd", ["你好", "", "你好", ""], strict=True))
    for threshold in (0.1, 0.99, 1.0):
        assert list(near_duplicates(texts, threshold)) == [("c", "a"), ("d", "b")]


@pytest.mark.slow
def test_near_duplicates_are_the_same_in_every_process():
    code = (
        "import random; from whisper_recipe.data.text_rules import near_duplicates; r = random.Random(1);"
        "print(list(near_duplicates([(str(n), ''.join(r.choices('ab', k=12))) for n in range(100)], 0.6)))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
        for seed in "12"
    ]
    assert runs[0].stdout.count(b"(") > 10
    assert runs[0].stdout == runs[1].stdout
