"""The page in a real browser, with a server whose model has random weights, and a microphone that plays a file."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import soundfile

from tests.serving.conftest import running
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.export.ct2 import export

pytestmark = pytest.mark.slow  # about 20 s, most of it Chromium
SHORT = SearchOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def microphone(tmp_path_factory, shared_data):
    """What the microphone hears, as Chromium wants it: WAV, 16 bits."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    samples, rate = soundfile.read(shared_data / "english/libri-1088-134315-0000.wav", dtype="float32")
    soundfile.write(path, np.concatenate([samples[: 3 * rate], np.zeros(2 * rate)]), rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chromium(launch_chromium, microphone) -> Iterator:
    browser = launch_chromium(
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def url(tiny_model, full_vocabulary_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct2")
    for name, model in (("one", tiny_model), ("two", full_vocabulary_model)):
        export(model, folder / name)
    given = [f"one={folder / 'one'}", f"two={folder / 'two'}"]
    with running(given, {"max_bytes": 2_000_000}, search=SHORT) as address:
        yield address


@pytest.fixture
def opened(chromium, url, open_page) -> Callable:
    """Open the page, which may ask its server alone."""

    def opened(address=url, width=1200, locale="en-GB", scheme="light", expected=()):
        window = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "locale": locale}
        window["permissions"] = ["microphone", "clipboard-read", "clipboard-write"]
        return open_page(chromium, address, (address, "blob:", "data:"), expected, **window)

    return opened


def eventually(page, condition):
    """Wait until a condition holds; Playwright's own wait_for_function is kept out by the page's policy."""
    end = time.monotonic() + 10
    while not page.evaluate(f"() => {condition}"):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def transcribe(page, *paths):
    page.set_input_files("#files", [str(path) for path in paths])
    eventually(page, "document.querySelectorAll('article').length > 0")
    finished(page)


def finished(page):
    page.wait_for_selector("article .tools:not([hidden]) >> text=srt")


def test_a_file_is_transcribed_heard_copied_and_downloaded(opened, noise):
    page = opened()
    page.select_option("#language", label="English")
    transcribe(page, noise(2.0))
    lines = page.locator(".line span").all_inner_texts()
    assert lines
    assert page.inner_text("article h2") == "2.0.wav"
    page.locator(".line").first.click()
    eventually(page, "document.querySelector('audio').currentTime > 0.1")
    page.click("text=Copy")
    assert page.evaluate("navigator.clipboard.readText()") == "".join(f"{line}\n" for line in lines)
    found = {}
    for suffix in ("txt", "srt", "vtt", "json"):
        with page.expect_download() as download:
            page.click(f".tools button:text-is('{suffix}')")
        assert download.value.suggested_filename == f"2.0.one.{suffix}"
        found[suffix] = download.value.path().read_text()
    assert [row["text"] for row in json.loads(found["json"])["segments"]] == lines
    assert found["txt"].splitlines() == lines
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n", found["srt"])
    assert found["vtt"].startswith("WEBVTT\n\n00:00:00.")


def test_a_dropped_file_is_translated(opened, noise):
    page = opened()
    page.select_option("#language", label="Welsh")
    page.select_option("#task", label="Translate into English")
    script = """(bytes) => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))], "dropped.wav"));
        return dropped;
    }"""
    dropped = page.evaluate_handle(script, base64.b64encode(noise(1.0).read_bytes()).decode())
    with page.expect_request("**/v1/audio/translations"):
        page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    ends = ["Done.", "No speech detected."]  # the model has random weights
    eventually(page, f"{ends}.includes(document.querySelector('article .state .note').textContent)")
    assert page.inner_text("article h2") == "dropped.wav"


def test_two_models_are_compared_and_what_differs_is_marked(opened, noise):
    page = opened()
    page.select_option("#other", "two")
    page.select_option("#language", label="English")
    transcribe(page, noise(2.0))
    eventually(page, "document.querySelector('article > .note').textContent !== ''")
    assert page.locator(".result").count() == 2
    assert re.match(r"\d+ words? differs?\.", page.inner_text("article > .note"))
    assert page.locator("mark").count() > 0


def test_differences_are_those_of_the_words(opened):
    """By hand: case and punctuation don't count, Chinese goes by characters."""
    page = opened()
    script = """async (pair) => {
        const { differences } = await import("./transcript.js");
        const found = differences(...pair.map((text) => [{ start: 0, end: 1, text }]));
        return found.map((list, n) => list.map(({ from, to }) => pair[n].slice(from, to)));
    }"""
    assert page.evaluate(script, ["Turn on, the light", "turn off the light now."]) == [["on,"], ["off", "now."]]
    assert page.evaluate(script, ["打开厨房的灯", "打开廚房灯"]) == [["厨", "的"], ["廚"]]
    assert page.evaluate(script, ["", "a"]) == [[], ["a"]]


def test_the_microphone_is_heard_while_it_records(opened):
    page = opened()
    page.select_option("#language", label="English")
    page.select_option("#model", "two")
    page.click("#record")
    page.wait_for_selector("#record[aria-pressed=true]")
    page.wait_for_selector(".line:not(.partial)", timeout=15000)  # the turn is over, the recording isn't
    page.click("#record")
    finished(page)
    assert page.inner_text("article h2").startswith("Recording ")
    page.locator(".line").first.press("Enter")
    eventually(page, "document.querySelector('audio').currentTime > 0.1")


def test_errors_are_sentences_in_the_pages_language(opened, noise, tmp_path):
    (tmp_path / "notes.wav").write_text("no audio")
    for locale, sentences in {
        "en-GB": ("This file can't be read as audio.", "This file is larger than the server allows."),
        "zh-CN": ("无法将此文件作为音频读取", "文件超过了服务器允许的大小"),
    }.items():
        page = opened(locale=locale, expected=["400", "413"])
        for path, sentence in zip((tmp_path / "notes.wav", noise(70.0)), sentences, strict=True):
            page.set_input_files("#files", str(path))
            page.wait_for_selector(f"article[aria-label='{path.name}'] .error")
            assert page.inner_text(f"article[aria-label='{path.name}'] .error").startswith(sentence)


def test_the_key_is_asked_for(tiny_model, opened, noise):
    with running([f"tiny={tiny_model}"], search=SHORT, api_key="secret") as address:
        page = opened(address, expected=["401"])
        assert page.inner_text("#message") == "The server requires a key. Enter it above and try again."
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        page.wait_for_selector("#message", state="hidden")
        transcribe(page, noise(1.0))


def test_it_works_by_keyboard_and_follows_the_language_that_is_chosen(opened, noise):
    page = opened()
    page.select_option("#page-language", "zh")
    assert page.inner_text("h1") == "语音转文字"
    assert page.locator("#language option:checked").inner_text() == "自动检测"
    with page.expect_file_chooser() as chooser:
        page.focus("#choose")
        page.keyboard.press("Enter")
    chooser.value.set_files(str(noise(2.0)))
    finished(page)
    page.focus(".line")
    page.keyboard.press("Enter")
    eventually(page, "document.querySelector('audio').currentTime > 0.1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_can_be_read_by_everybody_on_any_screen(opened, noise, scheme, width, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(width=width, scheme=scheme)
    page.select_option("#other", "two")
    page.select_option("#language", label="English")
    transcribe(page, noise(2.0))
    eventually(page, "document.querySelector('article > .note').textContent !== ''")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{scheme}_{width}.png", full_page=True)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
