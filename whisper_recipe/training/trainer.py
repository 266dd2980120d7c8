"""transformers' Seq2SeqTrainer on batches of cuts: loss per token, complete checkpoints, and resuming from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from lhotse import CutSet
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput

from whisper_recipe.errors import RecipeError, is_out_of_memory
from whisper_recipe.files import read_json
from whisper_recipe.model.adapters import adapter_regularisation
from whisper_recipe.processes import Part
from whisper_recipe.text.labels import IGNORED
from whisper_recipe.training.augment import TrainingAugmentation
from whisper_recipe.training.batches import BatchOptions, encoder_input, make_loader
from whisper_recipe.training.checkpoints import POSITION, WholeCheckpoints
from whisper_recipe.training.deepspeed import load_other_partitions
from whisper_recipe.training.evaluation import CANARY, Evaluation
from whisper_recipe.training.logs import LogCallback, log_and_print
from whisper_recipe.training.parameters import ParameterOptions, parameter_groups

log = logging.getLogger(__name__)
MOST_UNREADABLE = 100  # cuts; more stop the run
LESS_MEMORY = "lower batches.max_duration, set trainer.gradient_checkpointing true, or use method lora"
LOADER_ERROR = "Original Traceback"  # in torch's message for an error in a loading process


def make_loaders(
    train_cuts: CutSet,
    dev_cuts: CutSet,
    tokenizer: WhisperTokenizer,
    batches: BatchOptions,
    num_mel_bins: int,
    args: Seq2SeqTrainingArguments,
    augment: TrainingAugmentation | None = None,
) -> tuple[DataLoader, DataLoader]:
    """Return the batches for training and for eval_loss, and set args.max_steps if epochs are given.

    The Trainer itself would count the cuts of a dataset, but ours yields batches.
    """
    part = Part(args.process_index, args.world_size)
    train = make_loader(train_cuts, tokenizer, batches, True, num_mel_bins, augment, args.seed, part)
    # Dev batches have the input length that the model will be decoded with, and no previous text, like most inputs.
    plain = replace(batches, pad_to_30s=float(not batches.natural_length), prompts=0.0)
    dev = make_loader(dev_cuts, tokenizer, plain, False, num_mel_bins, part=part)
    args.by_epochs = args.max_steps < 0
    if args.by_epochs:
        args.max_steps = math.ceil(args.num_train_epochs * _steps_of_a_pass(train, args))
    return train, dev


def _steps_of_a_pass(loader: DataLoader, args: Seq2SeqTrainingArguments) -> int:
    return math.ceil(len(loader) / args.gradient_accumulation_steps)


class AdaLoraCallback(TrainerCallback):
    """Lets AdaLoRA move rank from one matrix to another after each step; does nothing for other models."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module, **kwargs
    ) -> None:
        """Move rank after the optimiser's step, before the gradients, which AdaLoRA reads, are deleted.

        There are none if the step was skipped.
        """
        has_gradients = any(parameter.grad is not None for parameter in model.parameters())
        if has_gradients and hasattr(getattr(model, "base_model", None), "update_and_allocate"):
            model.base_model.update_and_allocate(state.global_step)


class WhisperTrainer(WholeCheckpoints):
    """The Trainer of `whisper-recipe train`."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration | PeftModel,
        args: Seq2SeqTrainingArguments,
        train: DataLoader,
        dev: DataLoader,
        parameters: ParameterOptions,
        evaluation: Evaluation | None = None,
        max_skipped_steps: int = 10,
    ) -> None:
        self.train_loader, self.dev_loader, self.parameters = train, dev, parameters
        self.evaluation = evaluation or Evaluation()
        self.by_epochs = getattr(args, "by_epochs", False)
        self.max_skipped_steps, self.skipped_in_a_row, self.skipped = max_skipped_steps, 0, 0
        self.seen: list[str] = []  # cuts of the step
        self.last_loss = torch.zeros((), device=args.device)  # of a micro-batch, finite
        self.measured = torch.zeros(2, dtype=torch.float64)  # sum of the token losses in an evaluation, and tokens
        self.unreadable: set[str] = set()  # ids of cuts
        super().__init__(
            model,
            args,
            train_dataset=train.dataset,
            eval_dataset=dev.dataset,
            compute_loss_func=self.loss,
            callbacks=[LogCallback(log), AdaLoraCallback()],
        )
        if self.evaluation.patience:
            self.add_callback(EarlyStoppingCallback(self.evaluation.patience))
        self.remove_callback(PrinterCallback)  # the log has the same

    def train_from(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint, skipping finished batches without reading them, or from the start."""
        if checkpoint is not None:
            self._find_place(checkpoint)
            log_and_print(f"resuming from {checkpoint}")
        try:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except RecipeError as error:
            if LOADER_ERROR not in str(error):
                raise
            # torch puts the traceback of a loading process in front of its error.
            raise RecipeError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
        if self.skipped:
            log_and_print(
                f"{self.skipped} steps were skipped because the loss or a gradient was not finite; the log lists them"
            )
        if self.unreadable:
            log_and_print(f"{len(self.unreadable)} cuts could not be read and were dropped; the log lists them")

    def position(self) -> dict[str, int]:
        """Return the run's position (see WholeCheckpoints); a pass's last step may have fewer batches."""
        length = len(self.train_loader)
        passes, steps = divmod(self.state.global_step, _steps_of_a_pass(self.train_loader, self.args))
        done = passes * length + min(steps * self.args.gradient_accumulation_steps, length)
        return {"batches": done * self.args.world_size, "processes": self.args.world_size}

    def _find_place(self, checkpoint: Path) -> None:
        """Skip the finished batches."""
        sampler, args = self.train_loader.batch_sampler, self.args
        steps = read_json(checkpoint / "trainer_state.json")["global_step"]
        before = read_json(checkpoint / POSITION)
        if before["processes"] == args.world_size:
            passes = steps // _steps_of_a_pass(self.train_loader, args)
            sampler.pass_over(passes * len(sampler) * args.world_size)  # the Trainer skips the rest
            return
        if args.deepspeed_plugin is not None:
            load_other_partitions(checkpoint, args)
        # Steps have another size now: the rest of the epochs determines how many there are.
        sampler.pass_over(before["batches"])
        args.ignore_data_skip = True
        if self.by_epochs:
            left = max(0, math.ceil(args.num_train_epochs * sampler.batches) - before["batches"])
            args.max_steps = steps + math.ceil(left / (args.world_size * args.gradient_accumulation_steps))

    def _run_epoch(self, *args, **kwargs) -> None:
        """Run a pass over the batches; none if a run was killed after its last step: it would train another step.

        Measure the canaries before the first step.
        """
        if self.state.global_step == 0 and self.evaluation.canaries and not self.canaries_at(0):
            self._log_canaries(self.evaluation.measure_canaries(self.model, before=True))
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader unchanged: its sampler already distributes batches over the processes."""
        return self.train_loader

    def get_eval_dataloader(self, eval_dataset: object = None) -> DataLoader:
        """Return the batches of the dev cuts."""
        return self.dev_loader

    def num_examples(self, dataloader: DataLoader) -> int:
        """Return the number of batches, for the Trainer's own speed figures: cuts are not counted ahead."""
        return len(dataloader)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs) -> EvalLoopOutput:
        """Return eval_loss, averaged over tokens, and the error rates if they are due."""
        self.measured = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        # transformers averages over batches, so that tokens in short ones would weigh more.
        total, tokens = map(sum, zip(*gather_object([self.measured.tolist()]), strict=True))  # of all processes
        output.metrics[f"{metric_key_prefix}_loss"] = total / tokens
        if self.evaluation.is_due(self.state.global_step, self.state.max_steps):
            rates = self.evaluation.measure(self.model, before=self.state.global_step == 0)
            output.metrics.update({f"{metric_key_prefix}_{name}": rate for name, rate in rates.items()})
        return output

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Return whether a checkpoint is the best so far, which it never is if a canary has risen too much.

        Without load_best_model_at_end, such a rise stops the run.
        """
        before, now = self.canaries_at(0), self.canaries_at(self.state.global_step)
        risen = self.evaluation.risen(before, now) if now else []
        if not risen:
            return super()._determine_best_metric(metrics, trial)
        what = f"step {self.state.global_step}: {', '.join(risen)}"
        if self.args.load_best_model_at_end:
            log_and_print(f"{what}: the checkpoint is excluded")
        else:
            log_and_print(f"{what}: the run stops")
            self.control.should_training_stop = True
        return False

    def canaries_at(self, step: int) -> dict[str, float]:
        """Return the canaries' error rates after a step, by canary_<name>; empty if they were not measured."""
        rows = [row for row in self.state.log_history if row["step"] == step]
        prefix = f"eval_{CANARY}"
        return {key.removeprefix("eval_"): row[key] for row in rows for key in row if key.startswith(prefix)}

    def canary_rates(self) -> dict[str, dict[str, float]]:
        """Return each canary's error rate before training and with the final model."""
        chosen = self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None
        if self.args.load_best_model_at_end and not chosen:
            log_and_print("no checkpoint keeps the canaries within canary_max_rise: using the last weights")
        step = self.state.best_global_step if chosen else self.state.global_step
        after = self.canaries_at(step)
        if not after:
            after = self.evaluation.measure_canaries(self.model)
            if step == self.state.global_step:
                self._log_canaries(after)
        return {
            name.removeprefix(CANARY): {"before": before, "after": after[name]}
            for name, before in self.canaries_at(0).items()
        }

    def _log_canaries(self, rates: dict[str, float]) -> None:
        self.log({f"eval_{name}": rate for name, rate in rates.items()})

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser `trainer.optim`, with the learning rates of encoder and decoder."""
        if self.optimizer is None:
            decayed = self.get_decay_parameter_names(self.model)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(
                parameter_groups(self.model, self.parameters, decayed, self.args.weight_decay), **options
            )
        return self.optimizer

    def _prepare_input(self, data: object) -> object:
        """Copy pinned tensors to the GPU without waiting."""
        if isinstance(data, torch.Tensor) and data.is_pinned():
            data = data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def training_step(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor:
        """Return the loss of a micro-batch after its backward pass, for the log, or the last finite one.

        Raises:
            RecipeError: out of memory.
        """
        batch = inputs["labels"].shape, encoder_input(inputs).shape
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _out_of_memory(*batch, self.args.device) from error
        # Without an `if`, for which the CPU would have to wait for the GPU.
        self.last_loss = torch.where(loss.isfinite(), loss, self.last_loss)
        return self.last_loss

    def loss(
        self, outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return the loss of a micro-batch, as the Trainer's compute_loss_func."""
        if self.model.training:
            loss = token_loss(outputs, labels, num_items_in_batch, self.args.label_smoothing_factor)
            # The Trainer multiplies by the number of processes, since their gradients are averaged.
            share = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            return loss + adapter_regularisation(self.model) / share
        total, tokens = token_loss(outputs, labels, 1), (labels != IGNORED).sum()
        self.measured += torch.stack([total, tokens]).cpu()
        return total / tokens.clamp(min=1)

    def _note_unreadable(self, unreadable: dict[str, str]) -> None:
        for key, reason in unreadable.items():
            if key not in self.unreadable:
                log.warning("step %d: cut %s can't be read and is dropped: %s", self.state.global_step, key, reason)
        self.unreadable |= unreadable.keys()
        if len(self.unreadable) > MOST_UNREADABLE:
            what = f"more than {MOST_UNREADABLE} cuts can't be read, e.g. {min(self.unreadable)}"
            raise RecipeError(what, where="train_cuts", cure="the log lists the reasons; fix or remove them")

    def compute_loss(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor | tuple:
        """Return the loss of a batch."""
        cuts = inputs.pop("cuts")
        self._note_unreadable(inputs.pop("unreadable", {}))
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.seen += cuts
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | float:
        """Return the norm of the step's gradients; if it is not finite, delete them, so that nothing changes.

        An optimiser skips parameters without a gradient: weights and its own state are unchanged, and weights don't
        decay. The gradients are combined over all processes, so all of them skip the step, whichever had the bad batch.
        DeepSpeed's ZeRO has already skipped the step, in the backward pass, and returns an infinite norm.

        Raises:
            RecipeError: max_skipped_steps steps in a row were skipped.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        cuts, self.seen = self.seen, []
        if norm is None or math.isfinite(norm):
            self.skipped_in_a_row = 0
            return norm
        if self.accelerator.scaler is None:  # with float16 the scaler skips it, and lowers its scale
            model.zero_grad()
        self.skipped += 1
        self.skipped_in_a_row += 1
        step = self.state.global_step
        log.warning("step %d is skipped: the loss or a gradient is not finite; cuts: %s", step, _names(cuts))
        if self.skipped_in_a_row >= self.max_skipped_steps:
            raise RecipeError(
                f"the loss or a gradient was not finite in {self.skipped_in_a_row} steps in a row, the last with cuts "
                f"{_names(cuts)}",
                where=f"step {step}",
                cure="lower trainer.learning_rate, set trainer.max_grad_norm, or use bf16 or fp32 instead of fp16",
            )
        return norm


def _names(cuts: Iterable[str]) -> str:
    return ", ".join(cuts)


def token_loss(
    outputs: object,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross entropy summed over tokens, divided by the number of tokens in the whole step.

    Args:
        outputs: model outputs with logits of shape (batch, tokens, vocabulary).
        labels: (batch, tokens), -100 for ignored positions.
        num_items_in_batch: tokens in all micro-batches of the step, counted by the Trainer; None counts `labels`.
        label_smoothing: share of the probability spread evenly over all tokens (https://arxiv.org/abs/1512.00567).
    """
    total = torch.nn.functional.cross_entropy(
        outputs.logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def _out_of_memory(labels: torch.Size, encoder: torch.Size, device: torch.device) -> RecipeError:
    """Return the error for a batch that does not fit."""
    what = f"out of memory on a batch of {labels[0]} cuts: encoder input {tuple(encoder)}, labels {tuple(labels)}"
    return RecipeError(what, where=device, cure=f"{LESS_MEMORY}; --find-max-duration measures what fits")
