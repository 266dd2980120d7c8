"""The table of stats, against counts by hand."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from whisper_recipe.data.stats import stats
from whisper_recipe.errors import RecipeError


def write_cuts(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for duration, language, task, text in rows:
            supervision = {"id": "x", "text": text, "language": language, "custom": {"task": task}}
            file.write(json.dumps({"id": "x", "duration": duration, "supervisions": [supervision]}) + "\n")
    return path


def tables(capsys):
    """Return the rows that were printed, {(language, task): {column: value}} over both tables."""
    found = {}
    for table in capsys.readouterr().out.strip().split("\n\n"):
        header, rule, *rows = table.splitlines()
        columns = [match.span() for match in re.finditer("-+", rule)]
        cells = [[line[start:end].strip() for start, end in columns] for line in (header, *rows)]
        for row in cells[1:]:
            found.setdefault(tuple(row[:2]), {}).update(zip(cells[0][2:], row[2:], strict=True))
    return found


def test_durations(tmp_path, capsys):
    rows = [(float(seconds), "en", "transcribe", "ab") for seconds in range(1, 102)]
    stats([write_cuts(tmp_path / "cuts.jsonl.gz", rows)])
    row = tables(capsys)["en", "transcribe"]
    # 1 + 2 + ... + 101 = 5151 s; percentile p of 1..101 is 1 + p; the variance of 1..n is (n² - 1) / 12.
    assert (row["count"], row["hh:mm:ss"], row["mean"], row["std"]) == ("101", "01:25:51", "51.00", "29.15")
    assert (row["min"], row["25%"], row["50%"], row["75%"]) == ("1.00", "26.00", "51.00", "76.00")
    assert (row["99%"], row["99.5%"], row["99.9%"], row["max"]) == ("100.00", "100.50", "100.90", "101.00")


def test_a_row_for_each_language_and_task_over_all_manifests(tmp_path, capsys):
    first = write_cuts(tmp_path / "a.jsonl.gz", [(1.0, "zh", "translate", "abcd"), (2.0, "en", "transcribe", "abcd")])
    second = write_cuts(tmp_path / "b.jsonl.gz", [(3.0, "zh", "transcribe", "一二三"), (4.0, "zh", "translate", "a")])
    stats([first, second])
    rows = tables(capsys)
    counts = {key: (row["count"], row["hh:mm:ss"]) for key, row in rows.items()}
    assert counts == {
        ("en", "transcribe"): ("1", "00:00:02"),
        ("zh", "transcribe"): ("1", "00:00:03"),
        ("zh", "translate"): ("2", "00:00:05"),
        ("all", "all"): ("4", "00:00:10"),
    }
    assert rows["zh", "transcribe"]["chars/s 50%"] == "1.0"
    assert rows["en", "transcribe"]["chars/s 50%"] == "2.0"


def test_texts_without_punctuation_and_capitals_show(tmp_path, capsys):
    english = ["Hello, you.", "it's well-known", "ALL CAPITALS", ""]
    chinese = ["你好。", "你好"]
    rows = [(1.0, "en", "transcribe", text) for text in english] + [(1.0, "zh", "transcribe", text) for text in chinese]
    stats([write_cuts(tmp_path / "cuts.jsonl.gz", rows)])
    found = tables(capsys)
    assert found["en", "transcribe"]["with punctuation"] == "25.0%"  # apostrophes and hyphens belong to words
    assert found["en", "transcribe"]["with capitals"] == "66.7%"  # of the three that have letters
    assert found["en", "transcribe"]["empty text"] == "1"
    assert found["zh", "transcribe"]["with punctuation"] == "50.0%"
    assert found["zh", "transcribe"]["with capitals"] == "-"


def test_histogram(tmp_path, capsys):
    cuts = write_cuts(tmp_path / "cuts.jsonl.gz", [(1.0, "en", "transcribe", "ab"), (2.0, "zh", "transcribe", "ab")])
    stats([cuts], plot=tmp_path / "plots" / "durations.png")
    assert (tmp_path / "plots" / "durations.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["durations.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x"}, "not a cut .KeyError: 'supervisions'"),
        ({"id": "x", "duration": 1.0, "supervisions": []}, "cut x has no supervision"),
        ({"id": "x", "duration": 1.0, "supervisions": [{"language": "en"}]}, "cut x has no text"),
        (
            {"id": "x", "duration": 0, "supervisions": [{"language": "en", "text": "x"}]},
            "duration of cut x must be positive, got 0",
        ),
        (
            {"id": "x", "supervisions": [{"language": "en", "text": "x"}]},
            "duration of cut x must be positive, got None",
        ),
    ],
)
def test_a_row_that_is_no_cut_is_an_error_with_its_line(tmp_path, row, message):
    path = write_cuts(tmp_path / "cuts.jsonl", [])
    good = {"id": "x", "duration": 1.0, "supervisions": [{"language": "en", "text": "x"}]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(RecipeError, match=f"cuts.jsonl:2: {message}"):
        stats([path])


def test_an_empty_manifest_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="cuts.jsonl.gz: contains no cuts"):
        stats([write_cuts(tmp_path / "cuts.jsonl.gz", [])])


def test_tokens_per_second_are_the_tokenizers(tmp_path, capsys, tiny_model):
    from transformers import AutoTokenizer

    text = "turn on the light"
    tokens = len(AutoTokenizer.from_pretrained(tiny_model)(text, add_special_tokens=False).input_ids)
    cuts = write_cuts(tmp_path / "cuts.jsonl.gz", [(0.5, "en", "transcribe", text)])
    stats([cuts], tokenizer=str(tiny_model))
    assert float(tables(capsys)["en", "transcribe"]["tokens/s 50%"]) == pytest.approx(2 * tokens)
    stats([cuts])
    assert "tokens/s" not in capsys.readouterr().out
    with pytest.raises(RecipeError, match="/nowhere: no such model folder"):
        stats([cuts], tokenizer="/nowhere")


def test_tokens_of_a_script_that_the_tokenizer_has_not_learned(tmp_path, capsys, tiny_model):
    rows = [
        (1.0, "en", "transcribe", "turn on"),
        (1.0, "mdw", "transcribe", "ωω"),
        (9.0, "mdw", "transcribe", "ω" * 300),
    ]
    out = tmp_path / "stats.txt"
    stats([write_cuts(tmp_path / "cuts.jsonl.gz", rows)], tokenizer=str(tiny_model), out=out)
    _, texts = out.read_text(encoding="utf-8").split("\n\n")
    header, _, english, mboshi, every = (re.split(r"\s{2,}", line) for line in texts.splitlines())
    columns = [header.index(name) for name in ("tokens/char", "lone bytes")]
    # ω has two bytes, of which the tiny tokenizer knows no pair. " turn" and " on" it has seen, and learned.
    assert [mboshi[column] for column in columns] == ["2.00", "100.0%"]
    assert english[columns[1]] == "0.0%"
    assert every[columns[1]] == f"{604 / 611:.1%}"
    printed = capsys.readouterr().out
    assert "mdw, transcribe: 1 texts have over 448 tokens, Whisper's limit; cut them into shorter pieces" in printed
    assert "--add_tokens" in printed
    assert "mdw is not among Whisper's languages: for train and decode --new_languages.mdw CODE" in printed
