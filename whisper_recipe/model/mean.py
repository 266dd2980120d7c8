"""The weighted mean of models' weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from whisper_recipe.errors import RecipeError

if TYPE_CHECKING:
    import torch


def mean_state(
    states: Iterable[dict[str, torch.Tensor]], shares: Sequence[float], names: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Return the weighted mean of state dicts, summed in float64, with one of them in memory at a time.

    Args:
        states: state dicts with the same names and shapes.
        shares: their weights, which add up to 1.
        names: names of the models, for error messages.

    Raises:
        RecipeError: names or shapes differ.
    """
    total: dict[str, torch.Tensor] = {}
    for number, (state, share) in enumerate(zip(states, shares, strict=True)):
        if number:
            _check_fit(total, state, names or [f"model {place}" for place in range(1, len(shares) + 1)], number)
        for name, tensor in state.items():
            part = share * tensor.double()
            total[name] = total[name] + part if number else part
    return {name: tensor.float() for name, tensor in total.items()}


def _check_fit(
    first: dict[str, torch.Tensor], other: dict[str, torch.Tensor], names: Sequence[str], number: int
) -> None:
    for name in sorted(first.keys() | other.keys()):
        shapes = ["x".join(map(str, state[name].shape)) if name in state else "missing" for state in (first, other)]
        if shapes[0] != shapes[1]:
            what = f"{name} is {shapes[1]}, but {shapes[0]} in {names[0]}"
            raise RecipeError(what, where=names[number], cure="average models tuned from the same base model")


def unmeasured(record: dict) -> dict:
    """Return a training record without its measurements, which don't hold for other weights."""
    return {key: value for key, value in record.items() if key != "canaries"}
