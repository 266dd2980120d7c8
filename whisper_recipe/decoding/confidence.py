"""How sure a model is of its words: probabilities, and their calibration by a temperature."""

from __future__ import annotations

import math
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json

LEAST = 1e-6  # probabilities nearer to 0 or 1 say no more


def calibrated(probability: float, temperature: float) -> float:
    """Return a probability with its log-odds divided by a temperature: over 1 it becomes less sure.

    On the single word this is what temperature scaling does to logits (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599); words of several tokens have no logits of their own.
    """
    probability = min(max(probability, LEAST), 1 - LEAST)
    odds = math.log(probability / (1 - probability)) / temperature
    return 1 / (1 + math.exp(-odds))


def read_temperature(path: Path) -> float:
    """Return the temperature that `whisper-recipe score` found best for a set decoded with --confidence.

    Args:
        path: the set's metrics.json.

    Raises:
        RecipeError: there is none in it.
    """
    cure = "decode the dev set with --confidence and score it"
    confidence = read_json(path, cure).get("confidence")
    temperature = confidence.get("temperature") if isinstance(confidence, dict) else None
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise RecipeError("it has no confidence temperature", where=path, cure=cure)
    return float(temperature)
