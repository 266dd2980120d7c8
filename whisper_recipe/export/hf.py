"""Export to a plain transformers folder, for publishing and as the source for every other Whisper program."""

from __future__ import annotations

import json
from pathlib import Path

from whisper_recipe.files import atomic_write, read_json, require, write_json

TYPES = ("float32", "float16", "bfloat16")

EXAMPLE = """\
```python
from transformers import pipeline

recognize = pipeline("automatic-speech-recognition", model="path/of/this/folder")
print(recognize("audio.wav"{arguments})["text"])
```"""


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Rewrite a Whisper folder with safetensors and a complete generation config.

    Args:
        model: a Hugging Face Whisper folder, including those written by old versions or other programs.
        out: the folder to write.
        quantization: type of the stored weights: float32, float16 or bfloat16.

    Raises:
        RecipeError: the folder is not a complete Whisper model.
    """
    import torch

    from whisper_recipe.model.load import load_model, load_processor, read_training_record, save_model

    require(model, "train or merge it first (stages 4 and 5)")
    loaded, processor = load_model(model), load_processor(model)
    with atomic_write(out) as aside:
        save_model(aside, loaded.to(getattr(torch, quantization)), processor, read_training_record(model))
        write_for_version_4(aside, processor.tokenizer)


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target. The generation config decides on timestamps."""
    return EXAMPLE.format(arguments=f", generate_kwargs={asked}" if asked else "")


def write_for_version_4(folder: Path, tokenizer: object) -> None:
    """Write vocab.json, merges.txt and added_tokens.json, and the special tokens, as transformers 4 did.

    whisper.cpp's converter (models/convert-h5-to-ggml.py) and older readers don't support tokenizer.json, and
    transformers 4, which optimum-onnx 0.1 needs, can't read the list of special tokens under version 5's name.
    """
    config = read_json(folder / "tokenizer_config.json")
    if isinstance(tokens := config.pop("extra_special_tokens", None), list):
        write_json(folder / "tokenizer_config.json", config | {"additional_special_tokens": tokens})
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "added_tokens.json").write_text(
        json.dumps(tokenizer.get_added_vocab(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
