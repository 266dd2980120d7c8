"""Export to CTranslate2, for fast decoding and faster-whisper."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require, write_json

if TYPE_CHECKING:
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

TYPES = ("float32", "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16")

# Files written: the converter's own, and those that other programs look for next to them (faster-whisper #582: without
# preprocessor_config.json it assumes 80 mel bins).
FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json", "tokenizer_config.json",
         "preprocessor_config.json", "generation_config.json")  # fmt: skip

UNUSED = "<|startoflm|>"  # from the models' training, for text without audio; no program uses it

EXAMPLE = """\
```python
from faster_whisper import WhisperModel

model = WhisperModel("path/of/this/folder")
segments, info = model.transcribe("audio.wav"{arguments})
print("".join(segment.text for segment in segments))
```"""
OWN_TOKEN = """\
faster-whisper only accepts Whisper's languages; whisper-recipe also accepts {language}:

```bash
whisper-recipe transcribe audio.wav --model path/of/this/folder --language {language} --out transcripts
```"""


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Convert a Whisper folder to CTranslate2, with the files that programs look for next to the weights.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the CTranslate2 folder to write.
        quantization: type of the stored weights; int8 is a quarter of float32's size.

    Raises:
        RecipeError: the folder is not a complete Whisper model.
    """
    from whisper_recipe.model.generation import complete_generation_config
    from whisper_recipe.model.load import TRAINING_RECORD, load_model, load_processor, read_training_record

    require(model, "train or merge it first (stages 4 and 5)")
    loaded, processor = load_model(model), load_processor(model)
    processor.tokenizer = within_reach(loaded, processor.tokenizer)
    complete_generation_config(loaded, processor.tokenizer)
    with atomic_write(out) as aside, tempfile.TemporaryDirectory() as folder:
        loaded.config.save_pretrained(folder)
        _converter(loaded, processor.tokenizer, folder).convert(str(aside), quantization=quantization)
        for part in (processor.tokenizer, processor.feature_extractor, loaded.generation_config):
            part.save_pretrained(aside)
        if (record := read_training_record(model)) is not None:
            write_json(aside / TRAINING_RECORD, record)
        _check_written(aside)


def within_reach(model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer) -> WhisperTokenizer:
    """Move a new language's own token to where CTranslate2 treats it as part of the prompt; return the tokenizer.

    That is between <|startoftranscript|> and <|notimestamps|> (`get_prompt_length` in its src/models/whisper.cc), where
    <|startoflm|> is the only unused token: the two are swapped.

    Raises:
        RecipeError: several languages have such a token.
    """
    import torch

    from whisper_recipe.text.additions import exchange_ids, new_languages
    from whisper_recipe.text.tokenizer import first_timestamp

    ids = {token: tokenizer.convert_tokens_to_ids(f"<|{token}|>") for token in new_languages(tokenizer).values()}
    beyond = [code for code, index in ids.items() if index >= first_timestamp(tokenizer)]
    if not beyond:
        return tokenizer
    if len(beyond) > 1:
        what = f"CTranslate2 supports one new language token, but {', '.join(beyond)} have tokens"
        raise RecipeError(what, where="new_languages", cure="train with borrowed tokens, or export --to hf")
    tokens = UNUSED, f"<|{beyond[0]}|>"
    places = tokenizer.convert_tokens_to_ids(list(tokens))
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        rows[places] = rows[places[::-1]]
    return exchange_ids(tokenizer, *tokens)


def _converter(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, folder: str
) -> TransformersConverter:
    """Return CTranslate2's converter for a model in memory, with config.json in `folder`.

    The model in memory is complete; the folder that it was loaded from may not be.

    The model is in float32, so with `int8` the other weights stay in float32. From a float16 folder, the converter
    would produce int8_float16.
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

    if asked.get("language", "").startswith("<|"):  # a new language's own token
        return OWN_TOKEN.format(language=asked["language"].strip("<|>"))
    options = asked | ({} if timestamps(model) else {"without_timestamps": True})
    return EXAMPLE.format(arguments="".join(f", {key}={value!r}" for key, value in options.items()))


def _check_written(folder: Path) -> None:
    """Load the folder as other programs do; raise RecipeError if a file is missing."""
    import ctranslate2

    for name in FILES:
        require(folder / name, "the conversion is incomplete: export again")
    ctranslate2.models.Whisper(str(folder), device="cpu")
