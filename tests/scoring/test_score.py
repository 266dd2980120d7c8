"""Scoring a decoded set: groups, files, and everything that can be wrong with the two lists."""

import json

import pytest

from whisper_recipe.cli import main
from whisper_recipe.files import write_json, write_jsonl

REFERENCES = [
    ("a", "Turn on the light.", "en", "transcribe"),
    ("b", "打開廚房的燈", "zh", "transcribe"),
    ("b|translate", "turn on the kitchen light", "zh", "translate"),
    ("c", "enciende la luz", "es", "transcribe"),
]
# a: right but for case and full stop; b: one character missing; translate: one word wrong; c: two words too many
HYPOTHESES = {
    "a": "turn on the light",
    "b": "打开厨房灯",
    "b|translate": "turn on the kitchen fan",
    "c": "ah enciende la luz sí",
}


@pytest.fixture
def cuts(tmp_path):
    path = tmp_path / "cuts_test.jsonl.gz"
    write_jsonl(
        path,
        (
            {"id": key, "supervisions": [{"text": text, "language": language, "custom": {"task": task}}]}
            for key, text, language, task in REFERENCES
        ),
    )
    return path


def score(tmp_path, cuts, hypotheses, *options):
    write_jsonl(tmp_path / "exp/hyp.jsonl", [{"id": key, "text": text} for key, text in hypotheses])
    return main(["score", str(tmp_path / "exp"), "--ref", str(cuts), *options])


def groups(tmp_path):
    return json.loads((tmp_path / "exp/metrics.json").read_text())["groups"]


def test_every_language_and_task_has_its_own_rate_and_unit(tmp_path, cuts, capsys):
    assert score(tmp_path, cuts, HYPOTHESES.items()) == 0
    found = {group: (values["unit"], values["error_rate"]) for group, values in groups(tmp_path).items()}
    assert found == {
        "en transcribe": ("WER", 0.0),
        "zh transcribe": ("CER", pytest.approx(1 / 6)),
        "zh→en translate": ("WER", pytest.approx(1 / 5)),
        "es transcribe": ("WER", pytest.approx(2 / 3)),
        "all": ("WER/CER", pytest.approx(4 / 18)),
    }
    assert "%WER 20.00 [ 1 / 5, 0 ins, 0 del, 1 sub ] zh→en translate" in (tmp_path / "exp/wer").read_text()
    assert "%CER 16.67 [ 1 / 6, 0 ins, 1 del, 0 sub ] zh transcribe" in (tmp_path / "exp/cer").read_text()
    assert "es transcribe" in capsys.readouterr().out
    assert (tmp_path / "exp/errors.txt").read_text().index("c (2 errors)") == 0


def test_without_a_normaliser_case_punctuation_and_script_count(tmp_path, cuts):
    assert score(tmp_path, cuts, HYPOTHESES.items(), "--normalizer", "none") == 0
    assert groups(tmp_path)["en transcribe"]["substitutions"] == 2
    assert groups(tmp_path)["zh transcribe"]["substitutions"] == 3
    assert json.loads((tmp_path / "exp/metrics.json").read_text())["normalizer"] == "none"


def test_missing_hypotheses_are_deletions_and_said(tmp_path, cuts, capsys):
    assert score(tmp_path, cuts, [("a", "turn on the light")]) == 0
    assert groups(tmp_path)["es transcribe"]["deletions"] == 3
    assert "3 utterances have no hypothesis and count as deletions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hypotheses", "message"),
    [
        ([("a", "x"), ("a", "y")], "hyp.jsonl:2: a is there twice"),
        ([("nobody", "x")], "hyp.jsonl:1: nobody has no reference"),
        ([("a", None)], "hyp.jsonl:1: no id and text"),
    ],
)
def test_wrong_hypotheses_are_named_by_line(tmp_path, cuts, capsys, hypotheses, message):
    assert score(tmp_path, cuts, hypotheses) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/metrics.json").exists()


def test_missing_inputs_say_which_command_makes_them(tmp_path, cuts, capsys):
    assert main(["score", str(tmp_path / "none"), "--ref", str(cuts)]) == 1
    assert "run whisper-recipe decode first (stage 7)" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none")]) == 1
    assert "run whisper-recipe score first (stage 7)" in capsys.readouterr().err


def test_comparison_lines_up_runs_as_results_tables_do(tmp_path, cuts, capsys):
    assert score(tmp_path, cuts, HYPOTHESES.items()) == 0
    assert main(["compare", str(tmp_path / "exp"), "--out", str(tmp_path / "RESULTS.md")]) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    assert written.strip() in capsys.readouterr().out
    assert "20.00 (0.00, 0.00, 20.00)" in written
    assert "zh→en translate WER" in written
    assert "RTF: processing time / audio time, smaller is faster" in written


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"text": None, "language": "en", "custom": {"task": "transcribe"}}, "cuts_bad.jsonl:1: no cut with"),
        ({"text": "x", "language": None, "custom": {"task": "transcribe"}}, "cuts_bad.jsonl:1: no cut with"),
        ({"text": "x", "language": "en", "custom": None}, "cuts_bad.jsonl:1: no cut with"),
        ({"text": "x", "language": "englsh", "custom": {"task": "transcribe"}}, "cuts_bad.jsonl:1: unknown language"),
        ({"text": "x", "language": "en", "custom": {"task": "Translate"}}, "cuts_bad.jsonl:1: unknown task"),
    ],
)
def test_wrong_references_are_named_by_line(tmp_path, capsys, cut, message):
    write_jsonl(tmp_path / "cuts_bad.jsonl", [{"id": "a", "supervisions": [cut]}])
    assert score(tmp_path, tmp_path / "cuts_bad.jsonl", [("a", "x")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("decoded", [{}, {"rtf": None}, {"rtf": 0.0}])
def test_a_decoding_without_rtf_is_an_error_in_one_line(tmp_path, cuts, capsys, decoded):
    write_json(tmp_path / "exp/decode.json", decoded)
    assert score(tmp_path, cuts, HYPOTHESES.items()) == 1
    assert "decode.json: no positive rtf in it" in capsys.readouterr().err


def test_runs_of_a_comparison_are_named_by_path_or_label(tmp_path, cuts, capsys, monkeypatch):
    assert score(tmp_path, cuts, HYPOTHESES.items()) == 0
    run = tmp_path / "exp"
    assert main(["compare", str(run), f"mine={run}"]) == 0
    rows = capsys.readouterr().out
    assert f"| {tmp_path.name} exp " in rows
    assert "| mine " in rows
    monkeypatch.chdir(run)
    assert main(["compare", "."]) == 0
    assert f"| {tmp_path.name} exp " in capsys.readouterr().out
    assert main(["compare", str(run), "."]) == 1
    assert "two runs are named" in capsys.readouterr().err


def test_a_comparison_tells_metrics_of_another_kind(tmp_path, capsys):
    write_json(tmp_path / "exp/metrics.json", {})
    assert main(["compare", str(tmp_path / "exp")]) == 1
    assert "metrics.json: no set and groups in it" in capsys.readouterr().err
