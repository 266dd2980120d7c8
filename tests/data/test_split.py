"""Parts of corpora: disjoint, complete, the same for the same seed."""

from __future__ import annotations

import itertools
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_recipe.data.corpus import read_corpus, write_corpus
from whisper_recipe.data.split import assign, combine, parse_shares, split, subset
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
    parts = assign(rows, shares, "speaker", seed, "here")
    assert sorted(row.id for part in parts.values() for row in part) == [row.id for row in rows]
    speakers = [{row.speaker for row in part} for part in parts.values()]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    shuffled = random.sample(rows, len(rows))
    again = assign(shuffled, shares, "speaker", seed, "here")
    assert {name: {row.id for row in part} for name, part in parts.items()} == {
        name: {row.id for row in part} for name, part in again.items()
    }


def test_shares_are_of_hours():
    rows = [utterance(number, f"s{number}", 10.0 if number < 50 else 1.0) for number in range(550)]
    parts = assign(rows, {"train": 0.7, "dev": 0.1, "test": 0.2}, "speaker", 0, "here")
    hours = {name: sum(row.duration for row in part) / 1000 for name, part in parts.items()}
    assert hours == pytest.approx({"train": 0.7, "dev": 0.1, "test": 0.2}, abs=0.011)


@pytest.mark.parametrize("hours", [(50, 30, 10, 5, 3, 2), (5, 1, 1, 1, 1, 1), (9, 8, 7, 3, 2), (70, 20, 10)])
def test_shares_are_as_near_as_whole_speakers_allow(hours):
    shares = {"train": 0.8, "dev": 0.1, "test": 0.1}

    def away(parts):
        return sum(abs(sum(parts[name]) - share * sum(hours)) for name, share in shares.items())

    ways = itertools.product(shares, repeat=len(hours))
    nearest = min(
        away({name: [length for length, part in zip(hours, way, strict=True) if part == name] for name in shares})
        for way in ways
        if len(set(way)) == len(shares)
    )
    rows = [utterance(number, f"s{number}", 3600.0 * length) for number, length in enumerate(hours)]
    parts = assign(rows, shares, "speaker", 0, "here")
    assert away({name: [row.duration / 3600 for row in rows] for name, rows in parts.items()}) == pytest.approx(nearest)


def test_other_seeds_give_other_parts():
    rows = [utterance(number, f"s{number}") for number in range(40)]
    parts = [assign(rows, {"a": 0.5, "b": 0.5}, "speaker", seed, "here")["a"] for seed in range(3)]
    assert len({frozenset(row.id for row in part) for part in parts}) == 3


@pytest.mark.parametrize("by", ["speaker", "recording", "utterance"])
def test_the_rows_of_an_utterances_tasks_stay_together_whatever_their_names(by):
    rows = [
        utterance(number, f"s{number}", recording=f"r{number}", audio=f"/x/r{number // 2}.wav", task=task)
        for number, task in zip(range(40), ["transcribe", "translate"] * 20, strict=True)
    ]
    for part in assign(rows, {"a": 0.5, "b": 0.5}, by, 0, "here").values():
        audio = [row.audio for row in part]
        assert all(audio.count(path) == 2 for path in audio)


@pytest.mark.parametrize(("by", "apart"), [("recording", False), ("utterance", True)])
def test_segments_of_a_recording_stay_together_by_recording(by, apart):
    rows = [
        utterance(number, recording=f"r{number // 10}", audio=f"/x/r{number // 10}.wav", start=number, end=number + 1.0)
        for number in range(40)
    ]
    parts = assign(rows, {"a": 0.5, "b": 0.5}, by, 0, "here").values()
    first, second = ({row.recording for row in part} for part in parts)
    assert bool(first & second) == apart


@pytest.fixture
def corpus(make_data_dir, tmp_path):
    """Eight utterances by four speakers in a Kaldi directory: u0, u2, u4 and u6 last 2 s, the others 1 s."""
    sources = sorted((make_data_dir() / "wav").iterdir(), reverse=True)
    rows = []
    for number in range(8):
        audio = tmp_path / f"{number}.wav"
        shutil.copy(sources[number % 2], audio)
        fields = {"recording": f"r{number}", "audio": str(audio), "speaker": f"s{number // 2}"}
        rows.append(Utterance(f"u{number}", text="x", language="en", task="transcribe", **fields))
    write_corpus(rows, tmp_path / "corpus")
    return tmp_path / "corpus"


def ids(path):
    return {row.id for row in read_corpus(path)}


def test_split_writes_corpora_that_validate(corpus, tmp_path, capsys):
    split(corpus, tmp_path / "out", parts=["train=0.5", "dev=0.25", "test=0.25"])
    assert [len(ids(tmp_path / "out" / name)) for name in ("train", "dev", "test")] == [4, 2, 2]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "4", "2", "0.002", "50.0"] in lines
    assert ["all", "8", "4", "0.003", "100.0"] in lines
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
        ({"num_parts": 5}, "corpus: 4 speakers can't fill 5 parts"),
        ({"num_parts": 0}, "num_parts: must be at least 1, got 0"),
        ({"num_parts": 2, "parts": ["a=0.5", "b=0.5"]}, "num_parts: can't be combined with parts"),
        ({"parts": ["train"]}, "'train' is not name=share"),
        ({"parts": ["train=nan"]}, "'train=nan' is not name=share"),
        ({"parts": ["train=0.5", "test=0.2"]}, "shares must sum to 1"),
        ({"parts": ["train=0.9", "test=0.2"]}, "shares must sum to 1"),
        ({"parts": ["a=0.5", "a=0.5"]}, "names must be unique"),
        ({"parts": ["../a=0.5"]}, "is not name=share"),
        ({"parts": ["..=1"]}, "is not name=share"),
    ],
)
def test_impossible_parts_are_one_error(corpus, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        split(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_without_speakers_there_is_nothing_to_keep_apart(make_data_dir, tmp_path):
    with pytest.raises(RecipeError, match="it has no speakers; write utt2spk, or split --by recording"):
        split(make_data_dir(utt2spk=None), tmp_path / "out", num_parts=2)


def test_utterances_without_a_speaker_are_counted(make_data_dir, tmp_path, capsys):
    split(make_data_dir(utt2spk="a anna\n"), tmp_path / "out", num_parts=2)
    assert "1 of 2 utterances have no speaker; each counts as a separate speaker" in capsys.readouterr().out


def test_a_corpus_is_not_written_over(corpus):
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    with pytest.raises(RecipeError, match="it would overwrite the corpus"):
        split(corpus, corpus.parent, parts=["corpus=0.5", "rest=0.5"])
    with pytest.raises(RecipeError, match="it would overwrite the corpus"):
        subset(corpus, corpus, utterances=1)
    with pytest.raises(RecipeError, match="it would overwrite the corpus"):
        combine([corpus], corpus.parent / "." / "corpus")
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before


def test_parts_do_not_depend_on_where_the_corpus_stands():
    here = [utterance(number) for number in range(20)]
    there = [utterance(number, audio=f"/elsewhere/{number}.wav") for number in range(20)]
    parts = [assign(rows, {"a": 0.5, "b": 0.5}, "recording", 0, "here")["a"] for rows in (here, there)]
    assert {row.id for row in parts[0]} == {row.id for row in parts[1]}


def test_pipes_are_run_where_they_are_allowed(make_data_dir, tmp_path):
    folder = make_data_dir(wav="a cat {0}/a.wav |\nb cat {0}/b.wav |\n".format(tmp_path / "train" / "wav"))
    with pytest.raises(RecipeError, match="--allow-pipes"):
        split(folder, tmp_path / "out", num_parts=2)
    split(folder, tmp_path / "out", num_parts=2, allow_pipes=True)
    durations = {row.id: row.duration for part in "12" for row in read_corpus(tmp_path / "out" / part, True)}
    assert durations == {"a": 1.0, "b": 2.0}


def test_shares_are_read():
    assert parse_shares(["train=0.9", "test=0.1"]) == {"train": 0.9, "test": 0.1}
    assert parse_shares(["a=0.333", "b=0.333", "c=0.333"]) == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


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
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbfu2 and more\r\nu5\n")
    subset(corpus, tmp_path / "named", ids=tmp_path / "ids")
    assert ids(tmp_path / "named") == {"u2", "u5"}
    subset(corpus, tmp_path / "spoken", speakers=["s0", "s3"])
    assert ids(tmp_path / "spoken") == {"u0", "u1", "u6", "u7"}
    (tmp_path / "speakers").write_text("s3\n")
    subset(corpus, tmp_path / "listed", speakers=[str(tmp_path / "speakers")])
    assert ids(tmp_path / "listed") == {"u6", "u7"}


def test_an_id_means_all_rows_of_its_tasks(make_data_dir, tmp_path):
    rows = "a|en|transcribe {0}\na|en|translate {0}\nb|en|translate {0}\n"
    folder = make_data_dir(wav=rows.format("wav/a.wav"), text=rows.format("x"), utt2lang=None, utt2spk=None)
    (tmp_path / "ids").write_text("a\n")
    subset(folder, tmp_path / "out", ids=tmp_path / "ids")
    assert ids(tmp_path / "out") == {"a|en|transcribe", "a|en|translate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs exactly one of utterances, hours, ids and speakers, got 0"),
        ({"utterances": 1, "hours": 1.0}, "got 2"),
        ({"utterances": 9}, "9 of 8 utterances"),
        ({"hours": 0.0001}, "can't select 0.0001 hours: the first utterance lasts"),
        ({"hours": -1.0}, "can't select -1 hours"),
        ({"hours": 2.0}, "can't select 2 of 0.003 hours"),
        ({"hours": float("nan")}, "can't select nan hours"),
        ({"speakers": ["s0", "anna", "bai"]}, "2 of 3 are not in the corpus: anna, bai; "),
        ({"speakers": ["s0"], "shortest": True}, "it only applies to utterances or hours"),
    ],
)
def test_impossible_subsets_are_one_error(corpus, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        subset(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"u1\nu\xff\n", "can't be read"), (b"\n", "no names in it"), (b"u1 a\nx b\n", "corpus: x;")],
)
def test_files_of_ids_that_can_not_be_meant_are_one_error(corpus, tmp_path, content, message):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        subset(corpus, tmp_path / "out", ids=tmp_path / "ids")
    with pytest.raises(RecipeError, match="can't be read"):
        subset(corpus, tmp_path / "out", ids=tmp_path)


def test_combined_parts_are_the_whole_again(corpus, tmp_path):
    split(corpus, tmp_path / "out", parts=["a=0.5", "b=0.5"])
    combine([tmp_path / "out" / "a", tmp_path / "out" / "b"], tmp_path / "whole")
    for table in ("text", "wav.scp", "utt2spk", "utt2lang", "utt2task"):
        assert (tmp_path / "whole" / table).read_bytes() == (corpus / table).read_bytes()


def test_the_same_names_in_two_corpora(corpus, make_data_dir, tmp_path):
    with pytest.raises(RecipeError, match=r"text:1: id u0 is also in .*text:1; rename one, or combine with --prefix"):
        combine([corpus, corpus], tmp_path / "out")
    other = make_data_dir(
        "other", wav="r1 wav/a.wav\n", text="z x\n", segments="z r1 0 1\n", utt2lang="z en\n", utt2spk=None
    )
    segments = make_data_dir(
        "third", wav="r1 wav/b.wav\n", text="y x\n", segments="y r1 0 1\n", utt2lang="y en\n", utt2spk=None
    )
    with pytest.raises(RecipeError, match="recording r1 is also in"):
        combine([other, segments], tmp_path / "out")
    with pytest.raises(RecipeError, match="id other-z is also in .*; use corpora with different names"):
        combine([other, other], tmp_path / "out", prefix=True)
    combine([other, segments, corpus], tmp_path / "out", prefix=True)
    assert {"other-z", "third-y", "corpus-u0"} < ids(tmp_path / "out")
    validate(tmp_path / "out")
