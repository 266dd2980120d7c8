"""Export to the .pt file of openai/whisper; `whisper-recipe import` converts it back to the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.target import Transcriber, needed, openai_tokens
from whisper_recipe.files import atomic_write, require

WEIGHTS = "model.pt"
TYPES = ("float32", "float16")
# SHA-256 of the text tokens in the order of their ids, separated by zero bytes: multilingual.tiktoken and
# gpt2.tiktoken of openai/whisper (whisper/assets). The program supports no others.
VOCABULARIES = (
    "539d52c603642846b41236b630b9c59ded7c6321db2051b8fa1dbf0f0dd0174c",
    "b94f04893e1472b0232ea63b6edfb9ff8d2c7609ba9d0980c54fad333aeb35d1",
)

EXAMPLE = """\
```python
import whisper  # pip install openai-whisper

model = whisper.load_model("path/of/this/folder/{weights}")
print(model.transcribe("audio.wav"{arguments})["text"])
```"""


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Write a Whisper folder as an openai/whisper checkpoint, which `torch.load(..., weights_only=True)` reads.

    Args:
        model: a Hugging Face Whisper folder.
        out: the folder to write; the checkpoint in it is model.pt.
        quantization: type of the stored weights: float32, or float16 as in OpenAI's own checkpoints.

    Raises:
        RecipeError: the folder is not a complete Whisper model, or its vocabulary is not OpenAI's.
    """
    import torch

    from whisper_recipe.model.load import load_model, load_processor
    from whisper_recipe.model.openai import openai_dims, openai_weights
    from whisper_recipe.text.vocabulary import token_bytes

    require(model, "train or merge it first (stages 4 and 5)")
    tokenizer = load_processor(model).tokenizer
    tokens = openai_tokens(tokenizer, model, "openai-whisper")
    if hashlib.sha256(b"\0".join(token_bytes(tokenizer))).hexdigest() not in VOCABULARIES:
        what = "openai-whisper can't use this model: it only supports OpenAI's text tokens, and the model has others"
        raise RecipeError(what, where=model, cure="export it --to ct2, ggml, onnx or sherpa-onnx")
    loaded, dtype = load_model(model), getattr(torch, quantization)
    # Copies: torch would save the whole storage behind a view.
    weights = {name: weight.to(dtype, copy=True) for name, weight in openai_weights(loaded, tokens).items()}
    with atomic_write(out) as aside:
        aside.mkdir()
        torch.save({"dims": openai_dims(loaded, tokens), "model_state_dict": weights}, aside / WEIGHTS)


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    from whisper_recipe.model.load import timestamps

    options = asked | ({} if timestamps(model) else {"without_timestamps": True})
    return EXAMPLE.format(weights=WEIGHTS, arguments="".join(f", {key}={value!r}" for key, value in options.items()))


def load(folder: Path, natural_length: bool) -> Transcriber:
    """Load an export with openai-whisper, which always pads to 30 s; see target.Target."""
    whisper = needed("whisper", "openai")
    model = whisper.load_model(str(folder / WEIGHTS), device="cpu")

    def transcribe(samples, language: str, task: str) -> str:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), n_mels=model.dims.n_mels)
        options = whisper.DecodingOptions(task=task, language=language, without_timestamps=True, fp16=False)
        return whisper.decode(model, mel, options).text

    return transcribe
