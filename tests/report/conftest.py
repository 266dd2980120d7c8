"""Chromium, and scored sets to look at in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def chromium(launch_chromium) -> Iterator:
    """A browser in which sound may play without a click, as after one."""
    browser = launch_chromium("--autoplay-policy=no-user-gesture-required")
    yield browser
    browser.close()


@pytest.fixture
def opened(chromium) -> Iterator[Callable]:
    """Open a file in a window of its own; the test fails where the page reports an error or asks for anything."""
    contexts, complaints = [], []

    def opened(path: Path, hash: str = "", width: int = 1400, scheme: str = "light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda one: None if one.url.startswith(("file:", "blob:")) else complaints.append(one.url))
        page.goto(path.as_uri() + hash)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
