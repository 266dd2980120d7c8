"""A small set with hand-made hypotheses, and the command that scores it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from whisper_recipe.cli import main
from whisper_recipe.files import write_jsonl

REFERENCES = [
    ("a", "Turn on the light.", "en", "transcribe"),
    ("b", "打開廚房的燈", "zh", "transcribe"),
    ("b|translate", "turn on the kitchen light", "zh", "translate"),
    ("c", "enciende la luz", "es", "transcribe"),
]
# a: right but for case and full stop; b: one character missing; translate: one word wrong; c: two words too many
HYPOTHESES = {
    "a": "turn on the light",
    "b": "打开厨房灯",
    "b|translate": "turn on the kitchen fan",
    "c": "ah enciende la luz sí",
}


def write_cuts(path: Path, rows: list[dict]) -> Path:
    """Write a cut manifest of what scoring reads: id, text, language, and task, speaker and duration where given."""
    cuts = []
    for row in rows:
        supervision = {key: row[key] for key in ("text", "language", "speaker") if key in row}
        supervision["custom"] = {"task": row.get("task", "transcribe")}
        times = {"duration": row["duration"]} if "duration" in row else {}
        cuts.append({"id": row["id"], **times, "supervisions": [supervision]})
    write_jsonl(path, cuts)
    return path


@pytest.fixture
def cuts(tmp_path: Path) -> Path:
    """The manifest of REFERENCES."""
    rows = [dict(zip(("id", "text", "language", "task"), row, strict=True)) for row in REFERENCES]
    return write_cuts(tmp_path / "cuts_test.jsonl.gz", rows)


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., int]:
    """Write hypotheses to tmp_path/<run>/hyp.jsonl and score them; the function returns the exit status."""

    def score(cuts: Path, hypotheses: dict | list = HYPOTHESES, *options: str, run: str = "exp") -> int:
        pairs = hypotheses.items() if isinstance(hypotheses, dict) else hypotheses
        write_jsonl(tmp_path / run / "hyp.jsonl", [{"id": key, "text": text} for key, text in pairs])
        return main(["score", str(tmp_path / run), "--ref", str(cuts), *options])

    return score
