"""The table of several runs, and the paired test of their differences."""

import csv
import json

import pytest

from tests.scoring.conftest import HYPOTHESES, write_cuts
from whisper_recipe.cli import main
from whisper_recipe.files import write_json


def test_comparison_lines_up_runs_as_results_tables_do(tmp_path, cuts, score, capsys):
    assert score(cuts) == 0
    assert main(["compare", str(tmp_path / "exp"), "--out", str(tmp_path / "RESULTS.md")]) == 0
    written = (tmp_path / "RESULTS.md").read_text()
    assert written.strip() in capsys.readouterr().out
    assert "20.00 (0.00, 0.00, 20.00)" in written
    assert "zh→en translate WER" in written
    assert "22.22 (11.11, 5.56, 5.56), mean 25.83" in written  # (0 + 1/6 + 1/5 + 2/3) / 4
    assert "RTF: processing time / audio time, smaller is faster" in written
    assert "Normalizer: whisper." in written
    bleu = json.loads((tmp_path / "exp/metrics.json").read_text())["groups"]["zh→en translate"]["bleu"]
    assert f"| {bleu:.2f} / " in written


def test_runs_are_named_by_path_or_label(tmp_path, cuts, score, capsys, monkeypatch):
    assert score(cuts) == 0
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


def test_missing_and_foreign_metrics_are_told(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "none")]) == 1
    assert "run whisper-recipe score first (stage 7)" in capsys.readouterr().err
    write_json(tmp_path / "exp/metrics.json", {})
    assert main(["compare", str(tmp_path / "exp")]) == 1
    assert "metrics.json: no set and groups in it" in capsys.readouterr().err


def test_canaries_of_the_training_have_columns(tmp_path, cuts, score, capsys):
    for name, canaries in (("stock", None), ("tuned", {"en": {"before": 0.041, "after": 0.0523}})):
        assert score(cuts, run=name) == 0
        write_json(tmp_path / name / "decode.json", {"model": str(tmp_path / f"{name}_model"), "rtf": 0.1})
        if canaries:
            write_json(tmp_path / f"{name}_model/whisper_recipe.json", {"canaries": canaries})
    capsys.readouterr()
    assert main(["compare", f"stock={tmp_path / 'stock'}", f"tuned={tmp_path / 'tuned'}"]) == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    column = rows[2].index("canary en")
    assert [row[column] for row in rows[4:6]] == ["–", "4.10 → 5.23"]


@pytest.fixture
def systems(tmp_path, score):
    """Two systems on 40 utterances of four words: one is wrong in every fourth word, the other in half of those."""
    rows = [{"id": f"utt{n:02d}", "text": "set the kitchen light", "language": "en"} for n in range(40)]
    cuts = write_cuts(tmp_path / "cuts_forty.jsonl", rows)
    assert score(cuts, {row["id"]: "set a kitchen light" for row in rows}, run="one") == 0
    right = "set the kitchen light"
    better = {row["id"]: right if n % 2 else "set a kitchen light" for n, row in enumerate(rows)}
    assert score(cuts, better, run="two") == 0
    return cuts, [f"one={tmp_path / 'one'}", f"two={tmp_path / 'two'}"]


def differences(printed):
    """The cells of the table of differences: row -> group -> cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    start = next(number for number, cells in enumerate(lines) if cells[0].startswith("minus "))
    return {row[0]: dict(zip(lines[start][1:], row[1:], strict=True)) for row in lines[start + 2 :]}


def test_differences_to_the_first_run_have_interval_and_p(systems, capsys):
    capsys.readouterr()
    assert main(["compare", *systems[1]]) == 0
    printed = capsys.readouterr().out
    cell = differences(printed)["two"]["en transcribe"]
    difference, low, high, p = (float(part.strip("[],p=")) for part in cell.split())
    assert difference == -12.5
    # Each draw has 40 utterances, binomially many of the better half: 12.5 -+ 1.96 * 25 * sqrt(0.25 / 40)
    assert (low, high) == (pytest.approx(-16.4, abs=1), pytest.approx(-8.6, abs=1))
    assert p < 0.01
    assert "paired bootstrap" in printed


def test_a_run_does_not_differ_from_itself(systems, tmp_path, capsys):
    capsys.readouterr()
    assert main(["compare", f"one={tmp_path / 'one'}", f"again={tmp_path / 'one'}"]) == 0
    assert differences(capsys.readouterr().out)["again"]["en transcribe"] == "+0.00 [+0.00, +0.00] p=1.000"


def test_what_can_not_be_paired_is_told_and_not_tested(systems, tmp_path, score, capsys):
    cuts, runs = systems
    hypotheses = {f"utt{n:02d}": "set a kitchen light" for n in range(40)}
    assert score(cuts, hypotheses, "--normalizer", "basic", run="basic") == 0
    row = {"id": "utt00", "text": "set the kitchen light", "language": "en"}
    assert score(write_cuts(tmp_path / "cuts_forty.jsonl", [row]), {"utt00": "set"}, run="fewer") == 0
    row = {**row, "text": "set the light"}
    (tmp_path / "changed").mkdir()
    changed = [json.loads(line) for line in (tmp_path / "one/utterances.jsonl").read_text().splitlines()]
    changed[0]["total"] = 3
    (tmp_path / "changed/utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    (tmp_path / "old").mkdir()
    for name in ("changed", "old"):
        (tmp_path / name / "metrics.json").write_bytes((tmp_path / "one/metrics.json").read_bytes())
    capsys.readouterr()
    others = [f"{name}={tmp_path / name}" for name in ("basic", "fewer", "changed", "old")]
    assert main(["compare", runs[0], *others]) == 0
    printed = capsys.readouterr().out
    assert "basic is not tested against one: their normalizers differ." in printed
    assert "fewer is not tested against one: 39 utterances are in only one of them." in printed
    assert "changed is not tested against one: their references differ." in printed
    assert "old is not tested against one: one has no utterances.jsonl" in printed
    assert "minus one" not in printed


def test_damaged_counts_are_named_by_line(systems, tmp_path, capsys):
    with (tmp_path / "two/utterances.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    assert main(["compare", *systems[1]]) == 1
    assert "two/utterances.jsonl:41: invalid utterance counts" in capsys.readouterr().err


def test_runs_of_different_sets_have_a_table_each(tmp_path, cuts, score, capsys):
    assert score(cuts, run="one") == 0
    other = cuts.rename(tmp_path / "cuts_other.jsonl.gz")
    assert score(other, HYPOTHESES, run="two") == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    printed = capsys.readouterr().out
    assert "## test\n" in printed
    assert "## other\n" in printed
    assert "minus" not in printed


def test_several_sets_stand_side_by_side_a_row_a_system(tmp_path, score, capsys):
    """Four words in each set: none wrong, one, two and four."""
    right = "set the kitchen light"
    hypotheses = {
        "exp/base/decode_net_transformers": "set a kitchen lamp",
        "exp/base/decode_meeting_transformers": "",
        "exp/full/decode_net_transformers": right,
        "exp/full/decode_meeting_transformers": "set a kitchen light",
    }
    for run, text in hypotheses.items():
        name = run.split("_")[1]
        cuts = write_cuts(tmp_path / f"cuts_{name}.jsonl", [{"id": "utt", "text": right, "language": "en"}])
        assert score(cuts, {"utt": text}, run=run) == 0
    capsys.readouterr()
    assert main(["compare", *(str(tmp_path / run) for run in hypotheses)]) == 0
    table = capsys.readouterr().out.partition("## all sets\n\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["system", "net WER", "meeting WER"]
    assert rows[2:] == [["base transformers", "50.00", "100.00"], ["full transformers", "0.00", "25.00"]]


def test_one_set_has_no_table_of_sets(tmp_path, cuts, score, capsys):
    assert score(cuts) == 0
    assert main(["compare", str(tmp_path / "exp")]) == 0
    assert "## all sets" not in capsys.readouterr().out


def test_the_suffix_says_whether_latex_or_csv_is_written(systems, tmp_path):
    assert main(["compare", *systems[1], "--out", str(tmp_path / "table.tex")]) == 0
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines.count(r"\toprule") == 2  # the rates and the differences
    assert any(line.split(" & ")[0].strip() == "two" and "12.50 (0.00, 0.00, 12.50)" in line for line in lines)
    outside, inside = [], False
    for line in lines:
        inside |= line.startswith(r"\begin")
        if line and not inside:
            outside.append(line)
        inside &= not line.startswith(r"\end")
    assert outside and all(line.startswith("% ") for line in outside)  # all else is a comment
    assert main(["compare", *systems[1], "--out", str(tmp_path / "table.csv")]) == 0
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {(row["run"], row["group"]): row for row in csv.DictReader(file)}
    assert float(rows["two", "all"]["error_rate"]) == 0.125
    assert float(rows["one", "en transcribe"]["substitutions"]) == 40
    assert float(rows["two", "all"]["low"]) < 0.125 < float(rows["two", "all"]["high"])


def test_a_report_of_several_sets_or_of_older_scores_is_refused_in_one_line(systems, tmp_path, score, capsys):
    page = tmp_path / "report.html"
    other = write_cuts(tmp_path / "cuts_other.jsonl", [{"id": "utt00", "text": "set", "language": "en"}])
    assert score(other, {"utt00": "set"}, run="other") == 0
    assert main(["compare", systems[1][0], str(tmp_path / "other"), "--report", str(page)]) == 1
    assert "the runs are of 2 sets (forty, other)" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "two/utterances.jsonl").read_text().splitlines()]
    (tmp_path / "two/utterances.jsonl").write_text(
        "".join(f"{json.dumps({**r, 'reference_units': 'x'})}\n" for r in rows)
    )
    assert main(["compare", *systems[1], "--report", str(page)]) == 1
    assert "the references of utt00 differ after normalization" in capsys.readouterr().err
    for row in rows:
        del row["alignment"]
    (tmp_path / "two/utterances.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["compare", *systems[1], "--report", str(page)]) == 1
    assert "two/utterances.jsonl: no alignments in it" in capsys.readouterr().err
    assert not page.exists()
