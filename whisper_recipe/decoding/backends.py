"""One interface over the programs that decode, and CTranslate2's; transformers' has a module of its own."""

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
from whisper_recipe.decoding.search import SearchOptions, is_rejected, suppressed_ids
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require
from whisper_recipe.model.load import is_ctranslate2, load_tokenizer

SEED = 1  # of sampling
Item, Result = TypeVar("Item"), TypeVar("Result")


class Hypothesis(NamedTuple):
    """The ids after the prompt, without the end, and their average log-probability where it was asked for."""

    ids: list[int]
    average_logprob: float


class Backend(ABC):
    """A loaded model that decodes batches."""

    name: str
    compute_type: str
    device: str
    num_mel_bins: int
    workers = 1  # batches that it decodes at the same time

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer = load_tokenizer(folder)

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
        """Return the ids after the prompt, for features (batch, mel bins, frames) and one prompt each.

        An utterance whose hypothesis fails the thresholds of the search is decoded again at the next temperature; the
        last one's hypothesis stands as it is.
        """
        results: list[list[int]] = [[] for _ in prompts]
        waiting = list(range(len(prompts)))
        for temperature in search.temperatures:
            last = temperature == search.temperatures[-1]
            # Scores are worth their time only where they decide something.
            found = self._search(
                features[waiting], [prompts[index] for index in waiting], search, temperature, scored=not last
            )
            for index, hypothesis in zip(waiting, found, strict=True):
                results[index] = hypothesis.ids
            texts = self.tokenizer.batch_decode([hypothesis.ids for hypothesis in found], skip_special_tokens=True)
            waiting = [
                index
                for index, text, hypothesis in zip(waiting, texts, found, strict=True)
                if not last and is_rejected(text, hypothesis.average_logprob, search)
            ]
            if not waiting:
                break
        return results

    @abstractmethod
    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """Return the most likely language's code for each of features (batch, mel bins, frames).

        Raises:
            RecipeError: the model is not multilingual.
        """

    @abstractmethod
    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        """Decode at one temperature; all prompts have one length."""


class CTranslate2Backend(Backend):
    """Decoding by CTranslate2, on the GPU where there is one."""

    name = "ct2"

    def __init__(self, folder: str | Path, compute_type: str, parallel: int = 1) -> None:
        super().__init__(folder)
        gpus, threads = ctranslate2.get_cuda_device_count(), torch.get_num_threads()
        # Two batches with a core each are decoded faster than one after the other with two (tools/bench/decode.py).
        self.workers = 1 if gpus else max(1, min(parallel, threads))
        self.device = "cuda" if gpus else "cpu"
        possible = ctranslate2.get_supported_compute_types(self.device)
        if compute_type not in {"default", "auto", *possible}:
            raise RecipeError(
                f"CTranslate2 can't compute in {compute_type} on this {self.device}",
                where="compute_type",
                cure=f"use one of: default, {', '.join(sorted(possible))}",
            )
        ctranslate2.set_random_seed(SEED)
        try:
            self.model = ctranslate2.models.Whisper(
                str(folder),
                device=self.device,
                device_index=own_gpu(gpus),
                compute_type=compute_type,
                inter_threads=self.workers,
                intra_threads=threads // self.workers,
            )
        except (ValueError, RuntimeError) as error:
            raise RecipeError(f"can't be loaded ({error})", where=folder, cure="export it anew (stage 6)") from error
        torch.set_num_threads(threads)  # CTranslate2 has set its own number for this thread too
        self.models_own = read_json(Path(folder) / "config.json").get("suppress_ids", [])
        self.compute_type = self.model.compute_type
        self.num_mel_bins = self.model.n_mels

    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """See Backend."""
        if not self.model.is_multilingual:
            raise not_multilingual()
        return [languages[0][0].strip("<|>") for languages in self.model.detect_language(_storage(features))]

    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        sampling = {"sampling_topk": 0, "sampling_temperature": temperature} if temperature else {}
        results = self.model.generate(
            _storage(features),
            prompts,
            beam_size=1 if temperature else search.beam_size,
            # CTranslate2 takes half of this, or this less the prompt where that is less (src/models/whisper.cc).
            max_length=max(2 * search.max_new_tokens, search.max_new_tokens + len(prompts[0])),
            suppress_tokens=suppressed_ids(search, self.models_own, len(self.tokenizer)),
            suppress_blank=search.suppress_blank,
            no_repeat_ngram_size=search.no_repeat_ngram_size,
            repetition_penalty=search.repetition_penalty,
            return_scores=scored,
            **sampling,
        )
        return [_hypothesis(result, scored) for result in results]


def _hypothesis(result: ctranslate2.models.WhisperGenerationResult, scored: bool) -> Hypothesis:
    ids = result.sequences_ids[0]
    # CTranslate2 divides the sum, the end's score in it, by the tokens without the end; openai/whisper counts the end.
    return Hypothesis(ids, result.scores[0] * len(ids) / (len(ids) + 1) if scored and ids else 0.0)


def _storage(features: torch.Tensor) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(features.contiguous().numpy())


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


def load_backend(
    folder: str | Path, compute_type: str = "default", assistant_model: str | None = None, parallel: int = 1
) -> Backend:
    """Load a model folder with the backend that it is made for.

    Args:
        folder: a CTranslate2 folder, a Hugging Face Whisper folder, or a name on the hub.
        compute_type: `default` is float32 with transformers and the stored type with CTranslate2.
        assistant_model: a smaller model of the same vocabulary that guesses ahead; transformers only.
        parallel: batches that there are to decode at the same time; CTranslate2 shares the CPU's cores out among them.
    """
    if is_ctranslate2(folder):
        require(Path(folder) / "model.bin", "the folder is not whole: export it anew (stage 6)")
        if assistant_model:
            raise RecipeError(
                "CTranslate2 has no speculative decoding",
                where="assistant_model",
                cure="decode the folder it came from",
            )
        return CTranslate2Backend(folder, compute_type, parallel)
    # Its import takes seconds, which CTranslate2 does not need.
    from whisper_recipe.decoding.transformers_backend import TransformersBackend

    return TransformersBackend(folder, compute_type, assistant_model)
