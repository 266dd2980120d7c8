"""Export to CTranslate2: the folder that fast decoding (and faster-whisper) loads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require, written_aside

# Beside the weights: what other programs look for (faster-whisper #582: a missing preprocessor_config.json makes it
# take 80 mel bins), and what the model was trained for.
COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")


def export(
    model: Path,
    out: Path,
    quantization: Literal["float32", "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16"] = "float32",
) -> None:
    """Convert a Whisper folder to CTranslate2.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the CTranslate2 folder to write.
        quantization: type of the stored weights; int8 is a quarter of float32's size.

    Raises:
        RecipeError: the folder is not a whole Whisper model.
    """
    from ctranslate2.converters import TransformersConverter

    from whisper_recipe.model.load import RECIPE_CONFIG, load_model, load_processor

    require(model, "train or merge it first (stages 4 and 5)")
    # The converter's own errors are tracebacks: a folder that can't be loaded is reported here.
    load_model(model), load_processor(model)
    copied = [name for name in (*COPIED, RECIPE_CONFIG) if (model / name).exists()]
    missing = [name for name in COPIED if name not in copied]
    if missing:
        raise RecipeError(f"{', '.join(missing)} is not there", where=model, cure="copy it from the base model")
    with written_aside(out) as aside:
        TransformersConverter(str(model), copy_files=copied).convert(str(aside), quantization=quantization)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {quantization}, {size / 1e6:.1f} MB")
