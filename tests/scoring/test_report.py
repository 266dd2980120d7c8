"""report.html: whole, safe to open, and with what it promises."""

from html.parser import HTMLParser

import pytest

from tests.scoring.conftest import HYPOTHESES, write_cuts


class Page(HTMLParser):
    """A page as a browser sees it: its text, and what is not as it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.text, self.wrong, self.tags = [], [], [], []
        self.feed(source)
        self.wrong += self.open  # never closed

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.wrong += [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture
def page(tmp_path, cuts, score):
    assert score(cuts) == 0
    return (tmp_path / "exp/report.html").read_text()


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(page):
    found = Page(page)
    assert not found.wrong
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "http" not in page
    assert "url(" not in page


def test_alignments_show_what_was_deleted_inserted_and_replaced(page):
    assert "打开厨房<del>的</del>灯" in page
    assert "<ins>ah</ins> enciende la luz <ins>sí</ins>" in page
    assert 'turn on the kitchen <span class="substitute"><del>light</del>→fan</span>' in page


def test_tables_have_rates_intervals_and_frequent_errors(page):
    text = " ".join(Page(page).text)
    for wanted in ("zh→en translate", "16.67", "95 % interval", "substitutions (1)", "BLEU", "By language"):
        assert wanted in text


def test_texts_and_ids_can_not_become_markup(tmp_path, score):
    bad = "<script>alert('&amp;')</script>"
    row = {"id": f"a{bad}", "text": f"{bad} b", "language": "en", "speaker": f"s{bad}", "duration": 1}
    rows = [row, {**row, "id": f"b{bad}", "speaker": f"t{bad}"}]
    heard = dict.fromkeys((row["id"] for row in rows), f"c {bad * 5}")
    assert score(write_cuts(tmp_path / f"cuts_{bad.replace('/', '')}.jsonl", rows), heard, "--normalizer", "none") == 0
    found = Page((tmp_path / "exp/report.html").read_text())
    assert not found.wrong
    assert "script" not in found.tags
    assert f"a{bad}" in found.text
    assert f"t{bad}" in found.text


def test_long_lists_are_cut_and_say_so(tmp_path, score):
    rows = [{"id": f"utt{n:02d}", "text": "one", "language": "en", "speaker": f"speaker{n}"} for n in range(60)]
    heard = {row["id"]: "" if number else HYPOTHESES["a"] for number, row in enumerate(rows)}
    assert score(write_cuts(tmp_path / "cuts_long.jsonl", rows), heard) == 0
    text = " ".join(Page((tmp_path / "exp/report.html").read_text()).text)
    assert "The 30 worst of 60; metrics.json has all." in text
    assert "50 of 60 with errors" in text
