"""`whisper-recipe export`: a folder for other programs, with a model card, verified on request."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.export import ct2, ggml, hf, onnx, openai, sherpa_onnx, vllm
from whisper_recipe.export.card import Export, write_card
from whisper_recipe.export.target import Target
from whisper_recipe.export.verify import Verification, compare_texts, require_same
from whisper_recipe.files import atomic_write, require

# To add a target: a module with `export`, `use`, `TYPES` and `load`, a row here, and its name in the values of `--to`.
TARGETS = {
    "ct2": Target(
        ct2.export, ct2.TYPES, "CTranslate2, for faster-whisper and programs built on it", "ctranslate2", ct2.use
    ),
    "hf": Target(hf.export, hf.TYPES, "Hugging Face transformers", "transformers", hf.use),
    "openai": Target(
        openai.export, openai.TYPES, "openai/whisper", "openai-whisper", openai.use, openai.load, pads=True
    ),
    "ggml": Target(ggml.export, tuple(ggml.TYPES), "whisper.cpp", "whisper.cpp", ggml.use, ggml.load),
    "onnx": Target(
        onnx.export, tuple(onnx.TYPES), "ONNX, for optimum and transformers.js", "transformers.js", onnx.use, onnx.load
    ),
    "sherpa-onnx": Target(
        sherpa_onnx.export,
        tuple(sherpa_onnx.TYPES),
        "ONNX, for sherpa-onnx",
        "sherpa-onnx",
        sherpa_onnx.use,
        sherpa_onnx.load,
    ),
    "vllm": Target(vllm.export, vllm.TYPES, "vLLM", "vllm", vllm.use, unverified=vllm.UNVERIFIED),
}


def export(
    model: Path,
    out: Path,
    to: Literal["ct2", "hf", "openai", "ggml", "onnx", "sherpa-onnx", "vllm"] = "ct2",
    quantization: str | None = None,
    license: str = "unknown",
    verify: Path | None = None,
    verify_utterances: int = 100,
    verify_tolerance: float = 0.5,
) -> None:
    """Convert a Whisper folder for other programs, with a model card.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the folder to write.
        to: ct2 is for CTranslate2 and faster-whisper, hf for transformers and for publishing, openai for openai-whisper
            (a .pt file), ggml for whisper.cpp, onnx for optimum and transformers.js, sherpa-onnx for sherpa-onnx. vllm
            reads the model folder and LoRA adapters directly: they are checked, and a card with the commands is
            written.
        quantization: type of the stored weights; the first is the default. ct2: float32, float16, bfloat16, int8,
            int8_float16, int8_bfloat16; hf: float32, float16, bfloat16; openai: float32, float16; ggml: f16, f32, q8_0,
            q5_0, q5_1; onnx: float32, float16, int8; sherpa-onnx: float32, int8. int8 and q8_0 take a quarter of
            float32's size.
        license: for the model card: an identifier of the Hub such as apache-2.0, as permitted by the base model and the
            data.
        verify: a cut manifest. A sample of it is decoded with the model, and with the export in its target program; the
            hypotheses that differ, error rates, speed and size are printed. A mismatch is an error, and no folder
            is written.
        verify_utterances: maximum number of utterances in the sample.
        verify_tolerance: maximum difference in error rate, in points, in addition to what chance explains.

    Raises:
        RecipeError: the folder is not a complete Whisper model, the program can't use it, a package of the program is
            missing, or the export's output differs from the model's.
    """
    target = TARGETS[to]
    quantization = quantization or target.types[0]
    if quantization not in target.types:
        cure = f"use {', '.join(target.types)}"
        raise RecipeError(f"--to {to} does not support {quantization}", where="quantization", cure=cure)
    if verify is not None:
        require(verify, "give a cut manifest, from whisper-recipe fbank")
        if target.unverified:
            raise RecipeError(target.unverified, where=f"--to {to}", cure="export it without --verify")
    with atomic_write(out) as aside:
        target.write(model, aside, quantization)
        checked = None
        if verify is not None:
            verification = compare_texts(model, aside, verify, verify_utterances, target)
            _print(verification, model, aside, out)
            require_same(verification, verify_tolerance, out)
            checked = f"{verification.utterances} utterances of `{verify}`, decoded with both: {verification}."
        write_card(aside, Export(model, out, target, quantization, license, checked))
    print(f"{out}: {quantization}, {megabytes(out):.1f} MB")


def _print(verification: Verification, model: Path, exported: Path, out: Path) -> None:
    for key, of_model, of_export in verification.differing:
        print(f"{key}\n  model:  {of_model}\n  export: {of_export}")
    print(f"{out}: {verification}; {megabytes(exported):.1f} MB, the model {megabytes(model):.1f}")


def megabytes(folder: Path) -> float:
    """Return the size of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
