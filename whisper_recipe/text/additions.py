"""What a model's vocabulary gains: languages that Whisper lacks, and pieces of text. Old ids stay as they are.

A tokenizer keeps how its new languages are written among its own settings (`new_languages` in tokenizer_config.json):
{"mdw": "ln"} borrows <|ln|>, {"mdw": "mdw"} has a token of its own. So every folder that holds the tokenizer knows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES, advice_on, language_code

RECORD = "new_languages"  # in tokenizer_config.json
FIRST_PRIVATE = 0xF0000  # of Unicode's largest private area: room for 65,534 characters
Sources = dict[int, list[int]]  # a new id -> the ids that its row begins as the mean of


def new_languages(tokenizer: WhisperTokenizer) -> dict[str, str]:
    """Return the languages that were added to Whisper's: code -> code of the token that it is written with."""
    return tokenizer.init_kwargs.get(RECORD) or {}


def language_token(tokenizer: WhisperTokenizer, language: str) -> str:
    """Return the token of a language, whether the tokenizer has it or not: its own, or the one that it borrows."""
    return f"<|{new_languages(tokenizer).get(language, language)}|>"


def language_of(tokenizer: WhisperTokenizer, token: str) -> str:
    """Return the language that a token means: of a borrowed token the one that the model was trained to write."""
    code = token.strip("<|>")
    return next((new for new, borrowed in new_languages(tokenizer).items() if borrowed == code), code)


def require_languages(tokenizer: WhisperTokenizer, languages: Iterable[str], where: str) -> None:
    """Raise RecipeError where the tokenizer has no token for one of the languages; it suggests related ones."""
    vocabulary = tokenizer.get_vocab()
    for language in languages:
        if language_token(tokenizer, language) not in vocabulary:
            raise RecipeError(f"the model does not know the language {language}", where=where, cure=advice_on(language))


def add_languages(tokenizer: WhisperTokenizer, declared: Mapping[str, str]) -> Sources:
    """Teach a tokenizer how new languages are written; return the ids that it gained.

    Args:
        tokenizer: a multilingual one; it changes in place.
        declared: code -> a language whose token it borrows; `new` for a token of its own, which begins as the mean of
            all languages; or `like CODE`, which begins as that language's.

    Raises:
        RecipeError: a language is unknown or known to the model already, or one that it should be like is not.
    """
    known, sources = _language_ids(tokenizer), {}
    for name, how in declared.items():
        option = f"new_languages.{name}"
        code = language_code(name, option)
        if code in known:
            what = f"the model knows {LANGUAGES.get(code, code)} already"
            raise RecipeError(what, where=option, cure="leave it out of new_languages")
        kind, _, other = how.strip().rpartition(" ")
        if kind not in ("", "like"):
            raise RecipeError(f"{how!r} is not a way to write it", where=option, cure="use CODE, new, or 'like CODE'")
        model = None if other == "new" and not kind else language_code(other, option)
        if model not in (None, *known):
            cure = f"use one of {', '.join(list(known)[:12])} and so on"
            raise RecipeError(f"the model does not know the language {model}", where=option, cure=cure)
        borrowed = bool(model) and not kind
        tokenizer.init_kwargs[RECORD] = new_languages(tokenizer) | {code: model if borrowed else code}
        if not borrowed:
            token = language_token(tokenizer, code)
            tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)])
            sources[tokenizer.convert_tokens_to_ids(token)] = [known[model]] if model else list(known.values())
    return sources


def _language_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    """Return the languages that have a token: code -> id."""
    vocabulary, new = tokenizer.get_vocab(), new_languages(tokenizer)
    tokens = {code: language_token(tokenizer, code) for code in (*LANGUAGES, *new)}
    return {code: vocabulary[token] for code, token in tokens.items() if token in vocabulary}


def add_pieces(tokenizer: WhisperTokenizer, lines: Iterable[str], count: int) -> Sources:
    """Let a tokenizer's byte-level BPE go on learning, on a text; return the ids that it gained.

    The merges that it has come first, so only what they leave in pieces is merged further.

    Args:
        tokenizer: it changes in place.
        lines: texts as the model writes them, with a leading space where words are separated by spaces.
        count: of new tokens at most.
    """
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    vocabulary = state["model"]["vocab"] | {token["content"]: token["id"] for token in state["added_tokens"]}
    words, before = pre_tokenizers.ByteLevel(add_prefix_space=False), Tokenizer(backend.model)
    # A token stands as one private character, so that the trainer takes tokens for letters.
    spelled = (
        " ".join("".join(chr(FIRST_PRIVATE + index) for index in before.encode(word).ids) for word, _ in pieces)
        for pieces in map(words.pre_tokenize_str, lines)
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = Tokenizer(models.BPE())
    spelled = list(spelled)
    alphabet = len({letter for line in spelled for letter in line} - {" "})
    del letters
    trainer = trainers.BpeTrainer(vocab_size=alphabet + count, show_progress=False)
    learner.train_from_iterator(spelled, trainer)
    tokens = {index: token for token, index in vocabulary.items()}
    sources: Sources = {}
    for pair in json.loads(learner.to_str())["model"]["merges"]:
        ids = [ord(letter) - FIRST_PRIVATE for part in pair for letter in part]
        left, right = ("".join(tokens[ord(letter) - FIRST_PRIVATE] for letter in part) for part in pair)
        state["model"]["merges"].append([left, right])
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            sources[vocabulary[left + right]] = ids
    state["model"]["vocab"] = vocabulary
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return sources
