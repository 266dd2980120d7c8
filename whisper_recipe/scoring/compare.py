"""`whisper-recipe compare`: the error rates of several runs side by side."""

from __future__ import annotations

from pathlib import Path

from whisper_recipe.files import read_json, written_aside
from whisper_recipe.scoring.score import ALL

LEGEND = (
    "Error rate in % (insertions, deletions, substitutions). RTF: processing time / audio time, smaller is faster; "
    "RTFx is its inverse."
)


def compare(runs: list[Path], out: Path | None = None) -> None:
    """Line up scored runs, a table a set: rows are runs, columns languages and tasks, cells `4.04 (0.44, 0.29, 3.30)`.

    Args:
        runs: folders that `whisper-recipe score` wrote, exp/<name>/decode_<split>_<backend>.
        out: a Markdown file to write too.

    Raises:
        RecipeError: a folder has not been scored.
    """
    scored = {run: read_json(run / "metrics.json", "run whisper-recipe score first (stage 7)") for run in runs}
    sets = list(dict.fromkeys(metrics["set"] for metrics in scored.values()))
    sections = [f"## {name}\n\n{_table({run: m for run, m in scored.items() if m['set'] == name})}\n" for name in sets]
    text = "\n".join([*sections, LEGEND, ""])
    print(text)
    if out is not None:
        with written_aside(out) as aside:
            aside.write_text(text, encoding="utf-8")


def _table(scored: dict[Path, dict]) -> str:
    from tabulate import tabulate

    groups = list(dict.fromkeys(group for metrics in scored.values() for group in metrics["groups"]))
    groups.sort(key=lambda group: (group == ALL, group))
    units = {group: values["unit"] for metrics in scored.values() for group, values in metrics["groups"].items()}
    rows = [
        [
            label(run),
            *(_cell(metrics["groups"].get(group)) for group in groups),
            metrics.get("RTF"),
            metrics.get("RTFx"),
        ]
        for run, metrics in scored.items()
    ]
    headers = ["run", *(f"{group} {units[group]}" for group in groups), "RTF", "RTFx"]
    return tabulate(rows, headers, tablefmt="github", missingval="–")


def label(run: Path) -> str:
    """Return `<name> <backend>` for exp/<name>/decode_<split>_<backend>."""
    return f"{run.parent.name} {run.name.removeprefix('decode_')}"


def _cell(values: dict | None) -> str | None:
    if values is None or values["error_rate"] is None:
        return None
    total, *parts = (f"{100 * values[key]:.2f}" for key in ("error_rate", "ins_rate", "del_rate", "sub_rate"))
    return f"{total} ({', '.join(parts)})"
