"""What report.html holds, read without a browser; tests/report looks at it in one."""

import json
import re
from html.parser import HTMLParser

import pytest

from tests.scoring.conftest import write_cuts
from whisper_recipe.cli import main
from whisper_recipe.files import write_jsonl
from whisper_recipe.report.page import Page, write_page
from whisper_recipe.scoring.report import learning_curves, unit_times


class Parsed(HTMLParser):
    """A page as a browser sees it: its text, its scripts, and what is not as it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.text, self.wrong, self.scripts = [], [], [], []
        self.feed(source)
        self.wrong += self.open  # never closed

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)
        self.wrong += [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data):
        {"script": self.scripts, "style": []}.get(self.open[-1] if self.open else "", self.text).append(data)


@pytest.fixture
def page(tmp_path, cuts, score):
    assert score(cuts) == 0
    return (tmp_path / "exp/report.html").read_text()


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(page):
    assert not Parsed(page).wrong
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "url(" not in page


def test_rates_stand_in_the_page_itself_for_mail_programs(page):
    text = " ".join(Parsed(page).text)
    for wanted in ("zh→en translate", "16.67", "95 % interval", "BLEU", "Normalizer: whisper"):
        assert wanted in text


def test_the_data_are_texts_alignments_and_breakdowns(page):
    data = json.loads(Parsed(page).scripts[0])
    found = {row["id"]: row for row in data["utterances"]}
    assert (found["a"]["reference"], found["a"]["written"]) == ("turn on the light", "Turn on the light.")
    assert found["b"]["results"][0]["alignment"] == "=4d1=1"
    assert found["c"]["results"][0]["alignment"] == "i1=3i1"
    assert found["b|translate"]["text_language"] == "en"
    assert data["utterances"][0]["id"] == "c"  # two errors
    languages = next(one for one in data["breakdowns"] if one["name"] == "language")
    assert {part["part"]: part["systems"][0]["rate"] for part in languages["parts"]}["en"] == 0


def test_texts_and_ids_can_not_become_markup(tmp_path, score):
    bad = "<script>alert('&amp;')</script>"
    row = {"id": f"a{bad}", "text": f"{bad} b", "language": "en", "speaker": f"s{bad}", "duration": 1}
    rows = [row, {**row, "id": f"b{bad}", "speaker": f"t{bad}"}]
    heard = dict.fromkeys((row["id"] for row in rows), f"c {bad * 5}")
    assert score(write_cuts(tmp_path / f"cuts_{bad.replace('/', '')}.jsonl", rows), heard, "--normalizer", "none") == 0
    found = Parsed((tmp_path / "exp/report.html").read_text())
    assert not found.wrong
    assert len(found.scripts) == 2  # the data and the package's own
    assert json.loads(found.scripts[0])["utterances"][0]["written"] == f"{bad} b"


def test_times_of_words_are_those_of_the_units_they_become():
    words = [
        {"word": " Twenty", "start": 0.0, "end": 0.4, "probability": 0.9},
        {"word": "-five", "start": 0.4, "end": 0.8, "probability": 0.8},
        {"word": " lights.", "start": 1.0, "end": 1.5},
    ]
    found = unit_times(["25", "lights"], words, [["20"], ["5"], ["lights"]])
    assert found == [None, [1.0, 1.5, None]]


def test_learning_curves_come_from_the_run(tmp_path):
    lines = ["step,loss,eval_loss,learning_rate,grad_norm,epoch,eval_canary_nl,eval_error_rate,eval_wer_cs"]
    lines += ["0,,,,,,0.125,,", "10,2.5,,1e-4,1,0.1,,,", "15,nan,,1e-4,nan,0.1,,,"]
    lines += ["20,1.5,1.75,1e-4,1,0.2,0.5,0.25,0.25"]
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    losses, rates = learning_curves("lora", tmp_path)
    assert losses["series"][0] == {"name": "training", "points": [[10, 2.5], [20, 1.5]]}
    assert losses["series"][1] == {"name": "dev set", "points": [[20, 1.75]]}
    assert rates["series"] == [
        {"name": "WER cs", "points": [[20, 25]]},
        {"name": "canary nl", "points": [[0, 12.5], [20, 50]]},
    ]
    assert "Step 0 is the base model" in rates["note"]
    lines = [line + end for line, end in zip(lines, (",eval_cer_zh_translate", "", "", "", ",0.75"), strict=True)]
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    names = [one["name"] for one in learning_curves("lora", tmp_path)[1]["series"]]
    assert names == ["mean of WER and CER", "WER cs", "CER zh translate", "canary nl"]
    assert learning_curves("none", tmp_path / "none") == []


@pytest.mark.parametrize(
    "words", ["x", ["x"], [{"word": 1}], [{"word": "x", "start": "0"}], [{"word": "x", "end": 1e999}]]
)
def test_words_that_are_none_are_named_by_line(tmp_path, cuts, capsys, words):
    rows = [{"id": "a", "text": "turn"}, {"id": "c", "text": "x", "words": words}]
    write_jsonl(tmp_path / "exp/hyp.jsonl", rows)
    assert main(["score", str(tmp_path / "exp"), "--ref", str(cuts)]) == 1
    assert "hyp.jsonl:2: malformed words" in capsys.readouterr().err


def test_numbers_that_json_lacks_become_null(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, Page("title", [], [], {"utterances": [{"id": "a", "duration": float("nan"), "text": "NaN"}]}))
    assert json.loads(Parsed(path.read_text()).scripts[0])["utterances"] == [
        {"id": "a", "duration": None, "text": "NaN"}
    ]
