"""The page of a scored set in a real browser: what it shows, how it is worked with, and what it withstands."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
import soundfile

from whisper_recipe.cli import main
from whisper_recipe.files import write_jsonl

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)><!--"


def write_set(folder, rows, systems, audio=True):
    """Write a manifest (with a tone of 300, 400 … Hz as sound) and the hypotheses of systems, and score them."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for number, row in enumerate(rows):
        custom = {"task": row.get("task", "transcribe")}
        supervision = {
            "text": row["text"],
            "language": row["language"],
            "speaker": row.get("speaker"),
            "custom": custom,
        }
        cut = {
            "id": row["id"],
            "start": 0,
            "channel": 0,
            "duration": row.get("duration", 1),
            "supervisions": [supervision],
        }
        if audio:
            path = folder / f"{number}.wav"
            seconds = np.arange(int(16000 * cut["duration"])) / 16000
            soundfile.write(path, 0.5 * np.sin(2 * np.pi * (300 + 100 * number) * seconds), 16000)
            cut["recording"] = {"sources": [{"type": "file", "channels": [0], "source": str(path)}]}
        cuts.append(cut)
    write_jsonl(folder / "cuts_test.jsonl", cuts)
    for name, hypotheses in systems.items():
        write_jsonl(folder / f"{name}/hyp.jsonl", hypotheses)
        assert main(["score", str(folder / name), "--ref", str(folder / "cuts_test.jsonl")]) == 0
    return folder


ROWS = [
    {"id": "right", "text": "Turn on the light.", "language": "en", "speaker": "ann", "duration": 1.5},
    {"id": "wrong", "text": "set the kitchen light", "language": "en", "speaker": "bob", "duration": 3},
    {"id": "left-out", "text": "打開廚房的燈", "language": "zh", "speaker": "cem", "duration": 6},
    {"id": "made up", "text": "yes", "language": "en", "speaker": "bob", "duration": 1},
]
CUT_OFF = "one => one.scrollWidth > one.clientWidth + 1"
WORDS = [("set", 0.2, 0.9), ("a", 1.0, 1.2), ("kitchen", 1.5, 2.0), ("light", 2.1, 2.6)]
HEARD = [
    {"id": "right", "text": "turn on the light"},
    {
        "id": "wrong",
        "text": "set a kitchen light",
        "words": [{"word": word, "start": start, "end": end, "probability": 0.3} for word, start, end in WORDS],
    },
    {"id": "left-out", "text": "打开厨房灯"},
    {"id": "made up", "text": "thank you thank you thank you thank you"},
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Decoded by a run that has learning curves: the canary nl rises from 20 to 60 %."""
    folder = tmp_path_factory.mktemp("small")
    curves = ["step,loss,eval_loss,eval_canary_nl,eval_error_rate,eval_wer_en"]
    curves += ["0,,,0.2,,", "10,2.5,,,,", "20,1.5,1.75,0.6,0.4,0.4"]
    (folder / "curves.csv").write_text("\n".join(curves) + "\n")
    return write_set(folder, ROWS, {"one": HEARD}) / "one/report.html"


def eventually(page, condition):
    """Wait until a condition holds; Playwright's own wait_for_function is kept out by the page's policy."""
    end = time.monotonic() + 10
    while not page.evaluate(f"() => {condition}"):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def ids(page):
    return page.eval_on_selector_all("#items article", "items => items.map((item) => item.getAttribute('aria-label'))")


def test_the_alignment_stands_below_the_reference(small, opened):
    page = opened(small)
    assert ids(page) == ["made up", "left-out", "wrong", "right"]  # most errors first
    columns = page.locator("article[aria-label=wrong] .column").all_inner_texts()
    assert [column.split() for column in columns] == [["set", "set"], ["the", "a"], ["kitchen"] * 2, ["light"] * 2]
    assert page.inner_text("article[aria-label=wrong] .substituted") == "a"
    assert page.inner_text("article[aria-label=left-out] .deleted") == "∅"
    assert "1 error in 4 (25 %)" in page.inner_text("article[aria-label=wrong] .head")
    assert "打開廚房的燈" in page.inner_text("article[aria-label=left-out] .written")
    assert page.locator("article[aria-label='made up'] .sign").all_inner_texts() == ["loop", "too long"]


def test_the_sound_plays_and_marks_the_word_that_is_said(small, opened):
    page = opened(small)
    page.click("article[aria-label=wrong] .play")
    eventually(page, "PLAYER.currentTime > 0.3")
    assert abs(page.evaluate("PLAYER.duration") - 3) < 0.1
    eventually(page, "document.querySelector('.now .reference')?.textContent === 'set'")
    page.click("article[aria-label=wrong] .substituted")  # "a" in place of "the", at 1.0 s
    assert 0.8 <= page.evaluate("PLAYER.currentTime") < 1.5
    eventually(page, "document.querySelector('.now .reference')?.textContent === 'kitchen'")
    # Where times are unknown they are estimated: two of six characters are before the third, two of six seconds.
    page.click("article[aria-label=left-out] .column:nth-child(3)")
    assert 1.7 < page.evaluate("PLAYER.currentTime") < 2.8


def test_what_is_heard_is_the_utterance(small, opened):
    """The clip's strongest frequency is that of the tone that was written for it."""
    page = opened(small)
    page.evaluate(
        """async () => {
            const data = bytes(byId(`clip-${UTTERANCES[BY_ID.get("wrong")].clip.number}`).textContent);
            const sound = await new OfflineAudioContext(1, 48000, 48000).decodeAudioData(data.buffer);
            window.samples = [...sound.getChannelData(0).slice(0, 24000)];
        }"""
    )
    spectrum = np.abs(np.fft.rfft(page.evaluate("samples")))
    assert abs(2 * spectrum.argmax() - 400) <= 4  # half a second: bins of 2 Hz; `wrong` is the second row


def test_linked_sound_plays_from_the_folder_beside_the_page(tmp_path, opened):
    folder = write_set(tmp_path, ROWS, {"one": HEARD})
    options = ["--ref", str(folder / "cuts_test.jsonl"), "--audio"]
    assert main(["score", str(folder / "one"), *options, "linked"]) == 0
    page = opened(folder / "one/report.html")
    assert 'id="clip-0"' not in page.content()
    page.click("article[aria-label=wrong] .play")
    eventually(page, "PLAYER.currentTime > 0.2")
    assert main(["score", str(folder / "one"), *options, "none"]) == 0
    assert opened(folder / "one/report.html").locator(".play").count() == 0


def test_the_limit_of_the_sound_is_obeyed_and_said(tmp_path, opened):
    folder = write_set(tmp_path, ROWS, {"one": HEARD})
    options = ["--ref", str(folder / "cuts_test.jsonl"), "--audio_limit_mb"]
    assert main(["score", str(folder / "one"), *options, "0.03"]) == 0
    page = opened(folder / "one/report.html")
    assert page.locator("article:has(.play)").count() < 4
    assert page.locator("article[aria-label='made up'] .play").count() == 1  # the worst one comes first
    assert "others have no audio here: --audio_limit_mb sets the limit" in page.inner_text("header")


def test_unreadable_audio_is_said_and_the_page_written(tmp_path, opened):
    folder = write_set(tmp_path, ROWS, {"one": HEARD})
    (folder / "1.wav").write_bytes(b"no audio")
    assert main(["score", str(folder / "one"), "--ref", str(folder / "cuts_test.jsonl")]) == 0
    page = opened(folder / "one/report.html")
    assert "The audio of 1 can't be read; the first: wrong:" in page.inner_text("header")
    assert page.locator(".play").count() == 3


def test_search_filters_and_sorting(small, opened):
    page = opened(small)
    page.fill("input[name=text]", "KITCHEN")
    assert ids(page) == ["wrong"]
    page.fill("input[name=text]", "")
    page.select_option("select[name=speaker]", "bob")
    assert ids(page) == ["made up", "wrong"]
    page.select_option("select[name=kind]", "s")
    page.select_option("select[name=sign]", "loop")
    assert ids(page) == ["made up"]
    page.click("#clear")
    page.select_option("select[name=duration]", "5–10 s")
    assert ids(page) == ["left-out"]
    page.click("#clear")
    page.select_option("select[name=sort]", "duration")
    assert ids(page) == ["left-out", "wrong", "right", "made up"]
    page.click("button[aria-label='Reverse the order']")
    assert ids(page) == ["made up", "right", "wrong", "left-out"]


def test_charts_and_confusions_filter_the_utterances(small, opened):
    page = opened(small)
    page.click("figure button:text-is('bob')")
    assert ids(page) == ["made up", "wrong"]
    page.click("#clear")
    page.click("figure button:text-is('no error')")
    assert ids(page) == ["right"]
    page.click(".chip")
    page.click("#confusions tr:has(bdi:text-is('的')) button")
    assert ids(page) == ["left-out"]
    assert "deletion: 的 → ∅" in page.inner_text("#count")
    page.click("figure button:text-is('bob')")  # who says no such thing: the other filter gives way
    assert ids(page) == ["made up", "wrong"]


def test_the_curves_of_the_run_and_its_canaries_are_drawn(small, opened):
    page = opened(small)
    figure = page.locator("figure", has=page.locator("h3:has-text(': error rates (%)')"))
    assert figure.locator(".legend span").all_inner_texts() == ["WER en", "canary nl"]
    dots = figure.locator("circle.system-1").evaluate_all(
        "all => all.map((one) => [one.textContent, Number(one.getAttribute('cy'))])"
    )
    assert [text for text, _ in dots] == ["canary nl: 0, 20", "canary nl: 20, 60"]
    zero = float(figure.locator("text[text-anchor=end]:text-is('0')").get_attribute("y")) - 4
    height = [zero - y for _, y in dots]
    assert height[1] == pytest.approx(3 * height[0])


def test_loops_stand_high_in_the_chart_of_lengths_and_a_click_goes_there(small, opened):
    page = opened(small)
    dot = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas.scatter");
            const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const blue = (at) => data[at] < 60 && data[at + 2] > 120 && data[at + 3] > 100;
            const highest = data.findIndex((_, at) => at % 4 === 0 && blue(at)) / 4;
            return { x: highest % width, y: Math.floor(highest / width) };
        }"""
    )
    page.locator("canvas.scatter").hover(position=dot)
    assert page.inner_text(".tip") == "made up: length 8, reference 1"
    page.locator("canvas.scatter").click(position=dot)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "made up"


def test_tables_sort_by_any_column(small, opened):
    page = opened(small)
    table = page.locator("figure", has=page.locator("h3:text-is('Error rate by speaker')"))
    names = lambda: table.locator("tbody th").all_inner_texts()  # noqa: E731
    table.locator("thead button", has_text="%").last.click()
    first = names()
    assert first[0] == "bob"
    assert table.locator("th[aria-sort=descending]").count() == 1
    table.locator("thead button", has_text="%").last.click()
    assert names() == first[::-1]


def test_keys_go_through_the_utterances_and_play(small, opened):
    page = opened(small)
    for key in "jjk":
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "made up"
    page.keyboard.press("Space")
    eventually(page, "PLAYER.currentTime > 0 && !PLAYER.paused")
    page.keyboard.press("Space")
    assert page.evaluate("PLAYER.paused")
    page.keyboard.press("/")
    page.keyboard.type("jxk ")
    assert page.input_value("input[name=text]") == "jxk "


@pytest.mark.parametrize(("hash", "key"), [("#made%20up", "made up"), ("#right", "right")])
def test_a_link_opens_its_utterance(small, opened, hash, key):
    page = opened(small, hash)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == key


def test_saved_ids_are_what_subset_takes_and_corrections_what_fix_takes(small, opened, tmp_path):
    page = opened(small)
    page.select_option("select[name=speaker]", "bob")
    with page.expect_download() as download:
        page.click("#save-ids")
    assert download.value.path().read_text() == "made up\nwrong\n"
    page.keyboard.press("Escape")
    page.click("article[aria-label=wrong] .mark")
    page.fill("article[aria-label=wrong] textarea", "set a kitchen light")
    page.click("article[aria-label='made up'] .mark")
    page.click("article[aria-label='made up'] button:text-is('Leave it out')")
    with page.expect_download() as download:
        page.click("#save-corrections")
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert rows == [{"id": "wrong", "text": "set a kitchen light"}, {"id": "made up", "text": None}]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two systems: the second is better on `wrong`, worse on `right`, and the same on the others."""
    better = {"right": "turn on a light", "wrong": "set the kitchen light"}
    heard = [{"id": row["id"], "text": better.get(row["id"], row["text"])} for row in HEARD]
    folder = write_set(tmp_path_factory.mktemp("compared"), ROWS, {"one": HEARD, "two": heard})
    page = folder / "report.html"
    assert main(["compare", f"base={folder / 'one'}", f"tuned={folder / 'two'}", "--report", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def three(compared):
    """A page of three systems, one with a long name."""
    names = ("base", "tuned", "tuned_with_a_longer_name_than_the_others")
    runs = [f"{name}={compared.parent / run}" for name, run in zip(names, ("one", "two", "one"), strict=True)]
    page = compared.parent / "three.html"
    assert main(["compare", *runs, "--report", str(page)]) == 0
    return page


def test_systems_stand_below_one_another_wins_and_losses_first(compared, opened):
    page = opened(compared)
    assert set(ids(page)[:2]) == {"wrong", "right"}
    columns = page.locator("article[aria-label=right] .column").all_inner_texts()
    assert [column.split() for column in columns][0] == ["reference", "base", "tuned"]
    assert [column.split() for column in columns][3] == ["the", "the", "a"]
    assert "minus base" in page.inner_text("main section:first-child")
    page.select_option("select[name=outcome]", "better 1")
    assert ids(page) == ["wrong"]
    page.select_option("select[name=outcome]", "worse 1")
    assert ids(page) == ["right"]
    page.click("article[aria-label=right] .play")
    eventually(page, "PLAYER.currentTime > 0.1")


@pytest.fixture(scope="module")
def corpus_page(small):
    folder = small.parent.parent
    assert main(["stats", str(folder / "cuts_test.jsonl"), "--report", str(folder / "stats.html")]) == 0
    return folder / "stats.html"


def test_the_page_of_a_corpus_lists_strange_utterances_with_sound(corpus_page, opened):
    page = opened(corpus_page)
    page.select_option("select[name=sort]", "duration")
    assert ids(page) == ["left-out", "wrong", "right", "made up"]
    page.select_option("select[name=problem]", "longest")
    page.click("article[aria-label=wrong] .play")
    eventually(page, "PLAYER.currentTime > 0.1")
    assert page.locator("h3:text-is('Speed of speech')").count() == 1


def test_hostile_texts_stay_texts(tmp_path, opened):
    arabic, long = "مرحبا بالعالم", "a" * 100_000
    rows = [
        {"id": f"u{HOSTILE}", "text": HOSTILE, "language": "en", "speaker": f"s{HOSTILE}"},
        {"id": "rtl", "text": arabic, "language": "ar"},
        {"id": "long", "text": f"x {long}" + " c" * 1000, "language": "en"},
        {"id": "__proto__", "text": "constructor </SCRIPT\u2028", "language": "en", "speaker": "constructor"},
    ]
    heard = [
        {"id": f"u{HOSTILE}", "text": HOSTILE * 2},
        {"id": "rtl", "text": "مرحبا"},
        {"id": "long", "text": "b " * 20_000},
        {"id": "__proto__", "text": "toString constructor"},
    ]
    folder = write_set(tmp_path, rows, {"one": heard}, audio=False)
    assert main(["score", str(folder / "one"), "--ref", str(folder / "cuts_test.jsonl"), "--normalizer", "none"]) == 0
    page = opened(folder / "one/report.html", width=400)
    assert page.title() == f"test: {tmp_path.name} one"
    assert page.locator("img, iframe, a[href^=javascript]").count() == 0
    assert set(ids(page)) == {row["id"] for row in rows}
    assert page.evaluate("document.querySelector('[aria-label=rtl] .aligned').dir") == "rtl"
    assert page.locator("[aria-label=long] .column").count() == 300
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.locator("[aria-label=long] .more").click()
    assert page.locator("[aria-label=long] .column").count() >= 1002
    assert "more inserted" in page.inner_text("[aria-label=long] .aligned")
    page.select_option("select[name=speaker]", "constructor")
    assert ids(page) == ["__proto__"]


@pytest.mark.parametrize("width", [400, 1000, 2500])
def test_nothing_is_wider_than_the_page(small, compared, three, opened, width):
    for path in (small, compared, three):
        page = opened(path, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        regions = page.locator(".wide").all()
        assert [one.get_attribute("aria-label") for one in regions if one.evaluate(CUT_OFF)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_axe_finds_nothing_serious(small, compared, corpus_page, opened, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # The page's policy keeps foreign scripts out, but not what the browser's driver evaluates.
    pages = [opened(path, width=width, scheme=scheme) for path in (small, compared, corpus_page)]
    found = [one for page in pages for one in axe.Axe().run(page).response["violations"]]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_ten_thousand_utterances_stay_responsive(tmp_path, opened):
    draw = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    rows, heard = [], []
    for number in range(10_000):
        text = draw.choices(words, k=draw.randint(1, 20))
        speaker = f"speaker{number % 40}"
        rows.append({"id": f"utt{number}", "text": " ".join(text), "language": "en", "speaker": speaker})
        heard.append({"id": f"utt{number}", "text": " ".join(w if draw.random() < 0.9 else "oh" for w in text)})
    path = write_set(tmp_path, rows, {"one": heard}, audio=False) / "one/report.html"
    page = opened(path)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    filtered = {
        name: page.evaluate(
            "(change) => { const start = performance.now(); Object.assign(filters, change); apply();"
            "document.body.offsetHeight; return performance.now() - start; }",
            change,
        )
        for name, change in {"search": {"text": "word7"}, "none": {"text": ""}, "kind": {"kind": "d"}}.items()
    }
    print(f"first paint {paint:.0f} ms, filter {filtered}")
    # What the times hang on: of 10,000 utterances few are in the document at once.
    assert page.evaluate("document.querySelectorAll('*').length") < 20_000
    assert page.locator(".aligned").count() < 200
