"""`whisper-recipe train`: fine-tune Whisper, fully or with LoRA, through transformers' Seq2SeqTrainer."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal

import torch
from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments, WhisperTokenizer, set_seed

from whisper_recipe.data.features import check_mel_bins
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_json, written_aside
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.load import RECIPE_CONFIG, load_model, load_processor, save_model
from whisper_recipe.training.batches import BatchOptions, drop_untrainable, load_cuts
from whisper_recipe.training.checkpoints import describe_run, start_or_go_on
from whisper_recipe.training.facts import training_facts
from whisper_recipe.training.logs import log_to_file, write_curves, write_environment
from whisper_recipe.training.parameters import ParameterOptions, freeze
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

log = logging.getLogger(__name__)


def train(
    base_model: str,
    train_cuts: list[Path],
    dev_cuts: list[Path],
    output_dir: Path,
    trainer: Seq2SeqTrainingArguments,
    method: Literal["full", "lora"] = "lora",
    lora: LoraOptions = LoraOptions(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
    parameters: ParameterOptions = ParameterOptions(),  # noqa: B008
    batches: BatchOptions = BatchOptions(),  # noqa: B008
) -> None:
    """Fine-tune a Whisper model on cuts.

    Writes output_dir/model (full) or output_dir/adapter (lora) when the training is over, and while it runs train.log,
    TensorBoard events and checkpoints. The same command goes on from the newest checkpoint of a run that was killed,
    and ends with the weights that it would have had.

    Args:
        base_model: a Whisper folder, or a name on the hub (openai/whisper-small).
        train_cuts: cut manifests, from `whisper-recipe fbank`.
        dev_cuts: cut manifests for eval_loss.
        output_dir: the folder of the run, exp/<name>.
        trainer: transformers' Seq2SeqTrainingArguments, under their own names (its output_dir is the one above).
        method: full trains every parameter, lora small matrices beside the frozen ones.
        lora: options of method lora.
        parameters: what is frozen, and learning rates of encoder and decoder.
        batches: how cuts become batches.

    Raises:
        RecipeError: an input is missing or does not fit the model.
    """
    cuts = {"train": load_cuts(train_cuts), "dev": load_cuts(dev_cuts)}
    processor, model = load_processor(base_model), load_model(base_model)
    output_dir.mkdir(parents=True, exist_ok=True)
    trainer.output_dir = str(output_dir)
    set_seed(trainer.seed)  # before the adapters draw their weights
    finished = output_dir / ("adapter" if method == "lora" else "model")
    options = {"base_model": base_model, "method": method, "lora": lora, "parameters": parameters, "batches": batches}
    checkpoint = start_or_go_on(output_dir, describe_run(trainer, [*train_cuts, *dev_cuts], **options), finished)
    with log_to_file(output_dir / "train.log"):
        log.info("command: %s", " ".join(sys.argv))
        write_environment(output_dir)
        for split in cuts:
            check_mel_bins(next(iter(cuts[split])), model.config.num_mel_bins, f"{split}_cuts")
            cuts[split] = _without_untrainable(cuts[split], processor.tokenizer, output_dir / f"dropped_{split}.tsv")
        loaders = make_loaders(
            cuts["train"], cuts["dev"], processor.tokenizer, batches, model.config.num_mel_bins, trainer
        )
        if method == "lora":
            model = add_lora(model, lora, trainer.max_steps)
        else:
            freeze(model, parameters)
        _report_parameters(model)
        facts = training_facts(base_model, train_cuts, cuts["train"], method, lora, batches, trainer)
        run = WhisperTrainer(model, trainer, *loaders, parameters)
        run.go_on(checkpoint)
        write_curves(output_dir, run.state.log_history)
        facts["steps"], facts["epochs"] = run.state.global_step, round(run.state.epoch, 2)
        with written_aside(finished, replace_folder=True) as aside:
            if method == "lora":
                model.save_pretrained(aside, save_embedding_layers=False)
                write_json(aside / RECIPE_CONFIG, facts)
            else:
                save_model(aside, model, processor, facts)


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
