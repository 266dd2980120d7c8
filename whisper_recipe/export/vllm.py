"""Export to vLLM, which reads Whisper folders and LoRA adapters directly: check both, and write the commands."""

from __future__ import annotations

from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require

TYPES = ("float32",)  # as in the model folder
FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
UNVERIFIED = "vLLM needs a GPU and reads the model folder itself: there is no export to compare"
# vllm/config/lora.py
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
DEFAULT_MAX_RANK = 16

EXAMPLE = """\
This folder has no weights: vLLM reads `{model}` directly (`pip install vllm`, on a GPU).

```bash
vllm serve {model}
curl http://localhost:8000/v1/audio/{endpoint} --form file=@audio.wav --form model={model}{language}
```"""
ADAPTER = """

The LoRA adapter can be served without merging, together with others of the same base model; requests select one by name
(`--form model={name}`):

```bash
vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={adapter}
```"""


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Check a Whisper folder and the adapter next to it against vLLM's documentation; `out` is only for the card.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model; exp/<name>/adapter is checked if it exists.
        out: the folder to write.
        quantization: as in the folder.

    Raises:
        RecipeError: vLLM can't read the folder, or doesn't support the language that it was trained on.
    """
    from whisper_recipe.model.load import load_model, load_processor, read_training_record

    for name in FILES:
        require(model / name, "export it --to hf, which completes the folder, and use that")
    load_model(model)
    load_processor(model)
    _check_languages(model, read_training_record(model) or {})
    if reason := unsupported(model):
        print(f"{_adapter(model)}: vLLM can't serve this adapter ({reason}): serve the merged folder")
    out.mkdir(parents=True, exist_ok=True)


def _check_languages(model: Path, record: dict) -> None:
    """Raise RecipeError if a model was trained on a language that vLLM rejects in requests."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    # vLLM uses transformers' list (vllm/model_executor/models/whisper_utils.py).
    for language in sorted({row["language"] for row in record.get("data", [])}):
        if language not in LANGUAGES:
            what = f"vLLM only accepts Whisper's own languages, but the model was trained on {language}"
            raise RecipeError(what, where=model, cure="export it --to ct2, hf, onnx or sherpa-onnx")


def unsupported(model: Path) -> str:
    """Return why vLLM can't serve the adapter next to a model folder, by its vllm/lora/peft_helper.py; "" if it can."""
    config = _adapter_config(model)
    reasons = {
        f"it is {config.get('peft_type')}, not LoRA": config.get("peft_type", "LORA") != "LORA",
        "DoRA": config.get("use_dora"),
        "it has weights other than LoRA's": config.get("modules_to_save"),
        "it trains embeddings": config.get("trainable_token_indices"),
        "it trains biases": config.get("bias", "none") != "none",
        f"its rank is over {MAX_RANKS[-1]}": config.get("r", 0) > MAX_RANKS[-1],
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)


def _adapter(model: Path) -> Path:
    return model.parent / "adapter"


def _adapter_config(model: Path) -> dict:
    path = _adapter(model) / "adapter_config.json"
    return read_json(path) if path.exists() else {}


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    endpoint = "translations" if asked.get("task") == "translate" else "transcriptions"
    language = f" --form language={asked['language']}" if "language" in asked else ""
    example = EXAMPLE.format(model=model, endpoint=endpoint, language=language)
    config = _adapter_config(model)
    if not config or unsupported(model):
        return example
    rank = next(rank for rank in MAX_RANKS if rank >= max(config["r"], DEFAULT_MAX_RANK))
    base, name = config["base_model_name_or_path"], model.resolve().parent.name
    return example + ADAPTER.format(base=base, rank=rank, name=name, adapter=_adapter(model))
