"""Export to CTranslate2: the folder that fast decoding (and faster-whisper) loads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require, written_aside

Quantization = Literal["float32", "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16"]

# Beside the weights: what other programs look for (faster-whisper #582: a missing preprocessor_config.json makes it
# take 80 mel bins), and what the model was trained for.
PREPROCESSOR = "preprocessor_config.json"
COPIED = ("tokenizer.json", "tokenizer_config.json", PREPROCESSOR, "generation_config.json")
CONVERTED = ("model.bin", "config.json", "vocabulary.json")

EXAMPLE = """\
```python
from faster_whisper import WhisperModel

model = WhisperModel("path/of/this/folder")
segments, info = model.transcribe("audio.wav"{arguments})
print("".join(segment.text for segment in segments))
```"""


def export(model: Path, out: Path, quantization: Quantization = "float32") -> None:
    """Convert a Whisper folder to CTranslate2, with the files that programs look for beside the weights.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the CTranslate2 folder to write.
        quantization: type of the stored weights; int8 is a quarter of float32's size.

    Raises:
        RecipeError: the folder is not a whole Whisper model, or its mel bins contradict each other.
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
        _check_written(aside, model)


def use(asked: dict[str, str], timestamps: bool) -> str:
    """Return the model card's example; see card.Target."""
    options = asked | ({} if timestamps else {"without_timestamps": True})
    return EXAMPLE.format(arguments="".join(f", {key}={value!r}" for key, value in options.items()))


def _check_written(folder: Path, model: Path) -> None:
    """Load the folder as other programs do; RecipeError where a file is missing or the mel bins are not the model's."""
    import ctranslate2

    for name in (*CONVERTED, *COPIED):
        require(folder / name, "the conversion is not whole: export again")
    n_mels = ctranslate2.models.Whisper(str(folder), device="cpu").n_mels
    feature_size = read_json(folder / PREPROCESSOR).get("feature_size")
    if feature_size != n_mels:
        raise RecipeError(
            f"feature_size is {feature_size}, and the weights take {n_mels} mel bins",
            where=model / PREPROCESSOR,
            cure="copy it from the base model",
        )
