"""`whisper-recipe average`: one model from several checkpoints of a run, often a little better than each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json

if TYPE_CHECKING:
    import torch


def average(exp: Path, checkpoints: int = 5, choose: Literal["last", "best"] = "last", out: Path | None = None) -> None:
    """Average the weights of a run's checkpoints; write a plain Whisper folder.

    Adapters are merged into their base model first: an average of LoRA's two factors is not that of their products.

    Args:
        exp: the folder of a finished run.
        checkpoints: how many.
        choose: the last ones, or the best by eval_loss.
        out: the folder to write; by default exp/average.

    Raises:
        RecipeError: the run is not finished, has fewer checkpoints, or was not evaluated where `best` is asked for.
    """
    from whisper_recipe.model.adapters import adapter_processor, load_adapter
    from whisper_recipe.model.load import TRAINING_RECORD, load_model, load_processor, save_model

    exp = Path(exp)
    adapter = (exp / "adapter").exists()
    finished = exp / ("adapter" if adapter else "model")
    record = read_json(finished / TRAINING_RECORD, "train to the end first (stage 4)")
    chosen = choose_checkpoints(exp, checkpoints, choose)
    load = (lambda folder: load_adapter(folder)[0].merge_and_unload()) if adapter else load_model
    model = load(chosen[0])
    model.load_state_dict(mean_state(load(folder).state_dict() for folder in chosen))
    out = out or exp / "average"
    with atomic_write(out, replace_folder=True) as aside:
        processor = adapter_processor(finished, record["base_model"]) if adapter else load_processor(finished)
        save_model(aside, model, processor, record)
    print(f"{out}: average of {', '.join(folder.name for folder in chosen)}")


def choose_checkpoints(exp: Path, count: int, choose: Literal["last", "best"]) -> list[Path]:
    """Return the folders of the last or best checkpoints of a run, the earliest first.

    Raises:
        RecipeError: there are fewer, or they have no eval_loss.
    """
    steps = {int(path.name.rpartition("-")[2]): path for path in exp.glob("checkpoint-*")}
    if len(steps) < count or count < 1:
        cure = "train with trainer.save_strategy: steps and trainer.save_total_limit as high"
        raise RecipeError(f"{len(steps)} checkpoints, and {count} are asked for", where=exp, cure=cure)
    order = sorted(steps)
    if choose == "best":
        losses = _eval_losses(steps[order[-1]])
        if missing := [step for step in order if step not in losses]:
            cure = "set trainer.eval_strategy: steps, and eval_steps as save_steps"
            raise RecipeError(f"no eval_loss of checkpoint-{missing[0]}", where=exp, cure=cure)
        order.sort(key=lambda step: -losses[step])
    return [steps[step] for step in sorted(order[-count:])]


def _eval_losses(checkpoint: Path) -> dict[int, float]:
    history = read_json(checkpoint / "trainer_state.json")["log_history"]
    return {row["step"]: row["eval_loss"] for row in history if "eval_loss" in row}


def mean_state(states: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of state dicts of one shape, summed in float64; one of them is in memory at a time."""
    total, count = {}, 0
    for state in states:
        count += 1
        for name, tensor in state.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / count).float() for name, tensor in total.items()}
