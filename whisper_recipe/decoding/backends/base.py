"""The interface of the programs that decode: a model in, ids of tokens out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import ctranslate2
import torch

from whisper_recipe.data.workers import in_order
from whisper_recipe.decoding.search import SearchOptions, is_rejected, is_silence
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_tokenizer
from whisper_recipe.text.tokenizer import decode_text, is_english_only

SEED = 1  # of sampling
Item, Result = TypeVar("Item"), TypeVar("Result")


class Hypothesis(NamedTuple):
    """What one search has found.

    Args:
        ids: after the prompt, without the end.
        average_logprob: of the tokens, the end included; 0 where it decides nothing and was not computed.
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

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield work(item) in the order of the items; as many at the same time as the backend has workers."""
        if self.workers == 1:
            yield from map(work, items)
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each worker has one core: for the features too
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                yield from in_order((pool.submit(work, item) for item in items), ahead=self.workers)
        finally:
            torch.set_num_threads(threads)

    def decode(self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions) -> list[list[int]]:
        """Return the ids after the prompt, none for silence.

        An utterance whose hypothesis fails the thresholds of the search is decoded again at the next temperature; the
        last one's hypothesis stands as it is. Timestamps are written, by Whisper's rules for them, where the prompts
        don't end with <|notimestamps|>.

        Args:
            features: float32 (batch, mel bins, frames).
            prompts: what the decoder starts from, all of one length.
            search: the options.
        """
        results: list[list[int]] = [[] for _ in prompts]
        waiting = list(range(len(prompts)))
        for temperature in search.temperatures:
            last = temperature == search.temperatures[-1]
            # Scores are worth their time only where they decide something.
            found = self._search(
                features[waiting], [prompts[index] for index in waiting], search, temperature, scored=not last
            )
            rejected = []
            for index, hypothesis in zip(waiting, found, strict=True):
                if is_silence(hypothesis.no_speech_prob, hypothesis.average_logprob, search):
                    results[index] = []
                    continue
                results[index] = hypothesis.ids
                text = decode_text(self.tokenizer, hypothesis.ids)
                if not last and is_rejected(text, hypothesis.average_logprob, search):
                    rejected.append(index)
            waiting = rejected
            if not waiting:
                break
        return results

    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """Return the most likely language's code for each of features (batch, mel bins, frames).

        Raises:
            RecipeError: the model can't tell languages apart.
        """
        return ["en"] * len(features) if self.is_english_only else self._detect_languages(features)

    @abstractmethod
    def _detect_languages(self, features: torch.Tensor) -> list[str]:
        """Detect languages with a multilingual model."""

    @abstractmethod
    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        """Decode at one temperature; all prompts have one length.

        Args:
            features: float32 (batch, mel bins, frames).
            prompts: what the decoder starts from.
            search: the options.
            temperature: 0 is the search by beam_size; more is sampling.
            scored: give all average log-probabilities; otherwise those alone that `is_silence` asks for.
        """


def own_gpu(count: int) -> int:
    """Return the GPU of this process: accelerate and torchrun number the processes of a machine by LOCAL_RANK."""
    return int(os.environ.get("LOCAL_RANK", 0)) % max(count, 1)


def not_multilingual() -> RecipeError:
    return RecipeError("the model can't tell languages apart", where="language", cure="give the language's code")


def usual_batch_duration() -> float:
    """Return seconds of audio in a batch that this machine decodes fast (tools/bench/decode.py).

    It is the same for both backends: what an utterance is padded to depends on its batch, and its text may on that.
    """
    return 120.0 if torch.cuda.is_available() or ctranslate2.get_cuda_device_count() else 40.0
