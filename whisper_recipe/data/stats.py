"""`whisper-recipe stats`: durations and texts of cut manifests, per language and task."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from whisper_recipe.data.text_rules import is_punctuation
from whisper_recipe.data.tokens import load_tokenizer
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, written_aside

PERCENTILES = (25, 50, 75, 99, 99.5, 99.9)
RATE_PERCENTILES = (1, 50, 99)
TOKENIZED = 10_000  # texts that are tokenized at a time
Row = tuple[float, str, str, str]  # seconds, language, task, text


@dataclass
class Group:
    """What is counted of the cuts of one language and task."""

    durations: array = field(default_factory=lambda: array("d"))
    characters: array = field(default_factory=lambda: array("d"))  # per second
    tokens: array = field(default_factory=lambda: array("d"))  # per second; empty where they are not counted
    empty: int = 0
    punctuated: int = 0
    capitals: int = 0
    cased: int = 0

    def add(self, duration: float, text: str, tokens: int | None) -> None:
        """Count one cut."""
        self.durations.append(duration)
        self.characters.append(len(text) / duration)
        if tokens is not None:
            self.tokens.append(tokens / duration)
        self.empty += not text
        self.punctuated += any(map(is_punctuation, text))
        lower = text.lower()
        self.capitals += text != lower
        self.cased += lower != text.upper()

    def __add__(self, other: Group) -> Group:
        return Group(
            self.durations + other.durations,
            self.characters + other.characters,
            self.tokens + other.tokens,
            self.empty + other.empty,
            self.punctuated + other.punctuated,
            self.capitals + other.capitals,
            self.cased + other.cased,
        )


def stats(cuts: list[Path], plot: Path | None = None, tokenizer: str | None = None) -> None:
    """Print durations and texts of cuts per language and task.

    Training text without punctuation or capitals teaches the model to leave them out, so their shares are shown.

    Args:
        cuts: cut manifests, from `whisper-recipe fbank`.
        plot: a PNG to write, with a histogram of the durations.
        tokenizer: a Whisper folder or name on the hub: tokens per second are shown too.

    Raises:
        RecipeError: a manifest is missing, empty or damaged, or there is no such tokenizer.
    """
    from tabulate import tabulate

    groups: dict[tuple[str, str], Group] = {}
    for (duration, language, task, text), tokens in _tokenized(_rows(cuts), tokenizer):
        groups.setdefault((language, task), Group()).add(duration, text, tokens)
    groups = dict(sorted(groups.items()))
    if plot is not None:
        _plot(groups, plot)
    if len(groups) > 1:
        groups["all", "all"] = functools.reduce(Group.__add__, groups.values())
    for columns in (_durations, _texts):
        rows = [columns(*key, group) for key, group in groups.items()]
        align = ["left", "left", *["right"] * (len(rows[0]) - 2)]
        print(tabulate(rows, headers="keys", disable_numparse=True, colalign=align), end="\n\n")
    if plot is not None:
        print(f"histogram of durations: {plot}")


def _rows(paths: list[Path]) -> Iterator[Row]:
    """Yield (seconds, language, task, text) of each cut of the manifests."""
    for path in paths:
        number = 0
        for number, row in read_jsonl(path):
            try:
                duration, supervision = float(row["duration"]), row["supervisions"][0]
                language, task = supervision["language"], supervision["custom"]["task"]
                text = supervision.get("text", "")
                if not duration > 0:
                    raise ValueError(f"duration {duration}")
            except (KeyError, IndexError, TypeError, ValueError) as error:
                what = f"no cut with duration, language and task ({type(error).__name__}: {error})"
                raise RecipeError(what, where=f"{path}:{number}", cure="write it with whisper-recipe fbank") from None
            yield duration, language, task, text
        if not number:
            raise RecipeError("no cuts in it", where=path, cure="check the data directory it was made from")


def _tokenized(rows: Iterator[Row], tokenizer: str | None) -> Iterator[tuple[Row, int | None]]:
    """Yield each row with the number of its text's tokens, None without a tokenizer."""
    encode = load_tokenizer(tokenizer) if tokenizer else None
    while batch := list(islice(rows, TOKENIZED)):
        encodings = encode([text for *_, text in batch]) if encode else [None] * len(batch)
        yield from zip(batch, encodings, strict=True)


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
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
