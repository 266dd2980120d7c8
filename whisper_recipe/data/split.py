"""`whisper-recipe split`, `subset` and `combine`: parts of a corpus, and corpora together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from whisper_recipe.data.corpus import is_list, read_corpus, utterance_duration, write_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require

KEYS: dict[str, Callable[[Utterance], tuple]] = {
    "speaker": lambda row: (row.speaker,),
    "recording": lambda row: (row.recording,),
    "utterance": lambda row: (row.recording, row.start, row.end),  # the rows of all its tasks
}


def split(
    corpus: Path,
    out: Path,
    parts: list[str] = ["train=0.9", "dev=0.05", "test=0.05"],  # noqa: B006 (never written to)
    num_parts: int = 0,
    by: Literal["speaker", "recording", "utterance"] = "speaker",
    seed: int = 0,
) -> None:
    """Split a corpus into parts that share no speaker (or recording), of about the shares of hours asked for.

    Writes OUT/<part>/, or OUT/<part>.jsonl of a list. The same seed gives the same parts, whatever the corpus' order.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the folder for the parts.
        parts: name=share of each part.
        num_parts: so many equal parts instead, named 1, 2 and so on.
        by: what stays together: all of a speaker, of a recording, or of an utterance (the rows of its tasks).
        seed: another one gives other parts.

    Raises:
        RecipeError: the corpus has problems, no speakers, or fewer of them than there are to be parts.
    """
    shares = {str(number): 1 / num_parts for number in range(1, num_parts + 1)} if num_parts else parse_shares(parts)
    utterances = read_corpus(corpus)
    if by == "speaker" and all(row.speaker == row.id.partition("|")[0] for row in utterances):
        raise RecipeError("utt2spk names no speakers", where=corpus, cure="write it, or split --by recording")
    chosen = assign(utterances, shares, KEYS[by], seed, f"{corpus} by {by}")
    suffix = Path(corpus).suffix if is_list(corpus) else ""
    for name, rows in chosen.items():
        write_corpus(rows, Path(out) / f"{name}{suffix}")
    _print_table(chosen)


def parse_shares(parts: list[str]) -> dict[str, float]:
    """Return name -> share of parts given as name=share; RecipeError where one is not, or they are more than all."""
    shares = {}
    for part in parts:
        name, _, share = part.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = 0.0
        if not 0 < shares[name] <= 1 or not name or "/" in name:
            raise RecipeError(f"{part!r} is not name=share", where="parts", cure="give such as train=0.9 test=0.1")
    if len(shares) < len(parts) or not 0 < sum(shares.values()) < 1 + 1e-6:
        what = f"{' '.join(parts)} are not shares of one whole"
        raise RecipeError(what, where="parts", cure="give each name once, and shares of 1 together")
    return shares


def assign(
    utterances: Iterable[Utterance],
    shares: dict[str, float],
    key: Callable[[Utterance], tuple],
    seed: int,
    where: str,
) -> dict[str, list[Utterance]]:
    """Return the utterances of each part; those of one key stay together.

    In an order that the seed shuffles, each group goes to the part that lacks most seconds.

    Raises:
        RecipeError: there are fewer groups than parts.
    """
    groups: dict[tuple, list[Utterance]] = {}
    for row in utterances:
        groups.setdefault(key(row), []).append(row)
    if len(groups) < len(shares):
        what = f"{len(groups)} groups can't fill {len(shares)} parts"
        raise RecipeError(what, where=where, cure="ask for fewer parts, or split by something smaller")
    seconds = {name: sum(map(utterance_duration, rows)) for name, rows in groups.items()}
    lacking = {part: share * sum(seconds.values()) for part, share in shares.items()}
    chosen: dict[str, list[tuple]] = {part: [] for part in shares}
    for name in sorted(groups, key=lambda name: _shuffled(seed, *name)):
        part = max(lacking, key=lacking.get)
        chosen[part].append(name)
        lacking[part] -= seconds[name]
    for names in chosen.values():
        if not names:  # a share smaller than any group: it gets the smallest of the part with most groups
            largest = max(chosen.values(), key=len)
            names.append(largest.pop(largest.index(min(largest, key=seconds.get))))
    return {part: [row for name in names for row in groups[name]] for part, names in chosen.items()}


def _shuffled(seed: int, *key: object) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def _print_table(parts: dict[str, list[Utterance]]) -> None:
    from tabulate import tabulate

    rows = [
        [part, len(rows), len({row.speaker for row in rows}), sum(map(utterance_duration, rows)) / 3600]
        for part, rows in parts.items()
    ]
    print(tabulate(rows, ["part", "utterances", "speakers", "hours"], floatfmt=".2f"))


def subset(
    corpus: Path,
    out: Path,
    utterances: int | None = None,
    hours: float | None = None,
    ids: Path | None = None,
    speakers: list[str] = [],  # noqa: B006 (never written to)
    shortest: bool = False,
    seed: int = 0,
) -> None:
    """Write a part of a corpus: by exactly one of utterances, hours, ids and speakers.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: what to write, chosen in the same way.
        utterances: how many, drawn at random.
        hours: how many at most, drawn at random.
        ids: a file with an id at the beginning of each line, as in any table of Kaldi's.
        speakers: their names.
        shortest: take the shortest utterances instead of drawing.
        seed: another one draws others.

    Raises:
        RecipeError: the corpus has problems or less than is asked for, or an id or speaker is not in it.
    """
    asked = sum(option is not None for option in (utterances, hours, ids, speakers or None))
    if asked != 1:
        what = f"{asked} of utterances, hours, ids and speakers are given, not one"
        raise RecipeError(what, where="command line", cure="see whisper-recipe subset --help")
    rows = read_corpus(corpus)
    if ids is not None:
        lines = require(ids, "give a file of ids").read_text(encoding="utf-8").splitlines()
        chosen = _named(rows, {line.split()[0] for line in lines if line.strip()}, lambda row: row.id, ids)
    elif speakers:
        chosen = _named(rows, set(speakers), lambda row: row.speaker, corpus)
    else:
        order = utterance_duration if shortest else (lambda row: _shuffled(seed, row.id))
        chosen = _first(sorted(rows, key=lambda row: (order(row), row.id)), utterances, hours, corpus)
    write_corpus(chosen, out)
    _print_table({str(out): chosen})
    print(f"{len(rows)} utterances = {len(chosen)} written + {len(rows) - len(chosen)} left out")


def _named(rows: list[Utterance], names: set[str], name_of: Callable[[Utterance], str], where: Path) -> list[Utterance]:
    missing = sorted(names - {name_of(row) for row in rows})
    if missing:
        what = f"{len(missing)} of {len(names)} are not in the corpus, {missing[0]} first"
        raise RecipeError(what, where=where, cure="check the names")
    return [row for row in rows if name_of(row) in names]


def _first(rows: list[Utterance], count: int | None, hours: float | None, where: Path) -> list[Utterance]:
    if count is not None:
        if not 0 < count <= len(rows):
            raise RecipeError(f"{count} of {len(rows)} utterances are asked for", where=where, cure="ask for fewer")
        return rows[:count]
    chosen, left = [], 3600 * hours
    for row in rows:
        left -= utterance_duration(row)
        if left < -1e-6:
            break
        chosen.append(row)
    if not chosen:
        raise RecipeError(f"no utterance is as short as {hours} h", where=where, cure="ask for more")
    return chosen


def combine(corpora: list[Path], out: Path, prefix: bool = False) -> None:
    """Write several corpora as one.

    Args:
        corpora: Kaldi data directories and lists, in any mixture.
        out: what to write: a directory, or a list that ends in .json or .jsonl.
        prefix: put each corpus' name before its ids, speakers and recordings, so that the same names in two corpora
            stay apart.

    Raises:
        RecipeError: a corpus has problems; or two corpora have the same id, or other audio under the same recording.
    """
    from tabulate import tabulate

    rows: dict[str, Utterance] = {}
    recordings: dict[str, Utterance] = {}
    counts = []
    for corpus in corpora:
        own = read_corpus(corpus)
        for row in (_prefixed(row, Path(corpus).resolve().stem) for row in own) if prefix else own:
            for kind, key, known in (("id", row.id, rows), ("recording", row.recording, recordings)):
                other = known.setdefault(key, row)
                if other is not row and (kind == "id" or other.audio != row.audio):
                    cure = "rename one, or combine with --prefix"
                    raise RecipeError(f"{kind} {key} is in {other.row} too", where=row.row, cure=cure)
        counts.append([corpus, len(own)])
    write_corpus(rows.values(), out)
    print(tabulate([*counts, [out, len(rows)]], ["corpus", "utterances"]))


def _prefixed(row: Utterance, name: str) -> Utterance:
    return replace(row, id=f"{name}-{row.id}", speaker=f"{name}-{row.speaker}", recording=f"{name}-{row.recording}")
