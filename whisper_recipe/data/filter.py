"""`whisper-recipe filter`: drop utterances whose transcript or audio looks wrong; every rule is off by default."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tqdm import tqdm

from whisper_recipe.data.corpus import Dropped, read_corpus, utterance_duration, write_corpus
from whisper_recipe.data.split import listed_in
from whisper_recipe.data.text_rules import (
    count_characters,
    looks_like_machine_text,
    near_duplicates,
    normalised,
    script_share,
)
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError

Broken = tuple[str, str, str]  # id of an utterance, a rule that it breaks, what is wrong


@dataclass
class Rules:
    """Conditions that an utterance must satisfy; rules that are not given drop nothing.

    Args:
        min_duration: in seconds.
        max_duration: in seconds.
        min_chars_per_second: letters and digits of the text per second; too few indicate an incomplete text.
        max_chars_per_second: too many indicate the text of other audio. English has about 15, Chinese about 5.
        max_repeats: how often the same transcript may occur per language and task, ignoring case, punctuation and
            spaces; the first by id are kept.
        near_duplicates: drop transcripts that share at least this proportion (0 to 1) of their sequences of four
            characters with a previous one (by id) of the same language and task; includes equal transcripts.
        machine_text: drop text in capitals only, or in lower case without any punctuation, which indicates ASR output;
            texts of one or two words, and languages without case, are kept.
        min_script_share: minimum proportion (0 to 1) of a text's letters that must be in a script of its language.
        language_model: a Whisper folder or a name on the Hub that identifies the language of the audio; utterances
            whose detected language differs from their label are dropped.
        min_language_probability: minimum probability (0 to 1) of the detected language for dropping an utterance.
        exclude: a file with an id at the beginning of each line, as saved by report.html; these utterances are dropped.
    """

    min_duration: float | None = None
    max_duration: float | None = None
    min_chars_per_second: float | None = None
    max_chars_per_second: float | None = None
    max_repeats: int | None = None
    near_duplicates: float | None = None
    machine_text: bool = False
    min_script_share: float | None = None
    language_model: str | None = None
    min_language_probability: float = 0.5
    exclude: Path | None = None

    def __post_init__(self) -> None:
        for name in ("near_duplicates", "min_script_share"):
            self._require(name, lambda value: 0 < value <= 1, "must be above 0 and at most 1")
        self._require("min_language_probability", lambda value: 0 <= value <= 1, "must be between 0 and 1")
        self._require("max_repeats", lambda value: value >= 1, "must be at least 1")
        for name in ("duration", "chars_per_second"):
            least = getattr(self, f"min_{name}") or 0.0
            self._require(f"min_{name}", lambda value: 0 <= value < math.inf, "must be at least 0")
            self._require(f"max_{name}", lambda value, least=least: value >= least, f"must be at least {least:g}")

    def _require(self, name: str, holds: Callable[[float], bool], cure: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise RecipeError(f"invalid value {value}", where=f"rules.{name}", cure=cure)

    def given(self) -> list[str]:
        """Return the names of the rules that are given."""
        names = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return [name for name in names if name != "min_language_probability"]


def filter_corpus(
    corpus: Path,
    out: Path,
    rules: Rules = Rules(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
    allow_pipes: bool = False,
    language: str | None = None,
    num_jobs: int = 2,
) -> None:
    """Write the utterances that satisfy all rules; count the others, and list them in OUT/dropped.tsv with the reasons.

    Only the rules on duration and `exclude` apply to non-speech examples.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the corpus to write; its name selects the format in the same way.
        rules: conditions that an utterance must satisfy.
        allow_pipes: run the shell commands given in place of audio files.
        language: language of a list's utterances that have none.
        num_jobs: number of threads that decode audio for the language model.

    Raises:
        RecipeError: the corpus has problems, no rule is given, or no utterance is left.
    """
    if not rules.given():
        raise RecipeError("no rule is given", where="rules", cure="see whisper-recipe filter --help")
    if Path(out).resolve() == Path(corpus).resolve():
        raise RecipeError("is also the input and would be overwritten", where=out, cure="give another --out")
    utterances = sorted(read_corpus(corpus, allow_pipes, language), key=lambda row: row.id.encode())
    durations = {row.id: _duration(row) for row in tqdm(utterances, "durations", unit="utt", delay=1)}
    broken = _all_broken(utterances, durations, rules, num_jobs)
    kept = [row for row in utterances if row.id not in broken]
    _print_table(rules, broken, durations)
    if not kept:
        raise RecipeError("no utterance is left", where=corpus, cure="loosen the rules")
    dropped = [
        Dropped(row.id, row.row, "; ".join(map(": ".join, broken[row.id]))) for row in utterances if row.id in broken
    ]
    write_corpus(kept, out, dropped)
    print(f"{out}: {len(utterances)} utterances read = {len(kept)} kept + {len(dropped)} dropped (dropped.tsv)")


def _duration(row: Utterance) -> float:
    seconds = utterance_duration(row)
    if seconds <= 0:
        cure = "whisper-recipe validate lists them all; whisper-recipe fix corrects them"
        raise RecipeError(f"{row.id} lasts {seconds:g} s", where=row.where, cure=cure)
    return seconds


def _all_broken(
    utterances: list[Utterance], durations: dict[str, float], rules: Rules, num_jobs: int
) -> dict[str, list[tuple[str, str]]]:
    """Return the broken rules as (rule, what is wrong), by utterance id."""
    broken: dict[str, list[tuple[str, str]]] = defaultdict(list)
    spoken = [row for row in utterances if row.text]

    def note(rows: Iterable[Broken]) -> None:
        for key, rule, what in rows:
            broken[key].append((rule, what))

    if rules.exclude is not None:
        note((row.id, "exclude", f"listed in {rules.exclude}") for row in listed_in(rules.exclude, utterances))
    for row in utterances:
        note(_outside(row.id, "duration", durations[row.id], "s", rules))
    for row in tqdm(spoken, "texts", unit="utt", delay=1):
        note(_wrong_text(row, durations[row.id], rules))
    if rules.language_model is not None:
        note(_other_languages(spoken, rules, num_jobs))
    # Utterances dropped already come last, so that no other is dropped as a repetition of one of them.
    spoken.sort(key=lambda row: row.id in broken)
    for (spoken_in, task), texts in _texts(spoken).items():
        note(_repeated(texts, rules, f"near duplicates {spoken_in} {task}"))
    return broken


def _outside(key: str, name: str, value: float, unit: str, rules: Rules) -> Iterator[Broken]:
    least, most = getattr(rules, f"min_{name}"), getattr(rules, f"max_{name}")
    if least is not None and value < least:
        yield key, f"min_{name}", f"{value:.2f} {unit}, under {least:g}"
    if most is not None and value > most:
        yield key, f"max_{name}", f"{value:.2f} {unit}, over {most:g}"


def _wrong_text(row: Utterance, seconds: float, rules: Rules) -> Iterator[Broken]:
    yield from _outside(row.id, "chars_per_second", count_characters(row.text) / seconds, "characters/s", rules)
    written = "en" if row.task == "translate" else row.language
    if rules.machine_text and (how := looks_like_machine_text(row.text, written)):
        yield row.id, "machine_text", how
    if rules.min_script_share is not None:
        share = script_share(row.text, written)
        if share < rules.min_script_share:
            yield row.id, "min_script_share", f"{share:.0%} of the letters are in a script of {written}"


def _texts(rows: Iterable[Utterance]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (id, normalised transcript) of each language and task."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row.language, row.task].append((row.id, normalised(row.text)))
    return groups


def _repeated(texts: list[tuple[str, str]], rules: Rules, title: str) -> Iterator[Broken]:
    if rules.max_repeats is not None:
        seen: Counter[str] = Counter()
        for key, text in texts:
            seen[text] += 1
            if seen[text] > rules.max_repeats:
                yield key, "max_repeats", f"occurrence {seen[text]} of this text"
    if rules.near_duplicates is not None:
        for key, other in near_duplicates(tqdm(texts, title, unit="utt", delay=1), rules.near_duplicates):
            yield key, "near_duplicates", f"near duplicate of {other}"


def _other_languages(rows: list[Utterance], rules: Rules, num_jobs: int) -> Iterator[Broken]:
    from whisper_recipe.data.language_id import identify_languages

    # The rows of several tasks share their audio.
    stretches = {(row.audio, row.start, row.end): row for row in rows}
    heard = dict(
        zip(stretches, identify_languages(list(stretches.values()), rules.language_model, num_jobs), strict=True)
    )
    for row in rows:
        language, probability = heard[row.audio, row.start, row.end]
        if language != row.language and probability >= rules.min_language_probability:
            yield row.id, "language_model", f"sounds like {language} ({probability:.0%}), not {row.language}"


def _print_table(rules: Rules, broken: dict[str, list[tuple[str, str]]], durations: dict[str, float]) -> None:
    from tabulate import tabulate

    counts, hours = Counter(), Counter()
    for key, found in broken.items():
        for rule, _ in found:
            counts[rule] += 1
            hours[rule] += durations[key] / 3600
    table = [[rule, counts[rule], hours[rule]] for rule in rules.given()]
    print(tabulate(table, ["broken rule", "utterances", "hours"], floatfmt=".2f"))
