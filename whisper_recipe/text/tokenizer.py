"""Whisper tokenizers made from text: a byte-level BPE with Whisper's special tokens in Whisper's order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES

# Whisper's layout (whisper/tokenizer.py of openai/whisper): the BPE, then the tokens of `special_tokens()`. large-v3
# has one more language, so all later ids are one higher; tiny.en to medium.en have one text token fewer.
TEXT_TOKENS = 50257
ENGLISH_ONLY_TEXT_TOKENS = 50256
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s
ENGLISH_VOCAB_SIZE = 51864
WHISPER_VOCAB_SIZES = {ENGLISH_VOCAB_SIZE: 99, 51865: 99, 51866: 100}  # vocabulary size -> languages

END_OF_TEXT = "<|endoftext|>"
START_OF_TRANSCRIPT = "<|startoftranscript|>"
START_OF_PREVIOUS = "<|startofprev|>"
NO_TIMESTAMPS = "<|notimestamps|>"


def special_tokens(languages: int = 99) -> list[str]:
    """Return Whisper's special tokens without the timestamps, in the order of their ids."""
    return [
        END_OF_TEXT,
        START_OF_TRANSCRIPT,
        *(f"<|{code}|>" for code in list(LANGUAGES)[:languages]),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        START_OF_PREVIOUS,
        "<|nospeech|>",
        NO_TIMESTAMPS,
    ]


def complete_tokenizer(tokenizer: WhisperTokenizer, where: str) -> WhisperTokenizer:
    """Add the tokens and settings that older folders and other programs leave out; return the tokenizer.

    Folders describe the same tokens differently. Without the list of special tokens, transformers writes them into
    texts and mistakes other ids for times; folders from before 2023 have no time tokens, whose ids follow
    `<|notimestamps|>` in every Whisper.

    Raises:
        RecipeError: the tokenizer lacks the special tokens, has others in place of the time tokens, or has an invalid
            model_max_length.
    """
    if not isinstance(tokenizer.model_max_length, (int, float)):
        what = f"model_max_length must be a number, got {tokenizer.model_max_length}"
        raise RecipeError(what, where=where, cure="copy the tokenizer from the base model")
    vocabulary = tokenizer.get_vocab()
    required = [END_OF_TEXT, START_OF_TRANSCRIPT, START_OF_PREVIOUS, "<|translate|>", "<|transcribe|>", NO_TIMESTAMPS]
    if missing := [token for token in required if token not in vocabulary]:
        raise RecipeError(f"the tokenizer has no {missing[0]}", where=where, cure="copy it from the base model")
    last = vocabulary[NO_TIMESTAMPS]
    specials = tokenizer.convert_ids_to_tokens(range(vocabulary[END_OF_TEXT], last + 1))
    if tokenizer.all_special_ids[-1] != last or not set(specials) <= set(tokenizer.all_special_tokens):
        others = [token for token in tokenizer.all_special_tokens if token not in specials]
        # The list must end with <|notimestamps|>: transformers takes the id after it for <|0.00|>.
        tokenizer.add_special_tokens({"extra_special_tokens": [*others, *specials[1:]], "pad_token": END_OF_TEXT})
        tokenizer.set_prefix_tokens()  # again, now that it knows all of them
    times = time_tokens()
    if last == len(tokenizer) - 1:
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in times])
    if tokenizer.convert_tokens_to_ids(times) != list(range(last + 1, last + 1 + TIMESTAMPS)):
        what = f"the tokenizer must have {times[0]} to {times[-1]} after {NO_TIMESTAMPS}"
        raise RecipeError(what, where=where, cure="copy it from the base model")
    return tokenizer


def time_tokens() -> list[str]:
    """Return Whisper's time tokens in the order of their ids."""
    return [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]


def build_tokenizer(lines: Iterable[str], bpe_size: int, vocab_size: int = 0) -> WhisperTokenizer:
    """Train a byte-level BPE on text and give it Whisper's special, language, task and timestamp tokens.

    Args:
        lines: training text.
        bpe_size: maximum number of BPE tokens, including the 256 bytes.
        vocab_size: 0: as small as the BPE allows. 51865, 51866 (large-v3) or 51864 (English-only): unused text tokens
            fill the vocabulary, so that every special token has the same id as in OpenAI's models; programs such as
            faster-whisper recognise a multilingual model only by these ids.

    Raises:
        RecipeError: `vocab_size` or `bpe_size` is invalid, or there is no text.
    """
    if vocab_size and vocab_size not in WHISPER_VOCAB_SIZES:
        raise RecipeError(f"must be 0, 51864, 51865 or 51866, got {vocab_size}", where="vocab_size")
    if not 256 <= bpe_size < TEXT_TOKENS:
        raise RecipeError(f"must be between 256 and {TEXT_TOKENS - 1}, got {bpe_size}", where="bpe_size")
    vocab, merges = _train_bpe(lines, bpe_size)
    for unused in range(len(vocab), TEXT_TOKENS - 1 if vocab_size else 0):
        vocab[f"<unused{unused}>"] = unused
    if vocab_size != ENGLISH_VOCAB_SIZE:
        # Only OpenAI's multilingual models have an empty token here; CTranslate2 recognises them by it
        # (src/models/whisper.cc).
        vocab[""] = len(vocab)
    tokenizer = WhisperTokenizer(vocab=vocab, merges=merges, model_max_length=1024 * 1024)
    specials = special_tokens(WHISPER_VOCAB_SIZES.get(vocab_size, 99))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    # The list must end with <|notimestamps|>: transformers takes the id after it for <|0.00|>.
    tokenizer.add_special_tokens({"extra_special_tokens": specials[1:], "pad_token": END_OF_TEXT})
    # Not special, as in OpenAI's folders on the Hub: `skip_special_tokens` leaves timestamps to the tokenizer.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in time_tokens()])
    return tokenizer


def is_english_only(tokenizer: WhisperTokenizer) -> bool:
    """Whether it is GPT-2's tokenizer, used by OpenAI's English-only models (tiny.en), without languages and tasks."""
    return tokenizer.convert_tokens_to_ids(END_OF_TEXT) == ENGLISH_ONLY_TEXT_TOKENS


def first_timestamp(tokenizer: WhisperTokenizer) -> int:
    """Return the id of <|0.00|>, whether the tokenizer lists the timestamps or not."""
    return tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS) + 1


def text_only(tokenizer: WhisperTokenizer, ids: Iterable[int], timestamps: bool = False) -> list[int]:
    """Return the ids that are text.

    Special tokens and timestamps are recognised by their ids, from <|endoftext|> to <|30.00|>: the tokenizer's own list
    (`all_special_ids`) is missing in many folders. Tokens added after them are text unless they look special.

    Args:
        tokenizer: the model's.
        ids: ids of text and other tokens.
        timestamps: also keep the timestamps.
    """
    end, first = tokenizer.convert_tokens_to_ids(END_OF_TEXT), first_timestamp(tokenizer)

    def is_kept(index: int) -> bool:
        if index < first + TIMESTAMPS:
            return index < end or (timestamps and index >= first)
        return not f"{tokenizer.convert_ids_to_tokens(index)}".startswith("<|")

    return [index for index in ids if is_kept(index)]


def decode_text(tokenizer: WhisperTokenizer, ids: Iterable[int]) -> str:
    """Return the text of ids, without special tokens and timestamps."""
    return tokenizer.decode(text_only(tokenizer, ids))


def _train_bpe(lines: Iterable[str], bpe_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    # With threads, the trainer breaks ties differently from run to run.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Texts with spaces between words begin with one, as in Whisper's own training (see text/prompt.py).
    lines = [f" {line}" if " " in line else line for line in map(str.strip, lines) if line]
    if not lines:
        raise RecipeError("no text to build a tokenizer from", where="text", cure="give files with transcripts")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=bpe_size, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
