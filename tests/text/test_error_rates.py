"""Error counts against counts made by hand and against jiwer called directly."""

import random

import jiwer
import pytest

from whisper_recipe.text.error_rates import ErrorCounts, align, alignment_lines, count_errors, spaced_characters, steps

# (reference, hypothesis, in characters, insertions, deletions, substitutions, units), counted by hand
PAIRS = [
    ("turn on the light", "turn on the light", False, 0, 0, 0, 4),
    ("turn on the light", "turn the light", False, 0, 1, 0, 4),
    ("turn on the light", "turn on the red light", False, 1, 0, 0, 4),
    ("turn on the light", "turn off the light", False, 0, 0, 1, 4),
    ("turn on the light", "", False, 0, 4, 0, 4),
    ("one two three", "four five six seven", False, 1, 0, 3, 3),
    ("打开厨房的灯", "打开厨房灯", True, 0, 1, 0, 6),
    ("打开厨房的灯", "关闭厨房的灯", True, 0, 0, 2, 6),
    ("三月五号", "三月十五号", True, 1, 0, 0, 4),
    ("三 月 五号", "三月五号", True, 0, 0, 0, 4),
]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "characters", "insertions", "deletions", "substitutions", "total"), PAIRS
)
def test_counts_are_those_made_by_hand(reference, hypothesis, characters, insertions, deletions, substitutions, total):
    counts = count_errors(reference, hypothesis, characters)
    assert (counts.insertions, counts.deletions, counts.substitutions) == (insertions, deletions, substitutions)
    assert (counts.total, counts.utterances) == (total, 1)
    assert counts.correct_utterances == int(insertions + deletions + substitutions == 0)


def test_an_empty_reference_counts_every_unit_as_an_insertion():
    counts = count_errors("", "one two", characters=False)
    assert (counts.insertions, counts.total, counts.correct_utterances) == (2, 0, 0)
    assert counts.rate(counts.errors) is None
    assert count_errors("", "一二", characters=True).insertions == 2
    assert count_errors("", "", characters=False).correct_utterances == 1


def test_sums_over_a_set_equal_jiwer_on_the_whole_set():
    draw = random.Random(0)
    words = [f"w{n}" for n in range(8)]
    references = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(200)]
    hypotheses = [" ".join(word for word in draw.choices(words, k=draw.randint(0, 12))) for _ in range(200)]
    ours = ErrorCounts.sum(count_errors(*pair, characters=False) for pair in zip(references, hypotheses, strict=True))
    theirs = jiwer.process_words(references, hypotheses)
    assert ours.rate(ours.errors) == pytest.approx(theirs.wer)
    assert (ours.insertions, ours.deletions, ours.substitutions) == (
        theirs.insertions,
        theirs.deletions,
        theirs.substitutions,
    )
    assert ours.match_error_rate == pytest.approx(theirs.mer)


def test_sums_of_characters_equal_jiwer_on_the_whole_set():
    draw = random.Random(1)
    references = ["".join(draw.choices("打开厨房的灯", k=draw.randint(1, 12))) for _ in range(200)]
    hypotheses = ["".join(draw.choices("打开厨房的灯", k=draw.randint(0, 12))) for _ in range(200)]
    ours = ErrorCounts.sum(count_errors(*pair, characters=True) for pair in zip(references, hypotheses, strict=True))
    assert ours.rate(ours.errors) == pytest.approx(jiwer.cer(references, hypotheses))


@pytest.mark.parametrize("space", ["\t", "\n", "\u00a0", "\u3000", "  "])
def test_every_kind_of_space_separates_words(space):
    for pair in ((f"one{space}two", "one two"), ("one two", f"one{space}two")):
        counts = count_errors(*pair, characters=False)
        assert (counts.errors, counts.total) == (0, 2)


def test_match_error_rate_counts_insertions_among_the_positions():
    counts = count_errors("one two", "one three four", characters=False)  # one right, one replaced, one inserted
    assert counts.match_error_rate == pytest.approx(2 / 3)
    assert count_errors("", "one", characters=False).match_error_rate == 1
    assert count_errors("", "", characters=False).match_error_rate is None


def test_the_steps_of_an_alignment_are_those_made_by_hand():
    assert list(steps(align("turn on the light", "turn off the red light", characters=False))) == [
        ("equal", "turn", "turn"),
        ("substitute", "on", "off"),
        ("equal", "the", "the"),
        ("insert", "", "red"),
        ("equal", "light", "light"),
    ]
    assert list(steps(align("打开灯", "开灯", characters=True))) == [
        ("delete", "打", ""),
        ("equal", "开", "开"),
        ("equal", "灯", "灯"),
    ]


@pytest.mark.parametrize(("reference", "hypothesis", "marks"), [("a b", "a c", "S"), ("", "x", "I"), ("x", "", "D")])
def test_the_alignment_is_drawn_in_three_lines(reference, hypothesis, marks):
    lines = alignment_lines(align(reference, hypothesis, characters=False)).splitlines()
    assert [line[:4] for line in lines] == ["REF:", "HYP:", "    "]
    assert lines[2].strip() == marks


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("请打开youtube 谢谢", ["请", "打", "开", "youtube", "谢", "谢"]),
        ("turn on the light", ["turn", "on", "the", "light"]),
        ("打开厨房的灯", list("打开厨房的灯")),
        ("カラオケへgo", [*"カラオケへ", "go"]),
        ("привет мир 3点", ["привет", "мир", "3", "点"]),
        ("안녕 세상", ["안녕", "세상"]),  # Hangul is written with spaces
        ("เปิดไฟ on", [*"เปิดไฟ", "on"]),
    ],
)
def test_mixed_units_are_characters_of_unspaced_scripts_and_words_of_others(text, units):
    assert spaced_characters(text).split() == units
