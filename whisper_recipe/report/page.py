"""HTML pages: a Jinja2 template, filled with the package's script and style, and data as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_recipe.files import atomic_write
from whisper_recipe.report.sound import Sounds, clip_name

if TYPE_CHECKING:
    from markupsafe import Markup

SCRIPTS = ("elements.js", "alignment.js", "player.js", "charts.js", "utterances.js", "filters.js", "main.js")
MAX_UTTERANCES = 20_000  # on a page; with more, a browser no longer responds at once


@dataclass
class Table:
    """A table in the page itself, so that it can be read if no script runs (in a mail, for instance).

    Args:
        title: its heading.
        columns: names of the columns.
        rows: cells, as shown.
        texts: number of columns from the left that hold text; the others hold numbers.
        note: a paragraph below it.
        minor: columns left out on narrow screens.
    """

    title: str
    columns: list[str]
    rows: list[list[str | None]]
    texts: int = 1
    note: str = ""
    minor: tuple[str, ...] = ()

    def classes(self, column: int) -> str:
        """Return the CSS classes of a column's cells."""
        kinds = {"number": column >= self.texts, "minor": self.columns[column] in self.minor}
        return " ".join(kind for kind, holds in kinds.items() if holds)


@dataclass
class Page:
    """The contents of a page.

    Args:
        title: its heading.
        notes: paragraphs under the heading.
        tables: see Table.
        data: what the script shows, as JSON; main.js lists the keys. `utterances` must be a list of objects with an
            `id`, the most important first.
        sounds: of the utterances.
    """

    title: str
    notes: list[str]
    tables: list[Table]
    data: dict
    sounds: Sounds = field(default_factory=Sounds)


def write_page(path: Path, page: Page) -> None:
    """Write a page that opens from disk or by mail: it loads nothing from elsewhere but linked audio.

    Its Content-Security-Policy runs only the package's own script, whatever texts and ids contain.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("whisper_recipe.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    folder = files("whisper_recipe.report")
    script = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    text = environment.get_template("page.html").render(
        page=page,
        notes=[*page.notes, *_remarks(page)],
        script=script,
        style=style,
        script_digest=_digest(script),
        style_digest=_digest(style),
        data=_json({**page.data, "utterances": _with_clips(page), "title": page.title}),
        embedded=[] if page.sounds.folder else [_base64(clip.opus) for clip in page.sounds.clips.values()],
    )
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _with_clips(page: Page) -> list[dict]:
    """Return the utterances that are shown, with their clips: number, file if linked, and outline."""
    numbers = {key: number for number, key in enumerate(page.sounds.clips)}
    rows = []
    for row in page.data["utterances"][:MAX_UTTERANCES]:
        if row["id"] in numbers:
            number = numbers[row["id"]]
            file = f"{page.sounds.folder}/{clip_name(number)}" if page.sounds.folder else None
            row = {
                **row,
                "clip": {"number": number, "file": file, "peaks": _base64(page.sounds.clips[row["id"]].peaks)},
            }
        rows.append(row)
    return rows


def _remarks(page: Page) -> list[str]:
    """Return notes on the page's audio and on what is left out."""
    sounds, remarks = page.sounds, []
    count = len(page.data["utterances"])
    if count > MAX_UTTERANCES:
        remarks.append(f"The list shows the {MAX_UTTERANCES:,} most important of {count:,} utterances.")
    if sounds.clips:
        where = f"in the folder {sounds.folder}, which must stay next to this page" if sounds.folder else "in this page"
        size = sum(len(clip.opus) for clip in sounds.clips.values()) * (1 if sounds.folder else 4 / 3) / 1e6
        remarks.append(f"The audio of {len(sounds.clips):,} utterances is {where} ({size:.1f} MB).")
    if sounds.over_limit:
        remarks.append(f"{sounds.over_limit:,} others have no audio here: --audio_limit_mb sets the limit.")
    if sounds.unreadable:
        key, reason = next(iter(sounds.unreadable.items()))
        remarks.append(f"The audio of {len(sounds.unreadable):,} can't be read; the first: {key}: {reason}")
    return remarks


def _json(value: object) -> str:
    """Return JSON that is safe in a <script> element: no `<` can end the element or begin a comment.

    JSON in JavaScript has no NaN or infinity: they become null.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return _json(json.loads(json.dumps(value), parse_constant=lambda name: None))
    return text.replace("<", "\\u003c")


def _breakable(name: str) -> Markup:
    """Return a name such as `lora_int8` with places where a line may break, to keep tables from getting too wide."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[_/=-])", name))  # join escapes the parts


def _digest(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
