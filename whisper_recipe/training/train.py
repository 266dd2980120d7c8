"""`whisper-recipe train`: fine-tune Whisper, fully or with LoRA, through transformers' Seq2SeqTrainer."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Literal

import torch
from lhotse import CutSet
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from whisper_recipe.data.features import check_mel_bins
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_json, written_aside
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.load import RECIPE_CONFIG, load_model, load_processor, save_model
from whisper_recipe.training.batches import IGNORED, BatchOptions, drop_untrainable, load_cuts, make_loader
from whisper_recipe.training.logs import LogCallback, log_to_file, write_environment

log = logging.getLogger(__name__)


def train(
    base_model: str,
    train_cuts: list[Path],
    dev_cuts: list[Path],
    output_dir: Path,
    trainer: Seq2SeqTrainingArguments,
    method: Literal["full", "lora"] = "lora",
    lora: LoraOptions = LoraOptions(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
    batches: BatchOptions = BatchOptions(),  # noqa: B008
) -> None:
    """Fine-tune a Whisper model on cuts.

    Writes output_dir/model (full) or output_dir/adapter (lora) when the training is over, and while it runs train.log,
    TensorBoard events and checkpoints.

    Args:
        base_model: a Whisper folder, or a name on the hub (openai/whisper-small).
        train_cuts: cut manifests, from `whisper-recipe fbank`.
        dev_cuts: cut manifests for eval_loss.
        output_dir: the folder of the run, exp/<name>.
        trainer: transformers' Seq2SeqTrainingArguments, under their own names (its output_dir is the one above).
        method: full trains every parameter, lora small matrices beside the frozen ones.
        lora: options of method lora.
        batches: how cuts become batches.

    Raises:
        RecipeError: an input is missing or does not fit the model.
    """
    cuts = {"train": load_cuts(train_cuts), "dev": load_cuts(dev_cuts)}
    processor, model = load_processor(base_model), load_model(base_model)
    output_dir.mkdir(parents=True, exist_ok=True)
    trainer.output_dir = str(output_dir)
    set_seed(trainer.seed)  # before the adapters draw their weights
    if method == "lora":
        model = add_lora(model, lora)
    with log_to_file(output_dir / "train.log"):
        log.info("command: %s", " ".join(sys.argv))
        write_environment(output_dir)
        _report_parameters(model)
        for split in cuts:
            check_mel_bins(next(iter(cuts[split])), model.config.num_mel_bins, f"{split}_cuts")
            cuts[split] = _without_untrainable(cuts[split], processor.tokenizer, output_dir / f"dropped_{split}.tsv")
        run = WhisperTrainer(model, trainer, processor.tokenizer, cuts["train"], cuts["dev"], batches)
        run.train()
        facts = {"natural_length": True, "timestamps": False, "method": method, "base_model": base_model}
        finished = output_dir / ("adapter" if method == "lora" else "model")
        with written_aside(finished, replace_folder=True) as aside:
            if method == "lora":
                model.save_pretrained(aside, save_embedding_layers=False)
            else:
                save_model(aside, model, processor)
            write_json(aside / RECIPE_CONFIG, facts)


class WhisperTrainer(Seq2SeqTrainer):
    """transformers' Seq2SeqTrainer on batches of cuts, with the loss averaged over tokens."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration | PeftModel,
        args: Seq2SeqTrainingArguments,
        tokenizer: WhisperTokenizer,
        train_cuts: CutSet,
        dev_cuts: CutSet,
        batches: BatchOptions,
    ) -> None:
        self.loaders = {
            "train": make_loader(train_cuts, tokenizer, batches, True, model.config.num_mel_bins, args.seed),
            "dev": make_loader(dev_cuts, tokenizer, batches, False, model.config.num_mel_bins),
        }
        if args.max_steps < 0:  # the Trainer itself would count the cuts of a dataset, and ours yields batches
            steps = math.ceil(len(self.loaders["train"]) / args.gradient_accumulation_steps)
            args.max_steps = math.ceil(args.num_train_epochs * steps)
        super().__init__(
            model,
            args,
            train_dataset=self.loaders["train"].dataset,
            eval_dataset=self.loaders["dev"].dataset,
            compute_loss_func=token_loss,
            callbacks=[LogCallback(log)],
        )
        self.remove_callback(PrinterCallback)  # the log has it

    def get_train_dataloader(self) -> DataLoader:
        """Return lhotse's batches as they are: its sampler shares them out among processes on its own."""
        return self.loaders["train"]

    def get_eval_dataloader(self, eval_dataset: object = None) -> DataLoader:
        """Return the batches of the dev cuts."""
        return self.loaders["dev"]

    def num_examples(self, dataloader: DataLoader) -> int:
        """Return the number of batches, for the Trainer's own speed figures: cuts are not counted ahead."""
        return len(dataloader)


def token_loss(outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None):
    """Return the cross entropy summed over tokens, over the number of tokens in all micro-batches of the step.

    Args:
        outputs: with logits of shape (batch, tokens, vocabulary).
        labels: (batch, tokens), -100 where there is no token.
        num_items_in_batch: tokens in the whole step, counted by the Trainer; those of `labels` where it is None.
    """
    total = torch.nn.functional.cross_entropy(
        outputs.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


def _report_parameters(model: torch.nn.Module) -> None:
    every = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    message = f"{trainable / 1e6:.2f} M of {every / 1e6:.2f} M parameters are trained ({trainable / every:.1%})"
    log.info(message)
    print(message)


def _without_untrainable(cuts: CutSet, tokenizer: WhisperTokenizer, listed: Path) -> CutSet:
    kept, dropped = drop_untrainable(cuts, tokenizer)
    if dropped:
        with written_aside(listed) as aside:
            aside.write_text("".join(f"{cut}\t{why}\n" for cut, why in dropped.items()), encoding="utf-8")
        message = f"{len(dropped)} cuts are left out, with the reasons in {listed}"
        log.warning(message)
        print(message)
    if next(iter(kept), None) is None:
        raise RecipeError("no cut is left to train on", where=listed, cure="cut the audio into shorter pieces")
    return kept
