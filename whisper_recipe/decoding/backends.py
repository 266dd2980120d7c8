"""One interface over the programs that decode: transformers and CTranslate2."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import ctranslate2
import torch
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from whisper_recipe.data.workers import in_order
from whisper_recipe.decoding.search import SearchOptions, is_rejected, suppressed_ids
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require
from whisper_recipe.model.generation import generate
from whisper_recipe.model.load import load_model, load_processor, pick_device

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
        self.tokenizer = load_processor(folder).tokenizer

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


class TransformersBackend(Backend):
    """Decoding by transformers, on the GPU where there is one."""

    name = "transformers"

    def __init__(self, folder: str | Path, compute_type: str, assistant_model: str | None = None) -> None:
        if compute_type not in ("default", "float32", "float16", "bfloat16"):
            raise RecipeError(
                f"transformers can't compute in {compute_type}",
                where="compute_type",
                cure="use float32, float16 or bfloat16, or an exported CTranslate2 folder",
            )
        super().__init__(folder)
        if torch.cuda.is_available():
            torch.cuda.set_device(_gpu(torch.cuda.device_count()))
        self.compute_type = "float32" if compute_type == "default" else compute_type
        self.model = self._load(folder)
        self.assistant = None
        if assistant_model:
            self.assistant = self._load(assistant_model)
            self.assistant.__class__ = _PlainGenerate
            if self.assistant.config.vocab_size != self.model.config.vocab_size:
                raise RecipeError("its vocabulary is not the model's", where=assistant_model, cure="use another one")
        self.device = str(self.model.device)
        self.num_mel_bins = self.model.config.num_mel_bins

    def _load(self, folder: str | Path) -> WhisperForConditionalGeneration:
        return load_model(folder).to(pick_device(), getattr(torch, self.compute_type)).eval()

    @torch.inference_mode()
    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """See Backend."""
        if not getattr(self.model.generation_config, "lang_to_id", None):
            raise _not_multilingual()
        ids = self.model.detect_language(features.to(self.model.device, self.model.dtype))
        return [token.strip("<|>") for token in self.tokenizer.convert_ids_to_tokens(ids.tolist())]

    @torch.inference_mode()
    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        if self.assistant is not None and len(prompts) > 1:  # transformers takes one utterance at a time then
            rows = zip(features.split(1), prompts, strict=True)
            return [self._search(row, [prompt], search, temperature, scored)[0] for row, prompt in rows]
        features = features.to(self.model.device, self.model.dtype)
        encoded = self.model.get_encoder()(features)
        states = encoded.last_hidden_state.split(1)  # `generate` repeats those in `encoded` for its beams
        rules = self._rules(search, len(prompts[0]))
        torch.manual_seed(SEED)
        ids = generate(
            self.model,
            features,
            prompts,
            encoder_outputs=encoded,
            num_beams=1 if temperature else search.beam_size,
            do_sample=temperature > 0,
            **({"temperature": temperature, "top_k": 0} if temperature else {}),
            max_new_tokens=search.max_new_tokens,
            # In `rules`, because scores must follow them too.
            suppress_tokens=None,
            begin_suppress_tokens=None,
            logits_processor=rules,
            assistant_model=self.assistant,
        )
        if not scored:
            return [Hypothesis(row, 0.0) for row in ids]
        return [
            Hypothesis(row, self._average_logprob(state, start, row, rules, search.max_new_tokens))
            for state, start, row in zip(states, prompts, ids, strict=True)
        ]

    def _rules(self, search: SearchOptions, start: int) -> LogitsProcessorList:
        """Return what is forbidden or made less likely; the prompt, `start` tokens, does not count as repeated."""
        config, device = self.model.generation_config, self.model.device
        rules = LogitsProcessorList()
        if search.repetition_penalty != 1:
            rules.append(RepetitionPenaltyLogitsProcessor(search.repetition_penalty, prompt_ignore_length=start))
        if search.no_repeat_ngram_size:
            rules.append(_AfterPrompt(NoRepeatNGramLogitsProcessor(search.no_repeat_ngram_size), start))
        suppressed = suppressed_ids(search, config.suppress_tokens or [], self.model.config.vocab_size)
        if suppressed:
            rules.append(SuppressTokensLogitsProcessor(suppressed, device=device))
        if search.suppress_blank and config.begin_suppress_tokens:
            rules.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, start, device=device))
        return rules

    def _average_logprob(
        self, states: torch.Tensor, prompt: list[int], ids: list[int], rules: LogitsProcessorList, max_new_tokens: int
    ) -> float:
        """Return the average log-probability of a hypothesis as openai/whisper has it: the end counts as a token.

        It is computed from the text afterwards: the scores of all steps, beams and tokens would fill the memory.
        """
        ended = len(ids) < max_new_tokens
        written = [*ids, self.model.generation_config.eos_token_id] if ended else ids
        row = torch.tensor([[*prompt, *written]], device=states.device)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=row[:, :-1], use_cache=False
        ).logits.float()
        total = 0.0
        for position in range(len(prompt), row.shape[1]):
            scores = rules(row[:, :position], logits[:, position - 1])
            total += scores.log_softmax(-1)[0, row[0, position]].item()
        return total / (len(ids) + 1)


class _PlainGenerate(WhisperForConditionalGeneration):
    """An assistant that generates from inputs of any length, see TransformersBackend._search."""

    generate = GenerationMixin.generate


class _AfterPrompt(LogitsProcessor):
    """A processor that sees only what was written after the prompt, `start` tokens."""

    def __init__(self, processor: LogitsProcessor, start: int) -> None:
        self.processor, self.start = processor, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return self.processor(input_ids[:, self.start :], scores)


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
                device_index=_gpu(gpus),
                compute_type=compute_type,
                inter_threads=self.workers,
                intra_threads=threads // self.workers,
            )
        except (ValueError, RuntimeError) as error:
            raise RecipeError(f"can't be loaded ({error})", where=folder, cure="export it anew (stage 6)") from error
        self.models_own = read_json(Path(folder) / "config.json").get("suppress_ids", [])
        self.compute_type = self.model.compute_type
        self.num_mel_bins = self.model.n_mels

    def detect_languages(self, features: torch.Tensor) -> list[str]:
        """See Backend."""
        if not self.model.is_multilingual:
            raise _not_multilingual()
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


def _gpu(count: int) -> int:
    """Return the GPU of this process: accelerate and torchrun number the processes of a machine by LOCAL_RANK."""
    return int(os.environ.get("LOCAL_RANK", 0)) % max(count, 1)


def _not_multilingual() -> RecipeError:
    return RecipeError("the model can't tell languages apart", where="language", cure="give the language's code")


def is_ctranslate2(folder: str | Path) -> bool:
    """Whether a folder was made by CTranslate2's converters."""
    return (Path(folder) / "vocabulary.json").exists()  # the one file that they alone write beside the weights


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
    return TransformersBackend(folder, compute_type, assistant_model)
