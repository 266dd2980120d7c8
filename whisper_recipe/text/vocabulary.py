"""A Whisper tokenizer from a list of its tokens, for models that come without tokenizer.json."""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import AddedToken, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.tokenizer import END_OF_TEXT, NO_TIMESTAMPS, TIMESTAMPS, complete_tokenizer


def tokenizer_of(tokens: list[str], where: object = None) -> WhisperTokenizer:
    """Build the tokenizer of a model from its tokens in the order of their ids.

    Args:
        tokens: the byte-level BPE in the order in which it was learned, then Whisper's special tokens and timestamps.
        where: the source of the tokens, for errors.

    Raises:
        RecipeError: they are not the tokens of a Whisper model.
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    if {END_OF_TEXT, NO_TIMESTAMPS} - set(tokens) or alphabet - set(tokens) or len(set(tokens)) != len(tokens):
        cure = "pass the model's own --tokenizer"
        raise RecipeError("its tokens must be those of a Whisper model, without duplicates", where=where, cure=cure)
    end, last = tokens.index(END_OF_TEXT), tokens.index(NO_TIMESTAMPS)
    vocabulary = {token: rank for rank, token in enumerate(tokens[:end])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges_of(vocabulary), model_max_length=1024 * 1024)
    timestamps = range(last + 1, last + 1 + TIMESTAMPS)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=number not in timestamps, normalized=False)
            for number, token in enumerate(tokens[end:], end)
        ]
    )
    return complete_tokenizer(tokenizer, where)


def merges_of(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges of a byte-level BPE whose tokens are ranked in the order in which they were learned.

    A token was learned by merging the two pieces to which the earlier merges reduce it. A token that they reduce to any
    other number of pieces was never merged (a byte, or a placeholder such as the empty token of OpenAI's multilingual
    models). The merges of the folders on the Hub were derived from openai/whisper's ranks in the same way
    (transformers, models/whisper/convert_openai_to_hf.py).
    """
    merges = []
    for token, rank in sorted(vocabulary.items(), key=lambda item: item[1]):
        pieces = _pieces(token, rank, vocabulary)
        if len(pieces) == 2:
            merges.append((pieces[0], pieces[1]))
    return merges


def _pieces(token: str, rank: int, vocabulary: dict[str, int]) -> list[str]:
    """Return the pieces of a token after all merges into tokens of lower rank, the lowest first."""
    pieces = list(token)
    while len(pieces) > 1:
        ranks = [vocabulary.get(left + right, rank) for left, right in zip(pieces, pieces[1:], strict=False)]
        lowest = min(ranks)
        if lowest >= rank:
            break
        place = ranks.index(lowest)
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def token_bytes(tokenizer: WhisperTokenizer) -> list[bytes]:
    """Return the bytes that each text token stands for, in the order of their ids."""
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    tokens = tokenizer.convert_ids_to_tokens(range(tokenizer.convert_tokens_to_ids(END_OF_TEXT)))
    return [bytes(byte_of[character] for character in token) for token in tokens]
