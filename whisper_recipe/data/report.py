"""The page of `stats --report` and `validate --report`: an overview of a corpus, and its extreme utterances."""

from __future__ import annotations

import functools
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from whisper_recipe.data.supervision import read_cut_row
from whisper_recipe.data.text_rules import count_characters
from whisper_recipe.data.utterance import Scan, Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl
from whisper_recipe.report.page import Page, Table, write_page
from whisper_recipe.report.sound import AudioMode, Samples, collect

EXTREMES = 25  # listed utterances of each kind
LISTENED = 5_000  # utterances to measure the level of: all of a small corpus, a sample of a large one
FULL_SCALE = 0.999  # samples this large are clipped
BARS = 12  # of a histogram, approximately
MEASURES = [
    {"key": "rate", "name": "speed", "unit": "characters/s", "digits": 1},
    {"key": "level", "name": "level", "unit": "dB", "digits": 0},
    {"key": "clipped", "name": "clipping", "unit": "% clipped", "digits": 2},
]


class Spoken(NamedTuple):
    """An utterance of a corpus; `read` returns its samples; None if they are not in a plain file."""

    id: str
    text: str
    language: str
    task: str
    speaker: str | None
    duration: float
    read: Samples | None
    problems: tuple[str, ...] = ()


def spoken_in_cuts(paths: Iterable[Path]) -> Iterator[Spoken]:
    """Yield the utterances of cut manifests."""
    for path in paths:
        for number, row in read_jsonl(path):
            cut, supervision = read_cut_row(row, f"{path}:{number}")
            yield Spoken(
                cut.id,
                supervision.text,
                supervision.language,
                supervision.task,
                supervision.speaker,
                cut.duration,
                samples_of_cut(row),
            )


def spoken_in_corpus(scan: Scan, durations: dict[str, float]) -> Iterator[Spoken]:
    """Yield the utterances of a checked corpus, with the kinds of their problems."""
    for row in scan.utterances:
        reasons = [*scan.lost.get(row.row, ()), *scan.changed.get(row.row, ())]
        kinds = tuple(dict.fromkeys(reason.partition(":")[0] for reason in reasons))
        duration = durations.get(row.row, 0.0)
        yield Spoken(row.id, row.text, row.language, row.task, row.speaker, duration, samples_of_utterance(row), kinds)


def samples_of_cut(row: dict) -> Samples | None:
    """Return a function that reads the samples of a cut, given as its row in a manifest.

    None for mixed cuts, for cuts with transforms other than resampling, and for cuts with features only.
    """
    from whisper_recipe.data.audio import read_audio

    recording, channel = row.get("recording") or {}, row.get("channel")
    changed = any(transform.get("name") != "Resample" for transform in recording.get("transforms") or ())
    for source in recording.get("sources", ()):
        if source.get("type") == "file" and channel in source["channels"] and not changed and "tracks" not in row:
            number = source["channels"].index(channel)
            return functools.partial(read_audio, source["source"], row["start"], row["duration"], number)
    return None


def samples_of_utterance(row: Utterance) -> Samples | None:
    """Return a function that reads an utterance's samples; None for a shell command, which reports don't run."""
    from whisper_recipe.data.audio import read_audio

    if not row.audio or row.audio.endswith("|"):
        return None
    return functools.partial(read_audio, row.audio, row.start, None if row.end is None else row.end - row.start)


def write_scan_report(
    path: Path, scan: Scan, durations: dict[str, float], audio: AudioMode, audio_limit_mb: float
) -> None:
    """Write the page of a checked corpus; see write_corpus_report."""
    counts = Counter(problem.kind for problem in scan.problems)
    rows = [[kind, f"{count:,}"] for kind, count in counts.most_common()]
    tables = [Table("Problems", ["problem", "count"], rows)] if rows else []
    notes = ["The list starts with the utterances that have problems."] if rows else ["No problems were found."]
    spoken = list(spoken_in_corpus(scan, durations))
    write_corpus_report(path, f"{Path(scan.path).name}: validation", spoken, tables, audio, audio_limit_mb, notes)


def write_corpus_report(
    path: Path,
    title: str,
    rows: list[Spoken],
    tables: list[Table],
    audio: AudioMode,
    audio_limit_mb: float,
    remarks: Iterable[str] = (),
) -> None:
    """Write the page: histograms of all utterances, and a list of those with problems and the extreme ones.

    Args:
        path: the page to write.
        title: its heading.
        rows: all utterances.
        tables: tables to show at the top.
        audio: where to store the audio of the listed utterances.
        audio_limit_mb: maximum size of the audio in megabytes.
        remarks: further notes to show at the top.
    """
    from whisper_recipe.data.audio import SAMPLING_RATE

    audible = [row for row in rows if row.read is not None]
    levels = _levels(random.Random(0).sample(audible, min(len(audible), LISTENED)))
    rates = [_rate(row) for row in rows if row.text and row.duration]
    listed = _listed(rows, levels)
    kinds = "the longest, shortest, fastest, slowest, quietest and most clipped"
    notes = [f"{len(rows):,} utterances. The list below has {kinds}, up to {EXTREMES} of each.", *remarks]
    if len(levels) < len(rows):
        notes.append(f"Levels and clipping were measured on {len(levels):,} utterances whose audio could be read.")
    page = Page(
        title=title,
        notes=notes,
        tables=tables,
        data={
            "measures": MEASURES,
            "histograms": [
                _histogram("Durations", "seconds", [row.duration for row in rows]),
                _histogram("Speed of speech", "characters/s", rates),
                _histogram("Level", "root mean square in dB, 0 is full scale", [level for level, _ in levels.values()]),
            ],
            "utterances": [_shown(row, kinds, levels.get(row.id)) for row, kinds in listed],
        },
        sounds=collect(
            [(row.id, row.read) for row, _ in listed if row.read], audio, audio_limit_mb, path, SAMPLING_RATE
        ),
    )
    write_page(path, page)
    print(f"report: {path}")


def _rate(row: Spoken) -> float:
    return count_characters(row.text) / row.duration if row.duration else 0.0


def _levels(rows: Sequence[Spoken]) -> dict[str, tuple[float, float]]:
    """Return id -> (level in dB, % of clipped samples) of the utterances with readable audio."""
    from tqdm import tqdm

    with ThreadPoolExecutor() as pool:
        levels = list(tqdm(pool.map(_level, rows), "levels", len(rows), unit="utt", delay=2))
    return {row.id: level for row, level in zip(rows, levels, strict=True) if level is not None}


def _level(row: Spoken) -> tuple[float, float] | None:
    try:
        samples = np.nan_to_num(row.read())
    except RecipeError:
        return None
    if not len(samples):
        return None
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return 10 * np.log10(max(power, 1e-10)), 100 * float(np.mean(np.abs(samples) >= FULL_SCALE))


def _listed(rows: list[Spoken], levels: dict[str, tuple[float, float]]) -> list[tuple[Spoken, list[str]]]:
    """Return the utterances to list, and why: those with problems, then the most extreme of each kind in turn."""
    by_key = {row.id: row for row in rows}
    spoken = [row for row in rows if row.text and row.duration]
    measured = [by_key[key] for key in levels]
    kinds: dict[str, tuple[list[Spoken], Callable[[Spoken], float]]] = {
        "longest": (rows, lambda row: row.duration),
        "shortest": (rows, lambda row: -row.duration),
        "fastest": (spoken, _rate),
        "slowest": (spoken, lambda row: -_rate(row)),
        "quietest": (measured, lambda row: -levels[row.id][0]),
        "most clipped": ([row for row in measured if levels[row.id][1]], lambda row: levels[row.id][1]),
    }
    reasons: dict[str, list[str]] = {row.id: list(row.problems) for row in rows if row.problems}
    extremes = [heapq.nlargest(EXTREMES, members, key=value) for members, value in kinds.values()]
    for turn in zip_longest(*extremes):
        for kind, row in zip(kinds, turn, strict=True):
            if row is not None:
                reasons.setdefault(row.id, []).append(kind)
    return [(by_key[key], kinds) for key, kinds in reasons.items()]


def _shown(row: Spoken, kinds: list[str], level: tuple[float, float] | None) -> dict:
    loudness, clipped = level or (None, None)
    return {
        **{key: getattr(row, key) for key in ("id", "language", "task", "speaker", "duration")},
        "written": row.text,
        "problems": kinds,
        "measures": {"rate": _rate(row), "level": loudness, "clipped": clipped},
    }


def _histogram(title: str, unit: str, values: Sequence[float]) -> dict:
    """Count values in about BARS ranges of 1, 2 or 5 times a power of ten; those beyond 99.5 % share one range."""
    if not len(values):
        return {"title": title, "note": unit, "ranges": []}
    low, high = np.min(values), np.quantile(values, 0.995)
    rough = max((high - low) / BARS, 0.1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    edges = step * np.arange(np.floor(low / step), np.floor(high / step) + 2)
    counts, _ = np.histogram(values, [*edges, np.inf])
    labels = [f"{first:.10g} to {last:.10g}" for first, last in zip(edges, edges[1:], strict=False)]
    ranges = [{"label": label, "counts": [int(count)]} for label, count in zip(labels, counts, strict=False)]
    if counts[-1]:
        ranges.append({"label": f"{edges[-1]:.10g} and more", "counts": [int(counts[-1])]})
    return {"title": title, "note": unit, "ranges": ranges}
