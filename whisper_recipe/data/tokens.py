"""Counting a text's tokens, without the room for text, which lies above this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from whisper_recipe.errors import RecipeError


def token_counter(name: str) -> Callable[[list[str]], list[int]]:
    """Return a function that counts the tokens of each of some texts, special ones left out.

    Args:
        name: a Whisper folder, which never causes network access, or a name on the hub.

    Raises:
        RecipeError: there is no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
    except Exception as error:  # transformers and its hub raise types of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecipeError(
            f"the tokenizer can't be loaded ({reason})", where=name, cure="give a Whisper folder"
        ) from None
    return lambda texts: list(
        map(len, tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids)
    )
