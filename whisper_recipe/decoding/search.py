"""Search options, which all backends share, and the prompt that the decoder starts from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.text.prompt import MAX_TOKENS, plain_ids, prompt_ids
from whisper_recipe.text.tokenizer import START_OF_PREVIOUS

MODELS_OWN = -1  # in suppress_tokens, as in openai/whisper


@dataclass
class SearchOptions:
    """Search options.

    Args:
        beam_size: hypotheses kept in the search; 1 is greedy.
        max_new_tokens: maximum number of tokens per hypothesis; Whisper's own limit is 224, half of its context.
        temperatures: the first is used for all utterances, the next for those with a hypothesis that fails one of the
            next two thresholds, and so on; 0 searches with beam_size, the others sample. Whisper's default:
            0 0.2 0.4 0.6 0.8 1.
        compression_ratio_threshold: a text that zlib compresses by more than this factor fails: it is a loop.
        logprob_threshold: a hypothesis with a lower average log-probability per token fails.
        no_speech_threshold: if <|nospeech|> is more likely than this and the hypothesis is below logprob_threshold, it
            is silence and gets no text; 1 disables the rule, and with logprob_threshold 0 <|nospeech|> alone decides.
        suppress_tokens: ids that are never written; -1 stands for the model folder's list.
        suppress_blank: never begin a hypothesis with the tokens that the model folder suppresses there: a space, the
            end token.
        no_repeat_ngram_size: never write a sequence of this many tokens twice; 0 disables this.
        repetition_penalty: values over 1 make tokens that have already been written less likely.
        prompt: preceding text; the model continues in its style and spelling.
        hotwords: names and terms to expect; they are placed before the prompt.

    Raises:
        RecipeError: a value is out of range.
    """

    beam_size: int = 1
    max_new_tokens: int = 224
    temperatures: list[float] = field(default_factory=lambda: [0.0])
    compression_ratio_threshold: float = 2.4  # this and the next two: openai/whisper, whisper/transcribe.py
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    suppress_tokens: list[int] = field(default_factory=lambda: [MODELS_OWN])
    suppress_blank: bool = True
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    prompt: str = ""
    hotwords: str = ""

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.temperatures, self.temperatures[1:], strict=False))
        for name, valid, expected in (
            ("beam_size", self.beam_size >= 1, "1 or more"),
            ("max_new_tokens", 1 <= self.max_new_tokens <= MAX_TOKENS // 2, f"between 1 and {MAX_TOKENS // 2}"),
            ("temperatures", rising and self.temperatures and self.temperatures[0] >= 0, "ascending, 0 or more"),
            ("no_speech_threshold", 0 <= self.no_speech_threshold <= 1, "between 0 and 1"),
            ("suppress_tokens", min(self.suppress_tokens, default=0) >= MODELS_OWN, "ids or -1"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "more than 0"),
        ):
            if not valid:
                raise RecipeError(f"must be {expected}, got {getattr(self, name)}", where=f"search.{name}")


def search_prompt(
    tokenizer: WhisperTokenizer,
    language: str,
    task: str,
    search: SearchOptions,
    said: Sequence[int] = (),
    timestamps: bool = False,
) -> list[int]:
    """Return the ids that the decoder starts from: hotwords, prompt and previous text, then language and task.

    The order is faster-whisper's. Without `said`, all prompts have the same length, as batches require.

    Args:
        tokenizer: the model's.
        language: Whisper's code.
        task: transcribe or translate.
        search: its hotwords and prompt.
        said: ids of the previous text; the last ones are used, as many as there is room for.
        timestamps: let the model write timestamps.

    Raises:
        RecipeError: the tokenizer does not know the language, or there is no room for hotwords and prompt.
    """
    ids = prompt_ids(tokenizer, language, task)[: -1 if timestamps else None]
    before: list[int] = []
    for text in filter(None, (search.hotwords.strip(), search.prompt.strip())):
        # With a leading space in every language, as in whisper/decoding.py of openai/whisper.
        before += plain_ids(tokenizer, f" {text}")
    # Half of the context minus <|startofprev|>, as in openai/whisper, and there must be room for the hypothesis.
    room = min(MAX_TOKENS // 2, MAX_TOKENS - len(ids) - search.max_new_tokens) - 1
    if len(before) > room:
        raise RecipeError(
            f"{len(before)} tokens, but there is room for {room}",
            where="search.prompt, hotwords",
            cure="shorten them",
        )
    before += said[max(len(said) - room + len(before), 0) :]
    return [tokenizer.convert_tokens_to_ids(START_OF_PREVIOUS), *before, *ids] if before else ids


def suppressed_ids(search: SearchOptions, models_own: list[int], vocab_size: int) -> list[int]:
    """Return the ids that are never written, with -1 replaced by the model's own list.

    Raises:
        RecipeError: the model has no such id.
    """
    asked = {token for token in search.suppress_tokens if token != MODELS_OWN}
    if asked and max(asked) >= vocab_size:
        raise RecipeError(
            f"the model has no token {max(asked)}", where="search.suppress_tokens", cure=f"use ids under {vocab_size}"
        )
    return sorted(asked | set(models_own if MODELS_OWN in search.suppress_tokens else ()))


def is_rejected(text: str, average_logprob: float, search: SearchOptions) -> bool:
    """Return whether a hypothesis fails the thresholds, by the rules of openai/whisper (whisper/transcribe.py)."""
    return is_loop(text, search) or average_logprob < search.logprob_threshold


def is_loop(text: str, search: SearchOptions) -> bool:
    """Return whether a text repeats itself more than speech does."""
    raw = text.strip().encode()
    return len(raw) / len(zlib.compress(raw)) > search.compression_ratio_threshold


def is_silence(no_speech_prob: float, average_logprob: float, search: SearchOptions) -> bool:
    """Return whether a hypothesis was made up for silence, by the rule of openai/whisper (whisper/transcribe.py)."""
    return no_speech_prob > search.no_speech_threshold and average_logprob < search.logprob_threshold
