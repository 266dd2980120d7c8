"""Signs of made-up text on hand-made pairs."""

import pytest

from whisper_recipe.scoring.hallucinations import Loop, find_signs, longest_loop


@pytest.mark.parametrize(
    ("reference", "hypothesis", "signs"),
    [
        ("turn on the light", "turn on the light", set()),
        ("turn on the light", "turn on on on on the light", {"loop"}),
        ("so yes", "so thank you thank you thank you thank you", {"loop", "too_long"}),
        ("no no no no", "no no no no", set()),  # said so
        ("no no no no", "no no no no no no", {"loop"}),
        ("go go go now", "go go go now", set()),  # three times is no loop
        ("", "thank you for watching", {"text_on_silence"}),
        ("", "", set()),
        ("yes", "oh yes it is", set()),  # four times as long, but only three words
        ("one two three four", "one two three four five six seven eight nine", {"too_long"}),
        ("one two three four five six", "", {"too_short"}),
        ("one two three four five six seven", "one two", {"too_short"}),
    ],
)
def test_signs_are_those_seen_by_a_person(reference, hypothesis, signs):
    assert set(find_signs(reference.split(), hypothesis.split())) == signs


def test_a_loop_of_characters_is_told_with_its_text_and_count():
    assert find_signs(list("打开灯"), list("打开灯" * 5))["loop"] == "'打 开 灯' 5 times"


def test_the_loop_over_most_units_is_found_with_its_shortest_form():
    units = list("aaaabcdbcdbcdbcdbcdbe")
    assert longest_loop(units) == Loop(("b", "c", "d"), 5)
    assert longest_loop(["no"] * 8) == Loop(("no",), 8)  # and not "no no" 4 times


def test_loops_of_long_ngrams_are_found():
    sentence = [f"w{number}" for number in range(20)]
    assert longest_loop(["x", *sentence * 4]) == Loop(tuple(sentence), 4)
    assert longest_loop(sentence * 3) is None
