"""Error rates while a model is being trained: of a fixed sample of the dev cuts, decoded greedily."""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from peft import PeftModel
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperTokenizer

from whisper_recipe.data.features import collate_fbank, load_fbank
from whisper_recipe.data.grouping import by_length
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.generation import generate
from whisper_recipe.model.precision import autocast
from whisper_recipe.text.error_rates import ErrorCounts, count_errors
from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters, text_language
from whisper_recipe.text.prompt import prompt_ids, text_ids
from whisper_recipe.text.tokenizer import decode_text

ALL = "error_rate"  # mean over languages and tasks


class ErrorRates:
    """WER or CER per language and task, of the same utterances at every call.

    Args:
        cuts: to draw from; an utterance is drawn by its id, so other utterances in the set don't change the draw.
        tokenizer: the model's.
        num_mel_bins: of its features.
        utterances: of each language and task at most.
        max_duration: seconds of audio in a batch at most.
        spare_frames: of silence after the longest utterance of a batch.
    """

    def __init__(
        self,
        cuts: CutSet,
        tokenizer: WhisperTokenizer,
        num_mel_bins: int,
        utterances: int,
        max_duration: float,
        spare_frames: int = 0,
    ) -> None:
        self.tokenizer, self.num_mel_bins = tokenizer, num_mel_bins
        self.max_duration, self.spare_frames = max_duration, spare_frames
        self.cuts = _sample(cuts, utterances)
        texts = [text_ids(tokenizer, supervision_of(cut).text, *_language_and_task(cut)) for cut in self.cuts]
        # A model that loops must not make every evaluation wait for all of Whisper's 224 tokens.
        self.max_new_tokens = min(2 * max(map(len, texts), default=0) + 10, 224)

    @torch.inference_mode()
    def measure(self, model: WhisperForConditionalGeneration | PeftModel) -> dict[str, float]:
        """Return the error rates by their names in the logs: wer_en, cer_zh, wer_zh_translate, error_rate.

        The last is the mean over languages and tasks: words and characters can't be added up, and a language with few
        utterances counts as much as the others.
        """
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        model.eval()
        counts: dict[str, list[ErrorCounts]] = defaultdict(list)
        for batch in by_length(self.cuts, attrgetter("duration"), self.max_duration):
            features = collate_fbank([load_fbank(cut, self.num_mel_bins) for cut in batch], spare=self.spare_frames)
            # DeepSpeed holds the weights in half precision where training is in it.
            features = features.to(model.device, model.dtype)
            prompts = [prompt_ids(self.tokenizer, *_language_and_task(cut)) for cut in batch]
            with autocast(model.device):
                ids = generate(model, features, prompts, max_new_tokens=self.max_new_tokens)
            for cut, row in zip(batch, ids, strict=True):
                counts[_name(cut)].append(_errors(cut, decode_text(self.tokenizer, row)))
        sums = {name: ErrorCounts.sum(found) for name, found in sorted(counts.items())}
        rates = {name: found.rate(found.errors) for name, found in sums.items()}
        return {ALL: statistics.fmean(rates.values()), **rates}


@dataclass
class Evaluation:
    """What is measured beside eval_loss.

    Args:
        wer_steps: steps between error rates; 0 for none.
        rates: measures them.
        patience: evaluations without a better result, after which a run stops; 0 for none.
    """

    wer_steps: int = 0
    rates: ErrorRates | None = None
    patience: int = 0


def check_evaluation(args: Seq2SeqTrainingArguments, wer_steps: int, patience: int) -> None:
    """Make the Trainer's options fit error rates and early stopping.

    Raises:
        RecipeError: they contradict each other.
    """
    if wer_steps and (args.eval_strategy != "steps" or wer_steps % args.eval_steps):
        what = f"error rates every {wer_steps} steps, and eval_loss by {args.eval_strategy.value} {args.eval_steps}"
        cure = "set trainer.eval_strategy steps, and eval_wer_steps to trainer.eval_steps or a multiple of it"
        raise RecipeError(what, where="eval_wer_steps", cure=cure)
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metric not in ("", "loss"):
        if wer_steps != args.eval_steps:
            cure = "set eval_wer_steps to trainer.eval_steps, or trainer.metric_for_best_model loss"
            raise RecipeError(
                f"{metric} is not measured at every evaluation", where="trainer.metric_for_best_model", cure=cure
            )
        args.greater_is_better = False  # an error rate; transformers takes all but losses for the opposite
    if patience and not args.load_best_model_at_end:
        cure = "set trainer.load_best_model_at_end true, with trainer.metric_for_best_model error_rate or loss"
        raise RecipeError("what is best is not known", where="early_stopping_patience", cure=cure)
    args.restore_callback_states_from_checkpoint = True  # the patience that is left, in a run that resumes


def _sample(cuts: CutSet, utterances: int) -> list[Cut]:
    """Return cuts with text, of each language and task those with the smallest hashes of their ids."""
    groups: dict[str, list[tuple[str, Cut]]] = defaultdict(list)
    for cut in cuts:
        if supervision_of(cut).text:
            group = groups[_name(cut)]
            group.append((hashlib.sha256(cut.id.encode()).hexdigest(), cut))
            group.sort(key=lambda row: row[0])
            del group[utterances:]
    return [cut for group in groups.values() for _, cut in group]


def _language_and_task(cut: Cut) -> tuple[str, str]:
    supervision = supervision_of(cut)
    return supervision.language, supervision.task


def _name(cut: Cut) -> str:
    language, task = _language_and_task(cut)
    unit = "cer" if is_counted_in_characters(language, task) else "wer"
    return f"{unit}_{language}" if task == "transcribe" else f"{unit}_{language}_{task}"


def _errors(cut: Cut, text: str) -> ErrorCounts:
    language, task = _language_and_task(cut)
    normalize = get_normalizer("whisper", text_language(language, task))
    characters = is_counted_in_characters(language, task)
    return count_errors(normalize(supervision_of(cut).text), normalize(text), characters)
