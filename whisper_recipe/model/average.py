"""`whisper-recipe average`: average checkpoints of a run, or a base model and its fine-tuned version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json
from whisper_recipe.model.mean import mean_state, unmeasured


def average(
    models: list[Path],
    weights: list[float] = [],  # noqa: B006 (never written to)
    checkpoints: int = 5,
    choose: Literal["last", "best"] = "last",
    out: Path | None = None,
) -> None:
    """Average the weights of a run's checkpoints or of several models; write a plain Whisper folder.

    Averaged checkpoints are often slightly better than any single one. Interpolating a base model and its fine-tuned
    version (`average BASE TUNED --weights 0.5 0.5`) keeps much of the knowledge of both
    (https://arxiv.org/abs/2109.01903).

    Args:
        models: the folder of a finished run, whose checkpoints are averaged (adapters are merged first, because
            averaging LoRA's two factors is not the same as averaging their products); or Whisper folders or names on
            the Hub.
        weights: one weight per model, in the same order; equal by default. The training record in the output is that of
            the last model that has one.
        checkpoints: number of checkpoints of a run.
        choose: the last checkpoints, or the best by eval_loss.
        out: the folder to write; for a run, exp/average by default.

    Raises:
        RecipeError: the run is not finished, has fewer checkpoints, or was not evaluated but `best` is requested; the
            weights are not one number per model, at least 0 and not all 0; or the models don't match.
    """
    if len(models) == 1:
        if weights:
            raise RecipeError(
                "it does not apply to checkpoints", where="weights", cure="give BASE and TUNED, or no weights"
            )
        _average_checkpoints(models[0], checkpoints, choose, out or models[0] / "average")
    elif out is None:
        raise RecipeError("averaging several models needs an output folder", where="out", cure="give --out")
    else:
        interpolate([str(model) for model in models], shares_of(weights, len(models)), out)


def _average_checkpoints(exp: Path, checkpoints: int, choose: Literal["last", "best"], out: Path) -> None:
    from whisper_recipe.model.adapters import adapter_processor, load_adapter
    from whisper_recipe.model.load import TRAINING_RECORD, load_model, load_processor, save_model

    adapter = (exp / "adapter").exists()
    finished = exp / ("adapter" if adapter else "model")
    record = read_json(finished / TRAINING_RECORD, "finish the training first (stage 4)")
    chosen = choose_checkpoints(exp, checkpoints, choose)
    load = (lambda folder: load_adapter(folder)[0].merge_and_unload()) if adapter else load_model
    model = load(chosen[0])
    states = (load(folder).state_dict() for folder in chosen)
    model.load_state_dict(mean_state(states, shares_of([], len(chosen))))
    with atomic_write(out, replace_folder=True) as aside:
        processor = adapter_processor(finished, record["base_model"]) if adapter else load_processor(finished)
        save_model(aside, model, processor, unmeasured(record))
    print(f"{out}: average of {', '.join(folder.name for folder in chosen)}")


def interpolate(models: Sequence[str], shares: Sequence[float], out: Path) -> None:
    """Write the weighted mean of models: Whisper folders, or names on the Hub.

    Raises:
        RecipeError: their weights differ in names or shapes, or their tokenizers differ.
    """
    from whisper_recipe.model.load import load_model, load_processor, read_training_record, save_model

    processors = [load_processor(model) for model in models]
    vocabularies = [processor.tokenizer.get_vocab() for processor in processors]
    for model, vocabulary in zip(models[1:], vocabularies[1:], strict=True):
        if vocabulary != vocabularies[0]:
            cure = "average models tuned from the same base model"
            raise RecipeError(f"its tokenizer differs from that of {models[0]}", where=model, cure=cure)
    mean = load_model(models[0])
    mean.load_state_dict(mean_state((load_model(model).state_dict() for model in models), shares, models))
    recorded = [record for model in models if (record := read_training_record(model)) is not None]
    average = {model: round(share, 4) for model, share in zip(models, shares, strict=True)}
    record = {**unmeasured(recorded[-1]), "average": average} if recorded else None
    with atomic_write(out, replace_folder=True) as aside:
        save_model(aside, mean, processors[-1], record)
    print(f"{out}: {' + '.join(f'{share:g} x {model}' for model, share in average.items())}")


def shares_of(weights: Sequence[float], count: int) -> list[float]:
    """Return `count` weights that add up to 1; equal ones if none are given."""
    weights = weights or [1.0] * count
    if len(weights) != count:
        raise RecipeError(f"{len(weights)} weights for {count} models", where="weights", cure="give one for each model")
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
        numbers = " ".join(f"{weight:g}" for weight in weights)
        raise RecipeError(f"must be at least 0 and not all 0, got {numbers}", where="weights")
    return [weight / sum(weights) for weight in weights]


def choose_checkpoints(exp: Path, count: int, choose: Literal["last", "best"]) -> list[Path]:
    """Return the folders of the last or best checkpoints of a run, the earliest first.

    Raises:
        RecipeError: there are fewer, or they have no eval_loss.
    """
    steps = {int(path.name.rpartition("-")[2]): path for path in exp.glob("checkpoint-*")}
    if len(steps) < count or count < 1:
        cure = "train with trainer.save_strategy: steps and a trainer.save_total_limit of at least as many"
        raise RecipeError(f"{len(steps)} checkpoints, but {count} requested", where=exp, cure=cure)
    order = sorted(steps)
    if choose == "best":
        losses = _eval_losses(steps[order[-1]])
        if missing := [step for step in order if step not in losses]:
            cure = "train with trainer.eval_strategy: steps, and trainer.eval_steps equal to trainer.save_steps"
            raise RecipeError(f"no eval_loss for checkpoint-{missing[0]}", where=exp, cure=cure)
        order.sort(key=lambda step: -losses[step])
    return [steps[step] for step in sorted(order[-count:])]


def _eval_losses(checkpoint: Path) -> dict[int, float]:
    history = read_json(checkpoint / "trainer_state.json")["log_history"]
    return {row["step"]: row["eval_loss"] for row in history if "eval_loss" in row}
