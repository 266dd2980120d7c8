"""Checkpoints: complete or absent, and resumed only by a run with the same options and data."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, write_json
from whisper_recipe.processes import is_main_process
from whisper_recipe.training.cuts import cuts_digest
from whisper_recipe.training.deepspeed import report_locks

STAGING = ".unfinished"  # in the run's folder: holds a checkpoint until it is complete, and while it is deleted
POSITION = "position.json"  # in a checkpoint: see WholeCheckpoints.position
RUN = "run.json"  # in the run's folder: see describe_run
# Options of the Trainer that don't change the weights.
FREE = (
    "output_dir",
    "logging_",
    "report_to",
    "run_name",
    "disable_tqdm",
    "dataloader_",
    "log_",
    "save_",
    "push_",
    "hub_",
)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """Return the checkpoint with the most steps."""
    return max(_checkpoints(output_dir), key=_step, default=None)


def _checkpoints(output_dir: Path) -> list[Path]:
    return [path for path in Path(output_dir).glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def describe_run(trainer: Seq2SeqTrainingArguments, manifests: list[Path], **options: object) -> dict:
    """Return everything that determines a run's weights: options by name, and hashes of the manifests."""
    chosen = {
        f"trainer.{key}": value
        for key, value in trainer.to_dict().items()
        if not key.startswith(FREE) and key[0] != "_"
    }
    for name, value in options.items():
        chosen |= (
            {f"{name}.{key}": x for key, x in asdict(value).items()} if hasattr(value, "__dict__") else {name: value}
        )
    chosen |= {f"cuts.{path}": cuts_digest(path) for path in manifests}
    return {
        key: value if isinstance(value, int | float | str | list | None) else str(value)
        for key, value in chosen.items()
    }


def checkpoint_to_resume(output_dir: Path, run: dict, finished: Path) -> Path | None:
    """Return the checkpoint that a run resumes from; None if it starts from scratch.

    A finished run starts from scratch, and its checkpoints are deleted.

    Args:
        output_dir: the run's folder.
        run: see `describe_run`.
        finished: the model or adapter that a finished run has written.

    Raises:
        RecipeError: the checkpoints are from other options or data.
    """
    shutil.rmtree(output_dir / STAGING, ignore_errors=True)
    if finished.exists():
        for checkpoint in _checkpoints(output_dir):
            _delete(checkpoint)
    checkpoint = newest_checkpoint(output_dir)
    if checkpoint is not None and (output_dir / RUN).exists():
        before = read_json(output_dir / RUN)
        others = sorted(key for key in run.keys() | before.keys() if run.get(key) != before.get(key))
        if others:
            raise RecipeError(
                f"the checkpoints are from a run with a different {', '.join(others[:3])}",
                where=output_dir,
                cure="repeat its command to resume, give another output_dir, or delete it to start over",
            )
    write_json(output_dir / RUN, run)
    return checkpoint


def shared_checkpoint(trainer: Seq2SeqTrainingArguments, output_dir: Path, run: dict, finished: Path) -> Path | None:
    """Return what `checkpoint_to_resume` returns, in every process of the run.

    Raises:
        RecipeError: as `checkpoint_to_resume`.
    """
    with trainer.main_process_first(local=False):
        if not is_main_process():
            return newest_checkpoint(output_dir)
        if trainer.deepspeed_plugin is not None:
            report_locks()  # while the others wait: none of this run holds one yet
        return checkpoint_to_resume(output_dir, run, finished)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint; if killed midway, leave none that looks complete."""
    trash = checkpoint.parent / STAGING / "old"
    shutil.rmtree(trash, ignore_errors=True)
    trash.parent.mkdir(exist_ok=True)
    checkpoint.rename(trash)
    shutil.rmtree(trash.parent)


class WholeCheckpoints(Seq2SeqTrainer):
    """A Trainer that names checkpoints once they are complete; transformers writes directly to the final folder."""

    def position(self) -> dict[str, int]:
        """Return the run's position in the data: batches of all processes, and the number of processes."""
        raise NotImplementedError

    def _get_output_dir(self, trial: object) -> str:
        return str(Path(self.args.output_dir) / STAGING)

    def _save_checkpoint(self, model: object, trial: object) -> None:
        output_dir = Path(self.args.output_dir)
        checkpoint = output_dir / f"checkpoint-{self.state.global_step}"
        staged = output_dir / STAGING / checkpoint.name
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step:  # every process reads the best weights at the end
            self.state.best_model_checkpoint = str(output_dir / f"checkpoint-{self.state.best_global_step}")
        if self.args.should_save:
            write_json(staged / POSITION, self.position())
            self.state.save_to_json(str(staged / "trainer_state.json"))
            staged.rename(checkpoint)
            (output_dir / STAGING).rmdir()
            self._delete_old(output_dir)
        self.accelerator.wait_for_everyone()

    def _delete_old(self, output_dir: Path) -> None:
        """Keep the newest `save_total_limit` checkpoints and the best one."""
        limit = self.args.save_total_limit
        for checkpoint in sorted(_checkpoints(output_dir), key=_step)[: -limit if limit else 0]:
            if str(checkpoint) != self.state.best_model_checkpoint:
                _delete(checkpoint)
