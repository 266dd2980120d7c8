"""Whether a model's probabilities of its words are true: of words that it gives 0.8, eight in ten should be right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from whisper_recipe.decoding.confidence import LEAST

BINS = 10  # of equal width, as in https://arxiv.org/abs/1706.04599
TEMPERATURES = np.geomspace(0.1, 10, 401)  # steps of 1.2 %


def judged_words(rows: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of hypotheses' units and whether they are right, both (n,).

    Args:
        rows: of utterances.jsonl, whose `words` are [start, end, probability] of each unit of the hypothesis.
    """
    probabilities, right = [], []
    for row in rows:
        kinds = "".join(
            kind * int(count) for kind, count in re.findall(r"([=sid])(\d+)", row["alignment"]) if kind != "d"
        )
        for kind, word in zip(kinds, row.get("words") or (), strict=False):
            if word is not None and word[2] is not None:
                probabilities.append(word[2])
                right.append(kind == "=")
    return np.array(probabilities, dtype=float), np.array(right, dtype=bool)


def confidence_metrics(rows: Iterable[dict]) -> dict | None:
    """Return what metrics.json says of the confidences; None where no word has one.

    `ece` is the expected calibration error; `temperature` the one that makes these probabilities likeliest, and
    `ece_calibrated` the error with it; `bins` are those of `reliability`.
    """
    probabilities, right = judged_words(rows)
    if not len(probabilities):
        return None
    temperature = best_temperature(probabilities, right)
    bins = reliability(probabilities, right)
    return {
        "words": len(probabilities),
        "mean_probability": float(probabilities.mean()),
        "share_right": float(right.mean()),
        "ece": calibration_error(bins),
        "temperature": temperature,
        "ece_calibrated": calibration_error(reliability(_calibrated(probabilities, temperature), right)),
        "bins": bins,
    }


def reliability(probabilities: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Return [mean probability, share that is right, count] of the words in each of BINS ranges that has any."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    members = [numbers == number for number in range(BINS)]
    return [
        [float(probabilities[one].mean()), float(right[one].mean()), int(one.sum())] for one in members if one.any()
    ]


def calibration_error(bins: Sequence[Sequence[float]]) -> float:
    """Return the expected calibration error: how far probabilities are from shares that are right, over all words."""
    total = sum(count for *_, count in bins)
    return sum(count * abs(probability - share) for probability, share, count in bins) / total


def best_temperature(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Return which of TEMPERATURES gives the words' being right and wrong the highest likelihood."""
    likelihoods = []
    for temperature in TEMPERATURES:
        scaled = _calibrated(probabilities, temperature)
        likelihoods.append(np.log(np.where(right, scaled, 1 - scaled)).sum())
    return float(TEMPERATURES[int(np.argmax(likelihoods))])


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """As decoding/confidence.py's `calibrated`, of many."""
    clipped = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.clip(1 / (1 + ((1 - clipped) / clipped) ** (1 / temperature)), LEAST, 1 - LEAST)
