"""Files that are complete or absent, and JSON lines, against what the file system and gzip say."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json, read_jsonl, require, write_json, write_jsonl


def test_a_file_stands_under_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as aside:
        aside.write_text("whole")
        assert aside.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(folder, replace_folder=True) as aside:
        aside.mkdir()
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["old"]
    with atomic_write(folder, replace_folder=True) as aside:
        aside.mkdir()
        (aside / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "folder"
    for text in ("one", "two"):
        with atomic_write(folder) as aside:
            aside.mkdir()
            (aside / "mine").write_text(text)
    assert (folder / "mine").read_text() == "two"
    (folder / "thesis").write_text("the user's")
    with pytest.raises(RecipeError, match=r"folder: contains other files \(thesis\)"), atomic_write(folder) as aside:
        aside.mkdir()
        (aside / "mine").write_text("three")
    assert sorted((path.name, path.read_text()) for path in folder.iterdir()) == [
        ("mine", "two"),
        ("thesis", "the user's"),
    ]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_json_lines_there_and_back(tmp_path, name):
    rows = [{"text": "你好\u2028 two\nlines"}, {"n": 1.5}]
    path = tmp_path / name
    assert write_jsonl(path, iter(rows)) == 2
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert [json.loads(line) for line in content.split(b"\n")[:-1]] == rows
    assert list(read_jsonl(path)) == [(1, rows[0]), (2, rows[1])]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write_jsonl(tmp_path / folder / "rows.jsonl.gz", [{"a": 1}])
    assert (tmp_path / "one/rows.jsonl.gz").read_bytes() == (tmp_path / "two/rows.jsonl.gz").read_bytes()


def test_rows_that_fail_midway_leave_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_jsonl(tmp_path / "rows.jsonl", ({"n": 1 / n} for n in (1, 0)))
    assert list(tmp_path.iterdir()) == []


ROWS = gzip.compress(b'{"a": 1}\n' * 99, mtime=0)  # 10 bytes of header, then the compressed data


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("x.jsonl", b'{"a": 1}\n\n{"a": \n', r"x.jsonl:3: not JSON", id="broken JSON"),
        pytest.param("x.jsonl", b'{"a": 1}\n[1]\n', r"x.jsonl:2: not a JSON object", id="a list"),
        pytest.param("x.jsonl", b'{"a": "\xff"}\n', r"x.jsonl:1: not UTF-8", id="not UTF-8"),
        pytest.param("x.jsonl.gz", b'{"a": 1}\n', r"x.jsonl.gz:1: can't be read", id="not gzip"),
        pytest.param("x.jsonl.gz", ROWS[:-12], r"x.jsonl.gz:\d+: can't be read", id="gzip cut off"),
        pytest.param("x.jsonl.gz", ROWS[:10] + b"\xff" * 40, r"x.jsonl.gz:1: can't be read", id="gzip damaged inside"),
    ],
)
def test_bad_json_lines_are_one_error_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        list(read_jsonl(tmp_path / name))


def test_one_json_object_there_and_back(tmp_path):
    write_json(tmp_path / "x.json", {"name": "é"})
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"name": "é"} == read_json(tmp_path / "x.json")


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"\xff"'])
def test_a_file_that_is_no_json_object_is_an_error(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RecipeError, match=r"x.json: not (JSON|a JSON object)"):
        read_json(tmp_path / "x.json")


def test_a_missing_file_is_an_error_with_its_cure(tmp_path):
    with pytest.raises(RecipeError, match="none: no such file or directory; run stage 1"):
        require(tmp_path / "none", "run stage 1")


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    code = (
        "import os, signal; from whisper_recipe.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'x.json')!r}) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert [path.name.partition(".partial.")[2] for path in tmp_path.iterdir()] == ["x.json"]
    (left,) = tmp_path.iterdir()
    running = tmp_path / left.name.replace(left.name[1:].partition("@")[0], str(os.getppid()))
    elsewhere = tmp_path / f"{left.name.partition('@')[0]}@elsewhere.partial.x.json"  # on a machine we can't look into
    for other in (running, elsewhere):
        other.write_text("half")
    write_json(tmp_path / "x.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", running.name, elsewhere.name}
