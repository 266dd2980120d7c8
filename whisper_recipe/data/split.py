"""`whisper-recipe split`, `subset` and `combine`: parts of a corpus, and combined corpora."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Literal

from whisper_recipe.data.corpus import is_list, read_corpus, utterance_duration, write_corpus
from whisper_recipe.data.split_manifests import combine_manifests, is_manifest, split_manifest
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require

DEFAULT_PARTS = ["train=0.9", "dev=0.05", "test=0.05"]
TRIES = 100  # orders to try if a few large speakers make the shares inaccurate
NEAR = 0.001  # of all hours; parts this close to their shares are accepted at once
SHOWN = 5  # names in an error


def split(
    corpus: Path,
    out: Path,
    parts: list[str] = DEFAULT_PARTS,
    num_parts: int | None = None,
    by: Literal["speaker", "recording", "utterance"] = "speaker",
    allow_pipes: bool = False,
    seed: int = 0,
) -> None:
    """Split a corpus into parts by hours, so that no speaker (or recording) is in two parts.

    Writes OUT/<part>/, or OUT/<part>.jsonl for a list. The same seed gives the same parts, independent of the corpus's
    order and location. A Lhotse manifest is split into num_parts consecutive parts; `combine` concatenates them.

    Args:
        corpus: a Kaldi data directory, a list that ends in .json or .jsonl, or a Lhotse manifest (.jsonl.gz).
        out: the folder for the parts.
        parts: name=share of each part.
        num_parts: write this many equal parts instead, named 1, 2 and so on.
        by: what must not be split: a speaker, a recording, or an utterance (the rows of its tasks, which are never
            split).
        allow_pipes: run the shell commands given in place of audio files, if the duration is not known otherwise.
        seed: random seed.

    Raises:
        RecipeError: the corpus has problems, no speakers, or fewer groups (see `by`) than parts.
    """
    if is_manifest(corpus):
        split_manifest(corpus, out, num_parts)
        return
    shares = parse_shares(parts) if num_parts is None else _equal_shares(num_parts, parts)
    suffix = Path(corpus).suffix if is_list(corpus) else ""
    paths = {name: Path(out) / f"{name}{suffix}" for name in shares}
    _refuse_to_overwrite([corpus], paths.values())
    utterances = _read_with_durations(corpus, allow_pipes)
    alone = sum(row.speaker == _base(row.id) for row in utterances) if by == "speaker" else 0
    if alone == len(utterances):
        raise RecipeError("it has no speakers", where=corpus, cure="write utt2spk, or split --by recording")
    chosen = assign(utterances, shares, by, seed, corpus)
    for name, rows in chosen.items():
        write_corpus(rows, paths[name])
    if alone:
        print(f"{alone} of {len(utterances)} utterances have no speaker; each counts as a separate speaker")
    _print_table(chosen)


def parse_shares(parts: list[str]) -> dict[str, float]:
    """Return name -> share of parts given as name=share; RecipeError unless the shares sum to 1."""
    shares = {}
    for part in parts:
        name, _, share = part.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = 0.0
        if not 0 < shares[name] <= 1 or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise RecipeError(f"{part!r} is not name=share", where="parts", cure="use e.g. train=0.9 test=0.1")
    # 0.333 three times means a third each.
    if len(shares) < len(parts) or not abs(sum(shares.values()) - 1) < 0.01:
        what = f"shares must sum to 1 and names must be unique, got {' '.join(parts)}"
        raise RecipeError(what, where="parts", cure="use e.g. train=0.9 test=0.1")
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _equal_shares(count: int, parts: list[str]) -> dict[str, float]:
    if count < 1:
        raise RecipeError(f"must be at least 1, got {count}", where="num_parts")
    if parts != DEFAULT_PARTS:
        raise RecipeError("can't be combined with parts", where="num_parts", cure="use one of the two")
    return {str(number): 1 / count for number in range(1, count + 1)}


def _refuse_to_overwrite(corpora: Iterable[Path], outs: Iterable[Path]) -> None:
    sources = {Path(corpus).resolve() for corpus in corpora}
    for out in outs:
        if Path(out).resolve() in sources:
            raise RecipeError("it would overwrite the corpus", where=out, cure="give another --out")


def _read_with_durations(corpus: Path, allow_pipes: bool) -> list[Utterance]:
    """Read a corpus; if a duration is not known otherwise, read the header of its audio once."""
    from tqdm import tqdm

    rows = read_corpus(corpus, allow_pipes)
    progress = tqdm(rows, desc=f"durations of {corpus}", unit="utt", disable=None)
    return [replace(row, duration=utterance_duration(row)) for row in progress]


def _base(key: str) -> str:
    """Return the id of an `id|language|task` key."""
    return key.partition("|")[0]


def assign(
    utterances: Iterable[Utterance],
    shares: dict[str, float],
    by: Literal["speaker", "recording", "utterance"],
    seed: int,
    where: str | Path,
) -> dict[str, list[Utterance]]:
    """Return the utterances of each part, with shares of the seconds as close as whole groups allow.

    In an order shuffled by the seed, each group goes to the part that lacks the most seconds; of several orders, the
    one closest to the shares is used.

    Args:
        utterances: in any order.
        shares: name of a part -> share of all seconds, summing to 1.
        by: what stays together, as in `split`.
        seed: random seed.
        where: the corpus, for errors.

    Raises:
        RecipeError: there are fewer groups than parts.
    """
    groups = {min(row.id for row in rows): rows for rows in _groups(utterances, by)}
    if len(groups) < len(shares):
        what = f"{len(groups)} {by}{'s' * (len(groups) != 1)} can't fill {len(shares)} parts"
        raise RecipeError(what, where=where, cure="use fewer parts, or split --by something smaller")
    # fsum, because a sum that depends on the order of its terms would make the parts depend on the corpus's order.
    seconds = {name: fsum(map(utterance_duration, rows)) for name, rows in groups.items()}
    wanted = {part: share * fsum(seconds.values()) for part, share in shares.items()}
    best: dict[str, list[str]] = {}
    nearest = float("inf")
    for attempt in range(TRIES):
        order = sorted(groups, key=lambda name: _shuffled(seed, attempt, name))
        chosen = _in_turn(order, seconds, wanted)
        away = fsum(abs(fsum(map(seconds.get, names)) - wanted[part]) for part, names in chosen.items())
        if away < nearest:
            best, nearest = chosen, away
        if nearest <= NEAR * fsum(seconds.values()):
            break
    return {part: [row for name in names for row in groups[name]] for part, names in best.items()}


def _groups(utterances: Iterable[Utterance], by: str) -> Iterable[list[Utterance]]:
    """Return groups of rows that must stay together: of a speaker (or recording), and of the same stretch of audio.

    Audio is identified by its file, which two recordings may share.
    """
    rows = list(utterances)
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]  # shortens the path for later lookups
            node = above
        return node

    key_of = {"speaker": lambda row: row.speaker, "recording": lambda row: row.audio, "utterance": _stretch}[by]
    for row in rows:
        parent[root((by, key_of(row)))] = root(("utterance", _stretch(row)))
    groups = defaultdict(list)
    for row in rows:
        groups[root(("utterance", _stretch(row)))].append(row)
    return groups.values()


def _stretch(row: Utterance) -> tuple:
    return row.audio, row.start, row.end


def _in_turn(order: list[str], seconds: dict[str, float], wanted: dict[str, float]) -> dict[str, list[str]]:
    """Return the names of the groups of each part, none of them empty; needs at least as many groups as parts."""
    lacking = dict(wanted)
    chosen: dict[str, list[str]] = {part: [] for part in wanted}
    for name in order:
        part = max(lacking, key=lacking.get)
        chosen[part].append(name)
        lacking[part] -= seconds[name]
    for names in chosen.values():
        if not names:  # a share smaller than any group gets the smallest group of the part with the most
            largest = max(chosen.values(), key=len)
            names.append(largest.pop(largest.index(min(largest, key=seconds.get))))
    return chosen


def _shuffled(seed: int, *key: object) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def _print_table(parts: dict[str, list[Utterance]]) -> None:
    from tabulate import tabulate

    hours = {part: fsum(map(utterance_duration, rows)) / 3600 for part, rows in parts.items()}
    total = fsum(hours.values())
    table = [
        [part, len(rows), len({row.speaker for row in rows}), hours[part], 100 * hours[part] / total if total else 0.0]
        for part, rows in parts.items()
    ]
    if len(parts) > 1:
        rows = [row for part in parts.values() for row in part]
        table.append(["all", len(rows), len({row.speaker for row in rows}), total, 100.0])
    headers = ["part", "utterances", "speakers", "hours", "% of hours"]
    print(tabulate(table, headers, floatfmt=("", "", "", ".3f", ".1f")))


def subset(
    corpus: Path,
    out: Path,
    utterances: int | None = None,
    hours: float | None = None,
    ids: Path | None = None,
    speakers: list[str] = [],  # noqa: B006 (never written to)
    shortest: bool = False,
    allow_pipes: bool = False,
    seed: int = 0,
) -> None:
    """Write a subset of a corpus, selected by exactly one of utterances, hours, ids and speakers.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the corpus to write; its name selects the format in the same way.
        utterances: number of random utterances. With the same seed, a smaller subset is contained in a larger one.
        hours: maximum hours of random utterances.
        ids: a file with an id at the beginning of each line, as in Kaldi's tables. An id without language and task
            selects all its rows.
        speakers: names of speakers, or one file with a name at the beginning of each line.
        shortest: select the shortest utterances instead of random ones.
        allow_pipes: run the shell commands given in place of audio files, if the duration is not known otherwise.
        seed: random seed.

    Raises:
        RecipeError: the corpus has problems or less than requested, or an id or speaker is not in it.
    """
    num_criteria = sum(option is not None for option in (utterances, hours, ids, speakers or None))
    if num_criteria != 1:
        what = f"needs exactly one of utterances, hours, ids and speakers, got {num_criteria}"
        raise RecipeError(what, where="command line", cure="see whisper-recipe subset --help")
    if shortest and utterances is None and hours is None:
        raise RecipeError("it only applies to utterances or hours", where="shortest", cure="leave it out")
    _refuse_to_overwrite([corpus], [out])
    rows = _read_with_durations(corpus, allow_pipes)
    if ids is not None:
        chosen = listed_in(ids, rows)
    elif speakers:
        file = speakers[0] if len(speakers) == 1 and Path(speakers[0]).is_file() else None
        names = _first_column(file) if file else dict.fromkeys(speakers)
        chosen = _named(rows, names, lambda row: {row.speaker}, file or corpus)
    else:
        order = utterance_duration if shortest else (lambda row: _shuffled(seed, row.id))
        chosen = list(_first(sorted(rows, key=lambda row: (order(row), row.id)), utterances, hours, corpus))
    write_corpus(chosen, out)
    _print_table({str(out): chosen})
    print(f"{len(rows)} utterances = {len(chosen)} written + {len(rows) - len(chosen)} left out")


def listed_in(path: Path, rows: list[Utterance]) -> list[Utterance]:
    """Return the rows with the ids in a file's first column; an id without language and task selects all its rows.

    Raises:
        RecipeError: the file can't be read, is empty, or names an id that no row has.
    """
    return _named(rows, _first_column(path), lambda row: {row.id, _base(row.id)}, path)


def _first_column(path: str | Path) -> dict[str, None]:
    """Return the first column of a file, in order, with columns separated as in Kaldi's tables."""
    try:
        lines = require(path, "give a file of names").read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"can't be read ({error})", where=path, cure="give a text file in UTF-8") from None
    names = dict.fromkeys(re.split("[ \t]", line)[0] for line in (line.strip(" \t\r") for line in lines) if line)
    if not names:
        raise RecipeError("no names in it", where=path, cure="write one at the beginning of each line")
    return names


def _named(
    rows: list[Utterance], names: dict[str, None], names_of: Callable[[Utterance], set[str]], where: str | Path
) -> list[Utterance]:
    known = set().union(*map(names_of, rows))
    missing = [name for name in names if name not in known]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        what = f"{len(missing)} of {len(names)} are not in the corpus: {', '.join(missing[:SHOWN])}{more}"
        raise RecipeError(what, where=where, cure="check the names")
    return [row for row in rows if not names_of(row).isdisjoint(names)]


def _first(rows: list[Utterance], count: int | None, hours: float | None, where: Path) -> Iterator[Utterance]:
    """Yield the first `count` rows, or as many as fit in the hours."""
    if count is not None:
        if not 0 < count <= len(rows):
            what = f"can't select {count} of {len(rows)} utterances"
            raise RecipeError(what, where=where, cure=f"use 1 to {len(rows)}")
        yield from rows[:count]
        return
    seconds = list(map(utterance_duration, rows))
    total, left = fsum(seconds), 3600 * hours + 1e-6  # more for rounding
    if not hours > 0 or left < seconds[0]:
        what = f"can't select {hours:g} hours: the first utterance lasts {seconds[0]:.2f} s"
        raise RecipeError(what, where=where, cure="use more")
    if 3600 * hours > total + 1:
        what = f"can't select {hours:g} of {total / 3600:.3f} hours"
        raise RecipeError(what, where=where, cure="use fewer")
    for row, length in zip(rows, seconds, strict=True):
        left -= length
        if left < 0:
            return
        yield row


def combine(corpora: list[Path], out: Path, prefix: bool = False, allow_pipes: bool = False) -> None:
    """Combine several corpora into one.

    Args:
        corpora: Kaldi data directories and lists, in any combination; or Lhotse manifests (.jsonl.gz).
        out: the output: a directory, a list that ends in .json or .jsonl, or a manifest.
        prefix: prefix ids, speakers and recordings with the name of their corpus, to keep equal names in different
            corpora apart.
        allow_pipes: accept shell commands in place of audio files; they are copied, not run.

    Raises:
        RecipeError: a corpus has problems; or two corpora have the same id, or the same recording with different audio.
    """
    from tabulate import tabulate

    _refuse_to_overwrite(corpora, [out])
    if any(map(is_manifest, [*corpora, out])):
        combine_manifests(corpora, out)
        return
    rows: dict[str, Utterance] = {}
    recordings: dict[str, Utterance] = {}
    counts = []
    cure = "use corpora with different names" if prefix else "rename one, or combine with --prefix"
    for corpus in corpora:
        own = read_corpus(corpus, allow_pipes)
        for row in (_prefixed(row, Path(corpus).resolve().stem) for row in own) if prefix else own:
            for kind, key, known in (("id", row.id, rows), ("recording", row.recording, recordings)):
                other = known.setdefault(key, row)
                if other is not row and (kind == "id" or other.audio != row.audio):
                    raise RecipeError(f"{kind} {key} is also in {other.row}", where=row.row, cure=cure)
        counts.append([corpus, len(own)])
    write_corpus(rows.values(), out)
    print(tabulate([*counts, [out, len(rows)]], ["corpus", "utterances"]))


def _prefixed(row: Utterance, name: str) -> Utterance:
    return replace(row, id=f"{name}-{row.id}", speaker=f"{name}-{row.speaker}", recording=f"{name}-{row.recording}")
