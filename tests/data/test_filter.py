"""Each rule of filter in a corpus: what it drops, what is nearly so and stays, and that all is counted and listed."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import tone
from whisper_recipe.cli import main
from whisper_recipe.data.corpus import read_corpus, write_corpus
from whisper_recipe.data.filter import Rules, filter_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError


@pytest.fixture
def make_corpus(make_data_dir, tmp_path):
    """Return a function that writes a corpus of utterances given as (text, language, seconds)."""
    audio = make_data_dir() / "wav" / "b.wav"
    soundfile.write(audio, tone(30), 16000)

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


def listed(path):
    """Return id -> reason of a dropped.tsv."""
    header, *rows = Path(path).read_text(encoding="utf-8").splitlines()
    assert header == "id\twhere\treason"
    return {key: reason for key, _, reason in (row.split("\t") for row in rows)}


def run(corpus, tmp_path, **rules):
    """Return the ids that are dropped, with their reasons."""
    filter_corpus(corpus, tmp_path / "out", Rules(**rules))
    dropped = listed(tmp_path / "out/dropped.tsv")
    kept = {row.id for row in read_corpus(tmp_path / "out")}
    assert kept.isdisjoint(dropped)
    assert len(kept) + len(dropped) == len(read_corpus(corpus))
    return dropped


def test_listed_utterances_are_dropped(make_corpus, tmp_path):
    corpus = make_corpus(("a", "en", 1.0), ("b", "en", 2.0))
    (tmp_path / "ids.txt").write_text("u1\n")
    assert run(corpus, tmp_path, exclude=tmp_path / "ids.txt") == {"u1": f"exclude: listed in {tmp_path / 'ids.txt'}"}
    (tmp_path / "ids.txt").write_text("u1\nu7\n")
    with pytest.raises(RecipeError, match="1 of 2 are not in the corpus: u7"):
        filter_corpus(corpus, tmp_path / "out", Rules(exclude=tmp_path / "ids.txt"))


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


def test_repeats_are_counted_but_for_case_punctuation_and_spaces(make_corpus, tmp_path, capsys):
    corpus = make_corpus(
        ("Thank you.", "en", 1.0),
        ("thank you", "en", 1.0),
        ("THANK  you!", "en", 1.0),
        ("thank you", "de", 1.0),
        ("thanks", "en", 1.0),
        ("谢谢。", "zh", 1.0),
        ("谢 谢", "zh", 1.0),
        ("谢谢", "zh", 36.0 / 2),
        ("Спасибо", "ru", 1.0),
        ("спасибо!", "ru", 1.0),
    )
    assert run(corpus, tmp_path, max_repeats=2, min_duration=0.5) == {
        "u2": "max_repeats: occurrence 3 of this text",
        "u7": "max_repeats: occurrence 3 of this text",
    }
    table = capsys.readouterr().out.splitlines()
    assert table[2].split() == ["min_duration", "0", "0.00"]
    assert table[3].split() == ["max_repeats", "2", "0.01"]  # 1 s and 18 s
    assert table[-1] == f"{tmp_path / 'out'}: 10 utterances read = 8 kept + 2 dropped (dropped.tsv)"


def test_tasks_are_not_repeats_of_each_other(make_data_dir, tmp_path):
    tables = {"text": "a OK\nb OK\n", "utt2lang": "a zh\nb zh\n"}
    assert run(make_data_dir("one", **tables, utt2task="b translate\n"), tmp_path, max_repeats=1) == {}
    assert run(make_data_dir("two", **tables), tmp_path, max_repeats=1).keys() == {"b"}


@pytest.mark.parametrize("rule", [{"max_repeats": 1}, {"near_duplicates": 0.8}])
def test_what_another_rule_drops_does_not_stand_for_its_repetitions(make_corpus, tmp_path, rule):
    corpus = make_corpus(("hello there", "en", 0.2), ("Hello there", "en", 5.0), ("hello there!", "en", 5.0))
    found = run(corpus, tmp_path, min_duration=1.0, **rule)
    (name,) = rule
    assert {key: [part.partition(":")[0] for part in reason.split("; ")] for key, reason in found.items()} == {
        "u0": ["min_duration", name],
        "u2": [name],
    }


@pytest.mark.parametrize(
    ("language", "text", "old", "new"),
    [
        ("en", "the quick brown fox jumps over the lazy dog and runs away into the dark forest", "lazy", "hazy"),
        ("zh", "今天下午三点我们在公司门口的咖啡馆见面然后一起去机场接从上海来的客人好吗", "好吗", "好吧"),
        ("ru", "сегодня вечером мы поедем за город и вернёмся только поздно ночью", "ночью", "ночи"),
        ("hi", "आज शाम को हम सब मिलकर शहर के बाहर खाना खाने जाएंगे और देर से लौटेंगे", "लौटेंगे", "लौटेंगी"),
    ],
)
def test_near_duplicates(make_corpus, tmp_path, language, text, old, new):
    half = len(text) // 2
    near = text.replace(old, new)
    assert near != text
    corpus = make_corpus((text, language, 9.0), (near, language, 9.0), (text[:half], language, 9.0), (near, "fr", 9.0))
    assert run(corpus, tmp_path, near_duplicates=0.8) == {"u1": "near_duplicates: near duplicate of u0"}


def test_all_rules_that_an_utterance_breaks_are_named(make_corpus, tmp_path):
    corpus = make_corpus(
        ("turn on the light", "en", 2.0), ("Turn on the light.", "en", 2.0), ("turn on the light", "ru", 20.0)
    )
    rules = {"machine_text": True, "min_script_share": 0.5, "max_duration": 15.0, "min_chars_per_second": 1.0}
    assert run(corpus, tmp_path, **rules) == {
        "u0": "machine_text: all lower case without punctuation",
        "u2": "max_duration: 20.00 s, over 15; min_chars_per_second: 0.70 characters/s, under 1; "
        "machine_text: all lower case without punctuation; min_script_share: 0% of the letters are in a script of ru",
    }


def test_translations_are_english_text(make_data_dir, tmp_path):
    tables = {"utt2lang": "a zh\nb zh\n", "utt2task": "a translate\nb translate\n"}
    corpus = make_data_dir("one", text="a Turn on.\nb 打开\n", **tables)
    assert run(corpus, tmp_path, min_script_share=0.9).keys() == {"b"}
    corpus = make_data_dir("two", text="a turn it on\nb Turn it on\n", **tables)
    assert run(corpus, tmp_path, machine_text=True).keys() == {"a"}


def test_examples_without_speech_are_asked_for_their_duration_alone(make_corpus, tmp_path):
    audio = make_corpus(("a", "en", 1.0)) / "../train/wav/b.wav"
    rows = [
        Utterance(f"u{n}", "r", str(audio.resolve()), "", "en", "transcribe", "s", n, end, segments=())
        for n, end in enumerate([10.0, 10.0, 3.0])
    ]
    write_corpus(rows, tmp_path / "silence")
    rules = {"min_chars_per_second": 1.0, "max_repeats": 1, "near_duplicates": 0.5, "min_script_share": 1.0}
    assert run(tmp_path / "silence", tmp_path, **rules, min_duration=5.0) == {"u2": "min_duration: 1.00 s, under 5"}


TEXTS = ["Yes.", "yes", "NO NO NO", "turn on the light", "Turn on the light!", "включи свет", "打开灯", "", "5", "..."]
UTTERANCES = st.lists(
    st.tuples(
        st.sampled_from(TEXTS), st.sampled_from(["en", "ru", "zh"]), st.sampled_from(["transcribe", "translate"]),
        st.sampled_from([0.3, 1.0, 2.0, 29.0]),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip
RULES = st.fixed_dictionaries(
    {},
    optional={
        "min_duration": st.sampled_from([0.5, 1.0]),
        "max_duration": st.sampled_from([1.0, 2.5]),
        "min_chars_per_second": st.sampled_from([0.1, 1.0]),
        "max_chars_per_second": st.sampled_from([2.0, 20.0]),
        "max_repeats": st.sampled_from([1, 2]),
        "near_duplicates": st.sampled_from([0.5, 1.0]),
        "machine_text": st.just(True),
        "min_script_share": st.sampled_from([0.5, 1.0]),
    },
).filter(bool)


@settings(max_examples=60, deadline=None)
@given(UTTERANCES, RULES)
def test_nothing_is_lost_without_a_word(rows, rules):
    with tempfile.TemporaryDirectory() as folder:
        corpus, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        utterances = [
            Utterance(f"u{n:02d}", f"r{n}", "/a.wav", text, language, task, "s", end=end, segments=None if text else ())
            for n, (text, language, task, end) in enumerate(rows)
        ]
        write_corpus(utterances, corpus)
        try:
            filter_corpus(corpus, out, Rules(**rules))
        except RecipeError as error:
            assert error.what == "no utterance is left"
            assert not out.exists()
            return
        dropped = listed(f"{out}.dropped.tsv")
        kept = read_corpus(out)
    assert sorted([*(row.id for row in kept), *dropped]) == [row.id for row in utterances]
    broken = {key: {part.partition(":")[0] for part in reason.split("; ")} for key, reason in dropped.items()}
    assert all(names and names <= rules.keys() for names in broken.values())
    # By hand: durations, and repetitions among what no other rule drops.
    for row in utterances:
        names = broken.get(row.id, set())
        assert ("min_duration" in names) == (row.end < rules.get("min_duration", 0))
        assert ("max_duration" in names) == (row.end > rules.get("max_duration", 30))
    repetitions = {"max_repeats", "near_duplicates"}
    for row in utterances:
        if broken.get(row.id) and broken[row.id] <= repetitions:
            assert any((row.language, row.task) == (other.language, other.task) for other in kept if other.text)
    if "max_repeats" in rules:
        same = Counter((row.language, row.task, row.text) for row in kept if row.text)
        assert max(same.values(), default=0) <= rules["max_repeats"]


def test_the_order_of_a_list_changes_nothing(make_corpus, tmp_path):
    rows = read_corpus(make_corpus(*[(text, "en", 2.0) for text in ["yes", "Yes.", "no", "yes!", "no"]]))
    for name, order in (("one", rows), ("two", rows[::-1])):
        write_corpus(order, tmp_path / f"{name}.jsonl")
        filter_corpus(tmp_path / f"{name}.jsonl", tmp_path / f"{name}.out.jsonl", Rules(max_repeats=1))
    found = [listed(tmp_path / f"{name}.out.jsonl.dropped.tsv") for name in ("one", "two")]
    assert found[0] == found[1]
    assert found[0].keys() == {"u1", "u3", "u4"}


def test_recorded_speech_by_the_command_line(shared_data, tmp_path, capsys):
    corpus, out = str(shared_data / "aishell_multitask"), str(tmp_path / "out")
    options = ["--rules.min_duration", "2", "--rules.machine_text", "true", "--rules.near_duplicates", "0.5"]
    assert main(["filter", corpus, "--out", out, *options, "--rules.min_script_share", "0.5"]) == 0
    assert "20 utterances read = 16 kept + 4 dropped" in capsys.readouterr().out
    assert {key.partition("|")[0] for key in listed(f"{out}/dropped.tsv")} == {"BAC009S0150W0005", "BAC009S0150W0006"}
    validate(out)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({}, "no rule is given"),
        ({"min_language_probability": 0.9}, "no rule is given"),
        ({"min_duration": 100.0}, "no utterance is left; loosen the rules"),
        ({"min_duration": 3.0, "max_duration": 2.0}, "rules.max_duration: invalid value 2.0; must be at least 3"),
        ({"min_duration": float("nan")}, "rules.min_duration: invalid value nan"),
        ({"max_repeats": 0}, "rules.max_repeats: invalid value 0"),
        ({"near_duplicates": 1.5}, "rules.near_duplicates: invalid value 1.5"),
        ({"min_script_share": 0.0}, "rules.min_script_share: invalid value 0.0"),
    ],
)
def test_useless_rules_are_one_error(make_corpus, tmp_path, rules, message):
    with pytest.raises(RecipeError, match=message):
        filter_corpus(make_corpus(("a", "en", 1.0)), tmp_path / "out", Rules(**rules))
    assert not (tmp_path / "out").exists()


def test_a_corpus_is_not_written_over_itself(make_corpus, tmp_path):
    corpus = make_corpus(("a", "en", 1.0), ("b", "en", 2.0))
    with pytest.raises(RecipeError, match="is also the input and would be overwritten"):
        filter_corpus(corpus, tmp_path / "out/../corpus", Rules(min_duration=1.5))
    assert len(read_corpus(corpus)) == 2


def test_a_duration_of_nothing_is_one_error(make_data_dir, tmp_path):
    corpus = make_data_dir(utt2dur="a 0\nb 2\n")
    with pytest.raises(RecipeError, match=f"{corpus}/wav.scp:1: a lasts 0 s"):
        filter_corpus(corpus, tmp_path / "out", Rules(max_chars_per_second=20.0))
