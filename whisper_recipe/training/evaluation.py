"""Error rates during training, on a fixed sample of the dev cuts, decoded greedily.

Also on canaries: other sets, which the model is not trained on, to detect what it forgets.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

import torch
from accelerate.utils import gather_object
from lhotse import CutSet
from lhotse.cut import Cut
from peft import PeftModel
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.integrations import is_deepspeed_zero3_enabled

from whisper_recipe.data.features import load_fbank
from whisper_recipe.data.grouping import by_length
from whisper_recipe.data.input_length import InputLength
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.generation import generate
from whisper_recipe.model.precision import autocast
from whisper_recipe.processes import Part, launched
from whisper_recipe.text.error_rates import ErrorCounts, count_errors
from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters, text_language
from whisper_recipe.text.prompt import prompt_ids, text_ids
from whisper_recipe.text.tokenizer import decode_text

ALL = "error_rate"  # mean over languages and tasks
NATURAL = InputLength(pad_to_30s=False)
CANARY = "canary_"  # prefix of the canaries' names in the logs


class ErrorRates:
    """WER or CER per language and task, on the same utterances at every call.

    Args:
        cuts: the cuts to sample from, by a hash of their ids, so that their order does not matter.
        tokenizer: the model's tokenizer.
        num_mel_bins: number of the model's mel bins.
        utterances: maximum number of utterances per language and task.
        max_duration: maximum seconds of audio per batch.

    Raises:
        RecipeError: no cut has text.
    """

    def __init__(
        self, cuts: CutSet, tokenizer: WhisperTokenizer, num_mel_bins: int, utterances: int, max_duration: float
    ) -> None:
        self.tokenizer, self.num_mel_bins, self.max_duration = tokenizer, num_mel_bins, max_duration
        self.cuts = _sample(cuts, utterances)
        if not self.cuts:
            what = f"none of the cuts has text, e.g. {next(iter(cuts)).id}"
            raise RecipeError(what, cure="error rates need texts: give other cuts")
        texts = [text_ids(tokenizer, supervision_of(cut).text, *_language_and_task(cut)) for cut in self.cuts]
        # A model that loops must not make every evaluation wait for all of Whisper's 224 tokens.
        self.max_new_tokens = min(2 * max(map(len, texts)) + 10, 224)

    @torch.inference_mode()
    def measure(
        self, model: WhisperForConditionalGeneration | PeftModel, length: InputLength = NATURAL
    ) -> dict[str, float]:
        """Return the error rates by their names in the logs: wer_en, cer_zh, wer_zh_translate, error_rate.

        The last is the mean over languages and tasks: words and characters can't be added up, and a language with few
        utterances counts as much as the others.

        Distributed processes share the utterances; all of them must call this, and get the same rates.

        Args:
            model: a Whisper model, in training mode or not.
            length: the length of its inputs.
        """
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        model.eval()
        results: list[tuple[str, ErrorCounts]] = []
        # With ZeRO 3 a process can't decode alone, since the weights are partitioned: each decodes every utterance.
        part = Part() if is_deepspeed_zero3_enabled() else launched()
        batches = by_length(self.cuts, attrgetter("duration"), self.max_duration, length.seconds)
        for batch in itertools.islice(batches, part.index, None, part.count):
            features = length.collate([load_fbank(cut, self.num_mel_bins) for cut in batch])
            # DeepSpeed keeps the weights in half precision if it trains in it.
            features = features.to(model.device, model.dtype)
            prompts = [prompt_ids(self.tokenizer, *_language_and_task(cut)) for cut in batch]
            with autocast(model):
                ids = generate(model, features, prompts, max_new_tokens=self.max_new_tokens)
            for cut, row in zip(batch, ids, strict=True):
                results.append((_name(cut), _errors(cut, decode_text(self.tokenizer, row))))
        counts: dict[str, list[ErrorCounts]] = defaultdict(list)
        for name, count in gather_object(results):
            counts[name].append(count)
        sums = {name: ErrorCounts.sum(rows) for name, rows in sorted(counts.items())}
        rates = {name: total.rate(total.errors) for name, total in sums.items()}
        return {ALL: statistics.fmean(rates.values()), **rates}


@dataclass
class Evaluation:
    """What is measured in addition to eval_loss.

    Args:
        wer_steps: steps between measurements of error rates; 0 disables them.
        patience: stop the run after this many evaluations without a better result; 0 disables early stopping.
        length: length of the inputs that the trained model will be used with.
        length_before: the same for the base model.
        canary_max_rise: points of error rate that a canary may rise above the base model's; None for no limit.
        rates: measures the dev cuts.
        canaries: measure other sets, by name.
    """

    wer_steps: int = 0
    patience: int = 0
    length: InputLength = NATURAL
    length_before: InputLength = NATURAL
    canary_max_rise: float | None = None
    rates: ErrorRates | None = None
    canaries: dict[str, ErrorRates] = field(default_factory=dict)

    def is_due(self, step: int, steps: int) -> bool:
        """Whether error rates are measured after `step` of `steps`."""
        return self.wer_steps > 0 and (step % self.wer_steps == 0 or step == steps)

    def measure(self, model: torch.nn.Module, before: bool = False) -> dict[str, float]:
        """Return the error rates of the dev cuts and of the canaries (see `measure_canaries`)."""
        rates = self.rates.measure(model, self.length_before if before else self.length)
        return {**rates, **self.measure_canaries(model, before)}

    def measure_canaries(self, model: torch.nn.Module, before: bool = False) -> dict[str, float]:
        """Return the error rates of the canaries by their names in the logs, canary_<name>.

        Args:
            model: the base model, or one in training.
            before: whether it is the base model.
        """
        length = self.length_before if before else self.length
        return {f"{CANARY}{name}": rates.measure(model, length)[ALL] for name, rates in self.canaries.items()}

    def risen(self, before: dict[str, float], now: dict[str, float]) -> list[str]:
        """Return a message for each canary that has risen by more than canary_max_rise."""
        if self.canary_max_rise is None:
            return []
        return [
            f"{name} rose from {100 * before[name]:.2f} to {100 * now[name]:.2f} %"
            for name in before
            if 100 * (now[name] - before[name]) > self.canary_max_rise
        ]


def parse_canaries(canary: list[str], max_rise: float | None = None) -> dict[str, Path]:
    """Return the cut manifests of canaries given as NAME=CUTS, by name.

    Raises:
        RecipeError: one is malformed, two have the same name, or `max_rise` is negative or has no canary.
    """
    if max_rise is not None and not (canary and max_rise >= 0):
        what = f"must be at least 0, got {max_rise:g}" if canary else "it needs a canary"
        raise RecipeError(what, where="canary_max_rise", cure=None if canary else "give --canary NAME=CUTS")
    canaries: dict[str, Path] = {}
    for pair in canary:
        name, _, path = pair.partition("=")
        if not re.fullmatch(r"[\w-]+", name) or not path:
            cure = "expected e.g. en=data/fbank_whisper80/cuts_canary_en.jsonl.gz"
            raise RecipeError(f"{pair!r} is not NAME=CUTS", where="canary", cure=cure)
        if name in canaries:
            raise RecipeError(f"two canaries are named {name!r}", where="canary", cure="give them different names")
        canaries[name] = Path(path)
    return canaries


def check_evaluation(
    args: Seq2SeqTrainingArguments, wer_steps: int, patience: int, canary_max_rise: float | None = None
) -> None:
    """Check and adapt the Trainer's options for error rates, early stopping and the canaries' limit.

    Raises:
        RecipeError: options contradict each other.
    """
    every = args.eval_steps if args.load_best_model_at_end else wer_steps
    if canary_max_rise is not None and (not wer_steps or wer_steps != every):
        cure = "set eval_wer_steps, equal to trainer.eval_steps if trainer.load_best_model_at_end is true"
        raise RecipeError("canaries are not measured at every evaluation", where="canary_max_rise", cure=cure)
    if wer_steps and (args.eval_strategy != "steps" or wer_steps % args.eval_steps):
        what = f"error rates every {wer_steps} steps, but eval_loss by {args.eval_strategy.value} {args.eval_steps}"
        cure = "set trainer.eval_strategy steps, and eval_wer_steps to trainer.eval_steps or a multiple of it"
        raise RecipeError(what, where="eval_wer_steps", cure=cure)
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metric not in ("", "loss"):
        if wer_steps != args.eval_steps:
            cure = "set eval_wer_steps to trainer.eval_steps, or trainer.metric_for_best_model loss"
            raise RecipeError(
                f"{metric} is not measured at every evaluation", where="trainer.metric_for_best_model", cure=cure
            )
        args.greater_is_better = False  # an error rate; transformers assumes the opposite for all but losses
    if patience and not args.load_best_model_at_end:
        cure = "set trainer.load_best_model_at_end true, with trainer.metric_for_best_model error_rate or loss"
        raise RecipeError("it needs a metric for the best model", where="early_stopping_patience", cure=cure)
    args.restore_callback_states_from_checkpoint = True  # the remaining patience, when a run resumes


def _sample(cuts: CutSet, utterances: int) -> list[Cut]:
    """Return cuts with text: per language and task, those with the smallest hashes of their ids."""
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
