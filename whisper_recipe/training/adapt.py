"""`whisper-recipe adapt`: make a stock Whisper fit for inputs at their own length, without labels.

A stock Whisper has only seen inputs of 30 s; given an utterance alone, its decoder does not find the end and loops.
Here the encoder learns states from which the frozen decoder predicts what it predicts from the utterance padded to
30 s: the idea of FUTO's whisper-acft (https://github.com/futo-org/whisper-acft), which matches the decoder's hidden
states.
"""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, set_seed

from whisper_recipe.data.features import MAX_FRAMES, collate_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write
from whisper_recipe.model.load import load_model, load_processor, save_model
from whisper_recipe.processes import is_main_process
from whisper_recipe.text.labels import IGNORED
from whisper_recipe.training.batches import BatchOptions, load_cuts, trainable_cuts
from whisper_recipe.training.checkpoints import describe_run, shared_checkpoint
from whisper_recipe.training.logs import log_to_file, write_curves, write_environment
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

log = logging.getLogger(__name__)


class AdaptTrainer(WhisperTrainer):
    """Trains a model to predict at natural length what a teacher predicts from inputs padded to 30 s.

    Args:
        model: to be trained.
        teacher: what the model was at the start.
        others: what WhisperTrainer takes after the model.
    """

    def __init__(
        self, model: WhisperForConditionalGeneration, teacher: WhisperForConditionalGeneration, *others: object
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.expected: torch.Tensor | None = None  # the teacher's log-probabilities, (batch, tokens, vocabulary)
        super().__init__(model, *others)

    def compute_loss(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor | tuple:
        """Return the loss of a batch: see `mean_loss`."""
        features = inputs["input_features"]
        padded = collate_fbank(list(features.cpu().transpose(1, 2)), MAX_FRAMES).to(features)
        with torch.no_grad():
            teacher = self.teacher.to(features.device)
            predicted = teacher(input_features=padded, decoder_input_ids=inputs["decoder_input_ids"])
        self.expected = predicted.logits.float().log_softmax(-1)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def mean_loss(
        self, outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Return the Kullback-Leibler divergence from the teacher's predictions, divided as `token_loss` is."""
        kept = labels != IGNORED
        found = outputs.logits[kept].float().log_softmax(-1)
        total = F.kl_div(found, self.expected[kept], reduction="sum", log_target=True)
        return total / (num_items_in_batch if num_items_in_batch is not None else kept.sum())


def adapt(
    base_model: str,
    train_cuts: list[Path],
    dev_cuts: list[Path],
    output_dir: Path,
    trainer: Seq2SeqTrainingArguments,
    batches: BatchOptions = BatchOptions(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
) -> None:
    """Make a stock Whisper fit for inputs at their own length, from speech without labels.

    The encoder is trained so that the decoder predicts, from an utterance alone, what it predicts from the utterance
    padded to 30 s. The cuts' texts are only what these predictions are compared along: the model's own hypotheses do
    (`whisper-recipe decode`, then `pseudo-label`). Writes output_dir/model, which records that it decodes at natural
    length. The same command resumes a run that was killed.

    Args:
        base_model: a Whisper folder, or a name on the hub (openai/whisper-small).
        train_cuts: cut manifests, from `whisper-recipe fbank`, of the languages that the model is for.
        dev_cuts: cut manifests for eval_loss, the divergence of the predictions.
        output_dir: the folder of the run, exp/<name>.
        trainer: transformers' Seq2SeqTrainingArguments, under their own names (its output_dir is the one above).
        batches: how cuts become batches; pad_to_30s must be 0.

    Raises:
        RecipeError: an input is missing or does not fit the model.
    """
    if batches.pad_to_30s:
        raise RecipeError("inputs of 30 s need no adaptation", where="batches.pad_to_30s", cure="set it to 0")
    manifests = [*train_cuts, *dev_cuts]
    cuts = {"train": load_cuts(train_cuts), "dev": load_cuts(dev_cuts)}
    processor, model = load_processor(base_model), load_model(base_model)
    output_dir.mkdir(parents=True, exist_ok=True)
    trainer.output_dir = str(output_dir)
    set_seed(trainer.seed)
    finished = output_dir / "model"
    described = describe_run(trainer, manifests, base_model=base_model, batches=batches)
    with log_to_file(output_dir, trainer.process_index):
        log.info("command: %s", " ".join(sys.argv))
        write_environment(output_dir)
        checkpoint = shared_checkpoint(trainer, output_dir, described, finished)
        of_model = processor.tokenizer, model.config.num_mel_bins
        cuts = {split: trainable_cuts(found, split, *of_model, output_dir) for split, found in cuts.items()}
        loaders = make_loaders(*cuts.values(), processor.tokenizer, batches, model.config.num_mel_bins, trainer)
        teacher = copy.deepcopy(model)
        model.get_decoder().requires_grad_(False)
        run = AdaptTrainer(model, teacher, trainer, *loaders, ParameterOptions())
        run.train_from(checkpoint)
        if is_main_process():
            write_curves(output_dir, run.state.log_history)
            record = {"natural_length": True, "spare_frames": batches.spare_frames, "timestamps": True}
            record |= {"base_model": base_model, "method": "adapt", "train_cuts": [str(path) for path in train_cuts]}
            record |= {"learning_rate": trainer.learning_rate, "steps": run.state.global_step}
            record |= {"epochs": round(run.state.epoch, 2), "seed": trainer.seed}
            with atomic_write(finished, replace_folder=True) as aside:
                save_model(aside, model.cpu(), processor, record)
