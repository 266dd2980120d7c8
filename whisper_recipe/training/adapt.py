"""`whisper-recipe adapt`: make the encoder of a stock Whisper fit for inputs at their own length, without labels.

A stock encoder has only seen inputs of 30 s; given an utterance alone, its states are others, and the decoder loops.
Here it learns to give the states that the frozen encoder gives for the same frames with silence up to 30 s: the idea of
FUTO's whisper-acft (https://github.com/futo-org/whisper-acft). The decoder stays as it is.
"""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Seq2SeqTrainingArguments, set_seed

from whisper_recipe.data.features import MAX_FRAMES, collate_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write
from whisper_recipe.model.encoder import AnyLengthEncoder
from whisper_recipe.model.load import load_model, load_processor, save_model
from whisper_recipe.processes import is_main_process
from whisper_recipe.training.batches import BatchOptions, load_cuts
from whisper_recipe.training.checkpoints import checkpoint_to_resume, describe_run, newest_checkpoint
from whisper_recipe.training.logs import log_to_file, write_curves, write_environment
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.train import _trainable
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

log = logging.getLogger(__name__)


class AdaptTrainer(WhisperTrainer):
    """Trains an encoder towards the states of the one that it was at the start.

    Args:
        encoder: to be trained.
        teacher: the encoder whose states on 30 s it learns; it stays as it is.
        others: what WhisperTrainer takes after the model.
    """

    def __init__(self, encoder: AnyLengthEncoder, teacher: AnyLengthEncoder, *others: object) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        super().__init__(encoder, *others)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict, return_outputs: bool = False, **kwargs: object
    ) -> torch.Tensor | tuple[torch.Tensor, dict]:
        """Return the mean squared distance of the batch's states from the teacher's, for the evaluation in a pair."""
        self._note_unreadable(inputs.get("unreadable", {}))
        features = inputs["input_features"]
        states = model(features).last_hidden_state
        loss = F.mse_loss(states.float(), self.targets(features))
        if return_outputs:
            return loss, {}
        return loss / (self.current_gradient_accumulation_steps if model.training else 1)

    @torch.no_grad()
    def targets(self, features: torch.Tensor) -> torch.Tensor:
        """Return the teacher's states (batch, ceil(frames / 2), d_model) of features padded with silence to 30 s.

        Those of the frames that are padding in the batch too are among them: silence after the end is an input as well.
        """
        padded = collate_fbank(list(features.cpu().transpose(1, 2)), MAX_FRAMES).to(features.device)
        states = self.teacher.to(features.device)(padded.to(self.teacher.dtype)).last_hidden_state
        return states[:, : (features.shape[-1] + 1) // 2].float()


def adapt(
    base_model: str,
    train_cuts: list[Path],
    dev_cuts: list[Path],
    output_dir: Path,
    trainer: Seq2SeqTrainingArguments,
    batches: BatchOptions = BatchOptions(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
) -> None:
    """Adapt a stock Whisper to inputs at natural length, using speech without transcripts.

    Trains the encoder to output the same states for an unpadded utterance as for the utterance padded to 30 s; texts
    are not read. Writes output_dir/model, which records that it is decoded at natural length, with or without
    timestamps. Run the same command again to resume an interrupted run.

    Args:
        base_model: a Whisper folder, or a name on the Hub (openai/whisper-small).
        train_cuts: cut manifests, from `whisper-recipe fbank`, in the languages that the model is for.
        dev_cuts: cut manifests for eval_loss, the distance between the states.
        output_dir: the folder of the run, exp/<name>.
        trainer: transformers' Seq2SeqTrainingArguments, with the same names (its output_dir is the one above).
        batches: how cuts are batched; pad_to_30s must be 0.

    Raises:
        RecipeError: an input is missing or does not fit the model.
    """
    if batches.pad_to_30s:
        raise RecipeError("inputs of 30 s need no adaptation", where="batches.pad_to_30s", cure="set it to 0")
    manifests = [*train_cuts, *dev_cuts]
    cuts = {"train": load_cuts(train_cuts), "dev": load_cuts(dev_cuts)}
    processor, model = load_processor(base_model), load_model(base_model)
    output_dir.mkdir(parents=True, exist_ok=True)
    trainer.output_dir, trainer.label_names = str(output_dir), ["labels"]
    set_seed(trainer.seed)
    finished = output_dir / "model"
    described = describe_run(trainer, manifests, base_model=base_model, batches=batches)
    with log_to_file(output_dir, trainer.process_index):
        log.info("command: %s", " ".join(sys.argv))
        write_environment(output_dir)
        with trainer.main_process_first(local=False):
            start = (output_dir, described, finished)
            checkpoint = checkpoint_to_resume(*start) if is_main_process() else newest_checkpoint(output_dir)
        cuts = {split: _trainable(cuts[split], split, processor.tokenizer, model, output_dir) for split in cuts}
        loaders = make_loaders(*cuts.values(), processor.tokenizer, batches, model.config.num_mel_bins, trainer)
        encoder = model.get_encoder()
        run = AdaptTrainer(encoder, copy.deepcopy(encoder), trainer, *loaders, ParameterOptions())
        run.train_from(checkpoint)
        if is_main_process():
            write_curves(output_dir, run.state.log_history)
            record = {"natural_length": True, "spare_frames": batches.spare_frames, "timestamps": True}
            record |= {"base_model": base_model, "method": "adapt", "train_cuts": [str(path) for path in train_cuts]}
            record |= {"learning_rate": trainer.learning_rate, "steps": run.state.global_step}
            record |= {"epochs": round(run.state.epoch, 2), "seed": trainer.seed}
            with atomic_write(finished, replace_folder=True) as aside:
                save_model(aside, model.cpu(), processor, record)
