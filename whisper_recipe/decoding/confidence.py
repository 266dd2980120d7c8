"""How sure a model is of its words: probabilities, and their calibration by a temperature."""

from __future__ import annotations

import math
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json

LEAST = 1e-6  # probabilities are clipped to this distance from 0 and 1


def calibrated(probability: float, temperature: float) -> float:
    """Return a probability with its log-odds divided by a temperature; values over 1 lower the confidence.

    For a single word this is temperature scaling of logits (Guo et al. 2017, https://arxiv.org/abs/1706.04599); words
    of several tokens have no logits.
    """
    probability = min(max(probability, LEAST), 1 - LEAST)
    odds = math.log(probability / (1 - probability)) / temperature
    return 1 / (1 + math.exp(-odds))


def read_temperature(path: Path) -> float:
    """Return the temperature that `whisper-recipe score` found best for a set decoded with --confidence.

    Args:
        path: the set's metrics.json.

    Raises:
        RecipeError: the file has none.
    """
    cure = "decode the dev set with --confidence and score it"
    confidence = read_json(path, cure).get("confidence")
    temperature = confidence.get("temperature") if isinstance(confidence, dict) else None
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise RecipeError("no confidence temperature in it", where=path, cure=cure)
    return float(temperature)
