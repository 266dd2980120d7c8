"""JSON lists in and out, against hand-written lists and Kaldi directories."""

from __future__ import annotations

import json

import pytest

from whisper_recipe.data.corpus import convert, read_corpus, scan_corpus, write_corpus
from whisper_recipe.data.utterance import Segment
from whisper_recipe.errors import RecipeError


@pytest.fixture
def wav(make_data_dir):
    """An audio file of two seconds."""
    return make_data_dir() / "wav" / "b.wav"


def write(tmp_path, *rows, name="list.jsonl"):
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(path, **options):
    """{(line, kind)} of what is wrong with a list."""
    return {(int(found.where.rpartition(":")[2]), found.kind) for found in scan_corpus(path, **options).problems}


def test_the_form_with_times_and_sentences(tmp_path, wav):
    sentences = [{"start": 0.0, "end": 0.6, "text": "hello"}, {"start": 0.6, "end": 1.0, "text": "there"}]
    row = {
        "audio": {"path": str(wav), "start_time": 0.5, "end_time": 1.5},
        "sentence": "hello there",
        "sentences": sentences,
        "language": "English",
        "duration": 1.0,
    }
    (utterance,) = read_corpus(write(tmp_path, row))
    assert (utterance.start, utterance.end, utterance.duration) == (0.5, 1.5, 1.0)
    assert (utterance.text, utterance.language, utterance.task) == ("hello there", "en", "transcribe")
    assert utterance.segments == (Segment(0.0, 0.6, "hello"), Segment(0.6, 1.0, "there"))
    assert (utterance.id, utterance.recording) == ("b-0000050-0000150", "b")


def test_the_short_form_with_a_language_for_all(tmp_path, wav):
    path = write(tmp_path, {"audio_path": "train/wav/b.wav", "text": "你好"})
    assert problems(path) == {(1, "no language")}
    (utterance,) = read_corpus(path, language="Chinese")
    assert (utterance.id, utterance.audio, utterance.text, utterance.language) == ("b", str(wav), "你好", "zh")


def test_an_array_and_lines_are_the_same(tmp_path, wav):
    rows = [{"id": key, "audio": str(wav), "sentence": key, "language": "en"} for key in "xyz"]
    array = tmp_path / "array.json"
    array.write_text(json.dumps(rows, indent=2))
    assert [u.id for u in read_corpus(array)] == [u.id for u in read_corpus(write(tmp_path, *rows))] == ["x", "y", "z"]
    assert [utterance.row for utterance in read_corpus(array)] == [f"{array}:{line}" for line in (2, 8, 14)]


def test_nothing_said_is_an_example_and_no_text_is_a_problem(tmp_path, wav):
    silent = {"audio_path": str(wav), "sentence": "", "sentences": [], "language": "en"}
    (utterance,) = read_corpus(write(tmp_path, silent))
    assert (utterance.text, utterance.segments) == ("", ())
    assert problems(write(tmp_path, {**silent, "sentences": None})) == {(1, "empty text")}


def test_files_of_one_name_in_two_folders_are_two_recordings(tmp_path):
    rows = [{"audio_path": f"{folder}/x.wav", "text": "a", "language": "en"} for folder in ("one", "two", "one")]
    utterances = read_corpus(write(tmp_path, *rows))
    assert [utterance.recording for utterance in utterances] == ["x", "x-2", "x"]
    assert len({utterance.id for utterance in utterances}) == 3


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("{", "not JSON"),
        ("7", "malformed row"),
        ({"sentence": "x"}, "missing audio"),
        ({"audio": {"path": 3}, "sentence": "x"}, "malformed row"),
        ({"audio": "a\nb.wav", "sentence": "x"}, "missing audio"),
        ({"audio": "touch pwned |", "sentence": "x"}, "pipe"),
        ({"audio": "a.wav", "sentence": "x", "duration": "long"}, "malformed number"),
        ({"audio": "a.wav", "sentence": "x", "duration": float("nan")}, "malformed number"),
        ({"audio": {"path": "a.wav", "start_time": 2, "end_time": 1}, "sentence": "x"}, "malformed segment"),
        ({"audio": "a.wav", "sentence": "x", "language": "englsh"}, "unknown language"),
        ({"audio": "a.wav", "sentence": "x", "task": "sing"}, "unknown task"),
        ({"audio": "a.wav", "sentence": "\ud800"}, "not UTF-8"),
        ({"id": "first", "audio": "a.wav", "sentence": "x"}, "duplicate id"),
    ],
)
def test_a_faulty_row_is_told_by_its_line_and_costs_itself_alone(tmp_path, row, kind):
    path = write(tmp_path, {"id": "first", "audio": "a.wav", "sentence": "x"}, row)
    assert problems(path, language="en") == {(2, kind)}
    scan = scan_corpus(path, language="en")
    assert [utterance.id for utterance in scan.sound()] == ["first"]
    assert list(scan.lost) == [f"{path}:2"]


def test_a_damaged_array_is_read_up_to_the_damage(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[{"audio": "a.wav", "text": "x", "language": "en"},\n{"audio": ')
    assert problems(path) == {(2, "not JSON")}
    assert len(scan_corpus(path).sound()) == 1


@pytest.mark.parametrize("content", ["", "[]", "\n\n"])
def test_an_empty_list(tmp_path, content):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match="empty split"):
        read_corpus(path)


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"utt2dur": "a 1\nb 2\n", "utt2task": "a translate\nb transcribe\n"},
        {"wav": "r wav/b.wav\n", "segments": "a r 0.25 0.75\nb r 1 -1\n"},
        {"text": "a\nb two\n", "utt2segments": 'a []\nb [{"start": 0.5, "end": 1.0, "text": "two"}]\n'},
        {
            "text": "x|zh|transcribe 设定\nx|zh|translate Set it\n",
            "wav": "x|zh|transcribe wav/a.wav\nx|zh|translate wav/a.wav\n",
            "utt2lang": None,
            "utt2spk": "x anna\n",
        },
    ],
)
def test_a_kaldi_directory_comes_back_from_a_list(make_data_dir, tmp_path, tables, form):
    """First written by ourselves, with all tables and absolute paths: then the bytes must be equal."""
    write_corpus(read_corpus(make_data_dir(**tables)), tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / f"list.{form}")
    convert(tmp_path / f"list.{form}", tmp_path / "again")
    plain, again = ({path.name: path.read_text() for path in (tmp_path / f).iterdir()} for f in ("plain", "again"))
    assert plain == again
    assert len(plain) >= 5


def test_what_is_written_is_the_form_that_is_documented(make_data_dir, tmp_path):
    folder = make_data_dir(wav="r wav/b.wav\n", segments="a r 0.25 0.75\nb r 1 -1\n", utt2dur="b 1\n")
    convert(folder, tmp_path / "list.json")
    first, second = json.loads((tmp_path / "list.json").read_text())
    audio = {"path": f"{folder}/wav/b.wav", "recording": "r"}
    assert first == {
        "id": "a",
        "audio": {**audio, "start_time": 0.25, "end_time": 0.75},
        "sentence": "hello there",
        "language": "en",
        "task": "transcribe",
        "speaker": "anna",
    }
    assert second["audio"] == {**audio, "start_time": 1.0}
    assert second["duration"] == 1.0


def test_ids_are_of_the_file_where_its_folder_has_a_colon_in_its_name(tmp_path):
    names = ["2024-01-01T10:30:00/first.wav", "2024-01-01T10:30:00/second.wav", "a:1/x.ark:17"]
    rows = [{"audio": name, "sentence": "hello", "language": "en"} for name in names]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.id for row in scan_corpus(tmp_path / "list.jsonl").utterances] == ["first", "second", "x"]
