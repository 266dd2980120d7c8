"""report.html: a scored set on one page, to be read in a browser without network, or sent to somebody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path

from whisper_recipe.files import written_aside
from whisper_recipe.scoring.hallucinations import SIGNS
from whisper_recipe.scoring.utterances import ScoredUtterance
from whisper_recipe.text.error_rates import steps

MOST_FREQUENT = 20  # errors of each kind
WORST_PARTS = 30  # of a breakdown; a set may have thousands of speakers
WORST_UTTERANCES = 50
UTTERANCES_OF_A_SIGN = 20

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: .5em 0 1.5em; display: inline-table; vertical-align: top; }
th, td { padding: .15em .7em; border-bottom: 1px solid #ccc; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
h2 { margin-top: 2em; }
p.note { color: #666; }
div.utterance { margin: .8em 0; padding-left: .8em; border-left: 3px solid #ccc; overflow-wrap: anywhere; }
ins { background: #cfe8ff; color: #063; text-decoration: none; }
del { background: #ffd6d6; color: #800; }
.substitute { background: #ffe9b8; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; }
  ins, del, .substitute { color: #111; }
  p.note { color: #aaa; }
}
"""
RATES = {
    "error_rate": "error rate",
    "interval_95": "95 % interval",
    "ins_rate": "ins",
    "del_rate": "del",
    "sub_rate": "sub",
    "match_error_rate": "MER",
    "sentence_correct_rate": "sentences right",
}
COUNTS = ("insertions", "deletions", "substitutions", "total", "utterances")


def percent(value: float | list[float] | None) -> str:
    """Return a rate, or an interval of rates, in per cent without the sign; a dash where there is none."""
    if value is None:
        return "–"
    return " to ".join(map(percent, value)) if isinstance(value, list) else f"{100 * value:.2f}"


def write_report(
    path: Path,
    utterances: list[ScoredUtterance],
    errors: dict[str, Counter[tuple[str, str, str]]],
    metrics: dict,
) -> None:
    """Write the page.

    Args:
        path: report.html.
        utterances: all of the set.
        errors: kind -> (language, reference, hypothesis) -> times.
        metrics: what metrics.json holds.
    """
    title = f"{metrics['set']}: {path.absolute().parent.parent.name} {path.absolute().parent.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(metrics),
        "<h2>Languages and tasks</h2>",
        _rates_table(metrics["groups"], "group"),
        *_breakdowns(metrics["breakdowns"]),
        "<h2>Most frequent errors</h2>",
        *(_frequent(kind, counter) for kind, counter in errors.items()),
        "<h2>Signs of made-up text</h2>",
        *(_sign(sign, [utterance for utterance in utterances if sign in utterance.signs]) for sign in SIGNS),
        "<h2>Worst utterances</h2>",
        *_worst(utterances),
    ]
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _summary(metrics: dict) -> str:
    lines = [
        f"Normalizer: {metrics['normalizer']} (the tables name it for each row). Rates are in %; errors are counted in "
        "words (WER) or, for languages without spaces, in characters (CER). Intervals are 95 % bootstrap intervals. "
        "MER: errors as a share of all aligned positions, insertions among them.",
    ]
    if "RTF" in metrics:
        lines.append(
            f"RTF {metrics['RTF']:.4f} (processing time / audio time, smaller is faster), RTFx {metrics['RTFx']:g}."
        )
    if metrics["missing_hypotheses"]:
        lines.append(
            f"{metrics['missing_hypotheses']} utterances have no hypothesis and count as deletions; missing.txt "
            "lists them."
        )
    for group, values in metrics["groups"].items():
        if "bleu" in values:
            lines.append(
                f"{group}: BLEU {values['bleu']:.2f} ({values['bleu_signature']}), chrF {values['chrf']:.2f} "
                f"({values['chrf_signature']}), of the text as written."
            )
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def _table(headers: Iterable[str], rows: Iterable[Iterable[object]], texts: int) -> str:
    """Return a table whose first `texts` columns are of text; the others are of numbers."""
    lines = [_table_row("th", headers, texts), *(_table_row("td", row, texts) for row in rows)]
    return "\n".join(["<table>", *lines, "</table>"])


def _table_row(tag: str, values: Iterable[object], texts: int) -> str:
    cells = (
        f"<{tag}{' class=number' if number >= texts else ''}>{escape(str(value))}</{tag}>"
        for number, value in enumerate(values)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _rates_table(groups: dict[str, dict], name: str) -> str:
    rows = [
        [
            group,
            values["unit"],
            values["normalizer"],
            *(percent(values[key]) for key in RATES),
            *(values[key] for key in COUNTS),
        ]
        for group, values in groups.items()
    ]
    return _table([name, "unit", "normalizer", *RATES.values(), *COUNTS], rows, texts=3)


def _breakdowns(breakdowns: dict[str, dict[str, dict]]) -> Iterable[str]:
    for name, parts in breakdowns.items():
        if len(parts) < 2:  # the whole set, or nothing known
            continue
        yield f"<h2>By {escape(name)}</h2>"
        if len(parts) > WORST_PARTS:
            yield f'<p class="note">The {WORST_PARTS} worst of {len(parts)}; metrics.json has all.</p>'
            worst = sorted(parts.items(), key=lambda part: part[1]["error_rate"] or 0, reverse=True)
            parts = dict(worst[:WORST_PARTS])
        yield _rates_table(parts, name)


def _frequent(kind: str, counter: Counter[tuple[str, str, str]]) -> str:
    rows = [
        [language, reference or "–", hypothesis or "–", times]
        for (language, reference, hypothesis), times in counter.most_common(MOST_FREQUENT)
    ]
    title = f"{kind} ({counter.total()})"
    return _table([title, "reference", "hypothesis", "times"], rows, texts=3) if rows else f"<p>No {escape(kind)}.</p>"


def _sign(sign: str, found: list[ScoredUtterance]) -> str:
    parts = [f"<h3>{escape(sign)}: {len(found)}</h3>", f'<p class="note">{escape(SIGNS[sign])}</p>']
    if len(found) > UTTERANCES_OF_A_SIGN:
        parts.append(f'<p class="note">The first {UTTERANCES_OF_A_SIGN}; hallucinations.txt has all.</p>')
    return "\n".join([*parts, *(_utterance(one, one.signs[sign]) for one in found[:UTTERANCES_OF_A_SIGN])])


def _worst(utterances: list[ScoredUtterance]) -> Iterable[str]:
    wrong = sorted((one for one in utterances if one.counts.errors), key=lambda one: (-one.counts.errors, one.id))
    yield (
        f'<p class="note">{min(len(wrong), WORST_UTTERANCES)} of {len(wrong)} with errors, most errors first; '
        "errors.txt has all. <del>deleted</del> <ins>inserted</ins> "
        '<span class="substitute"><del>reference</del> → hypothesis</span></p>'
    )
    yield from (
        _utterance(one, f"{one.counts.errors} errors in {one.counts.total}") for one in wrong[:WORST_UTTERANCES]
    )


def _utterance(utterance: ScoredUtterance, remark: str) -> str:
    about = [utterance.group, utterance.unit, f"normalizer {utterance.normalizer}", remark]
    if utterance.written is None:
        about.append("no hypothesis")
    space = "" if utterance.in_characters else " "
    text = space.join(_coloured(*step) for step in steps(utterance.align()))
    return f'<div class="utterance"><b>{escape(utterance.id)}</b> {escape(", ".join(about))}<br>{text}</div>'


def _coloured(kind: str, reference: str, hypothesis: str) -> str:
    reference, hypothesis = escape(reference), escape(hypothesis)
    return {
        "equal": reference,
        "delete": f"<del>{reference}</del>",
        "insert": f"<ins>{hypothesis}</ins>",
        "substitute": f'<span class="substitute"><del>{reference}</del>→{hypothesis}</span>',
    }[kind]
