"""The documentation as a site: it builds, without a warning, and needs no network to be read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from whisper_recipe.cli import COMMANDS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_with_every_command_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "data.html", "egs/mini/index.html"} <= pages.keys()
    assert {f"commands/{name}.html" for name in COMMANDS} <= pages.keys()
    train = pages["commands/train.html"]
    assert re.search(r"--batches\.max_duration</code></dt>\s*<dd>[^<]+\(type: float, default: ", train)
    assert re.search(r"<article.*href=\"?data.html", pages["index.html"], re.DOTALL)  # docs/data.md in README.md
    for name, page in pages.items():
        assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", page), name
