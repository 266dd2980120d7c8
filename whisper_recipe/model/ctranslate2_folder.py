"""CTranslate2 Whisper folders: checks that CTranslate2 lacks, and without which it aborts the process."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path
from typing import BinaryIO

from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require
from whisper_recipe.text.tokenizer import END_OF_TEXT

WEIGHTS = "model.bin"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")  # older converters wrote the latter
CURE = "export the model again"


def is_ctranslate2(folder: str | Path) -> bool:
    """Whether a folder was written, or was meant to be, by CTranslate2's converters."""
    return any((Path(folder) / name).exists() for name in (WEIGHTS, *VOCABULARIES))


def vocabulary(folder: Path) -> list[str]:
    """Return the tokens of a CTranslate2 folder in the order of their ids.

    Raises:
        RecipeError: there is no vocabulary, or it is not a list of tokens.
    """
    path = next((path for name in VOCABULARIES if (path := folder / name).exists()), None)
    if path is None:
        raise RecipeError(f"contains neither {' nor '.join(VOCABULARIES)}", where=folder, cure=CURE)
    try:
        text = path.read_text(encoding="utf-8")
        # Not splitlines: a token may hold another line separator. One token of multilingual models is empty.
        tokens = json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except ValueError as error:
        raise RecipeError(f"can't be read ({error})", where=path, cure=CURE) from error
    if not isinstance(tokens, list) or END_OF_TEXT not in tokens:
        raise RecipeError("not a list of Whisper's tokens", where=path, cure=CURE)
    return tokens


def check_ids(folder: Path, tokenizer: WhisperTokenizer) -> None:
    """Raise RecipeError if the tokenizer or configuration of a CTranslate2 folder does not match its vocabulary."""
    tokens = vocabulary(folder)
    text_tokens = tokens[: tokens.index(END_OF_TEXT)]
    if text_tokens != tokenizer.convert_ids_to_tokens(range(len(text_tokens))):
        what = "the tokens of the tokenizer and the vocabulary differ"
        raise RecipeError(what, where=folder, cure="copy tokenizer.json from the base model")
    config = read_json(folder / "config.json", CURE)
    if "suppress_ids_begin" not in config:  # null is valid
        raise RecipeError("suppress_ids_begin is missing", where=folder / "config.json", cure=CURE)
    for key in ("suppress_ids", "suppress_ids_begin", "lang_ids"):
        ids = config.get(key) or []
        if not isinstance(ids, list) or not all(_is_below(index, len(tokens)) for index in ids):
            raise RecipeError(f"{key} is not a list of ids of the model", where=folder / "config.json", cure=CURE)


@functools.cache
def require_alignment_heads(folder: Path) -> None:
    """Raise RecipeError if a CTranslate2 folder does not name heads of its decoder, for word timestamps."""
    heads = read_json(folder / "config.json").get("alignment_heads")
    limits = _decoder_size(folder / WEIGHTS)
    if not isinstance(heads, list) or not heads or not all(_is_head(head, limits) for head in heads):
        what = f"alignment_heads are not heads of its decoder, which has {limits[0]} layers of {limits[1]} heads"
        cure = f"{CURE}, or correct them: word timestamps need them"
        raise RecipeError(what, where=folder / "config.json", cure=cure)


def _is_head(value: object, limits: tuple[int, int]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_below, value, limits))


def _is_below(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def _decoder_size(path: Path) -> tuple[int, int]:
    """Return layers and heads of the decoder from the names in model.bin (_serialize of ctranslate2's model_spec.py).

    Raises:
        RecipeError: it can't be read.
    """
    layers, heads = set(), 0
    try:
        with open(require(path, CURE), "rb") as file:
            read_number(file, "I"), read_string(file), read_number(file, "I")
            for _ in range(read_number(file, "I")):
                name = read_string(file)
                dimensions = read_number(file, "B")
                file.seek(4 * dimensions + 1, 1)  # the shape and the type
                size = read_number(file, "I")
                if name == "decoder/num_heads":
                    heads = int.from_bytes(file.read(size), "little")
                else:
                    file.seek(size, 1)
                if name.startswith("decoder/layer_") and name.count("/") > 2:
                    layers.add(name.split("/")[1])
    except (struct.error, UnicodeDecodeError) as error:
        raise RecipeError(f"can't be read ({error})", where=path, cure=CURE) from error
    return len(layers), heads


def read_number(file: BinaryIO, kind: str) -> int:
    """Read a number from model.bin; raise struct.error at the end of the file."""
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]


def read_string(file: BinaryIO) -> str:
    """Read a string from model.bin: its length, including a trailing zero byte, and its bytes; see read_number."""
    length = read_number(file, "H")
    return struct.unpack(f"{length}s", file.read(length))[0][:-1].decode()
