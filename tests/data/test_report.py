"""The page of a corpus: levels and extremes against hand-made audio."""

import json
import re

import numpy as np
import pytest
import soundfile

from tests.data.conftest import tone
from whisper_recipe.cli import main


def data_of(path):
    """Return the data in a page, and its text outside of it."""
    source = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    return json.loads(found[1]), source.replace(found[0], "")


@pytest.fixture
def strange(make_data_dir):
    """Thirty usual utterances of 1 s, and a quiet, a clipped, a long and a fast one, and one that is missing."""
    keys = [f"u{number:02d}" for number in range(30)] + ["clipped", "fast", "gone", "long", "quiet"]
    folder = make_data_dir(
        text="".join(f"{key} {'hello there ' * (9 if key == 'fast' else 1)}\n" for key in sorted(keys)),
        wav="".join(f"{key} wav/{key}.wav\n" for key in sorted(keys)),
        utt2lang="".join(f"{key} en\n" for key in sorted(keys)),
        utt2spk=None,
    )
    for key in keys:
        samples = tone(9.0 if key == "long" else 1.0)
        samples = {"quiet": samples / 100, "clipped": np.clip(4 * samples, -1, 1)}.get(key, samples)
        if key != "gone":
            soundfile.write(folder / "wav" / f"{key}.wav", samples, 16000)
    return folder


def test_strange_utterances_are_listed_with_sound_and_problems_first(strange, tmp_path, capsys):
    assert main(["validate", str(strange), "--report", str(tmp_path / "page.html")]) == 1
    assert "1 problem" in capsys.readouterr().err
    data, rest = data_of(tmp_path / "page.html")
    rows = {row["id"]: row for row in data["utterances"]}
    assert data["utterances"][0]["id"] == "gone"
    assert rows["gone"]["problems"][0] == "missing audio"
    first = {
        kind: next(row["id"] for row in data["utterances"] if kind in row["problems"])
        for kind in ("fastest", "longest")
    }
    assert first == {"fastest": "fast", "longest": "long"}
    # One of each of six kinds by turns: 25 of 34 are among the quietest, but only one is the very first.
    assert "quiet" in [row["id"] for row in data["utterances"]][:7]
    assert "quietest" in rows["quiet"]["problems"]
    assert [row["id"] for row in rows.values() if "most clipped" in row["problems"]] == ["clipped"]
    # A sine of half of full scale has a level of -9.03 dB; a hundredth of it 40 dB less.
    assert rows["quiet"]["measures"]["level"] == pytest.approx(-49.03, abs=0.1)
    assert rows["long"]["measures"]["level"] == pytest.approx(-9.03, abs=0.1)
    assert rows["clipped"]["measures"]["clipped"] == pytest.approx(100 * 2 / 3, abs=1)  # |2 sin x| > 1 for two thirds
    assert rows["fast"]["measures"]["rate"] == 90  # letters
    assert all("clip" in row for row in rows.values() if row["id"] != "gone")
    assert "35 utterances" in rest
    assert [sum(bar["counts"][0] for bar in one["ranges"]) for one in data["histograms"]] == [35, 34, 34]


def test_stats_write_the_page_of_cuts(corpus, tmp_path):
    assert main(["stats", str(corpus), "--report", str(tmp_path / "page.html"), "--audio", "none"]) == 0
    data, rest = data_of(tmp_path / "page.html")
    assert len(data["utterances"]) == 12
    assert not any("clip" in row for row in data["utterances"])
    assert data["utterances"][0]["measures"]["level"] == pytest.approx(-20, abs=1)  # noise of 0.1
    assert "hh:mm:ss" in rest
