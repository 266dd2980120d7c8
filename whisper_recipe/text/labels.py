"""Decoder input ids and labels of one utterance."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import WhisperTokenizer

from whisper_recipe.text.prompt import MAX_TOKENS, no_speech_id, previous_ids, prompt_ids, text_ids, time_token
from whisper_recipe.text.tokenizer import END_OF_TEXT, START_OF_TRANSCRIPT

IGNORED = -100  # label that the loss ignores


def training_ids(
    tokenizer: WhisperTokenizer,
    text: str,
    language: str,
    task: str,
    segments: Sequence[tuple[float, float, str]] = (),
    previous: str = "",
) -> tuple[list[int], list[int]]:
    """Return (decoder input ids, labels) of one utterance, of equal length; the labels are the inputs one step ahead.

    The inputs begin with the start token, or with the previous text, whose labels are ignored; the labels end with the
    end token. An empty text is no speech: `<|startoftranscript|><|nospeech|><|endoftext|>`, as in figure 1 of
    Whisper's paper (https://arxiv.org/abs/2212.04356).

    Args:
        tokenizer: the model's.
        text: the text that the model should write.
        language: Whisper's code.
        task: transcribe or translate.
        segments: (start, end, text) in seconds; if given, they are written with their times in place of the text.
        previous: the previous text; truncated to its last tokens if it is long.
    """
    if text:
        start, *prompt, no_timestamps = prompt_ids(tokenizer, language, task)
        written = timed_ids(tokenizer, segments, language, task) if segments else None
        body = [*prompt, *(written or [no_timestamps, *text_ids(tokenizer, text, language, task)])]
    else:
        start, body = tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT), [no_speech_id(tokenizer)]
    ids = [start, *body, tokenizer.convert_tokens_to_ids(END_OF_TEXT)]
    before = previous_ids(tokenizer, previous, language, task, room=MAX_TOKENS - len(ids) + 1) if previous else []
    return [*before, *ids[:-1]], [*[IGNORED] * len(before), *ids[1:]]


def timed_ids(
    tokenizer: WhisperTokenizer, segments: Sequence[tuple[float, float, str]], language: str, task: str
) -> list[int]:
    """Return the ids of segments between their times: `<|0.00|> hello<|1.20|><|1.40|> you<|2.00|>`."""
    ids = []
    for start, end, text in segments:
        first, last = (tokenizer.convert_tokens_to_ids(time_token(seconds)) for seconds in (start, end))
        ids += [first, *text_ids(tokenizer, text, language, task), last]
    return ids
