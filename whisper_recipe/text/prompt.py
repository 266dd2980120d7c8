"""What the decoder starts from and what it learns to write: Whisper's token sequences for one utterance."""

from __future__ import annotations

from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES
from whisper_recipe.text.tokenizer import END_OF_TEXT, NO_TIMESTAMPS, START_OF_TRANSCRIPT

MAX_SECONDS = 30  # of audio in one input
MAX_TOKENS = 448  # positions of Whisper's decoder, the start token included


def prompt_ids(tokenizer: WhisperTokenizer, language: str, task: str) -> list[int]:
    """Return the ids of `<|startoftranscript|><|language|><|task|><|notimestamps|>`.

    Raises:
        RecipeError: the tokenizer does not know the language (large-v3's Cantonese in an older model).
    """
    tokens = [START_OF_TRANSCRIPT, f"<|{language}|>", f"<|{task}|>", NO_TIMESTAMPS]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    for token, index in zip(tokens, ids, strict=True):
        if index is None or index == tokenizer.unk_token_id:
            raise RecipeError(f"the model's tokenizer has no {token}", where=language, cure="use another base model")
    return ids


def text_ids(tokenizer: WhisperTokenizer, text: str, language: str, task: str) -> list[int]:
    """Return the ids of a text as Whisper writes it: with a leading space where words are separated by spaces."""
    spaced = task == "translate" or language not in CHARACTER_LANGUAGES
    text = f" {text.strip()}" if spaced else text.strip()
    return tokenizer(text, add_special_tokens=False).input_ids


def training_ids(tokenizer: WhisperTokenizer, text: str, language: str, task: str) -> tuple[list[int], list[int]]:
    """Return (decoder input ids, labels) of one utterance, equally long; the labels are the inputs one step ahead.

    The inputs begin with the one start token, the labels with the language token; the labels end with the one end
    token.
    """
    ids = [*prompt_ids(tokenizer, language, task), *text_ids(tokenizer, text, language, task)]
    ids.append(tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    return ids[:-1], ids[1:]
