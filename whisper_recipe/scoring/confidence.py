"""Calibration of word probabilities: of the words with a probability of 0.8, eight in ten should be correct."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from whisper_recipe.decoding.confidence import LEAST

BINS = 10  # of equal width, as in https://arxiv.org/abs/1706.04599
TEMPERATURES = np.geomspace(0.1, 10, 401)  # steps of 1.2 %


def judged_words(rows: Iterable[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of hypotheses' units and whether they are correct, both (n,).

    Args:
        rows: of utterances.jsonl; `words` has [start, end, probability] for each unit of the hypothesis.
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
    """Return the confidence entry of metrics.json; None if no word has a confidence.

    `ece` is the expected calibration error, `temperature` that of `best_temperature`, `ece_calibrated` the error with
    this temperature, and `bins` those of `reliability`.
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
    """Return [mean probability, share of correct words, count] for each of BINS ranges that has words."""
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    masks = [numbers == number for number in range(BINS)]
    return [
        [float(probabilities[mask].mean()), float(right[mask].mean()), int(mask.sum())] for mask in masks if mask.any()
    ]


def calibration_error(bins: Sequence[Sequence[float]]) -> float:
    """Return the expected calibration error: the mean distance from probability to share of correct words."""
    total = sum(count for *_, count in bins)
    return sum(count * abs(probability - share) for probability, share, count in bins) / total


def best_temperature(probabilities: np.ndarray, right: np.ndarray) -> float:
    """Return the one of TEMPERATURES that maximises the likelihood of which words are correct."""
    likelihoods = []
    for temperature in TEMPERATURES:
        scaled = _calibrated(probabilities, temperature)
        likelihoods.append(np.log(np.where(right, scaled, 1 - scaled)).sum())
    return float(TEMPERATURES[int(np.argmax(likelihoods))])


def _calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Calibrate an array, as `calibrated` of decoding/confidence.py does one probability."""
    clipped = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.clip(1 / (1 + ((1 - clipped) / clipped) ** (1 / temperature)), LEAST, 1 - LEAST)
