"""Export to a plain transformers folder: what one publishes, and what every Whisper program starts from."""

from __future__ import annotations

import json
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import Quantization
from whisper_recipe.files import atomic_write, require

EXAMPLE = """\
```python
from transformers import pipeline

recognize = pipeline("automatic-speech-recognition", model="path/of/this/folder")
print(recognize("audio.wav"{arguments})["text"])
```"""


def export(model: Path, out: Path, quantization: Quantization = "float32") -> None:
    """Rewrite a Whisper folder with safetensors and a whole generation config.

    Args:
        model: a Hugging Face Whisper folder, also one that old versions or other programs wrote.
        out: the folder to write.
        quantization: type of the stored weights: float32, float16 or bfloat16.

    Raises:
        RecipeError: the folder is not a whole Whisper model, or a quantization that transformers has not.
    """
    import torch

    from whisper_recipe.model.load import load_model, load_processor, read_training_record, save_model

    require(model, "train or merge it first (stages 4 and 5)")
    if quantization.startswith("int8"):
        raise RecipeError(
            f"a transformers folder has no {quantization}",
            where="quantization",
            cure="use float32, float16 or bfloat16, or --to ct2",
        )
    loaded, processor = load_model(model), load_processor(model)
    with atomic_write(out) as aside:
        save_model(aside, loaded.to(getattr(torch, quantization)), processor, read_training_record(model))
        _write_vocabulary(aside, processor.tokenizer)


def use(asked: dict[str, str], timestamps: bool) -> str:
    """Return the model card's example; see card.Target. The generation config says whether times are written."""
    return EXAMPLE.format(arguments=f", generate_kwargs={asked}" if asked else "")


def _write_vocabulary(folder: Path, tokenizer: object) -> None:
    """Write vocab.json, merges.txt and added_tokens.json, as transformers did before version 5.

    whisper.cpp's converter (models/convert-h5-to-ggml.py) and older readers know no tokenizer.json.
    """
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "added_tokens.json").write_text(
        json.dumps(tokenizer.get_added_vocab(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
