"""Decoding backends, one module each, and the choice between them."""

from __future__ import annotations

from pathlib import Path

from whisper_recipe.decoding.backends.base import Backend, usual_batch_duration
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require
from whisper_recipe.model.ctranslate2_folder import is_ctranslate2

__all__ = ["Backend", "load_backend", "usual_batch_duration"]


def load_backend(
    folder: str | Path, compute_type: str = "default", assistant_model: str | None = None, parallel: int = 1
) -> Backend:
    """Load a model folder with the backend it was made for.

    Args:
        folder: a CTranslate2 folder, a Hugging Face Whisper folder, or a name on the Hub.
        compute_type: `default` is the stored type with CTranslate2; with transformers float16 on a GPU, float32 on
            a CPU.
        assistant_model: a smaller model with the same vocabulary that guesses ahead; transformers only.
        parallel: batches available to decode at the same time; CTranslate2 divides the CPU's cores among them.
    """
    if is_ctranslate2(folder):
        require(Path(folder) / "model.bin", "the folder is incomplete: export it again (stage 6)")
        if assistant_model:
            raise RecipeError(
                "CTranslate2 does not support speculative decoding",
                where="assistant_model",
                cure="decode the folder it was exported from",
            )
        from whisper_recipe.decoding.backends.ctranslate2 import CTranslate2Backend

        return CTranslate2Backend(folder, compute_type, parallel)
    # Importing this takes seconds, and CTranslate2 does not need it.
    from whisper_recipe.decoding.backends.transformers import TransformersBackend

    return TransformersBackend(folder, compute_type, assistant_model)
