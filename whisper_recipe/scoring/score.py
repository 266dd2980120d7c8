"""`whisper-recipe score`: error rates of a decoded set, per language and task."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, read_jsonl, require, write_json, written_aside
from whisper_recipe.languages import language_code
from whisper_recipe.scoring.error_rates import ErrorCounts, count_errors
from whisper_recipe.tasks import check_task
from whisper_recipe.text.normalize import NormalizerName, get_normalizer, is_counted_in_characters, text_language

ALL = "all"


class Reference(NamedTuple):
    """What an utterance should have been recognised as."""

    text: str
    language: str
    task: str


def score(hyp_dir: Path, ref: Path, normalizer: NormalizerName = "whisper") -> None:
    """Score hyp_dir/hyp.jsonl; write metrics.json, wer, cer and errors.txt beside it.

    Args:
        hyp_dir: the folder that `whisper-recipe decode` wrote.
        ref: the cut manifest that was decoded; its supervisions are the references.
        normalizer: applied to references and hypotheses: whisper (by language), basic (Whisper's basic one
            for all languages) or none.

    Raises:
        RecipeError: an input is missing, an id is there twice, or a hypothesis has no reference.
    """
    require(hyp_dir, "run whisper-recipe decode first (stage 7)")
    references = read_references(ref)
    hypotheses = read_hypotheses(hyp_dir / "hyp.jsonl", references)
    groups: dict[str, ErrorCounts] = defaultdict(ErrorCounts)
    units: dict[str, str] = {}
    alignments: list[tuple[int, str]] = []
    for key, reference in references.items():
        group, unit = group_of(reference)
        normalize = get_normalizer(normalizer, text_language(reference.language, reference.task))
        counts, alignment = count_errors(
            normalize(reference.text), normalize(hypotheses.get(key, "")), characters=unit == "CER"
        )
        groups[group] += counts
        units[group] = unit
        if counts.errors:
            alignments.append((counts.errors, f"{key} ({counts.errors} errors)\n{alignment}\n"))
    # Not a WER of anything where words and characters meet: each unit counts once.
    groups[ALL], units[ALL] = sum(groups.values(), ErrorCounts()), _unit_of_all(set(units.values()))
    missing = len(references) - len(hypotheses)
    metrics = {
        "set": Path(ref).name.removeprefix("cuts_").partition(".")[0],
        "normalizer": normalizer,
        "missing_hypotheses": missing,
        **_speed(hyp_dir / "decode.json"),
        "groups": {group: {"unit": units[group], **groups[group].metrics()} for group in sorted(groups)},
    }
    _write_kaldi_files(hyp_dir, groups, units)
    with written_aside(hyp_dir / "errors.txt") as aside:
        aside.write_text("\n".join(text for _, text in sorted(alignments, reverse=True)), encoding="utf-8")
    write_json(hyp_dir / "metrics.json", metrics)
    _print(hyp_dir, metrics)


def read_references(path: Path) -> dict[str, Reference]:
    """Read the references of a cut manifest: cut id -> text, language, task; without lhotse, which loads slowly."""
    references = {}
    for line, cut in read_jsonl(require(path, "run whisper-recipe fbank first (stage 2)")):
        where = f"{path}:{line}"
        try:
            supervision = cut["supervisions"][0]
            fields = [cut["id"], supervision["text"], supervision["language"], supervision["custom"]["task"]]
        except (KeyError, IndexError, TypeError):
            fields = []
        if not fields or not all(isinstance(field, str) for field in fields):
            raise RecipeError(
                "no cut with an id and a supervision's text, language and custom.task",
                where=where,
                cure="give the manifest that whisper-recipe fbank wrote",
            )
        key, text, language, task = fields
        if key in references:
            raise RecipeError(f"cut {key} is there twice", where=where, cure="remove one")
        references[key] = Reference(text, language_code(language, where), check_task(task, where))
    if not references:
        raise RecipeError("no cuts in it", where=path, cure="give the manifest that was decoded")
    return references


def read_hypotheses(path: Path, references: dict[str, Reference]) -> dict[str, str]:
    """Read hyp.jsonl: id -> text; every id once, and each with a reference."""
    hypotheses: dict[str, str] = {}
    for line, row in read_jsonl(require(path, "run whisper-recipe decode first (stage 7)")):
        where = f"{path}:{line}"
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise RecipeError("no id and text in it", where=where, cure="write {'id': ..., 'text': ...}")
        if row["id"] in hypotheses:
            raise RecipeError(f"{row['id']} is there twice", where=where, cure="remove one")
        if row["id"] not in references:
            raise RecipeError(
                f"{row['id']} has no reference", where=where, cure="score with the cuts that were decoded"
            )
        hypotheses[row["id"]] = row["text"]
    return hypotheses


def group_of(reference: Reference) -> tuple[str, str]:
    """Return the group that an utterance is counted in (`zh transcribe`, `zh→en translate`) and its unit."""
    language = f"{reference.language}→en" if reference.task == "translate" else reference.language
    unit = "CER" if is_counted_in_characters(reference.language, reference.task) else "WER"
    return f"{language} {reference.task}", unit


def _unit_of_all(units: set[str]) -> str:
    return units.pop() if len(units) == 1 else "WER/CER"


def _speed(path: Path) -> dict[str, float]:
    """RTF: processing time / audio time, smaller is faster; RTFx is its inverse. Empty for foreign hypotheses."""
    if not path.exists():
        return {}
    rtf = read_json(path).get("rtf")
    if not isinstance(rtf, int | float) or not rtf > 0:
        raise RecipeError("no positive rtf in it", where=path, cure="decode again, or remove it to score without RTF")
    return {"RTF": rtf, "RTFx": round(1 / rtf, 1)}


def _write_kaldi_files(folder: Path, groups: dict[str, ErrorCounts], units: dict[str, str]) -> None:
    """Write `wer` and `cer` as Kaldi's scoring does, a line a group."""
    for unit in ("WER", "CER"):
        lines = [_kaldi_line(group, groups[group], unit) for group in sorted(groups) if units[group] == unit]
        if lines:
            with written_aside(folder / unit.lower()) as aside:
                aside.write_text("".join(lines), encoding="utf-8")


def _kaldi_line(group: str, counts: ErrorCounts, unit: str) -> str:
    rate = f"{100 * counts.errors / counts.total:.2f}" if counts.total else "nan"
    parts = f"{counts.insertions} ins, {counts.deletions} del, {counts.substitutions} sub"
    return f"%{unit} {rate} [ {counts.errors} / {counts.total}, {parts} ] {group}\n"


def _print(folder: Path, metrics: dict) -> None:
    from tabulate import tabulate

    rates = ("error_rate", "ins_rate", "del_rate", "sub_rate")
    rows = [
        [group, values["unit"], *(_percent(values[rate]) for rate in rates), values["total"], values["utterances"]]
        for group, values in metrics["groups"].items()
    ]
    print(f"{folder} (%, normalizer: {metrics['normalizer']})")
    print(tabulate(rows, ["group", "unit", "error rate", "ins", "del", "sub", "total", "utterances"], floatfmt=".2f"))
    if metrics["missing_hypotheses"]:
        print(f"{metrics['missing_hypotheses']} utterances have no hypothesis and count as deletions")


def _percent(rate: float | None) -> float | None:
    return None if rate is None else 100 * rate
