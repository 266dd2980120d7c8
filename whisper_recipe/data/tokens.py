"""Counting the tokens of texts."""

from __future__ import annotations

from collections.abc import Callable


def token_counter(name: str) -> Callable[[list[str]], list[int]]:
    """Return a function that counts the tokens of each of some texts, special ones left out.

    Args:
        name: a Whisper folder, which never causes network access, or a name on the hub.

    Raises:
        RecipeError: there is no tokenizer.
    """
    from whisper_recipe.model.load import load_tokenizer  # with torch, which takes seconds

    tokenizer = load_tokenizer(name)
    return lambda texts: list(
        map(len, tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids)
    )
