"""`whisper-recipe train`: fine-tune Whisper, fully or with LoRA, through transformers' Seq2SeqTrainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from lhotse import CutSet
from peft import PeftModel
from transformers import (
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
    set_seed,
)

from whisper_recipe.data.audio import MAX_SECONDS
from whisper_recipe.data.input_length import InputLength, input_length
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, write_json
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.embeddings import add_rows
from whisper_recipe.model.load import TRAINING_RECORD, load_model, load_processor, save_model
from whisper_recipe.processes import is_main_process
from whisper_recipe.text.additions import Sources, add_languages, add_pieces
from whisper_recipe.text.prompt import written
from whisper_recipe.training.augment import TrainingAugmentation
from whisper_recipe.training.batches import BatchOptions, load_cuts, trainable_cuts, training_example
from whisper_recipe.training.checkpoints import describe_run, shared_checkpoint
from whisper_recipe.training.cuts import outlines
from whisper_recipe.training.deepspeed import built_whole, gathered
from whisper_recipe.training.dry_run import describe
from whisper_recipe.training.encoder_cache import check_cache, with_encoder_states
from whisper_recipe.training.evaluation import CANARY, ErrorRates, Evaluation, check_evaluation, parse_canaries
from whisper_recipe.training.logs import log_and_print, log_to_file, write_curves, write_environment
from whisper_recipe.training.memory import find_largest
from whisper_recipe.training.options import adjust, use_one_gpu
from whisper_recipe.training.parameters import ParameterOptions, count_parameters, freeze, set_dropout
from whisper_recipe.training.process_group import closing_process_group
from whisper_recipe.training.record import training_record
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
    augment: TrainingAugmentation = TrainingAugmentation(),  # noqa: B008
    new_languages: dict[str, str] = {},  # noqa: B006 (never written to)
    add_tokens: int = 0,
    cache_encoder: bool = False,
    eval_wer_steps: int = 0,
    eval_wer_utterances: int = 50,
    early_stopping_patience: int = 0,
    canary: list[str] = [],  # noqa: B006 (never written to)
    canary_max_rise: float | None = None,
    max_skipped_steps: int = 10,
    auto_precision: bool = True,
    dry_run: bool = False,
    find_max_duration: bool = False,
) -> None:
    """Fine-tune a Whisper model on cuts.

    Writes output_dir/model (full) or output_dir/adapter (lora) at the end of training, and train.log, TensorBoard
    events and checkpoints during training. Run the same command again to resume an interrupted run from its newest
    checkpoint; the weights are the same as those of an uninterrupted run.

    Args:
        base_model: a Whisper folder, or a name on the Hub (openai/whisper-small).
        train_cuts: cut manifests, from `whisper-recipe fbank`; weights (a.jsonl.gz:0.7 b.jsonl.gz:0.3) mix them, see
            docs/scale.md.
        dev_cuts: cut manifests for eval_loss and error rates.
        output_dir: the folder of the run, exp/<name>.
        trainer: transformers' Seq2SeqTrainingArguments, with the same names (its output_dir is the one above).
        method: full trains every parameter, lora trains adapters on a frozen model.
        lora: options of method lora.
        parameters: frozen parameters, learning rates of encoder and decoder, and dropout.
        batches: how cuts are batched.
        augment: augmentation of the training data, drawn again each time a cut is loaded.
        new_languages: tokens for languages that the base model lacks, {mdw: ln}: CODE borrows the token of that
            language, new adds a token, and `like CODE` adds one initialised to that language's (docs/training.md).
        add_tokens: maximum number of tokens that the tokenizer learns from the training text, for a script that it
            encodes byte by byte. Programs that treat all ids after the time tokens as times can't read them
            (docs/training.md).
        cache_encoder: compute the outputs of a frozen encoder once, store them in output_dir, and train the decoder
            from them: several times faster.
        eval_wer_steps: steps between measurements of error rates (WER or CER by language) on a fixed part of the dev
            cuts; 0 disables them. They are logged as eval_wer_en and so on, and combined as eval_error_rate.
        eval_wer_utterances: utterances per language and task to measure error rates on.
        early_stopping_patience: stop the run after this many evaluations without a better
            trainer.metric_for_best_model; 0 disables early stopping.
        canary: other sets as NAME=CUTS, to detect what the model forgets: their error rates are measured before the
            first step, every eval_wer_steps and at the end, and logged as eval_canary_<name>.
        canary_max_rise: points of error rate; a canary that rises by more stops the run, or, with
            trainer.load_best_model_at_end, excludes the checkpoint.
        max_skipped_steps: stop the run after this many successive steps skipped because the loss or a gradient is not
            finite.
        auto_precision: train in bfloat16 if the GPU supports it, otherwise in float32 with TF32, unless trainer.bf16 or
            trainer.fp16 is set; if false, only the options of trainer apply.
        dry_run: print steps, parameters, expected memory and the first batch as text, and exit.
        find_max_duration: measure the largest batches.max_duration that fits into memory, print it, and exit.

    Raises:
        RecipeError: an input is missing or does not fit the model, or options contradict each other.
    """
    adjust(trainer, output_dir, auto_precision)
    canaries = parse_canaries(canary, canary_max_rise)
    check_evaluation(trainer, eval_wer_steps, early_stopping_patience, canary_max_rise)
    if cache_encoder:
        check_cache(method, parameters, augment, batches)
    options = {"base_model": base_model, "method": method, "lora": lora, "parameters": parameters, "batches": batches}
    options |= {"augment": augment, "cache_encoder": cache_encoder, "eval_wer_steps": eval_wer_steps}
    options |= {"eval_wer_utterances": eval_wer_utterances, "early_stopping_patience": early_stopping_patience}
    options |= {"canary": canary, "canary_max_rise": canary_max_rise} if canary else {}
    options |= {"new_languages": new_languages} if new_languages else {}
    options |= {"add_tokens": add_tokens} if add_tokens else {}
    manifests = {"train": train_cuts, "dev": dev_cuts, **{CANARY + name: [path] for name, path in canaries.items()}}
    cuts = {name: load_cuts(paths) for name, paths in manifests.items()}
    processor = load_processor(base_model)
    tokenizer = processor.tokenizer
    gained = _extend(tokenizer, cuts["train"], new_languages, add_tokens, batches)
    model = _load(base_model, method, lora, parameters, trainer, gained)
    bins = model.config.num_mel_bins
    set_seed(trainer.seed)  # before the adapters are initialised
    output_dir.mkdir(parents=True, exist_ok=True)
    finished = output_dir / ("adapter" if method == "lora" else "model")
    report_only = dry_run or find_max_duration
    described = describe_run(trainer, [path for paths in manifests.values() for path in paths], **options)
    with closing_process_group(output_dir), log_to_file(output_dir, trainer.process_index):
        log.info("command: %s", " ".join(sys.argv))
        write_environment(output_dir)
        use_one_gpu(trainer)
        checkpoint = None if report_only else shared_checkpoint(trainer, output_dir, described, finished)
        cuts = {name: trainable_cuts(loaded, name, tokenizer, bins, output_dir) for name, loaded in cuts.items()}
        measured = tokenizer, bins, eval_wer_utterances, batches.max_duration
        evaluation = Evaluation(
            eval_wer_steps,
            early_stopping_patience,
            length=InputLength(not batches.natural_length, batches.spare_frames),
            length_before=input_length(base_model),
            canary_max_rise=canary_max_rise,
            rates=ErrorRates(cuts["dev"], *measured) if eval_wer_steps else None,
            canaries={name: ErrorRates(cuts[CANARY + name], *measured) for name in canaries},
        )
        splits = {name: cuts[name] for name in ("train", "dev")}
        if cache_encoder:
            folder = output_dir / "encoder_states"
            splits = _encoded(splits, manifests, base_model, model.to(trainer.device), folder)
        loaders = make_loaders(*splits.values(), tokenizer, batches, bins, trainer, augment)
        if method == "lora":
            model = with_adapters(model, lora, trainer, gained)
        else:
            freeze(model, parameters)
        run = WhisperTrainer(model, trainer, *loaders, parameters, evaluation, max_skipped_steps)
        if report_only:
            print(describe(run, tokenizer) if dry_run else _max_duration(run, splits["train"], tokenizer, batches))
            return
        _report_parameters(model)
        record = training_record(base_model, train_cuts, splits["train"], method, lora, batches, trainer)
        run.train_from(checkpoint)
        _write(finished, model, run, processor, record)


def _load(
    base_model: str,
    method: str,
    lora: LoraOptions,
    parameters: ParameterOptions,
    trainer: Seq2SeqTrainingArguments,
    gained: Sources,
) -> WhisperForConditionalGeneration:
    """Load the base model, with rows for the gained tokens and the dropout of the training."""
    with built_whole(trainer):
        model = load_model(base_model, lora.quantize_base if method == "lora" else "none")
        add_rows(model, gained)
    if parameters.dropout is not None:
        set_dropout(model, parameters.dropout)
    return model


def _extend(
    tokenizer: WhisperTokenizer,
    cuts: CutSet,
    new_languages: dict[str, str],
    add_tokens: int,
    batches: BatchOptions,
) -> Sources:
    """Add new languages, and tokens learned from the cuts' texts, to the tokenizer; return the new ids.

    Raises:
        RecipeError: an option is invalid, or tokens are to be added in training with timestamps.
    """
    gained = add_languages(tokenizer, new_languages)
    if add_tokens < 0:
        raise RecipeError(f"must be at least 0, got {add_tokens}", where="add_tokens")
    if add_tokens:
        supervisions = [supervision_of(cut) for cut in outlines(cuts)]
        if batches.timestamps and any(supervision.segments for supervision in supervisions):
            cure = "set batches.timestamps to 0: programs read all ids after the first time token as time tokens"
            raise RecipeError("can't be combined with timestamps", where="add_tokens", cure=cure)
        texts = [written(row.text, row.language, row.task) for row in supervisions]
        pieces = add_pieces(tokenizer, texts, add_tokens)
        log_and_print(f"added {len(pieces)} tokens learned from the training text")
        gained |= pieces
    return gained


def with_adapters(
    model: WhisperForConditionalGeneration,
    lora: LoraOptions,
    trainer: Seq2SeqTrainingArguments,
    gained: Collection[int] = (),
) -> PeftModel:
    """Return the model with LoRA adapters, its frozen weights in bfloat16 if it is trained in bfloat16.

    Args:
        model: a plain Whisper model.
        lora: options of the adapters.
        trainer: options of the training.
        gained: ids of tokens that the model was not trained on.
    """
    if trainer.bf16 and lora.quantize_base == "none" and not (lora.train_embeddings or gained):
        model.to(torch.bfloat16)  # the frozen weights, half as large; peft keeps adapters in float32
    return add_lora(model, lora, trainer.max_steps, gained)


def _encoded(
    splits: dict[str, CutSet],
    manifests: dict[str, list[Path]],
    base_model: str,
    model: WhisperForConditionalGeneration,
    folder: Path,
) -> dict[str, CutSet]:
    wait = not is_main_process()
    return {
        split: with_encoder_states(cuts, manifests[split], base_model, model, folder / split, wait)
        for split, cuts in splits.items()
    }


def _write(
    finished: Path, model: torch.nn.Module, run: WhisperTrainer, processor: WhisperProcessor, record: dict
) -> None:
    """Write the curves of a run, and its model or adapter with the training record."""
    record |= {"steps": run.state.global_step, "epochs": round(run.state.epoch, 2)}
    record |= {"canaries": run.canary_rates()} if run.evaluation.canaries else {}
    with gathered(model):
        if not is_main_process():
            return
        write_curves(finished.parent, run.state.log_history)
        with atomic_write(finished, replace_folder=True) as aside:
            if isinstance(model, PeftModel):
                model.save_pretrained(aside)
                processor.tokenizer.save_pretrained(aside)
                write_json(aside / TRAINING_RECORD, record)
            else:
                save_model(aside, model, processor, record)


def _max_duration(run: WhisperTrainer, cuts: CutSet, tokenizer: WhisperTokenizer, batches: BatchOptions) -> str:
    # A batch padded to 30 s is as large as one of the longest possible cuts.
    seconds = MAX_SECONDS if batches.pad_to_30s else min(max(cuts.data.durations) + batches.spare_seconds, MAX_SECONDS)
    tokens = max(len(training_example(tokenizer, cut, timestamps=True, prompt=True)[0]) for cut in outlines(cuts))
    largest = find_largest(run, seconds, tokens)
    return (
        f"batches.max_duration: {largest:.0f} just fits on {run.args.device}, measured with the longest cut "
        f"({seconds:.2f} s, {tokens} tokens); set 10 % less"
    )


def _report_parameters(model: torch.nn.Module) -> None:
    trainable, every = count_parameters(model)
    message = f"{trainable / 1e6:.2f} M of {every / 1e6:.2f} M parameters are trained ({trainable / every:.1%})"
    log_and_print(message)
