"""Counting the tokens of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_TEXT_TOKENS = 448 - 4  # of Whisper's decoder, without the tokens for start, language, task and no timestamps


class Tokens(NamedTuple):
    """Counts for a text: its tokens, and those that are one byte of a character with several bytes.

    Lone bytes are outside the tokenizer's merges: it has not learned the characters.
    """

    tokens: int
    lone_bytes: int


def token_counter(name: str) -> Callable[[list[str]], list[Tokens]]:
    """Return a function that counts the tokens of each text, without special tokens.

    Args:
        name: a Whisper folder (never causes network access), or a name on the Hub.

    Raises:
        RecipeError: there is no such tokenizer.
    """
    from tokenizers import pre_tokenizers

    from whisper_recipe.model.load import load_tokenizer  # imports torch, which takes seconds

    tokenizer = load_tokenizer(name)
    # A byte-level tokenizer writes each byte as one character, including ASCII.
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ((ascii, _),) = bytewise.pre_tokenize_str("".join(map(chr, range(128))))
    lone = set(bytewise.alphabet()) - set(ascii)
    ids = {index for token, index in tokenizer.get_vocab().items() if token in lone}

    def count(texts: list[str]) -> list[Tokens]:
        rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids
        return [Tokens(len(row), sum(map(ids.__contains__, row))) for row in rows]

    return count
