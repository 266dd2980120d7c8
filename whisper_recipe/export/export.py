"""`whisper-recipe export`: a folder for other programs, with a model card, verified on request."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from whisper_recipe.export import ct2, hf
from whisper_recipe.export.card import Export, Target, write_card
from whisper_recipe.export.ct2 import Quantization
from whisper_recipe.export.verify import compare_texts, require_same
from whisper_recipe.files import atomic_write, require

# A new target: a module with `export` and `use`, a row here, and its name among the values of `--to`.
TARGETS = {
    "ct2": Target(ct2.export, "CTranslate2, for faster-whisper and programs built on it", "ctranslate2", ct2.use),
    "hf": Target(hf.export, "Hugging Face transformers", "transformers", hf.use),
}


def export(
    model: Path,
    out: Path,
    to: Literal["ct2", "hf"] = "ct2",
    quantization: Quantization = "float32",
    license: str = "unknown",
    verify: Path | None = None,
    verify_utterances: int = 100,
    verify_tolerance: float = 0.5,
) -> None:
    """Convert a Whisper folder for other programs: CTranslate2, or a plain transformers folder, with a model card.

    Args:
        model: a plain Hugging Face Whisper folder, exp/<name>/model.
        out: the folder to write.
        to: ct2 is for CTranslate2 and faster-whisper, hf for transformers and for publishing.
        quantization: type of the stored weights; int8 is a quarter of float32's size. hf has no int8.
        license: for the model card, an identifier of the hub such as apache-2.0; what the base model and the data
            allow.
        verify: a cut manifest; a sample of it is decoded with the model and with the export, and a mismatch is an
            error that leaves no folder.
        verify_utterances: utterances in the sample at most.
        verify_tolerance: points of error rate that the two may differ by, beside what chance explains.

    Raises:
        RecipeError: the folder is not a whole Whisper model, or the export does not recognise what it does.
    """
    if verify is not None:
        require(verify, "give a cut manifest, from whisper-recipe fbank")
    with atomic_write(out) as aside:
        TARGETS[to].write(model, aside, quantization)
        checked = None
        if verify is not None:
            verification = compare_texts(model, aside, verify, verify_utterances)
            require_same(verification, verify_tolerance, out)
            checked = f"Decoded with both, {verification.utterances} utterances of `{verify}`: {verification}."
            print(f"{out}: {verification}")
        write_card(aside, Export(model, out, TARGETS[to], quantization, license, checked))
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {quantization}, {size / 1e6:.1f} MB")
