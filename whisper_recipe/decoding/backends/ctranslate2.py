"""Decoding with CTranslate2."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from pathlib import Path

import ctranslate2
import torch

from whisper_recipe.decoding.backends.base import SEED, Backend, Hypothesis, not_multilingual, own_gpu
from whisper_recipe.decoding.search import SearchOptions, suppressed_ids
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json

CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first


class CTranslate2Backend(Backend):
    """Decoding with CTranslate2, on the GPU if there is one."""

    name = "ct2"

    def __init__(self, folder: str | Path, compute_type: str, parallel: int = 1) -> None:
        super().__init__(folder)
        gpus, threads = ctranslate2.get_cuda_device_count(), torch.get_num_threads()
        # Two batches with one core each decode faster than one after the other with two (tools/bench/decode.py).
        self.workers = 1 if gpus else max(1, min(parallel, threads))
        self.device = "cuda" if gpus else "cpu"
        if gpus and torch.version.hip is None:  # AMD GPUs have their own libraries
            load_cublas()
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
            raise RecipeError(f"can't be loaded ({error})", where=folder, cure="export it again (stage 6)") from error
        torch.set_num_threads(threads)  # CTranslate2 has changed it for this thread too
        self.folder = Path(folder)
        config = read_json(self.folder / "config.json")
        self.models_own = config.get("suppress_ids") or []
        self.tells_languages = self.model.is_multilingual and bool(config.get("lang_ids"))
        self.compute_type = self.model.compute_type
        self.num_mel_bins = self.model.n_mels

    def _detect_languages(self, features: torch.Tensor) -> list[str]:
        """See Backend."""
        if not self.tells_languages:
            raise not_multilingual()
        return [languages[0][0] for languages in self.model.detect_language(_storage(features))]

    def _search(
        self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions, temperature: float, scored: bool
    ) -> list[Hypothesis]:
        sampling = {"sampling_topk": 0, "sampling_temperature": temperature} if temperature else {}
        results = self.model.generate(
            _storage(features),
            prompts,
            beam_size=1 if temperature else search.beam_size,
            # CTranslate2 uses half of this, or this minus the prompt if that is less (src/models/whisper.cc).
            max_length=max(2 * search.max_new_tokens, search.max_new_tokens + len(prompts[0])),
            suppress_tokens=suppressed_ids(search, self.models_own, len(self.tokenizer)),
            suppress_blank=search.suppress_blank,
            no_repeat_ngram_size=search.no_repeat_ngram_size,
            repetition_penalty=search.repetition_penalty,
            return_scores=scored or search.no_speech_threshold < 1,
            return_no_speech_prob=search.no_speech_threshold < 1,
            **sampling,
        )
        return [_hypothesis(result) for result in results]


def load_cublas() -> None:
    """Load the cuBLAS that CTranslate2 4.8 was built for, from the system or from its PyPI package.

    CTranslate2 would look for it at the first matrix product, and not in packages. PyTorch may ship another version (13
    since 2.11) under another name.

    Raises:
        RecipeError: it is in neither place.
    """
    folders = [""]
    if (package := importlib.util.find_spec("nvidia")) is not None:
        folders += [f"{folder}/cublas/lib/" for folder in package.submodule_search_locations or ()]
    for name in CUBLAS:
        for folder in folders:
            with contextlib.suppress(OSError):
                ctypes.CDLL(f"{folder}{name}", mode=ctypes.RTLD_GLOBAL)
                break
        else:
            cure = "pip install --no-deps nvidia-cublas-cu12, or decode the transformers folder"
            raise RecipeError("CTranslate2 needs cuBLAS 12 on a GPU, but it is not installed", where=name, cure=cure)


def _hypothesis(result: ctranslate2.models.WhisperGenerationResult) -> Hypothesis:
    ids = result.sequences_ids[0]
    # CTranslate2 divides the sum, end token included, by the number of tokens without it; openai/whisper counts it.
    average = result.scores[0] * len(ids) / (len(ids) + 1) if result.scores and ids else 0.0
    return Hypothesis(ids, average, result.no_speech_prob)


def _storage(features: torch.Tensor) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(features.contiguous().numpy())
