"""Additions to a model's vocabulary: languages that Whisper lacks, and pieces of text. Existing ids don't change.

New languages are stored in the tokenizer's settings (`new_languages` in tokenizer_config.json), so every folder with
the tokenizer has them: {"mdw": "ln"} borrows <|ln|>, {"mdw": "mdw"} has its own token.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, write_json
from whisper_recipe.languages import LANGUAGES, language_code
from whisper_recipe.text.tokenizer import TIMESTAMPS, first_timestamp, is_english_only, text_only

RECORD = "new_languages"  # in tokenizer_config.json
FIRST_PRIVATE = 0xF0000  # start of Unicode's largest private-use area: room for 65,534 characters
Sources = dict[int, list[int]]  # new id -> the ids whose mean initialises its row


def new_languages(tokenizer: WhisperTokenizer) -> dict[str, str]:
    """Return the languages added to Whisper's: code -> code of the token used for it."""
    return tokenizer.init_kwargs.get(RECORD) or {}


def language_token(tokenizer: WhisperTokenizer, language: str) -> str:
    """Return the token of a language, its own or the borrowed one, whether or not the tokenizer has it."""
    return f"<|{new_languages(tokenizer).get(language, language)}|>"


def language_of(tokenizer: WhisperTokenizer, token: str) -> str:
    """Return the language of a token; for a borrowed token, the language that borrows it."""
    code = token.strip("<|>")
    return next((new for new, borrowed in new_languages(tokenizer).items() if borrowed == code), code)


def language_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    """Return the languages that have a token: code -> id."""
    vocabulary, new = tokenizer.get_vocab(), new_languages(tokenizer)
    tokens = {code: language_token(tokenizer, code) for code in (*LANGUAGES, *new)}
    return {code: vocabulary[token] for code, token in tokens.items() if token in vocabulary}


def add_languages(tokenizer: WhisperTokenizer, declared: Mapping[str, str]) -> Sources:
    """Add new languages to a tokenizer; return the added ids.

    Args:
        tokenizer: a multilingual tokenizer, modified in place.
        declared: code -> the language whose token it borrows; `new` for its own token, initialised to the mean of all
            languages; or `like CODE` for its own token, initialised to that language's.

    Raises:
        RecipeError: a language is unknown or already known to the model, one to borrow or start from is not known to
            it, or the model is English-only.
    """
    if declared and is_english_only(tokenizer):
        raise RecipeError("the model is English-only", where="new_languages", cure="use a multilingual model")
    known, sources = language_ids(tokenizer), {}
    for name, how in declared.items():
        option = f"new_languages.{name}"
        code = language_code(name, option)
        if code in known:
            what = f"the model already knows {LANGUAGES.get(code, code)}"
            raise RecipeError(what, where=option, cure="leave it out of new_languages")
        kind, _, other = how.strip().rpartition(" ")
        if kind not in ("", "like"):
            raise RecipeError(f"{how!r} is not a valid value", where=option, cure="use CODE, new, or 'like CODE'")
        model = None if other == "new" and not kind else language_code(other, option)
        if model not in (None, *known):
            cure = f"use one of {', '.join(list(known)[:12])} and so on"
            raise RecipeError(f"the model does not know the language {model}", where=option, cure=cure)
        borrows = model is not None and not kind
        token = language_token(tokenizer, model if borrows else code)
        tokenizer.init_kwargs[RECORD] = new_languages(tokenizer) | {code: token.strip("<|>")}
        if not borrows:
            tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)])
            sources[tokenizer.convert_tokens_to_ids(token)] = [known[model]] if model else sorted({*known.values()})
    return sources


def borrow_languages(tokenizer: WhisperTokenizer, declared: Mapping[str, str]) -> None:
    """Let languages borrow tokens for decoding; languages that the model knows keep their tokens.

    Raises:
        RecipeError: as in `add_languages`, or a token would have to be added.
    """
    known = language_ids(tokenizer)
    for name, how in declared.items():
        option = f"new_languages.{name}"
        if language_code(name, option) not in known and add_languages(tokenizer, {name: how}):
            raise RecipeError("only training can add a token", where=option, cure="use the language to borrow from")


def exchange_ids(tokenizer: WhisperTokenizer, first: str, second: str) -> WhisperTokenizer:
    """Return a tokenizer in which the ids of two special tokens are swapped."""
    ids = dict(zip((first, second), tokenizer.convert_tokens_to_ids([second, first]), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        path = Path(folder) / "tokenizer.json"
        state = read_json(path)
        for token in state["added_tokens"]:
            token["id"] = ids.get(token["content"], token["id"])
        state["added_tokens"].sort(key=itemgetter("id"))
        vocabulary = state["model"]["vocab"]
        vocabulary.update((token, index) for token, index in ids.items() if token in vocabulary)
        write_json(path, state)
        return WhisperTokenizer.from_pretrained(folder)


def added_pieces(tokenizer: WhisperTokenizer) -> list[int]:
    """Return the ids of the pieces of text that follow the time tokens."""
    return text_only(tokenizer, range(first_timestamp(tokenizer) + TIMESTAMPS, len(tokenizer)))


def add_pieces(tokenizer: WhisperTokenizer, lines: Iterable[str], count: int) -> Sources:
    """Continue the training of a tokenizer's byte-level BPE on text; return the added ids.

    Existing merges are applied first, so only the pieces that they leave are merged further.

    Args:
        tokenizer: modified in place.
        lines: texts as the model writes them, with a leading space if words are separated by spaces.
        count: maximum number of new tokens.
    """
    # With threads, the trainer breaks ties differently from run to run.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    backend = tokenizer.backend_tokenizer
    words, bpe = pre_tokenizers.ByteLevel(add_prefix_space=False), Tokenizer(backend.model)
    # Each token becomes one private-use character, so that the trainer treats tokens as letters.
    spelled = [
        " ".join("".join(chr(FIRST_PRIVATE + index) for index in bpe.encode(word).ids) for word, _ in pieces)
        for pieces in map(words.pre_tokenize_str, lines)
    ]
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = set().union(*spelled) - {" "}
    learner.train_from_iterator(
        spelled, trainers.BpeTrainer(vocab_size=len(letters) + count, min_frequency=2, show_progress=False)
    )
    # Including the special tokens: a BPE's ids must have no gaps.
    vocabulary = tokenizer.get_vocab()
    tokens = tokenizer.convert_ids_to_tokens(range(len(vocabulary)))
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    sources: Sources = {}
    for pair in json.loads(learner.to_str())["model"]["merges"]:
        left, right = ([ord(letter) - FIRST_PRIVATE for letter in part] for part in pair)
        merges.append(tuple("".join(tokens[index] for index in part) for part in (left, right)))
        piece = "".join(merges[-1])
        if piece not in vocabulary:  # else it exists, but the earlier merges never produced it
            vocabulary[piece] = len(vocabulary)
            sources[vocabulary[piece]] = [*left, *right]
    backend.model = models.BPE(vocabulary, merges)
    return sources
