"""`whisper-recipe filter`: leave out utterances whose transcript or audio look wrong; every rule is off by default."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from whisper_recipe.data.corpus import Dropped, read_corpus, utterance_duration, write_corpus
from whisper_recipe.data.text_rules import letters, looks_like_machine_text, near_duplicates, normalised, script_share
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError


@dataclass
class Rules:
    """What an utterance must be like; a rule that is not given drops nothing.

    Args:
        min_duration: seconds.
        max_duration: seconds.
        min_chars_per_second: letters and digits; fewer are spoken text that is missing.
        max_chars_per_second: more are text that belongs to other audio. English has about 15, Chinese about 5.
        max_repeats: how often the same transcript may be there, in a language and task, but for case and punctuation.
        near_duplicates: drop transcripts that share so many of their sequences of four characters with one before.
        machine_text: drop text in capitals alone, or in lower case without any punctuation, as recognisers write it;
            texts of one or two words, and languages without case, are kept.
        min_script_share: of a text's letters so many must be in a script of its language, 0 to 1.
        language_model: a Whisper folder or name on the hub that tells the language of the audio; utterances in another
            one than they say are dropped.
        min_language_probability: what it must be sure of the other language, to drop them.
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

    def __post_init__(self) -> None:
        for name in ("near_duplicates", "min_script_share", "min_language_probability"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise RecipeError(f"{value} is no share", where=f"rules.{name}", cure="use a number above 0, up to 1")


def filter_corpus(
    corpus: Path,
    out: Path,
    rules: Rules = Rules(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
    allow_pipes: bool = False,
) -> None:
    """Write the utterances that break no rule; count the others, and list them in OUT/dropped.tsv with all they break.

    Examples without speech are asked for their duration alone.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: what to write, chosen in the same way.
        rules: what an utterance must be like.
        allow_pipes: run the shell commands that stand for audio.

    Raises:
        RecipeError: the corpus has problems, no rule is given, or no utterance is left.
    """
    from tabulate import tabulate

    if rules == Rules(min_language_probability=rules.min_language_probability):
        raise RecipeError("no rule is given", where="rules", cure="see whisper-recipe filter --help")
    utterances = sorted(read_corpus(corpus, allow_pipes), key=lambda row: row.id.encode())
    durations = {row.id: utterance_duration(row) for row in utterances}
    broken: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, rule, what in _broken(utterances, durations, rules):
        broken[key].append((rule, what))
    kept = [row for row in utterances if row.id not in broken]
    if not kept:
        raise RecipeError("no utterance is left", where=corpus, cure="loosen the rules")
    dropped = [
        Dropped(row.id, row.row, "; ".join(map(": ".join, broken[row.id]))) for row in utterances if row.id in broken
    ]
    write_corpus(kept, out, dropped)
    counts, hours = Counter(), Counter()
    for key, rows in broken.items():
        for rule, _ in rows:
            counts[rule] += 1
            hours[rule] += durations[key] / 3600
    if counts:
        table = [[rule, count, hours[rule]] for rule, count in counts.most_common()]
        print(tabulate(table, ["rule", "utterances", "hours"], floatfmt=".2f"))
    print(f"{out}: {len(utterances)} utterances read = {len(kept)} kept + {len(dropped)} dropped (dropped.tsv)")


def _broken(utterances: list[Utterance], durations: dict[str, float], rules: Rules) -> Iterator[tuple[str, str, str]]:
    """Yield (id, rule, what is wrong) of each rule that an utterance breaks."""
    spoken = [row for row in utterances if row.text]
    for row in utterances:
        for rule, what in _outside(durations[row.id], rules.min_duration, rules.max_duration, "duration", "s"):
            yield row.id, rule, what
    for row in spoken:
        rate = len(letters(row.text)) / durations[row.id]
        least, most = rules.min_chars_per_second, rules.max_chars_per_second
        for rule, what in _outside(rate, least, most, "chars_per_second", "characters/s"):
            yield row.id, rule, what
        if rules.machine_text and (how := looks_like_machine_text(row.text)):
            yield row.id, "machine_text", how
        if rules.min_script_share is not None:
            share = script_share(row.text, _written(row))
            if share < rules.min_script_share:
                yield row.id, "min_script_share", f"{share:.0%} of the letters are of {_written(row)}"
    for texts in _texts(spoken):
        yield from _repeated(texts, rules)
    if rules.language_model is not None:
        yield from _other_languages(spoken, rules)


def _outside(value: float, least: float | None, most: float | None, name: str, unit: str) -> Iterator[tuple[str, str]]:
    if least is not None and value < least:
        yield f"min_{name}", f"{value:.2f} {unit}, under {least:g}"
    if most is not None and value > most:
        yield f"max_{name}", f"{value:.2f} {unit}, over {most:g}"


def _written(row: Utterance) -> str:
    """Return the language that the text is in."""
    return "en" if row.task == "translate" else row.language


def _texts(rows: Iterable[Utterance]) -> Iterable[list[tuple[str, str]]]:
    """Return lists of (id, normalised transcript), one for each language and task."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row.language, row.task].append((row.id, normalised(row.text)))
    return groups.values()


def _repeated(texts: list[tuple[str, str]], rules: Rules) -> Iterator[tuple[str, str, str]]:
    if rules.max_repeats is not None:
        seen: Counter[str] = Counter()
        for key, text in texts:
            seen[text] += 1
            if seen[text] > rules.max_repeats:
                yield key, "max_repeats", f"number {seen[text]} with this text"
    if rules.near_duplicates is not None:
        for key, other in near_duplicates(texts, rules.near_duplicates):
            yield key, "near_duplicates", f"nearly the text of {other}"


def _other_languages(rows: list[Utterance], rules: Rules) -> Iterator[tuple[str, str, str]]:
    from whisper_recipe.data.language_id import identify_languages

    for row, (language, probability) in zip(rows, identify_languages(rows, rules.language_model), strict=True):
        if language != row.language and probability >= rules.min_language_probability:
            yield row.id, "language_model", f"sounds like {language} ({probability:.0%}), not {row.language}"
