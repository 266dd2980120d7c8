"""The interface of decoding backends: a model in, token ids out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import ctranslate2
import torch

from whisper_recipe.data.workers import in_order, load_ahead
from whisper_recipe.decoding.search import SearchOptions, is_rejected, is_silence
from whisper_recipe.errors import RecipeError, is_out_of_memory
from whisper_recipe.model.load import load_tokenizer
from whisper_recipe.text.additions import language_of
from whisper_recipe.text.tokenizer import decode_text, is_english_only

SEED = 1  # of sampling
# oneDNN, in CTranslate2 and in PyTorch, caches what it compiles for each input shape, up to 1,024 entries. At natural
# length nearly every batch has its own shape, and memory would grow by 0.2 MB per batch. oneDNN reads this when first
# used.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
Item, Loaded, Result = TypeVar("Item"), TypeVar("Loaded"), TypeVar("Result")


class Hypothesis(NamedTuple):
    """The result of one search.

    Args:
        ids: those after the prompt, without the end token.
        average_logprob: of the tokens, including the end token; 0 if it was not needed and not computed.
        no_speech_prob: of <|nospeech|> right after the start of the transcript; likewise.
    """

    ids: list[int]
    average_logprob: float = 0.0
    no_speech_prob: float = 0.0


class Backend(ABC):
    """A loaded model that decodes batches."""

    name: str
    compute_type: str
    device: str
    num_mel_bins: int
    workers = 1  # batches that it decodes at the same time

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.is_english_only = is_english_only(self.tokenizer)

    def each(
        self,
        work: Callable[[Loaded], Result],
        items: Iterable[Item],
        load: Callable[[Item], Loaded] = lambda item: item,
    ) -> Iterator[Result]:
        """Yield work(load(item)) in the order of the items, with as many at a time as the backend has workers.

        For a single worker the next item is loaded ahead: a GPU need not wait for the features.
        """
        if self.workers == 1:
            yield from map(work, load_ahead(load, items))
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each worker has one core, also for the features
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                yield from in_order(
                    (pool.submit(lambda item: work(load(item)), item) for item in items), ahead=self.workers
                )
        finally:
            torch.set_num_threads(threads)

    def decode(self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions) -> list[list[int]]:
        """Return the ids after the prompt, none for silence.

        An utterance whose hypothesis fails the thresholds of the search is decoded again at the next temperature; the
        hypothesis at the last one is kept in any case. Timestamps are written, by Whisper's rules for them, if the
        prompts don't end with <|notimestamps|>.

        Args:
            features: float32 (batch, mel bins, frames).
            prompts: ids that the decoder starts from, all of the same length.
            search: the options.

        Raises:
            RecipeError: out of memory on a single utterance. A larger batch is decoded in halves instead.
        """
        return [result.ids for result in self.hypotheses(features, prompts, search, scored=False)]

    def hypotheses(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, scored: bool = True
    ) -> list[Hypothesis]:
        """Return the hypotheses of `decode` with their scores: all of them, or only those that the search needs."""
        try:
            return self._hypotheses(features, prompts, search, scored)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(prompts) == 1:
                cure = "lower search.beam_size, or use a smaller compute_type"
                raise RecipeError("out of memory on a single utterance", where=self.device, cure=cure) from error
        # The error is gone here, and with it the frames that hold the batch's tensors.
        torch.cuda.empty_cache()
        middle = len(prompts) // 2
        halves = slice(None, middle), slice(middle, None)
        parts = (self.hypotheses(features[half], prompts[half], search, scored) for half in halves)
        return [hypothesis for part in parts for hypothesis in part]

    def _hypotheses(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, scored: bool
    ) -> list[Hypothesis]:
        results: list[Hypothesis] = [Hypothesis([])] * len(prompts)
        waiting = list(range(len(prompts)))
        for temperature in search.temperatures:
            last = temperature == search.temperatures[-1]
            # Scores take time: compute them only if they decide something.
            found = self._search(
                features[waiting], [prompts[index] for index in waiting], search, temperature, scored or not last
            )
            rejected = []
            for index, hypothesis in zip(waiting, found, strict=True):
                if is_silence(hypothesis.no_speech_prob, hypothesis.average_logprob, search):
                    results[index] = hypothesis._replace(ids=[])
                    continue
                results[index] = hypothesis
                text = decode_text(self.tokenizer, hypothesis.ids)
                if not last and is_rejected(text, hypothesis.average_logprob, search):
                    rejected.append(index)
            waiting = rejected
            if not waiting:
                break
        return results

    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """Return the code of the most likely language for each utterance of features (batch, mel bins, frames).

        Raises:
            RecipeError: the model can't tell languages apart.
        """
        if self.is_english_only:
            return ["en"] * len(features)
        return [language_of(self.tokenizer, token) for token in self._detect_languages(features)]

    @abstractmethod
    def _detect_languages(self, features: torch.Tensor) -> list[str]:
        """Return the language tokens; called for multilingual models only."""

    @abstractmethod
    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        """Decode at one temperature; all prompts have the same length.

        Args:
            features: float32 (batch, mel bins, frames).
            prompts: ids that the decoder starts from.
            search: the options.
            temperature: 0 searches with beam_size; higher values sample.
            scored: compute all average log-probabilities; otherwise only those that `is_silence` needs.
        """


def own_gpu(count: int) -> int:
    """Return the GPU of this process: accelerate and torchrun number the processes of a machine by LOCAL_RANK."""
    return int(os.environ.get("LOCAL_RANK", 0)) % max(count, 1)


def not_multilingual() -> RecipeError:
    return RecipeError("the model can't tell languages apart", where="language", cure="give the language's code")


def usual_batch_duration() -> float:
    """Return the seconds of audio per batch that this machine decodes fast (tools/bench/decode.py).

    It is the same for both backends: an utterance's padding depends on its batch, and its text may depend on the
    padding. For the same reason it depends on the GPU's total memory, not on its free memory: an interrupted command
    must resume with the same batches. For large-v3, the largest model, 30 s need 0.25 GB in half precision: keys and
    values of 32 layers, 1500 positions, 1280 wide. Measured on a GPU up to 960 s, with whisper-small (docs/gpu.md).
    """
    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
        return float(max(120, min(1920, 120 * round(gigabytes / 2))))
    return 960.0 if ctranslate2.get_cuda_device_count() else 40.0
