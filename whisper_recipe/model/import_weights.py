"""`whisper-recipe import`: another program's weights -> a plain Hugging Face Whisper folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require
from whisper_recipe.model import ctranslate2_import, openai


class Format(NamedTuple):
    """A format of weights: its name, whether a path has it, and the conversion to a Whisper folder."""

    name: str
    is_of: Callable[[Path], bool]
    convert: Callable[[Path, Path, str | None], None]


FORMATS = (
    Format(
        "a CTranslate2 folder",
        lambda path: (path / ctranslate2_import.WEIGHTS).exists(),
        ctranslate2_import.import_folder,
    ),
    Format("OpenAI's .pt file", Path.is_file, openai.import_checkpoint),
)


def import_weights(checkpoint: Path, out: Path, tokenizer: str | None = None) -> None:
    """Convert a CTranslate2 folder, or a .pt file in OpenAI's format, to a Whisper folder.

    Weights keep their precision; int8 and int16 matrices of CTranslate2 become float32. No code in the files is run.

    Args:
        checkpoint: a CTranslate2 folder (including those made for faster-whisper), OpenAI's file (tiny.pt ...
            large-v3.pt), or a file in the same format from another program.
        out: the folder to write.
        tokenizer: a Whisper folder, or a name on the Hub, with the checkpoint's tokenizer; by default the CTranslate2
            folder's own, and for a .pt file that of OpenAI's model with the same vocabulary size.

    Raises:
        RecipeError: the weights can't be read, are not Whisper's, or the tokenizer is not theirs.
    """
    require(checkpoint, "give a CTranslate2 folder, or OpenAI's .pt file")
    for form in FORMATS:
        if form.is_of(checkpoint):
            print(f"{checkpoint}: {form.name}")
            return form.convert(checkpoint, out, tokenizer)
    names = " or ".join(form.name for form in FORMATS)
    raise RecipeError(
        "no weights in a known format", where=checkpoint, cure=f"give {names}; a Whisper folder needs no import"
    )
