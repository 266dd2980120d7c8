"""report.html: one decoding, or several side by side, on a page with audio."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.audio import SAMPLING_RATE
from whisper_recipe.data.corpus import read_corpus
from whisper_recipe.data.report import samples_of_cut, samples_of_utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import exists, read_jsonl
from whisper_recipe.report.page import Page, Table, write_page
from whisper_recipe.report.sound import AudioMode, Samples, collect
from whisper_recipe.scoring.hallucinations import SIGNS
from whisper_recipe.scoring.references import JSON_LINES
from whisper_recipe.scoring.utterances import BREAKDOWNS, DURATION_EDGES, duration_range
from whisper_recipe.text.normalize import text_language

ALL = "all"  # the group of all utterances
MEAN = "mean_error_rate"  # of that group: over languages and tasks, if there are several
MEAN_RATE = "eval_error_rate"  # the same for an evaluation during training, in curves.csv
CURVES = {"loss": "training", "eval_loss": "dev set", MEAN_RATE: "mean of WER and CER"}
CANARIES_NOTE = "Canaries are sets the run is not trained for; they show what it forgets. Step 0 is the base model."
RATES = {
    "error_rate": "error rate",
    "interval_95": "95 % interval",
    "ins_rate": "ins",
    "del_rate": "del",
    "sub_rate": "sub",
    "match_error_rate": "MER",
    "sentence_correct_rate": "sentences correct",
}
COUNTS = {"total": "reference length", "utterances": "utterances"}
# The keys of utterances.jsonl that the page needs.
REPORTED = {"language", "task", "speaker", "duration", "unit", "reference", "hypothesis", "alignment"}
REPORTED |= {"reference_units", "hypothesis_units"}
RATES_NOTE = (
    "Rates are in %. Errors are counted in words (WER) or, for languages without spaces, in characters (CER). "
    "Intervals are 95 % bootstrap intervals. MER: errors divided by all aligned positions, insertions included."
)


class System(NamedTuple):
    """A scored decoding: its folder, its metrics.json, and the rows of its utterances.jsonl by id."""

    folder: Path
    metrics: dict
    rows: dict[str, dict]


def named_groups(metrics: Iterable[dict]) -> list[str]:
    """Return the groups of several metrics.json; the whole set comes last, and is left out if there is one other."""
    groups = dict.fromkeys(group for scored in metrics for group in scored["groups"])
    parts = sorted(group for group in groups if group != ALL)
    return parts if len(parts) == 1 else [*parts, *(group for group in groups if group == ALL)]


def percent(value: float | list[float] | None) -> str:
    """Return a rate, or an interval of rates, in percent without the sign; a dash for None."""
    if value is None:
        return "–"
    return " to ".join(map(percent, value)) if isinstance(value, list) else f"{100 * value:.2f}"


def write_report(
    path: Path,
    title: str,
    systems: dict[str, System],
    audio: AudioMode,
    audio_limit_mb: float,
    differences: Table | None = None,
    notes: Iterable[str] = (),
) -> None:
    """Write the page.

    Args:
        path: of the page.
        title: its heading.
        systems: name -> decoding of the same set; only utterances that all have are shown.
        audio: where to store the audio of the utterances.
        audio_limit_mb: maximum size of the audio in megabytes; the utterances with the most errors, or that differ most
            between systems, come first.
        differences: the paired test of several systems.
        notes: further notes at the top.

    Raises:
        RecipeError: the systems have no utterance in common, or their references differ.
    """
    utterances = _worst_first(_merged(systems))
    first = next(iter(systems.values()))
    samples = {} if audio == "none" else _samples(first.metrics.get("references"), {row["id"] for row in utterances})
    ordered = [(row["id"], samples[row["id"]]) for row in utterances if row["id"] in samples]
    page = Page(
        title=title,
        notes=[*_notes(systems, len(utterances)), *notes],
        tables=[*([differences] if differences else []), _rates(systems)],
        data={
            "systems": list(systems),
            "signs": SIGNS,
            "breakdowns": _breakdowns([system.metrics["breakdowns"] for system in systems.values()]),
            "durations": [duration_range(edge) for edge in DURATION_EDGES],
            "lines": [*_reliability(systems), *_curves(systems)],
            "utterances": utterances,
        },
        sounds=collect(ordered, audio, audio_limit_mb, path, SAMPLING_RATE),
    )
    write_page(path, page)


def _merged(systems: dict[str, System]) -> list[dict]:
    """Return the utterances that all systems have, in the format of the page's script."""
    first, *others = (system.rows for system in systems.values())
    common = [key for key in first if all(key in rows for rows in others)]
    if not common:
        raise RecipeError("the runs have no utterance in common", where="compare", cure="give runs of the same set")
    for key in common:
        if any(rows[key]["reference_units"] != first[key]["reference_units"] for rows in others):
            what = f"the references of {key} differ after normalization"
            raise RecipeError(what, where="compare", cure="score all runs with the same references and --normalizer")
    return [_utterance([rows[key] for rows in (first, *others)]) for key in common]


def _utterance(rows: list[dict]) -> dict:
    row = rows[0]
    words = [word for result in rows for word in result.get("words") or () if word]
    probabilities = [word[2] for word in words if word[2] is not None]
    results = [
        {
            "hypothesis": result["hypothesis_units"],
            "written": result["hypothesis"],
            "alignment": result["alignment"],
            **{key: result[key] for key in ("signs", "words") if result.get(key)},
        }
        for result in rows
    ]
    return {
        **{key: row[key] for key in ("id", "language", "task", "speaker", "duration", "unit")},
        "text_language": text_language(row["language"].partition("→")[0], row["task"]),
        "duration_range": duration_range(row["duration"]),
        "written": row["reference"],
        "reference": row["reference_units"],
        **({"confidence": min(probabilities)} if probabilities else {}),
        "results": results,
        "errors": [_errors(result) for result in rows],
    }


def _errors(row: dict) -> int:
    return row["insertions"] + row["deletions"] + row["substitutions"]


def _worst_first(utterances: list[dict]) -> list[dict]:
    """Sort by errors; with several systems by how much they differ, then by errors."""

    def order(row: dict) -> tuple:
        errors = row["errors"]
        return -max(abs(count - errors[0]) for count in errors), -max(errors), row["id"]

    return [{key: value for key, value in row.items() if key != "errors"} for row in sorted(utterances, key=order)]


def _notes(systems: dict[str, System], count: int) -> list[str]:
    names = ", ".join(dict.fromkeys(system.metrics["normalizer"] for system in systems.values()))
    notes = [f"Normalizer: {names}; the table shows the one of each language. {RATES_NOTE}"]
    for name, (_, metrics, rows) in systems.items():
        about = f"{name}: " if len(systems) > 1 else ""
        if "RTF" in metrics:
            speed = f"RTF {metrics['RTF']:.4f} (processing time / audio time, smaller is faster)"
            notes.append(f"{about}{speed}, RTFx {metrics['RTFx']:g}.")
        if metrics["missing_hypotheses"]:
            what = "utterances have no hypothesis and count as deletions; missing.txt lists them."
            notes.append(f"{about}{metrics['missing_hypotheses']} {what}")
        if len(rows) > count:
            notes.append(
                f"{about}{len(rows) - count} utterances are missing from another run and left out of the list below."
            )
        for group, values in metrics["groups"].items():
            if "bleu" in values:
                bleu = f"BLEU {values['bleu']:.2f} ({values['bleu_signature']})"
                chrf = f"chrF {values['chrf']:.2f} ({values['chrf_signature']})"
                notes.append(f"{about}{group}: {bleu}, {chrf}, on the text as written.")
    return notes


def _rates(systems: dict[str, System]) -> Table:
    """Return the error rates of each language and task, with one row per system."""
    groups = named_groups(system.metrics for system in systems.values())
    several = len(systems) > 1
    rows = [
        [
            group,
            *([name] if several else []),
            *(values[key] for key in ("unit", "normalizer")),
            *(percent(values[key]) for key in RATES),
            *(f"{values[key]:,}" for key in COUNTS),
        ]
        for group in groups
        for name, system in systems.items()
        if (values := system.metrics["groups"].get(group)) is not None
    ]
    texts = ["group", *(["system"] if several else []), "unit", "normalizer"]
    columns = [*texts, *RATES.values(), *COUNTS.values()]
    minor = ("unit", "normalizer", "ins", "del", "sub", "MER", "sentences correct", *COUNTS.values())
    return Table("Languages and tasks", columns, rows, texts=len(texts), minor=minor)


def _breakdowns(breakdowns: list[dict[str, dict[str, dict]]]) -> list[dict]:
    """Return each breakdown with more than one part, with the rates of each system."""
    shown = []
    for name in BREAKDOWNS:
        parts = dict.fromkeys(part for system in breakdowns for part in system.get(name, ()))
        if len(parts) > 1:
            rows = [_part(part, [system.get(name, {}).get(part) for system in breakdowns]) for part in parts]
            shown.append({"name": name, "parts": rows})
    return shown


def _part(part: str, values: list[dict | None]) -> dict:
    def rates(metrics: dict | None) -> dict | None:
        low, high = (metrics and metrics["interval_95"]) or (None, None)
        return metrics and {"rate": metrics["error_rate"], "low": low, "high": high}

    known = next(metrics for metrics in values if metrics)
    return {"part": part, "utterances": known["utterances"], "systems": list(map(rates, values))}


def _samples(references: str | None, ids: Collection[str]) -> dict[str, Samples]:
    """Return functions that read the samples of utterances; those without a plain audio file are left out.

    Args:
        references: the manifest or directory that was scored against; it may no longer exist.
        ids: of the utterances.
    """
    if references is None or not exists(references):
        return {}
    if Path(references).is_dir():
        rows = read_corpus(references, allow_pipes=True, needs_audio=False)
        found = {row.id: samples_of_utterance(row) for row in rows if row.id in ids}
    elif references.endswith(JSON_LINES):
        found = {row["id"]: samples_of_cut(row) for _, row in read_jsonl(references) if row["id"] in ids}
    else:
        found = {}
    return {key: read for key, read in found.items() if read is not None}


def unit_times(units: list[str], words: list[dict], units_of_word: Iterable[list[str]]) -> list[list | None]:
    """Return [start, end, probability] of each unit of a normalised hypothesis, from the words as written.

    Normalisation joins, splits and drops words ("twenty five" becomes "25"), so the units are aligned with those of the
    single words; None for a unit without a match.

    Args:
        units: of the hypothesis.
        words: rows with `start`, `end` (seconds, may be missing) and `probability`.
        units_of_word: the units of each word when normalised alone.
    """
    owners, parts = [], []
    for word, own_units in zip(words, units_of_word, strict=True):
        owners += [word] * len(own_units)
        parts += own_units
    times: list[list | None] = [None] * len(units)
    for match in SequenceMatcher(None, units, parts, autojunk=False).get_matching_blocks():
        for offset in range(match.size):
            owner = owners[match.b + offset]
            times[match.a + offset] = [owner.get("start"), owner.get("end"), owner.get("probability")]
    return times


def _reliability(systems: dict[str, System]) -> list[dict]:
    """Return the chart of how often words of a given probability are correct; none without probabilities."""
    known = {name: found for name, system in systems.items() if (found := system.metrics.get("confidence"))}
    errors = ", ".join(
        f"{percent(found['ece'])} %" + (f" ({name})" if len(systems) > 1 else "") for name, found in known.items()
    )
    chart = {
        "title": "Word probabilities",
        "note": "Calibrated probabilities lie on the diagonal; below it the model is overconfident, above it "
        f"underconfident. Larger dots stand for more words. Expected calibration error: {errors}.",
        "x": "probability",
        "y": "share of correct words",
        "diagonal": True,
        "series": [
            {"name": name, "system": list(systems).index(name), "points": found["bins"]}
            for name, found in known.items()
        ],
    }
    return [chart] if known else []


def _curves(systems: dict[str, System]) -> list[dict]:
    """Return the learning curves of the training runs that the decodings belong to, each once."""
    runs: dict[Path, str] = {}
    for name, system in systems.items():
        run = system.folder.absolute().parent
        runs.setdefault(run, name if len(systems) > 1 else run.name)
    return [chart for run, name in runs.items() for chart in learning_curves(name, run)]


def learning_curves(name: str, run: Path) -> list[dict]:
    """Return the charts of a training run's curves.csv; none if it does not exist."""
    path = run / "curves.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    series = {}
    for column in rows[0] if rows else ():
        points = [[float(row["step"]), float(row[column])] for row in rows if row[column]]
        points = [point for point in points if isfinite(point[1])]  # a loss may be nan
        if points:
            series[column] = points
    losses = [column for column in series if column in ("loss", "eval_loss")]
    canaries = [column for column in series if column.startswith("eval_canary_")]
    rates = [column for column in series if column.startswith("eval_") and column not in losses + canaries]
    if len(rates) == 2:  # a single language: the mean equals its rate
        rates = [column for column in rates if column != MEAN_RATE]
    return [
        {
            "title": f"Training of {name}: {title}",
            "note": note,
            "x": "step",
            "y": unit,
            "series": [
                {"name": _curve_name(column), "points": [[step, factor * value] for step, value in series[column]]}
                for column in chosen
            ],
        }
        for title, note, unit, factor, chosen in (
            ("loss", "", "cross entropy", 1, losses),
            ("error rates", CANARIES_NOTE if canaries else "", "%", 100, rates + canaries),
        )
        if chosen
    ]


def _curve_name(column: str) -> str:
    """Return the page's name for a column of curves.csv: `eval_wer_cs` is `WER cs`, `eval_canary_en` `canary en`."""
    if column in CURVES:
        return CURVES[column]
    kind, _, rest = column.removeprefix("eval_").partition("_")
    return f"{kind.upper() if kind in ('wer', 'cer') else kind} {rest.replace('_', ' ')}"
