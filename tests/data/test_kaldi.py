"""Kaldi data directories in and out, against hand-written tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from whisper_recipe.data.corpus import read_corpus
from whisper_recipe.data.kaldi import scan_data_dir, write_data_dir
from whisper_recipe.errors import RecipeError

TASKS = (
    "x|chinese|transcribe 设定\nx|chinese|translate Set it\n",
    "x|chinese|transcribe wav/a.wav\nx|chinese|translate wav/a.wav\n",
)


def contents(utterances):
    """Everything but where it was read."""
    return [
        dataclasses.astuple(dataclasses.replace(utterance, row="", where="", audio_where=""))
        for utterance in utterances
    ]


def test_plain_ids(make_data_dir):
    folder = make_data_dir(utt2dur="b 2.0\n", utt2task="b translate\n")
    first, second = read_corpus(folder)
    assert (first.id, first.recording, first.text, first.language) == ("a", "a", "hello there", "en")
    assert (first.task, first.speaker, first.start, first.end, first.duration) == ("transcribe", "anna", 0, None, None)
    assert first.audio == f"{folder}/wav/a.wav"
    assert (second.text, second.language, second.task, second.duration) == ("你好", "zh", "translate", 2.0)


def test_translate_rows_share_audio_with_transcribe_rows(make_data_dir):
    text, wav = TASKS
    folder = make_data_dir(text=text, wav=wav, utt2lang=None, utt2spk=None)
    transcribe, translate = read_corpus(folder)
    assert (transcribe.id, transcribe.task, transcribe.text) == ("x|chinese|transcribe", "transcribe", "设定")
    assert (translate.id, translate.task, translate.text) == ("x|chinese|translate", "translate", "Set it")
    assert transcribe.language == translate.language == "zh"
    assert transcribe.recording == translate.recording == transcribe.speaker == "x"


def test_the_key_wins_over_the_tables(make_data_dir):
    text, wav = TASKS
    tables = {"utt2lang": "x|chinese|transcribe fr\nx fr\n", "utt2task": "x translate\n", "utt2spk": "x anna\n"}
    transcribe, translate = read_corpus(make_data_dir(text=text, wav=wav, **tables))
    assert (transcribe.language, transcribe.task, translate.task) == ("zh", "transcribe", "translate")
    assert transcribe.speaker == translate.speaker == "anna"  # tables may have the id that the tasks share


def test_rows_with_the_same_id_but_other_audio_keep_their_own_recordings(make_data_dir):
    folder = make_data_dir(
        text="x|de|transcribe eins\nx|en|transcribe one\n",
        wav="x|de|transcribe wav/a.wav\nx|en|transcribe wav/b.wav\n",
        utt2lang=None,
        utt2spk=None,
    )
    german, english = read_corpus(folder)
    assert german.recording != english.recording
    assert (german.audio, english.audio) == (f"{folder}/wav/a.wav", f"{folder}/wav/b.wav")


def test_segments(make_data_dir):
    folder = make_data_dir(
        wav="r wav/b.wav\n",
        text="u1 one\nu2 two\n",
        segments="u1 r 0.25 0.75\nu2 r 1.0 -1\n",
        utt2lang="u1 en\nu2 en\n",
        utt2spk=None,
    )
    first, second = read_corpus(folder)
    assert (first.recording, first.start, first.end, first.speaker) == ("r", 0.25, 0.75, "u1")
    assert (second.start, second.end) == (1.0, None)  # -1 is the end of the recording, as in Kaldi
    assert first.audio == second.audio == f"{folder}/wav/b.wav"


def test_paths_relative_to_the_directory_or_to_the_current_one_or_absolute(make_data_dir, monkeypatch):
    folder = make_data_dir(wav="a wav/a.wav\nb train/wav/b.wav\n")
    monkeypatch.chdir(folder.parent)
    assert [Path(u.audio).resolve().name for u in read_corpus("train")] == ["a.wav", "b.wav"]
    (folder / "wav.scp").write_text(f"a {folder}/wav/a.wav\nb {folder}/wav/b.wav\n")
    assert all(Path(utterance.audio).is_file() for utterance in read_corpus("train"))


def test_text_keeps_its_inner_spaces_and_tabs_separate_too(make_data_dir):
    folder = make_data_dir(text="a\thello\tthere  friend\nb \u3000你好　世界\n")
    assert [utterance.text for utterance in read_corpus(folder)] == ["hello\tthere  friend", "\u3000你好　世界"]


@pytest.mark.parametrize(
    ("tables", "where", "what"),
    [
        ({"text": None}, "text", "missing file"),
        ({"wav": None}, "wav.scp", "missing file"),
        ({"utt2lang": None}, "utt2lang", "missing file"),
        ({"text": ""}, "text", "empty split"),
        ({"wav": "\n"}, "wav.scp", "empty file"),
        ({"text": b"a \xff\xfe\nb x\n"}, "text:1", "not UTF-8"),
        ({"text": "\ufeffa x\nb x\n"}, "text:1", "byte order mark"),
        ({"text": "a x\r\nb x\r\n"}, "text:1", "CRLF"),
        ({"text": "a x\nb x\nb y\n"}, "text:3", "duplicate id: b is already on line 2"),
        ({"text": "a\nb x\n"}, "text:1", "empty text: a"),
        ({"text": "a x\n"}, "utt2spk:2", "id not in text: b"),
        ({"wav": "a wav/a.wav\n"}, "text:2", "id not in wav.scp: b"),
        ({"utt2lang": "a en\n"}, "text:2", "id not in utt2lang: b"),
        ({"utt2lang": "a en\nb chines\n"}, "utt2lang:2", "unknown language.*chinese"),
        ({"utt2task": "a transscribe\n"}, "utt2task:1", "unknown task"),
        ({"utt2dur": "a 1.0\nb two\n"}, "utt2dur:2", "malformed number: 'two'"),
        ({"utt2dur": "a nan\n"}, "utt2dur:1", "malformed number: 'nan'"),
        ({"wav": "a touch pwned |\nb wav/b.wav\n"}, "wav.scp:1", "pipe"),
        ({"wav": "a\nb wav/b.wav\n"}, "wav.scp:1", "missing audio"),
        ({"segments": "a r 0 1\nb b 0 1\n"}, "segments:1", "id not in wav.scp: r"),
        ({"segments": "a a 0 1\n"}, "text:2", "id not in segments: b"),
        ({"segments": "a a 0 1\nb b 1 1\n"}, "segments:2", "malformed segment"),
        ({"segments": "a a -0.5 1\nb b 0 1\n"}, "segments:1", "malformed segment"),
        ({"segments": "a a 0 1\nb b 1\n"}, "segments:2", "malformed segment"),
        ({"segments": "a a 0 inf\nb b 0 1\n"}, "segments:1", "malformed number: 'inf'"),
        ({"segments": "a a 0 1\nb a 0 1\n"}, "wav.scp:2", "id not in segments: b"),
        ({"text": "a|zh x\nb x\n", "wav": "a|zh wav/a.wav\nb wav/b.wav\n"}, "text:1", "malformed key"),
        ({"text": "a|zz|transcribe x\nb x\n", "wav": "a|zz|transcribe wav/a.wav\nb wav/b.wav\n"}, "text:1", "'zz'"),
    ],
)
def test_each_fault_is_an_error_with_its_line(make_data_dir, tables, where, what):
    folder = make_data_dir(**tables)
    with pytest.raises(RecipeError, match=f"^{folder}/{where}: .*{what}") as error:
        read_corpus(folder)
    assert "\n" not in str(error.value)


def test_no_such_directory(tmp_path):
    with pytest.raises(RecipeError, match="no such file or directory"):
        read_corpus(tmp_path / "none")


def test_all_faults_are_found_in_one_pass_and_the_sound_utterances_are_read(make_data_dir):
    folder = make_data_dir(
        text="a one\nb two\nc three\n", utt2lang="a xx\nb zh\n", wav="a wav/a.wav\nb wav/b.wav\nd wav/b.wav\n"
    )
    scan = scan_data_dir(folder)
    assert [utterance.id for utterance in scan.sound()] == ["b"]
    assert [problem.where.removeprefix(f"{folder}/") for problem in scan.problems] == [
        "wav.scp:3",
        "text:3",
        "utt2lang:1",
        "text:3",
    ]
    rows = {f"{folder}/text:1": "a", f"{folder}/text:2": "b", f"{folder}/text:3": "c", f"{folder}/wav.scp:3": "d"}
    assert scan.rows == rows
    assert scan.lost.keys() == rows.keys() - {f"{folder}/text:2"}


def test_unsorted_ids_are_told_but_read(make_data_dir):
    folder = make_data_dir(text="b 你好\na hello there\n")
    assert {utterance.id for utterance in read_corpus(folder)} == {"a", "b"}
    assert [problem.where for problem in scan_data_dir(folder).problems] == [f"{folder}/text:2"]


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"utt2task": "b translate\n", "utt2dur": "a 1.0\nb 2.0625\n"},
        {"text": TASKS[0], "wav": TASKS[1], "utt2lang": None, "utt2spk": None},
        {"wav": "r wav/b.wav\n", "segments": "a r 0.25 0.75\nb r 1.0 -1\n"},
    ],
)
def test_round_trip(make_data_dir, tmp_path, tables):
    utterances = read_corpus(make_data_dir(**tables))
    assert write_data_dir(reversed(utterances), tmp_path / "again") == 2
    scan = scan_data_dir(tmp_path / "again")
    assert scan.problems == []
    assert contents(scan.utterances) == contents(utterances)


def test_written_tables_are_sorted_by_bytes_and_one_line_a_row(make_data_dir, tmp_path):
    utterance = read_corpus(make_data_dir())[0]
    rows = [dataclasses.replace(utterance, id=key, text="two\nlines") for key in ("é", "b", "B", "a")]
    write_data_dir(rows, tmp_path / "out")
    assert (tmp_path / "out" / "text").read_text(encoding="utf-8") == (
        "B two lines\na two lines\nb two lines\né two lines\n"
    )


def test_the_same_id_twice_is_not_written(make_data_dir, tmp_path):
    utterance = read_corpus(make_data_dir())[0]
    with pytest.raises(RecipeError, match="a: two utterances have the same id"):
        write_data_dir([utterance, utterance], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_recorded_multitask_directory(shared_data):
    utterances = read_corpus(shared_data / "aishell_multitask")
    assert len(utterances) == 20
    assert len({utterance.recording for utterance in utterances}) == 10
    assert {utterance.language for utterance in utterances} == {"zh"}
    texts = {utterance.id: utterance.text for utterance in utterances}
    assert texts["BAC009S0150W0001|chinese|transcribe"] == "设定二十九度"
    assert texts["BAC009S0150W0001|chinese|translate"] == "Set 29 degrees"
