"""`whisper-recipe score`: error rates of a decoded set and their details, as files for people and programs."""

from __future__ import annotations

from collections import Counter
from math import isfinite
from pathlib import Path
from statistics import fmean

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json, read_jsonl, write_json, write_jsonl
from whisper_recipe.languages import language_code
from whisper_recipe.report.sound import AudioMode
from whisper_recipe.scoring.confidence import confidence_metrics
from whisper_recipe.scoring.hallucinations import SIGNS
from whisper_recipe.scoring.references import JSON_LINES, hypotheses_file, read_hypotheses, read_references
from whisper_recipe.scoring.report import ALL, MEAN, System, percent, unit_times, write_report
from whisper_recipe.scoring.utterances import (
    BREAKDOWNS,
    ScoredUtterance,
    Units,
    breakdown,
    group_metrics,
    score_utterances,
)
from whisper_recipe.text.error_rates import alignment_code, alignment_lines, steps, units_of
from whisper_recipe.text.normalize import NormalizerName, get_normalizer, text_language

KINDS = {"substitute": "substitutions", "insert": "insertions", "delete": "deletions"}
MOST_FREQUENT = 100  # errors of each kind in frequent_errors.txt


def score(
    hyp: Path,
    ref: Path,
    normalizer: NormalizerName = "whisper",
    language: str | None = None,
    units: Units = "by_language",
    bleu: list[str] = [],  # noqa: B006
    audio: AudioMode = "embedded",
    audio_limit_mb: float = 3.0,
) -> None:
    """Score hypotheses; write metrics.json, report.html, wer, cer, errors.txt and more next to them.

    frequent_errors.txt has the most frequent substitutions, insertions and deletions, hallucinations.txt the signs of
    hallucination, missing.txt the utterances without a hypothesis, utterances.jsonl all alignments and counts.

    Args:
        hyp: the folder written by `whisper-recipe decode`, with hyp.jsonl; or a file: NAME.jsonl, NAME.trn with `text
            (id)`, or Kaldi's `id text`.
        ref: the cut manifest that was decoded, a Kaldi data directory (wav.scp is not needed), NAME.trn, or a file with
            `id text`.
        normalizer: applied to references and hypotheses: whisper (by language: english, chinese, else basic_marks), or
            one for all: these, basic (Whisper's own, which drops the combining marks of Hindi or Thai), arabic
            (basic_marks without vowel signs and tatweel, digits as 0 to 9), persian (arabic, with Persian's yeh and kaf
            and a space for the zero width non-joiner), open_asr_leaderboard (English, from your checkout of its
            repository on PYTHONPATH) or none.
        language: language of the references of a .trn or `id text` file: a Whisper code or an English name.
        units: units to count errors in: words, or characters for languages without spaces between words (by_language);
            one of these for all; or mixed, for code-switched text: characters for scripts without spaces, words for all
            others.
        bleu: languages whose texts are translations of speech in another language, for models that translate by writing
            in that language; they also get BLEU and chrF, as the task translate does.
        audio: where to store the audio of report.html: in the page (embedded), in a folder next to it (linked), or not
            at all (none).
        audio_limit_mb: maximum size of the audio in megabytes; the utterances with the most errors come first.

    Raises:
        RecipeError: an input is missing, an id occurs twice, or a hypothesis has no reference.
    """
    references = read_references(ref, language)
    file = hypotheses_file(hyp)
    hypotheses = read_hypotheses(file, references)
    utterances = score_utterances(references, hypotheses, normalizer, units)
    metrics = {
        "set": Path(ref).resolve().name.removeprefix("cuts_").partition(".")[0],
        "references": str(Path(ref).resolve()),
        "normalizer": normalizer,
        **_metrics(utterances, _speed(hyp / "decode.json"), {language_code(name, "--bleu") for name in bleu}),
    }
    words = _read_words(file)
    rows = [_row(utterance, words.get(utterance.id)) for utterance in utterances]
    if confidence := confidence_metrics(rows):
        metrics["confidence"] = confidence
    _write_texts(file.parent, utterances, metrics)
    write_jsonl(file.parent / "utterances.jsonl", rows)
    _write_report(file.parent.absolute(), metrics, rows, audio, audio_limit_mb)
    write_json(file.parent / "metrics.json", metrics)
    _print(hyp, metrics)


def _metrics(utterances: list[ScoredUtterance], speed: dict[str, float], translated: set[str]) -> dict:
    parts = breakdown(utterances, lambda utterance: utterance.group)
    groups = {group: group_metrics(part) | _translation_metrics(part, translated) for group, part in parts.items()}
    groups[ALL] = group_metrics(utterances)
    rates = [group["error_rate"] for name, group in groups.items() if name != ALL and group["error_rate"] is not None]
    if len(parts) > 1 and rates:
        # The mean over groups: words and characters can't be added up, and small groups count as much as large ones.
        groups[ALL][MEAN] = fmean(rates)
    signs = Counter(sign for utterance in utterances for sign in utterance.signs)
    return {
        **{key: groups[ALL][key] for key in ("error_rate", "ins_rate", "del_rate", "sub_rate", "total")},
        **speed,
        "missing_hypotheses": sum(utterance.written is None for utterance in utterances),
        "hallucination_signs": {sign: signs[sign] for sign in SIGNS},
        "groups": dict(sorted(groups.items())),
        "breakdowns": {
            name: {part: group_metrics(members) for part, members in breakdown(utterances, part_of).items()}
            for name, part_of in BREAKDOWNS.items()
        },
    }


def _translation_metrics(utterances: list[ScoredUtterance], translated: set[str]) -> dict[str, float | str]:
    """Return BLEU and chrF of translations as written; sacrebleu's signature names its handling of punctuation."""
    source = utterances[0].source
    if source.task != "translate" and source.language not in translated:
        return {}
    from sacrebleu import BLEU, CHRF

    metrics = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        hypotheses = [utterance.written or "" for utterance in utterances]
        result = metric.corpus_score(hypotheses, [[utterance.source.text for utterance in utterances]])
        metrics[name] = result.score
        metrics[f"{name}_details"] = str(result)
        metrics[f"{name}_signature"] = str(metric.get_signature())
    return metrics


def _speed(path: Path) -> dict[str, float]:
    """Return RTF (processing time / audio time, smaller is faster) and its inverse, RTFx; empty if not recorded."""
    if not path.exists():
        return {}
    rtf = read_json(path).get("rtf")
    if not isinstance(rtf, int | float) or not rtf > 0:
        raise RecipeError("no positive rtf in it", where=path, cure="decode again, or remove it to score without RTF")
    return {"RTF": rtf, "RTFx": round(1 / rtf, 1)}


def frequent_errors(utterances: list[ScoredUtterance]) -> dict[str, Counter[tuple[str, str, str]]]:
    """Count each substitution, insertion and deletion: kind -> (language of the text, reference, hypothesis) -> count.

    The reference is "" for insertions, the hypothesis for deletions.
    """
    counters: dict[str, Counter[tuple[str, str, str]]] = {name: Counter() for name in KINDS.values()}
    for utterance in utterances:
        if utterance.counts.errors:
            language = text_language(utterance.source.language, utterance.source.task)
            for kind, reference, hypothesis in steps(utterance.align()):
                if kind in KINDS:
                    counters[KINDS[kind]][language, reference, hypothesis] += 1
    return counters


def _read_words(file: Path) -> dict[str, list[dict]]:
    """Return the words of hypotheses that have times or probabilities: id -> rows.

    Raises:
        RecipeError: `words` is malformed.
    """
    words = {}
    for line, row in read_jsonl(file) if file.name.endswith(JSON_LINES) else ():
        if row.get("words") is not None:
            if not isinstance(row["words"], list) or not all(map(_is_word, row["words"])):
                cure = "write {'word': ..., 'start': seconds, 'end': seconds, 'probability': 0 to 1}, or omit words"
                raise RecipeError("malformed words", where=f"{file}:{line}", cure=cure)
            words[row["id"]] = row["words"]
    return words


def _is_word(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("word"), str):
        return False
    numbers = [value.get(name) for name in ("start", "end", "probability")]
    return all(number is None or (isinstance(number, int | float) and isfinite(number)) for number in numbers)


def _row(utterance: ScoredUtterance, words: list[dict] | None) -> dict:
    """Return a row of utterances.jsonl: what compare and the report need to know about an utterance."""
    reference, hypothesis = (
        units_of(text, utterance.in_characters) for text in (utterance.reference, utterance.hypothesis)
    )
    row = {
        "id": utterance.id,
        "group": utterance.group,
        "language": utterance.language,
        "task": utterance.source.task,
        "speaker": utterance.source.speaker,
        "duration": utterance.source.duration,
        "unit": utterance.unit,
        "normalizer": utterance.normalizer,
        "insertions": utterance.counts.insertions,
        "deletions": utterance.counts.deletions,
        "substitutions": utterance.counts.substitutions,
        "total": utterance.counts.total,
        "reference": utterance.source.text,
        "hypothesis": utterance.written,
        "reference_units": " ".join(reference),
        "hypothesis_units": " ".join(hypothesis),
        "alignment": alignment_code(utterance.align()),
        "signs": utterance.signs,
    }
    if words:
        language = text_language(utterance.source.language, utterance.source.task)
        normalize = get_normalizer(utterance.normalizer, language)
        parts = (units_of(normalize(word["word"]), utterance.in_characters) for word in words)
        row["words"] = unit_times(hypothesis, words, parts)
    return row


def _write_report(folder: Path, metrics: dict, rows: list[dict], audio: AudioMode, audio_limit_mb: float) -> None:
    system = System(folder, metrics, {row["id"]: row for row in rows})
    title = f"{metrics['set']}: {folder.parent.name} {folder.name}"
    write_report(folder / "report.html", title, {folder.name: system}, audio, audio_limit_mb)


def _write_texts(folder: Path, utterances: list[ScoredUtterance], metrics: dict) -> None:
    missing = [f"{utterance.id}\n" for utterance in utterances if utterance.written is None]
    texts = {
        **{unit.lower(): "".join(_kaldi_lines(metrics["groups"], unit)) for unit in ("WER", "CER", "mixed")},
        "errors.txt": "\n".join(_alignments(utterances)),
        "frequent_errors.txt": _frequent_errors_text(frequent_errors(utterances), metrics["normalizer"]),
        "hallucinations.txt": _signs_text(utterances, metrics["normalizer"]),
        "missing.txt": "".join(missing),
    }
    optional = ("wer", "cer", "mixed", "missing.txt")  # if empty, not written, and removed if left from an earlier run
    for name, text in texts.items():
        if not text and name in optional:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def _kaldi_lines(groups: dict[str, dict], unit: str) -> list[str]:
    """Return the lines of `wer` and `cer` as Kaldi's scoring writes them, one per group."""
    lines = []
    for group, values in groups.items():
        if values["unit"] == unit:
            rate = "nan" if values["error_rate"] is None else f"{100 * values['error_rate']:.2f}"
            parts = ", ".join(f"{values[kind]} {kind[:3]}" for kind in ("insertions", "deletions", "substitutions"))
            errors = values["insertions"] + values["deletions"] + values["substitutions"]
            counts = f"[ {errors} / {values['total']}, {parts} ]"
            lines.append(f"%{unit.upper()} {rate} {counts} {group} (normalizer: {values['normalizer']})\n")
    return lines


def _alignments(utterances: list[ScoredUtterance]) -> list[str]:
    """Return the alignment of every utterance with errors, those with the most first."""
    wrong = [utterance for utterance in utterances if utterance.counts.errors]
    wrong.sort(key=lambda utterance: (-utterance.counts.errors, utterance.id))
    return [
        f"{utterance.id} ({utterance.counts.errors} errors), {utterance.group} {utterance.unit}, "
        f"normalizer: {utterance.normalizer}{', no hypothesis' if utterance.written is None else ''}\n"
        f"{alignment_lines(utterance.align())}\n"
        for utterance in wrong
    ]


def _frequent_errors_text(errors: dict[str, Counter[tuple[str, str, str]]], normalizer: str) -> str:
    lines = [f"Count, language of the text, reference -> hypothesis. Normalizer: {normalizer}."]
    for kind, counter in errors.items():
        lines += ["", f"{kind}: {counter.total()}, {len(counter)} different"]
        for (language, reference, hypothesis), times in counter.most_common(MOST_FREQUENT):
            lines.append(f"{times:8} {language:3} {reference or '*'} -> {hypothesis or '*'}")
    return "\n".join(lines) + "\n"


def _signs_text(utterances: list[ScoredUtterance], normalizer: str) -> str:
    lines = [f"Signs of hallucination: listen to these utterances. Normalizer: {normalizer}."]
    for sign, meaning in SIGNS.items():
        found = [utterance for utterance in utterances if sign in utterance.signs]
        lines += ["", f"{sign}: {len(found)} utterances ({meaning})"]
        for utterance in found:
            lines += [
                f"{utterance.id}: {utterance.signs[sign]}",
                f"  REF: {utterance.reference}",
                f"  HYP: {utterance.hypothesis}",
            ]
    return "\n".join(lines) + "\n"


def _print(hyp: Path, metrics: dict) -> None:
    from tabulate import tabulate

    rates = ("error_rate", "interval_95", "ins_rate", "del_rate", "sub_rate")
    headers = ["group", "unit", "error rate", "95 % interval", "ins", "del", "sub", "total", "utterances"]
    rows = [
        [group, values["unit"], *(percent(values[rate]) for rate in rates), values["total"], values["utterances"]]
        for group, values in metrics["groups"].items()
    ]
    print(f"{hyp} (%, normalizer: {metrics['normalizer']})")
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 7)))
    if MEAN in metrics["groups"][ALL]:
        print(f"mean error rate of the groups: {percent(metrics['groups'][ALL][MEAN])} %")
    for group, values in metrics["groups"].items():
        if "bleu" in values:
            print(f"{group}: BLEU {values['bleu']:.2f}, chrF {values['chrf']:.2f}, on the text as written")
    if "confidence" in metrics:
        confidence = metrics["confidence"]
        print(
            f"confidence: expected calibration error {percent(confidence['ece'])} %, "
            f"{percent(confidence['ece_calibrated'])} % with temperature {confidence['temperature']:.3f}"
        )
    signs = ", ".join(f"{name} {count}" for name, count in metrics["hallucination_signs"].items() if count)
    if signs:
        print(f"signs of hallucination (hallucinations.txt): {signs}")
    if metrics["missing_hypotheses"]:
        print(
            f"{metrics['missing_hypotheses']} utterances have no hypothesis and count as deletions; "
            "missing.txt lists them"
        )
