"""Calibration against counts made by hand, and against probabilities that are known to be wrong."""

import json

import numpy as np
import pytest

from tests.scoring.conftest import write_cuts
from whisper_recipe.cli import main
from whisper_recipe.decoding.confidence import calibrated, read_temperature
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_json, write_jsonl
from whisper_recipe.scoring.confidence import best_temperature, calibration_error, judged_words, reliability


def test_the_error_is_that_made_by_hand():
    probabilities, right = np.array([0.95, 0.91, 0.5, 0.55, 0.1]), np.array([True, False, True, True, False])
    bins = reliability(probabilities, right)
    assert bins == [
        [pytest.approx(0.1), 0, 1],
        [pytest.approx(0.525), 1, 2],
        [pytest.approx(0.93), 0.5, 2],
    ]
    assert calibration_error(bins) == pytest.approx((0.1 + 2 * 0.475 + 2 * 0.43) / 5)


@pytest.mark.parametrize("temperature", [0.5, 1, 2.5])
def test_the_temperature_that_made_probabilities_wrong_is_found(temperature):
    draw = np.random.default_rng(0)
    true = draw.uniform(0.02, 0.98, 20_000)
    right = draw.uniform(size=len(true)) < true
    odds = temperature * np.log(true / (1 - true))  # too sure by that much
    wrong = 1 / (1 + np.exp(-odds))
    assert best_temperature(wrong, right) == pytest.approx(temperature, rel=0.05)
    back = np.array([calibrated(one, temperature) for one in wrong[:100]])
    assert back == pytest.approx(true[:100], abs=1e-4)


def test_the_probabilities_stay_in_range():
    assert 0 < calibrated(0.0, 2.0) < 0.01
    assert 0.99 < calibrated(1.0, 2.0) < 1
    assert calibrated(0.5, 3.0) == 0.5


def test_words_are_right_where_the_alignment_says_so():
    words = [[0, 1, 0.9], None, [1, 2, 0.4], [2, 3, None], [3, 4, 0.2]]
    probabilities, right = judged_words([{"alignment": "=1d2=1s1i1=1", "words": words}, {"alignment": "=3"}])
    assert probabilities.tolist() == [0.9, 0.4, 0.2]
    assert right.tolist() == [True, False, True]


def test_score_writes_the_calibration_and_the_page_draws_it(tmp_path, capsys):
    rows = [{"id": f"utt{n}", "text": "set the light", "language": "en"} for n in range(40)]
    heard = []
    for number, row in enumerate(rows):
        texts = ["set", "the" if number % 2 else "a", "light"]
        heard.append({"id": row["id"], "text": " ".join(texts)})
        heard[-1]["words"] = [{"word": text, "probability": 0.9} for text in texts]
    write_jsonl(tmp_path / "exp/hyp.jsonl", heard)
    cuts = write_cuts(tmp_path / "cuts_forty.jsonl", rows)
    assert main(["score", str(tmp_path / "exp"), "--ref", str(cuts)]) == 0
    found = json.loads((tmp_path / "exp/metrics.json").read_text())["confidence"]
    assert (found["words"], found["share_right"]) == (120, pytest.approx(5 / 6))
    assert found["ece"] == pytest.approx(0.9 - 5 / 6)
    assert found["ece_calibrated"] < 0.01
    assert read_temperature(tmp_path / "exp/metrics.json") == found["temperature"] > 1
    assert "expected calibration error 6.67 %" in capsys.readouterr().out
    page = (tmp_path / "exp/report.html").read_text()
    chart = json.loads(page.partition('id="data">')[2].partition("</script>")[0])["lines"][0]
    assert [chart["title"], chart["series"][0]["points"]] == ["Word probabilities", found["bins"]]


@pytest.mark.parametrize("metrics", [{}, {"confidence": None}, {"confidence": {"temperature": 0}}])
def test_metrics_without_a_temperature_are_told(tmp_path, metrics):
    write_json(tmp_path / "metrics.json", metrics)
    with pytest.raises(RecipeError, match="no confidence temperature in it"):
        read_temperature(tmp_path / "metrics.json")
