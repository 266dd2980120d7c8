"""Manifests in parts and together again: the same bytes."""

import gzip
import json

import pytest

from whisper_recipe.cli import main
from whisper_recipe.files import read_jsonl, write_jsonl


def ids(path):
    return [row["id"] for _, row in read_jsonl(path)]


@pytest.mark.parametrize("count", [1, 5, 12])
def test_parts_together_are_the_manifest(corpus, tmp_path, count):
    assert main(["split", str(corpus), "--out", str(tmp_path), "--num_parts", str(count)]) == 0
    parts = sorted(tmp_path.iterdir())  # as the shell lists them
    assert [int(part.name.split(".")[1]) for part in parts] == list(range(1, count + 1))
    assert {len(ids(part)) for part in parts} <= {12 // count, -(-12 // count)}
    out = tmp_path / "all.jsonl.gz"
    assert main(["combine", *map(str, parts), "--out", str(out)]) == 0
    assert out.read_bytes() == corpus.read_bytes()


def test_names_and_texts_of_all_scripts_stay(tmp_path):
    rows = [{"id": "ü/1", "text": "三月 «» \\ \u2028"}, {"id": "b", "duration": 0.1 + 0.2}]
    write_jsonl(tmp_path / "a.jsonl.gz", rows)
    assert main(["split", str(tmp_path / "a.jsonl.gz"), "--out", str(tmp_path), "--num_parts", "2"]) == 0
    assert [row for number in "12" for _, row in read_jsonl(tmp_path / f"a.{number}.jsonl.gz")] == rows
    with gzip.open(tmp_path / "a.1.jsonl.gz", "rt", encoding="utf-8") as file:
        assert json.loads(file.read()) == rows[0]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["split", "CUTS", "--out", "OUT"], "12 lines can't be split into shares; give --num_parts, from 1 to 12"),
        (["split", "CUTS", "--out", "OUT", "--num_parts", "13"], "12 lines can't be split into 13 parts"),
        (["combine", "CUTS", "CUTS", "--out", "OUT/x.jsonl.gz"], ":1: id utt00 is also in "),
        (["combine", "CUTS", "data", "--out", "OUT/x.jsonl.gz"], "data: can't combine manifests with corpora"),
        (["combine", "CUTS", "--out", "OUT/x"], "x: can't combine manifests with corpora"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_leaves_nothing(corpus, tmp_path, capsys, command, message):
    words = [word.replace("CUTS", str(corpus)).replace("OUT", str(tmp_path / "out")) for word in command]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.gz"))
