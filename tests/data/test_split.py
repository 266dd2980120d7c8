"""Parts of corpora: disjoint, complete, the same for the same seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_recipe.data.corpus import read_corpus, write_corpus
from whisper_recipe.data.split import KEYS, assign, combine, parse_shares, split, subset
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError


def utterance(number, speaker="s", duration=1.0, **more):
    fields = {"recording": f"r{number}", "audio": f"/x/r{number}.wav", "text": "x", "language": "en"}
    return Utterance(f"u{number:03d}", **{**fields, "task": "transcribe", **more}, speaker=speaker, duration=duration)


CORPORA = st.lists(st.tuples(st.integers(0, 9), st.floats(0.1, 30)), min_size=10, max_size=60).map(
    lambda rows: [utterance(number, f"s{speaker}", seconds) for number, (speaker, seconds) in enumerate(rows)]
)


@given(CORPORA, st.integers(0, 3), st.randoms())
def test_parts_are_disjoint_complete_and_do_not_depend_on_the_order(rows, seed, random):
    shares = {"train": 0.8, "dev": 0.1, "test": 0.1}
    if len({row.speaker for row in rows}) < 3:
        return
    parts = assign(rows, shares, KEYS["speaker"], seed, "here")
    assert sorted(row.id for part in parts.values() for row in part) == [row.id for row in rows]
    speakers = [{row.speaker for row in part} for part in parts.values()]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    shuffled = random.sample(rows, len(rows))
    again = assign(shuffled, shares, KEYS["speaker"], seed, "here")
    assert {name: {row.id for row in part} for name, part in parts.items()} == {
        name: {row.id for row in part} for name, part in again.items()
    }


def test_shares_are_of_hours():
    rows = [utterance(number, f"s{number}", 10.0 if number < 50 else 1.0) for number in range(550)]
    parts = assign(rows, {"train": 0.7, "dev": 0.1, "test": 0.2}, KEYS["speaker"], 0, "here")
    hours = {name: sum(row.duration for row in part) / 1000 for name, part in parts.items()}
    assert hours == pytest.approx({"train": 0.7, "dev": 0.1, "test": 0.2}, abs=0.011)


def test_other_seeds_give_other_parts():
    rows = [utterance(number, f"s{number}") for number in range(40)]
    parts = [assign(rows, {"a": 0.5, "b": 0.5}, KEYS["speaker"], seed, "here")["a"] for seed in range(3)]
    assert len({frozenset(row.id for row in part) for part in parts}) == 3


def test_the_rows_of_an_utterances_tasks_stay_together():
    rows = [
        utterance(number, recording=f"r{number // 2}", audio=f"/x/r{number // 2}.wav", task=task)
        for number, task in zip(range(40), ["transcribe", "translate"] * 20, strict=True)
    ]
    for part in assign(rows, {"a": 0.5, "b": 0.5}, KEYS["utterance"], 0, "here").values():
        recordings = [row.recording for row in part]
        assert all(recordings.count(recording) == 2 for recording in recordings)


@pytest.fixture
def corpus(make_data_dir, tmp_path):
    """Eight utterances by four speakers in a Kaldi directory; they share two files."""
    (first, second) = read_corpus(make_data_dir())
    rows = []
    for number in range(8):
        source = first if number % 2 else second
        fields = {"recording": f"r{number}", "audio": source.audio, "speaker": f"s{number // 2}"}
        rows.append(Utterance(f"u{number}", text="x", language="en", task="transcribe", **fields))
    write_corpus(rows, tmp_path / "corpus")
    return tmp_path / "corpus"


def ids(path):
    return {row.id for row in read_corpus(path)}


def test_split_writes_corpora_that_validate(corpus, tmp_path, capsys):
    split(corpus, tmp_path / "out", parts=["train=0.5", "dev=0.25", "test=0.25"])
    assert [len(ids(tmp_path / "out" / name)) for name in ("train", "dev", "test")] == [4, 2, 2]
    assert capsys.readouterr().out.splitlines()[2].split() == ["train", "4", "2", "0.00"]
    for name in ("train", "dev", "test"):
        validate(tmp_path / "out" / name)


def test_equal_parts_of_a_list(corpus, tmp_path):
    write_corpus(read_corpus(corpus), tmp_path / "list.jsonl")
    split(tmp_path / "list.jsonl", tmp_path / "out", num_parts=4, by="recording")
    parts = [ids(tmp_path / "out" / f"{number}.jsonl") for number in range(1, 5)]
    assert all(parts)
    assert sum(map(len, parts)) == 8
    assert set.union(*parts) == ids(corpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_parts": 5}, "4 groups can't fill 5 parts"),
        ({"parts": ["train"]}, "'train' is not name=share"),
        ({"parts": ["train=0.9", "test=0.2"]}, "are not shares of one whole"),
        ({"parts": ["a=0.5", "a=0.5"]}, "are not shares of one whole"),
        ({"parts": ["../a=0.5"]}, "is not name=share"),
    ],
)
def test_impossible_parts_are_one_error(corpus, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        split(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_speakers_there_is_nothing_to_keep_apart(make_data_dir, tmp_path):
    with pytest.raises(RecipeError, match="names no speakers; write it, or split --by recording"):
        split(make_data_dir(utt2spk=None), tmp_path / "out", num_parts=2)


def test_shares_are_read():
    assert parse_shares(["train=0.9", "test=0.1"]) == {"train": 0.9, "test": 0.1}


def test_subsets(corpus, tmp_path, capsys):
    subset(corpus, tmp_path / "three", utterances=3)
    assert len(ids(tmp_path / "three")) == 3
    assert "8 utterances = 3 written + 5 left out" in capsys.readouterr().out
    subset(corpus, tmp_path / "again", utterances=3)
    assert ids(tmp_path / "again") == ids(tmp_path / "three")
    subset(corpus, tmp_path / "more", utterances=5)
    assert ids(tmp_path / "three") < ids(tmp_path / "more")
    subset(corpus, tmp_path / "shortest", utterances=4, shortest=True)
    assert ids(tmp_path / "shortest") == {"u1", "u3", "u5", "u7"}  # of the file of one second
    subset(corpus, tmp_path / "hours", hours=5 / 3600)
    assert sum(1 + (row.id[1] in "0246") for row in read_corpus(tmp_path / "hours")) <= 5
    (tmp_path / "ids").write_text("u2 and more\nu5\n")
    subset(corpus, tmp_path / "named", ids=tmp_path / "ids")
    assert ids(tmp_path / "named") == {"u2", "u5"}
    subset(corpus, tmp_path / "spoken", speakers=["s0", "s3"])
    assert ids(tmp_path / "spoken") == {"u0", "u1", "u6", "u7"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "0 of utterances, hours, ids and speakers"),
        ({"utterances": 1, "hours": 1.0}, "2 of utterances"),
        ({"utterances": 9}, "9 of 8 utterances"),
        ({"hours": 0.0001}, "no utterance is as short"),
        ({"speakers": ["s0", "anna"]}, "1 of 2 are not in the corpus, anna first"),
    ],
)
def test_impossible_subsets_are_one_error(corpus, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        subset(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_combined_parts_are_the_whole_again(corpus, tmp_path):
    split(corpus, tmp_path / "out", parts=["a=0.5", "b=0.5"])
    combine([tmp_path / "out" / "a", tmp_path / "out" / "b"], tmp_path / "whole")
    for table in ("text", "wav.scp", "utt2spk", "utt2lang", "utt2task"):
        assert (tmp_path / "whole" / table).read_bytes() == (corpus / table).read_bytes()


def test_the_same_names_in_two_corpora(corpus, make_data_dir, tmp_path):
    with pytest.raises(RecipeError, match=r"text:1: id u0 is in .*text:1 too; rename one, or combine with --prefix"):
        combine([corpus, corpus], tmp_path / "out")
    other = make_data_dir(
        "other", wav="r1 wav/a.wav\n", text="z x\n", segments="z r1 0 1\n", utt2lang="z en\n", utt2spk=None
    )
    segments = make_data_dir(
        "third", wav="r1 wav/b.wav\n", text="y x\n", segments="y r1 0 1\n", utt2lang="y en\n", utt2spk=None
    )
    with pytest.raises(RecipeError, match="recording r1 is in"):
        combine([other, segments], tmp_path / "out")
    combine([other, segments, corpus], tmp_path / "out", prefix=True)
    assert {"other-z", "third-y", "corpus-u0"} < ids(tmp_path / "out")
    validate(tmp_path / "out")
