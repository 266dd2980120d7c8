"""One interface over the programs that decode: transformers and CTranslate2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require
from whisper_recipe.text.prompt import MAX_TOKENS


@dataclass
class SearchOptions:
    """How hypotheses are searched for.

    Args:
        beam_size: hypotheses kept in the search; 1 is greedy.
        max_new_tokens: tokens of a hypothesis at most; Whisper's own limit is 224, half of its context.
    """

    beam_size: int = 1
    max_new_tokens: int = 224

    def __post_init__(self) -> None:
        if self.beam_size < 1 or not 1 <= self.max_new_tokens <= MAX_TOKENS // 2:
            raise RecipeError(
                f"beam_size {self.beam_size}, max_new_tokens {self.max_new_tokens}",
                where="search",
                cure=f"use a beam_size from 1 and max_new_tokens from 1 to {MAX_TOKENS // 2}",
            )


class Backend(Protocol):
    """A loaded model that decodes batches."""

    name: str
    compute_type: str
    num_mel_bins: int

    def decode(self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions) -> list[list[int]]:
        """Return the ids after the prompt, for features (batch, mel bins, frames) and one prompt each."""
        ...


class TransformersBackend:
    """Decoding by transformers, on the GPU where there is one."""

    name = "transformers"

    def __init__(self, folder: str | Path, compute_type: str) -> None:
        from whisper_recipe.model.load import load_model, pick_device

        if compute_type not in ("default", "float32", "float16", "bfloat16"):
            raise RecipeError(
                f"transformers can't compute in {compute_type}",
                where="compute_type",
                cure="use float32, float16 or bfloat16, or an exported CTranslate2 folder",
            )
        self.compute_type = "float32" if compute_type == "default" else compute_type
        self.model = load_model(folder).to(pick_device(), getattr(torch, self.compute_type)).eval()
        self.num_mel_bins = self.model.config.num_mel_bins

    @torch.inference_mode()
    def decode(self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions) -> list[list[int]]:
        """See Backend."""
        from transformers import GenerationMixin

        prompt = torch.tensor(prompts, device=self.model.device)
        # Not Whisper's own `generate`: it pads every input to 30 s, and with zeros
        # (WhisperGenerationMixin._get_input_segment), which is a loud value here.
        ids = GenerationMixin.generate(
            self.model,
            features.to(self.model.device, self.model.dtype),
            decoder_input_ids=prompt,
            # Whisper masks nothing; without this, transformers warns that it can't tell what is padding.
            attention_mask=torch.ones_like(features[:, 0], dtype=torch.long, device=self.model.device),
            num_beams=search.beam_size,
            do_sample=False,
            max_length=None,
            max_new_tokens=search.max_new_tokens,
        )
        return [row[prompt.shape[1] :].tolist() for row in ids]


class CTranslate2Backend:
    """Decoding by CTranslate2, on the GPU where there is one."""

    name = "ct2"

    def __init__(self, folder: str | Path, compute_type: str) -> None:
        import ctranslate2

        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            self.model = ctranslate2.models.Whisper(
                str(folder), device=device, compute_type=compute_type, intra_threads=torch.get_num_threads()
            )
        except (ValueError, RuntimeError) as error:
            raise RecipeError(f"can't be loaded ({error})", where=folder, cure="export it anew (stage 6)") from error
        self.compute_type = self.model.compute_type
        self.num_mel_bins = self.model.n_mels

    def decode(self, features: torch.Tensor, prompts: list[list[int]], search: SearchOptions) -> list[list[int]]:
        """See Backend."""
        import ctranslate2

        results = self.model.generate(
            ctranslate2.StorageView.from_array(features.contiguous().numpy()),
            prompts,
            beam_size=search.beam_size,
            # CTranslate2 takes half of this, or this less the prompt where that is less (src/models/whisper.cc).
            max_length=max(2 * search.max_new_tokens, search.max_new_tokens + len(prompts[0])),
        )
        return [result.sequences_ids[0] for result in results]


def load_backend(folder: str | Path, compute_type: str = "default") -> Backend:
    """Load a model folder with the backend that it is made for.

    Args:
        folder: a CTranslate2 folder, a Hugging Face Whisper folder, or a name on the hub.
        compute_type: `default` is float32 with transformers and the stored type with CTranslate2.
    """
    if (Path(folder) / "vocabulary.json").exists():  # the one file that CTranslate2 alone writes beside the weights
        require(Path(folder) / "model.bin", "the folder is not whole: export it anew (stage 6)")
        return CTranslate2Backend(folder, compute_type)
    return TransformersBackend(folder, compute_type)
