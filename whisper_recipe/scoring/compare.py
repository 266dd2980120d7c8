"""`whisper-recipe compare`: the error rates of several runs side by side."""

from __future__ import annotations

from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, written_aside
from whisper_recipe.scoring.score import ALL

LEGEND = (
    "Error rate in % (insertions, deletions, substitutions). RTF: processing time / audio time, smaller is faster; "
    "RTFx is its inverse."
)


def compare(runs: list[Path], out: Path | None = None) -> None:
    """Line up scored runs, a table a set: rows are runs, columns languages and tasks, cells `4.04 (0.44, 0.29, 3.30)`.

    Args:
        runs: folders that `whisper-recipe score` wrote, exp/<name>/decode_<split>_<backend>;
            LABEL=FOLDER names the row.
        out: a Markdown file to write too.

    Raises:
        RecipeError: a folder has not been scored, or two rows have one name.
    """
    scored: dict[str, dict] = {}
    for run in runs:
        name, folder = _name_and_folder(run)
        if name in scored:
            raise RecipeError(f"two runs are named {name!r}", where=folder, cure="name one: LABEL=FOLDER")
        scored[name] = _read_metrics(folder / "metrics.json")
    sets = list(dict.fromkeys(metrics["set"] for metrics in scored.values()))
    sections = [f"## {name}\n\n{_table({run: m for run, m in scored.items() if m['set'] == name})}\n" for name in sets]
    text = "\n".join([*sections, LEGEND, ""])
    print(text)
    if out is not None:
        with written_aside(out) as aside:
            aside.write_text(text, encoding="utf-8")


def _name_and_folder(run: Path) -> tuple[str, Path]:
    """Split LABEL=FOLDER; a folder alone, even with `=` in its path, is named by its path."""
    name, equals, folder = str(run).partition("=")
    if run.is_dir() or not equals or not folder or "/" in name:
        return label(run), run
    return name, Path(folder)


def _read_metrics(path: Path) -> dict:
    metrics = read_json(path, "run whisper-recipe score first (stage 7)")
    if "set" not in metrics or not isinstance(metrics.get("groups"), dict):
        raise RecipeError("no set and groups in it", where=path, cure="run whisper-recipe score again (stage 7)")
    return metrics


def _table(scored: dict[str, dict]) -> str:
    from tabulate import tabulate

    groups = list(dict.fromkeys(group for metrics in scored.values() for group in metrics["groups"]))
    groups.sort(key=lambda group: (group == ALL, group))
    units = {group: values["unit"] for metrics in scored.values() for group, values in metrics["groups"].items()}
    rows = [
        [
            run,
            *(_cell(metrics["groups"].get(group)) for group in groups),
            metrics.get("RTF"),
            metrics.get("RTFx"),
        ]
        for run, metrics in scored.items()
    ]
    headers = ["run", *(f"{group} {units[group]}" for group in groups), "RTF", "RTFx"]
    return tabulate(rows, headers, tablefmt="github", missingval="–")


def label(run: Path) -> str:
    """Return `<name> <split>_<backend>` for exp/<name>/decode_<split>_<backend>, from wherever the path starts."""
    run = run.absolute()
    return f"{run.parent.name} {run.name.removeprefix('decode_')}"


def _cell(values: dict | None) -> str | None:
    if values is None or values["error_rate"] is None:
        return None
    total, *parts = (f"{100 * values[key]:.2f}" for key in ("error_rate", "ins_rate", "del_rate", "sub_rate"))
    return f"{total} ({', '.join(parts)})"
