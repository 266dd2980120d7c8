"""`whisper-recipe compare`: the error rates of several runs side by side, and whether they differ by chance alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json, read_jsonl
from whisper_recipe.report.page import Table
from whisper_recipe.report.sound import AudioMode
from whisper_recipe.scoring.bootstrap import paired_difference
from whisper_recipe.scoring.report import ALL, MEAN, REPORTED, System, named_groups, write_report

LEGEND = (
    "Error rate in % (insertions, deletions, substitutions). RTF: processing time / audio time, smaller is faster; "
    "RTFx is its inverse."
)
DIFFERENCE_LEGEND = (
    "Difference in error rate from the first row, in percentage points (negative: fewer errors), with 95 % interval "
    "and two-sided p value of the paired bootstrap: both systems on the same random draws, of speakers if at least ten "
    "are known, else of utterances."
)
TABLE_FORMATS = {".tex": "latex_booktabs"}  # of tabulate, by the suffix of --out


MODEL_RECORD = "whisper_recipe.json"  # TRAINING_RECORD of model/load.py, which imports torch


class Run(NamedTuple):
    """A scored run: its folder, its metrics.json, and the canaries of its model's training as `12.30 → 13.10`."""

    folder: Path
    metrics: dict
    canaries: dict[str, str]


class Counts(NamedTuple):
    """The counts of an utterance in utterances.jsonl."""

    errors: int
    total: int
    group: str
    speaker: str | None
    normalizer: str


def compare(
    runs: list[Path],
    out: Path | None = None,
    report: Path | None = None,
    audio: AudioMode = "embedded",
    audio_limit_mb: float = 3.0,
) -> None:
    """Compare scored runs in one table per set: rows are runs, columns languages and tasks.

    Cells are `4.04 (0.44, 0.29, 3.30)`: error rate (insertions, deletions, substitutions). Each canary of a training
    run (`train --canary`) has a column, before → after. A second table has the differences from the first row with a
    paired test, if the runs have the same utterances. Several sets are compared in an additional first table: rows are
    systems, columns sets.

    Args:
        runs: folders written by `whisper-recipe score`, exp/<name>/decode_<split>_<backend>; LABEL=FOLDER names the
            row.
        out: a file to write in addition: Markdown, LaTeX if it ends in .tex, or one row per run and group if it ends in
            .csv.
        report: an HTML report to write in addition, for runs of one set: utterances with all hypotheses aligned below
            the reference, those with the largest differences between runs first.
        audio: where to store the report's audio: in the page (embedded), in a folder next to it (linked), or not at all
            (none).
        audio_limit_mb: maximum size of the report's audio in megabytes.

    Raises:
        RecipeError: a folder has not been scored, two rows have the same name, or a report is requested for runs of
            several sets or with different references.
    """
    scored: dict[str, Run] = {}
    for run in runs:
        name, folder = _name_and_folder(run)
        if name in scored:
            raise RecipeError(f"two runs are named {name!r}", where=folder, cure="rename one: LABEL=FOLDER")
        scored[name] = Run(folder, _read_metrics(folder / "metrics.json"), _read_canaries(folder / "decode.json"))
    print(_text(scored, "github"))
    if out is not None:
        with atomic_write(out) as aside:
            if out.suffix == ".csv":
                _write_csv(aside, scored)
            else:
                aside.write_text(_text(scored, TABLE_FORMATS.get(out.suffix, "github")), encoding="utf-8")
    if report is not None:
        _write_report(report, scored, audio, audio_limit_mb)


def _text(scored: dict[str, Run], tablefmt: str) -> str:
    """Return all tables and notes; in LaTeX the notes are comments."""
    sets = list(dict.fromkeys(run.metrics["set"] for run in scored.values()))
    sections = [
        _section(name, {row: run for row, run in scored.items() if run.metrics["set"] == name}, tablefmt)
        for name in sets
    ]
    if len(sets) > 1:
        sections.insert(0, ["## all sets", _overview(scored, sets, tablefmt)])
    blocks = [block for section in sections for block in section] + [LEGEND]
    if tablefmt != "github":
        blocks = [block if block.startswith("\\begin") else f"% {block}" for block in blocks]
    return "\n\n".join(blocks) + "\n"


def _write_csv(path: Path, scored: dict[str, Run]) -> None:
    """Write one row per run and group, with rates as fractions."""
    columns = ["unit", "normalizer", "error_rate", "low", "high", "ins_rate", "del_rate", "sub_rate"]
    columns += ["insertions", "deletions", "substitutions", "total", "utterances", "bleu", "chrf"]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["set", "run", "group", *columns, "RTF"], extrasaction="ignore", restval="")
        table.writeheader()
        for name, (_, metrics, _) in scored.items():
            for group, values in metrics["groups"].items():
                low, high = values.get("interval_95") or ("", "")
                about = {"set": metrics["set"], "run": name, "group": group, "RTF": metrics.get("RTF", "")}
                table.writerow({**values, **about, "low": low, "high": high})


def _write_report(path: Path, scored: dict[str, Run], audio: AudioMode, audio_limit_mb: float) -> None:
    sets = list(dict.fromkeys(run.metrics["set"] for run in scored.values()))
    if len(sets) > 1:
        what = f"the runs are of {len(sets)} sets ({', '.join(sets)})"
        raise RecipeError(what, where="--report", cure="write one report per set")
    systems = {}
    for name, (folder, metrics, _) in scored.items():
        rows = {row["id"]: row for _, row in read_jsonl(folder / "utterances.jsonl")}
        if not rows or not all(row.keys() >= REPORTED for row in rows.values()):
            cure = "run whisper-recipe score again (stage 7)"
            raise RecipeError("no alignments in it", where=folder / "utterances.jsonl", cure=cure)
        systems[name] = System(folder, metrics, rows)
    tested, notes = (
        _differences(scored, named_groups(run.metrics for run in scored.values())) if len(scored) > 1 else (None, [])
    )
    write_report(path, f"{sets[0]}: {', '.join(scored)}", systems, audio, audio_limit_mb, tested, notes)
    print(f"report: {path}")


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


def _read_canaries(path: Path) -> dict[str, str]:
    """Return the canaries recorded in the model that decoded a run; empty if the model no longer exists."""
    model = read_json(path).get("model") if path.exists() else None
    record = Path(model or "") / MODEL_RECORD
    canaries = read_json(record).get("canaries", {}) if record.exists() else {}
    return {name: f"{100 * rates['before']:.2f} → {100 * rates['after']:.2f}" for name, rates in canaries.items()}


def _overview(scored: dict[str, Run], sets: list[str], tablefmt: str) -> str:
    """Return the error rates of whole sets as papers show them: one row per system, one column per set."""
    from tabulate import tabulate

    units: dict[str, str] = {}
    systems: dict[str, dict[str, str]] = {}
    for row, (_, metrics, _) in scored.items():
        name, whole = metrics["set"], metrics["groups"].get(ALL) or {}
        units[name] = f"{'mean ' * (MEAN in whole)}{whole.get('unit', '')}"
        # `lora test_ct2_int8` and `lora dev_ct2_int8` are one system, `lora ct2_int8`.
        cells = systems.setdefault(row.replace(f" {name}_", " ", 1), {})
        if (rate := whole.get(MEAN, whole.get("error_rate"))) is not None:
            cells[name] = f"{100 * rate:.2f}"
    rows = [[system, *map(cells.get, sets)] for system, cells in systems.items()]
    headers = ["system", *(f"{name} {units[name]}" for name in sets)]
    return tabulate(rows, headers, tablefmt, missingval="–", disable_numparse=True)


def _section(name: str, scored: dict[str, Run], tablefmt: str) -> list[str]:
    """Return a set's section: its heading, the table, and the differences between its runs."""
    from tabulate import tabulate

    groups = named_groups(run.metrics for run in scored.values())
    normalizers = ", ".join(dict.fromkeys(run.metrics.get("normalizer", "unknown") for run in scored.values()))
    parts = [f"## {name}", _table(scored, groups, tablefmt)]
    parts.append(f"Normalizer: {normalizers}.")
    if len(scored) > 1:
        tested, notes = _differences(scored, groups)
        if tested is not None:
            parts += [tabulate(tested.rows, tested.columns, tablefmt, missingval="–"), DIFFERENCE_LEGEND]
        parts += notes
    return parts


def _table(scored: dict[str, Run], groups: list[str], tablefmt: str) -> str:
    from tabulate import tabulate

    units = {group: values["unit"] for run in scored.values() for group, values in run.metrics["groups"].items()}
    translated = [g for g in groups if any("bleu" in run.metrics["groups"].get(g, {}) for run in scored.values())]
    canaries = list(dict.fromkeys(name for run in scored.values() for name in run.canaries))
    rows = [
        [
            name,
            *(_cell(metrics["groups"].get(group)) for group in groups),
            *(_translation_cell(metrics["groups"].get(group)) for group in translated),
            *map(canaries_of.get, canaries),
            metrics.get("RTF"),
            metrics.get("RTFx"),
        ]
        for name, (_, metrics, canaries_of) in scored.items()
    ]
    rates = [f"{group} {units[group]}" for group in groups]
    headers = ["run", *rates, *(f"{group} BLEU / chrF" for group in translated)]
    headers += [*(f"canary {name}" for name in canaries), "RTF", "RTFx"]
    return tabulate(rows, headers, tablefmt, missingval="–")


def label(run: Path) -> str:
    """Return `<name> <split>_<backend>` for exp/<name>/decode_<split>_<backend>, wherever the path starts."""
    run = run.absolute()
    return f"{run.parent.name} {run.name.removeprefix('decode_')}"


def _cell(values: dict | None) -> str | None:
    if values is None or values["error_rate"] is None:
        return None
    total, *parts = (f"{100 * values[key]:.2f}" for key in ("error_rate", "ins_rate", "del_rate", "sub_rate"))
    mean = f", mean {100 * values[MEAN]:.2f}" if MEAN in values else ""
    return f"{total} ({', '.join(parts)}){mean}"


def _translation_cell(values: dict | None) -> str | None:
    return f"{values['bleu']:.2f} / {values['chrf']:.2f}" if values and "bleu" in values else None


def _differences(scored: dict[str, Run], groups: list[str]) -> tuple[Table | None, list[str]]:
    """Return the table of differences from the first run, and notes on why runs are missing from it."""
    first, *others = scored
    base = _read_counts(scored[first].folder)
    rows, notes = [], []
    for row in others:
        counts = _read_counts(scored[row].folder)
        reason = _why_not_paired(base, counts)
        if reason:
            notes.append(f"{row} is not tested against {first}: {reason}.")
        else:
            rows.append([row, *(_difference(base, counts, group) for group in groups)])
    if not rows:
        return None, notes
    return Table(f"Differences from {first}", [f"minus {first}", *groups], rows, note=DIFFERENCE_LEGEND), notes


def _read_counts(folder: Path) -> dict[str, Counts]:
    """Read utterances.jsonl; empty if an earlier version scored the run and wrote none."""
    path = folder / "utterances.jsonl"
    counts = {}
    for line, row in read_jsonl(path) if path.exists() else ():
        try:
            errors = row["insertions"] + row["deletions"] + row["substitutions"]
            counts[row["id"]] = Counts(errors, row["total"], row["group"], row["speaker"], row["normalizer"])
        except (KeyError, TypeError):
            cure = "run whisper-recipe score again (stage 7)"
            raise RecipeError("invalid utterance counts", where=f"{path}:{line}", cure=cure) from None
    return counts


def _why_not_paired(first: dict[str, Counts], second: dict[str, Counts]) -> str | None:
    if not first or not second:
        return "one has no utterances.jsonl; run whisper-recipe score again"
    if first.keys() != second.keys():
        return f"{len(first.keys() ^ second.keys())} utterances are in only one of them"
    if any(counts.normalizer != second[key].normalizer for key, counts in first.items()):
        return "their normalizers differ"
    if any(counts._replace(errors=0) != second[key]._replace(errors=0) for key, counts in first.items()):
        return "their references differ"
    return None


def _difference(first: dict[str, Counts], second: dict[str, Counts], group: str) -> str | None:
    members = [(counts, second[key]) for key, counts in first.items() if group in (ALL, counts.group)]
    tested = members and paired_difference(
        [counts.errors for counts, _ in members],
        [other.errors for _, other in members],
        [counts.total for counts, _ in members],
        [counts.speaker for counts, _ in members],
    )
    if not tested:
        return None
    low, high = 100 * tested.low, 100 * tested.high
    return f"{100 * tested.difference:+.2f} [{low:+.2f}, {high:+.2f}] p={tested.p:.3f}"
