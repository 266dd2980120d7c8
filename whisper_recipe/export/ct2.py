"""Export to CTranslate2: the folder that fast decoding (and faster-whisper) loads."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_recipe.files import require, write_json, written_aside

if TYPE_CHECKING:
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

TYPES = ("float32", "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16")

# What is written: the converter's own files, and what other programs look for beside them (faster-whisper #582: without
# preprocessor_config.json it takes 80 mel bins).
FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json", "tokenizer_config.json",
         "preprocessor_config.json", "generation_config.json")  # fmt: skip

EXAMPLE = """\
```python
from faster_whisper import WhisperModel

model = WhisperModel("path/of/this/folder")
segments, info = model.transcribe("audio.wav"{arguments})
print("".join(segment.text for segment in segments))
```"""


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Convert a Whisper folder to CTranslate2, with the files that programs look for beside the weights.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the CTranslate2 folder to write.
        quantization: type of the stored weights; int8 is a quarter of float32's size.

    Raises:
        RecipeError: the folder is not a whole Whisper model.
    """
    from whisper_recipe.model.generation import complete_generation_config
    from whisper_recipe.model.load import RECIPE_CONFIG, load_model, load_processor, read_facts

    require(model, "train or merge it first (stages 4 and 5)")
    loaded, processor = load_model(model), load_processor(model)
    complete_generation_config(loaded, processor.tokenizer)
    with written_aside(out) as aside, tempfile.TemporaryDirectory() as folder:
        loaded.config.save_pretrained(folder)
        _converter(loaded, processor.tokenizer, folder).convert(str(aside), quantization=quantization)
        for part in (processor.tokenizer, processor.feature_extractor, loaded.generation_config):
            part.save_pretrained(aside)
        if (facts := read_facts(model)) is not None:
            write_json(aside / RECIPE_CONFIG, facts)
        _check_written(aside)


def _converter(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, folder: str
) -> TransformersConverter:
    """Return CTranslate2's converter for a model in memory, whose config.json is in `folder`.

    What is in memory is complete; what the model was loaded from may not be.

    The model is in float32, so `int8` leaves in float32 what is not quantised. From a folder in float16 the converter
    would make int8_float16 of it.
    """
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_model(self, *_: object, **__: object) -> WhisperForConditionalGeneration:
            return model

        def load_tokenizer(self, *_: object, **__: object) -> WhisperTokenizer:
            return tokenizer

    return Converter(folder)


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    from whisper_recipe.model.load import timestamps

    options = asked | ({} if timestamps(model) else {"without_timestamps": True})
    return EXAMPLE.format(arguments="".join(f", {key}={value!r}" for key, value in options.items()))


def _check_written(folder: Path) -> None:
    """Load the folder as other programs do; RecipeError where a file is missing."""
    import ctranslate2

    for name in FILES:
        require(folder / name, "the conversion is not whole: export again")
    ctranslate2.models.Whisper(str(folder), device="cpu")
