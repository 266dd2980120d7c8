"""Scored utterances, and their sums by language, task, speaker and duration."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from whisper_recipe.scoring.bootstrap import error_rate_interval
from whisper_recipe.scoring.hallucinations import find_signs
from whisper_recipe.scoring.references import Reference
from whisper_recipe.text.error_rates import Alignment, ErrorCounts, align, count_errors, spaced_characters, units_of
from whisper_recipe.text.normalize import (
    NormalizerName,
    get_normalizer,
    is_counted_in_characters,
    normalizer_of,
    text_language,
)

Units = Literal["by_language", "words", "characters", "mixed"]
DURATION_EDGES = (0, 2, 5, 10, 20, 30)  # seconds; each range includes its lower edge


@dataclass(frozen=True, slots=True)
class ScoredUtterance:
    """An utterance with its errors.

    Args:
        id: of the reference.
        source: the reference as given.
        written: the hypothesis as given; None if there is none.
        reference: normalised.
        hypothesis: normalised; "" if there is none.
        normalizer: the one that was used, never `whisper`.
        unit: WER (words), CER (characters) or mixed (characters of scripts without spaces, words of all others).
        counts: its errors.
        signs: of hallucination.
    """

    id: str
    source: Reference
    written: str | None
    reference: str
    hypothesis: str
    normalizer: NormalizerName
    unit: str
    counts: ErrorCounts
    signs: dict[str, str]

    @property
    def in_characters(self) -> bool:
        """Whether errors are counted in characters."""
        return self.unit == "CER"

    @property
    def language(self) -> str:
        """The language; `zh→en` if it is translated."""
        return f"{self.source.language}→en" if self.source.task == "translate" else self.source.language

    @property
    def group(self) -> str:
        """The group it is counted in: `zh transcribe`, `zh→en translate`."""
        return f"{self.language} {self.source.task}"

    def align(self) -> Alignment:
        """Align it again: keeping 100,000 alignments would take a few hundred megabytes."""
        return align(self.reference, self.hypothesis, self.in_characters)


def score_utterances(
    references: dict[str, Reference],
    hypotheses: dict[str, str],
    normalizer: NormalizerName,
    units: Units = "by_language",
) -> list[ScoredUtterance]:
    """Normalise, align and count every utterance that has a reference; a missing hypothesis counts as empty text."""
    progress = tqdm(references.items(), desc="score", unit="utt", delay=2)
    return [_scored(key, source, hypotheses.get(key), normalizer, units) for key, source in progress]


def _scored(
    key: str, source: Reference, written: str | None, normalizer: NormalizerName, units: Units
) -> ScoredUtterance:
    language = text_language(source.language, source.task)
    unit = _unit(units, source)
    normalize = get_normalizer(normalizer, language)
    reference = normalize(source.text)
    hypothesis = reference if written == source.text else normalize(written or "")
    if unit == "mixed":
        reference, hypothesis = spaced_characters(reference), spaced_characters(hypothesis)
    in_characters = unit == "CER"
    return ScoredUtterance(
        id=key,
        source=source,
        written=written,
        reference=reference,
        hypothesis=hypothesis,
        normalizer=normalizer_of(normalizer, language),
        unit=unit,
        counts=count_errors(reference, hypothesis, in_characters),
        signs=find_signs(units_of(reference, in_characters), units_of(hypothesis, in_characters)),
    )


def _unit(units: Units, source: Reference) -> str:
    if units == "by_language":
        return "CER" if is_counted_in_characters(source.language, source.task) else "WER"
    return {"words": "WER", "characters": "CER", "mixed": "mixed"}[units]


def duration_range(seconds: float | None) -> str | None:
    """Return the range of a duration, such as `2–5 s`; None if it is unknown."""
    if seconds is None:
        return None
    number = bisect.bisect_right(DURATION_EDGES, seconds)
    upper = f"–{DURATION_EDGES[number]} s" if number < len(DURATION_EDGES) else " s and more"
    return f"{DURATION_EDGES[number - 1]}{upper}"


# Breakdowns of the set in addition to the groups: name -> the part an utterance belongs to, None for no part.
BREAKDOWNS: dict[str, Callable[[ScoredUtterance], str | None]] = {
    "language": lambda utterance: utterance.language,
    "task": lambda utterance: utterance.source.task,
    "speaker": lambda utterance: utterance.source.speaker,
    "duration": lambda utterance: duration_range(utterance.source.duration),
}


def breakdown(
    utterances: Iterable[ScoredUtterance], part_of: Callable[[ScoredUtterance], str | None]
) -> dict[str, list[ScoredUtterance]]:
    """Return the utterances of each part, sorted by name (ranges by seconds)."""
    parts: dict[str, list[ScoredUtterance]] = defaultdict(list)
    for utterance in utterances:
        part = part_of(utterance)
        if part is not None:
            parts[part].append(utterance)
    ranges = [duration_range(edge) for edge in DURATION_EDGES]
    return dict(sorted(parts.items(), key=lambda part: (ranges.index(part[0]) if part[0] in ranges else -1, part[0])))


def group_metrics(utterances: list[ScoredUtterance]) -> dict:
    """Return a group's entry in metrics.json: unit, normaliser, rates, counts and the interval of the error rate."""
    counts = ErrorCounts.sum(utterance.counts for utterance in utterances)
    interval = error_rate_interval(
        [utterance.counts.errors for utterance in utterances],
        [utterance.counts.total for utterance in utterances],
        [utterance.source.speaker for utterance in utterances],
    )
    return {
        # Not a WER if there are both words and characters: each unit counts once.
        "unit": "/".join(sorted({utterance.unit for utterance in utterances}, reverse=True)),
        "normalizer": "/".join(sorted({utterance.normalizer for utterance in utterances})),
        **counts.metrics(),
        "interval_95": None if interval is None else [interval.low, interval.high],
        "resampled": None if interval is None else interval.resampled,
    }
