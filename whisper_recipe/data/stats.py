"""`whisper-recipe stats`: durations and texts of cut manifests, per language and task."""

from __future__ import annotations

import functools
import operator
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from whisper_recipe.data.supervision import read_cut_row
from whisper_recipe.data.text_rules import is_punctuation
from whisper_recipe.data.tokens import MAX_TEXT_TOKENS, Tokens, token_counter
from whisper_recipe.data.workers import DASK_AHEAD, in_order, workers
from whisper_recipe.errors import RecipeError, no_cuts
from whisper_recipe.files import atomic_write, file_digest, read_jsonl
from whisper_recipe.languages import remarks_on
from whisper_recipe.processes import parse_part
from whisper_recipe.report.page import Table
from whisper_recipe.report.sound import AudioMode
from whisper_recipe.resumable import ResumableWork

PERCENTILES = (25, 50, 75, 99, 99.5, 99.9)
RATE_PERCENTILES = (1, 50, 99)
ALL = "all"
MINOR = ("task", "mean", "std", "25%", "75%", "99.5%", "99.9%", "chars/s 1%", "empty text")  # columns for wide screens
PIECE = 10_000  # cuts that are tokenized and counted at a time
Row = tuple[float, str, str, str]  # seconds, language, task, text
Groups = dict[tuple[str, str], "Group"]  # by language and task


@dataclass
class Group:
    """Counts for the cuts of one language and task."""

    durations: array = field(default_factory=lambda: array("d"))
    characters: array = field(default_factory=lambda: array("d"))  # per second
    tokens: array = field(default_factory=lambda: array("d"))  # per second; empty if not counted
    all_tokens: int = 0
    all_characters: int = 0
    all_bytes: int = 0
    lone_bytes: int = 0  # see data/tokens.py
    too_long: int = 0  # texts
    empty: int = 0
    punctuated: int = 0
    capitals: int = 0
    cased: int = 0

    def add(self, duration: float, text: str, tokens: Tokens | None) -> None:
        """Count one cut."""
        self.durations.append(duration)
        self.characters.append(len(text) / duration)
        if tokens is not None:
            self.tokens.append(tokens.tokens / duration)
            self.all_tokens += tokens.tokens
            self.all_characters += len(text)
            self.all_bytes += len(text.encode())
            self.lone_bytes += tokens.lone_bytes
            self.too_long += tokens.tokens > MAX_TEXT_TOKENS
        self.empty += not text
        self.punctuated += any(map(is_punctuation, text))
        lower = text.lower()
        self.capitals += text != lower
        self.cased += lower != text.upper()

    def extend(self, other: Group) -> None:
        """Count the cuts of another group too."""
        for name in self.__dataclass_fields__:
            setattr(self, name, operator.iadd(getattr(self, name), getattr(other, name)))

    def __add__(self, other: Group) -> Group:
        return Group(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def stats(
    cuts: list[Path],
    plot: Path | None = None,
    tokenizer: str | None = None,
    out: Path | None = None,
    part: str | None = None,
    dask: str | None = None,
    report: Path | None = None,
    audio: AudioMode = "embedded",
    audio_limit_mb: float = 3.0,
) -> None:
    """Print durations and texts of cuts per language and task.

    Also prints the share of texts with punctuation and with capitals, because a model fine-tuned on texts without them
    stops writing them.

    Args:
        cuts: cut manifests, from `whisper-recipe fbank`.
        plot: a PNG file to write, with a histogram of the durations.
        tokenizer: a Whisper folder or a name on the Hub: also prints tokens per second and per character, and the share
            of bytes that are single tokens, which is high for scripts that the tokenizer has not learned.
        out: a text file to write the tables to.
        part: 2/8 counts the second eighth. Start all eight, on any machines that share the folder of `out`, with the
            same other options; the one that finishes last prints and writes the tables, identical to those of one
            process.
        dask: address of a Dask scheduler (tcp://host:8786) whose workers do the counting.
        report: an HTML report to write, with histograms and the longest, quietest, most clipped, fastest-spoken and
            other extreme utterances, with audio. Dask workers don't help with it.
        audio: where to store the report's audio: in the page (embedded), in a folder next to it (linked), or not at all
            (none).
        audio_limit_mb: maximum size of the report's audio in megabytes.

    Raises:
        RecipeError: a manifest is missing, empty or damaged, or there is no such tokenizer.
    """
    if part and (out is None or dask):
        raise RecipeError("needs --out and excludes --dask", where="--part", cure="use --out FILE, without --dask")
    if part:
        settings = {"cuts": [f"{path}: {file_digest(path)}" for path in cuts], "tokenizer": tokenizer, "piece": PIECE}
        work = ResumableWork(Path(out), settings, parse_part(part))
        if not _count_part(cuts, tokenizer, work):
            print(f"{out}: part {part} is done; the part that finishes last merges them")
            return
        counted = map(_read_group, work.rows())
    else:
        counted = _counted(_pieces(_rows(cuts)), tokenizer, dask)
    groups: Groups = {}
    for piece in counted:
        for key, group in piece.items():
            groups.setdefault(key, Group()).extend(group)
    groups = dict(sorted(groups.items()))
    tables = _report(groups, plot, out)
    _remark(groups)
    if part:
        work.discard()
    if report is not None:
        from whisper_recipe.data.report import spoken_in_cuts, write_corpus_report

        title = ", ".join(path.name.removeprefix("cuts_").partition(".")[0] for path in cuts)
        write_corpus_report(report, f"{title}: statistics", list(spoken_in_cuts(cuts)), tables, audio, audio_limit_mb)


def _count_part(cuts: list[Path], tokenizer: str | None, work: ResumableWork) -> bool:
    """Count the unfinished pieces of a part; return whether this process merges all parts."""
    work.open()
    count = 0
    for number, rows in enumerate(_pieces(_rows(cuts))):
        count = number + 1
        if work.own.has(number) and not work.piece(number).exists():
            work.write(number, _plain_groups(_count(tokenizer, rows)))
    return work.is_ours_to_finish(count)


def _counted(pieces: Iterator[list[Row]], tokenizer: str | None, dask: str | None) -> Iterator[Groups]:
    """Yield the counts of each piece, in order, computed here or by the workers of a cluster."""
    count = functools.partial(_count, tokenizer)
    if dask is None:
        yield from map(count, pieces)
        return
    with workers(1, dask) as executor:
        yield from in_order((executor.submit(count, rows) for rows in pieces), DASK_AHEAD)


def _pieces(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while piece := list(islice(rows, PIECE)):
        yield piece


def _count(tokenizer: str | None, rows: list[Row]) -> Groups:
    """Count the cuts of a piece, and their tokens if there is a tokenizer."""
    tokens = _tokenizer(tokenizer)([text for *_, text in rows]) if tokenizer else [None] * len(rows)
    groups: Groups = {}
    for (duration, language, task, text), number in zip(rows, tokens, strict=True):
        groups.setdefault((language, task), Group()).add(duration, text, number)
    return groups


_tokenizer = functools.cache(token_counter)


def _plain_groups(groups: Groups) -> Iterator[dict]:
    for (language, task), group in groups.items():
        counts = {name: list(x) if isinstance(x, array) else x for name, x in asdict(group).items()}
        yield {"language": language, "task": task, **counts}


def _read_group(row: dict) -> Groups:
    key = row.pop("language"), row.pop("task")
    return {key: Group(**{name: array("d", x) if isinstance(x, list) else x for name, x in row.items()})}


def _report(groups: Groups, plot: Path | None, out: Path | None) -> list[Table]:
    """Print, write and return the tables of the counts, and plot the histogram."""
    from tabulate import tabulate

    if plot is not None:
        _plot(groups, plot)
    if len(groups) > 1:
        groups[ALL, ALL] = functools.reduce(Group.__add__, groups.values())
    tables, shown = [], []
    for title, columns in (("Durations", _durations), ("Texts", _texts)):
        rows = [columns(*key, group) for key, group in groups.items()]
        align = ["left", "left", *["right"] * (len(rows[0]) - 2)]
        tables.append(tabulate(rows, headers="keys", disable_numparse=True, colalign=align) + "\n")
        shown.append(Table(title, list(rows[0]), [list(row.values()) for row in rows], texts=2, minor=MINOR))
    print(*tables, sep="\n")
    if out is not None:
        with atomic_write(out) as aside:
            aside.write_text("\n".join(tables), encoding="utf-8")
    if plot is not None:
        print(f"histogram of durations: {plot}")
    return shown


def _remark(groups: Groups) -> None:
    """Print what to fix before training: texts that are too long, and languages that Whisper lacks."""
    for (language, task), group in groups.items():
        if group.too_long and language != ALL:
            cure = "cut them into shorter pieces, or teach the tokenizer their script (train --add_tokens)"
            print(f"{language}, {task}: {group.too_long:,} texts have over 448 tokens, Whisper's limit; {cure}")
    for remark in remarks_on({language for language, _ in groups} - {ALL}):
        print(remark)


def _rows(paths: list[Path]) -> Iterator[Row]:
    """Yield (seconds, language, task, text) of each cut of the manifests."""
    for path in paths:
        number = 0
        for number, row in read_jsonl(path):
            cut, supervision = read_cut_row(row, f"{path}:{number}")
            if not isinstance(cut.duration, int | float) or not cut.duration > 0:
                what = f"duration of cut {cut.id} must be positive, got {cut.duration}"
                cure = "regenerate the manifest with whisper-recipe fbank"
                raise RecipeError(what, where=f"{path}:{number}", cure=cure)
            yield float(cut.duration), supervision.language, supervision.task, supervision.text
        if not number:
            raise no_cuts(path)


def _durations(language: str, task: str, group: Group) -> dict[str, str]:
    import numpy as np

    seconds = np.frombuffer(group.durations)
    return {
        "language": language,
        "task": task,
        "count": f"{len(seconds):,}",
        "hh:mm:ss": _clock(seconds.sum()),
        "mean": f"{seconds.mean():.2f}",
        "std": f"{seconds.std():.2f}",
        "min": f"{seconds.min():.2f}",
        **{f"{p}%": f"{value:.2f}" for p, value in zip(PERCENTILES, np.percentile(seconds, PERCENTILES), strict=True)},
        "max": f"{seconds.max():.2f}",
    }


def _texts(language: str, task: str, group: Group) -> dict[str, str]:
    import numpy as np

    count = len(group.durations)
    rates = {"chars/s": group.characters, **({"tokens/s": group.tokens} if group.tokens else {})}
    columns = {
        f"{name} {p}%": f"{rate:.1f}"
        for name, values in rates.items()
        for p, rate in zip(RATE_PERCENTILES, np.percentile(np.frombuffer(values), RATE_PERCENTILES), strict=True)
    }
    if group.tokens:
        columns["tokens/char"] = f"{group.all_tokens / max(group.all_characters, 1):.2f}"
        columns["lone bytes"] = f"{group.lone_bytes / max(group.all_bytes, 1):.1%}"
    return {
        "language": language,
        "task": task,
        **columns,
        "empty text": f"{group.empty:,}",
        "with punctuation": f"{group.punctuated / count:.1%}",
        # Chinese, Arabic and many other scripts have no capitals.
        "with capitals": f"{group.capitals / group.cased:.1%}" if group.cased else "-",
    }


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _plot(groups: dict[tuple[str, str], Group], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    labels = [f"{language}, {task}" for language, task in groups]
    axes.hist([group.durations for group in groups.values()], bins=50, stacked=True, label=labels)
    axes.set(xlabel="duration in seconds", ylabel="cuts", title="Durations")
    axes.legend()
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
