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
def opened(chromium, open_page) -> Callable:
    """Open a file, which may ask for nothing."""

    def opened(path: Path, hash: str = "", width: int = 1400, scheme: str = "light"):
        window = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        return open_page(chromium, path.as_uri() + hash, ("file:", "blob:"), **window)

    return opened
