"""Targets of `whisper-recipe export`: how they are written, what they are called, and the programs that read them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.tokenizer import NO_TIMESTAMPS, TIMESTAMPS, WHISPER_VOCAB_SIZES

if TYPE_CHECKING:
    import numpy as np
    from transformers import WhisperTokenizer

# Transcribes samples (n,), float32 at 16 kHz, in a given language and task.
Transcriber = Callable[["np.ndarray", str, str], str]


class Target(NamedTuple):
    """A format that models are exported to.

    Args:
        write: writes the folder; takes the model folder, the folder to write, and the type of the stored weights.
        types: the supported types of stored weights, the default first.
        format: the format and the programs that read it.
        library: the Hub's name for the library that reads it.
        use: returns the card's example; takes the model folder, the type of the stored weights, and the language and
            the task, which may be missing.
        load: loads an exported folder with its program; takes the folder, and whether inputs have natural length. None
            if `whisper-recipe decode` reads it.
        pads: the program pads every input to 30 s, whatever the model was trained for.
        unverified: the reason, if the export can't be verified.
    """

    write: Callable[[Path, Path, str], None]
    types: tuple[str, ...]
    format: str
    library: str
    use: Callable[[Path, str, dict[str, str]], str]
    load: Callable[[Path, bool], Transcriber] | None = None
    pads: bool = False
    unverified: str = ""


def needed(module: str, extra: str) -> ModuleType:
    """Import a module that is installed by an optional extra of pyproject.toml.

    Raises:
        RecipeError: it is not installed, or can't be loaded.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        what = f"the required Python package can't be imported ({error})"
        raise RecipeError(what, where=module, cure=f"pip install '.[{extra}]'") from error


def openai_tokens(tokenizer: WhisperTokenizer, where: Path, program: str) -> int:
    """Return a model's number of tokens, for a program that computes the ids of special tokens from it.

    Raises:
        RecipeError: the vocabulary doesn't have the layout of one of OpenAI's.
    """
    tokens = len(tokenizer)
    # The timestamps come last, right after this token.
    if tokens not in WHISPER_VOCAB_SIZES or tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS) != tokens - TIMESTAMPS - 1:
        sizes = ", ".join(map(str, WHISPER_VOCAB_SIZES))
        what = (
            f"{program} can't use this model: it finds languages, tasks and times by the vocabulary size, which "
            f"must be OpenAI's ({sizes} tokens), got {tokens}: a small vocabulary, or added tokens"
        )
        raise RecipeError(what, where=where, cure="export it --to ct2, onnx or sherpa-onnx")
    return tokens
