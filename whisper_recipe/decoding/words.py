"""When each word was spoken: the decoder's attention to the audio, aligned with the text.

The method is openai/whisper's (whisper/timing.py): the attention of the heads that follow the audio, normalised,
smoothed, and searched for the best monotonic path by dynamic time warping.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from transformers import WhisperTokenizer

from whisper_recipe.decoding.backends import Backend
from whisper_recipe.decoding.formats import Word
from whisper_recipe.model.ctranslate2_folder import require_alignment_heads
from whisper_recipe.text.normalize import text_language
from whisper_recipe.text.prompt import prompt_ids

FRAMES_PER_SECOND = 50  # of the encoder's output
MEDIAN_FILTER_WIDTH = 7  # frames, whisper/timing.py of openai/whisper
# Marks that belong to the word after or before them, as in whisper/timing.py.
BEFORE, AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


class Alignment(NamedTuple):
    """Pairs of (index in the text, frame of the encoder) in ascending order, and the probability of each token."""

    text: np.ndarray
    frames: np.ndarray
    probabilities: list[float]


def word_times(
    backend: Backend,
    tokenizer: WhisperTokenizer,
    features: torch.Tensor,
    num_frames: list[int],
    texts: list[list[int]],
    language: str,
    task: str,
) -> list[list[tuple[Word, int]]]:
    """Return each text's words, with times in seconds from the start of the features, and their numbers of ids.

    Args:
        backend: the model.
        tokenizer: its tokenizer.
        features: float32 (batch, mel bins, frames).
        num_frames: how many of the frames are not padding.
        texts: ids without special tokens; may be empty.
        language: Whisper's code, of all texts.
        task: of all texts.
    """
    *start, no_timestamps = prompt_ids(tokenizer, language, task)
    spoken = [row for row, text in enumerate(texts) if text]
    words: list[list[tuple[Word, int]]] = [[] for _ in texts]
    if spoken:
        align = _align_ctranslate2 if backend.name == "ct2" else _align_transformers
        alignments = align(
            backend,
            features[spoken],
            [num_frames[row] for row in spoken],
            (start, no_timestamps, tokenizer.eos_token_id),
            [texts[row] for row in spoken],
        )
        for row, alignment in zip(spoken, alignments, strict=True):
            words[row] = _words(alignment, texts[row], tokenizer, text_language(language, task))
    return words


Special = tuple[list[int], int, int]  # ids before the text, <|notimestamps|>, <|endoftext|>


def _align_ctranslate2(
    backend: Backend, features: torch.Tensor, num_frames: list[int], special: Special, texts: list[list[int]]
) -> list[Alignment]:
    import ctranslate2

    require_alignment_heads(backend.folder)
    results = backend.model.align(
        ctranslate2.StorageView.from_array(features.contiguous().numpy()),
        special[0],
        texts,
        num_frames,
        median_filter_width=MEDIAN_FILTER_WIDTH,
    )
    return [Alignment(*np.array(result.alignments).T, result.text_token_probs) for result in results]


def _align_transformers(
    backend: Backend, features: torch.Tensor, num_frames: list[int], special: Special, texts: list[list[int]]
) -> list[Alignment]:
    """Align one text at a time: attention is normalised over the tokens of one text."""
    start, no_timestamps, end = special
    model, implementation = backend.model, backend.model.config._attn_implementation
    heads = model.generation_config.alignment_heads
    model.set_attn_implementation("eager")  # the others don't return the attention
    try:
        alignments = []
        for utterance, frames, text in zip(features, num_frames, texts, strict=True):
            ids = torch.tensor([[*start, no_timestamps, *text, end]], device=model.device)
            with torch.inference_mode():
                output = model(
                    utterance[None].to(model.device, model.dtype), decoder_input_ids=ids, output_attentions=True
                )
            attention = torch.stack([output.cross_attentions[layer][0, head] for layer, head in heads]).float()
            # The rows that predict the text's ids, over the text tokens alone: they come before the end token.
            probabilities = output.logits[0, len(start) : -2, :end].float().softmax(-1)
            probabilities = probabilities[range(len(text)), text].tolist()
            alignments.append(Alignment(*_path(attention[..., : frames // 2], len(start)), probabilities))
    finally:
        model.set_attn_implementation(implementation)
    return alignments


def _path(attention: torch.Tensor, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best path through attention (heads, ids, frames) from row `first` to the last but one."""
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

    attention = attention / attention.sum(-1, keepdim=True)
    deviation, mean = torch.std_mean(attention, dim=-2, keepdim=True, correction=0)
    attention = _median_filter((attention - mean) / deviation.clamp(min=1e-9), MEDIAN_FILTER_WIDTH)
    return _dynamic_time_warping(-attention.mean(0)[first:-1].double().cpu().numpy())


def _words(alignment: Alignment, text: list[int], tokenizer: WhisperTokenizer, language: str) -> list[tuple[Word, int]]:
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import merge_punctuations

    splitter = Tokenizer(tokenizer.backend_tokenizer, True, "transcribe", language)
    strings, pieces = splitter.split_to_word_tokens([*text, tokenizer.eos_token_id])
    # The times at which the path enters each id of the text and the end token.
    times = alignment.frames[np.diff(alignment.text, prepend=-1) > 0] / FRAMES_PER_SECOND
    bounds = np.cumsum([0, *map(len, pieces[:-1])])
    words = [
        {
            "word": string,
            "tokens": piece,
            "start": times[first],
            "end": times[last],
            # Product over all tokens; openai/whisper uses the mean, which is high for a long word with one wrong token.
            "probability": np.prod(alignment.probabilities[first:last]),
        }
        for string, piece, first, last in zip(strings[:-1], pieces[:-1], bounds, bounds[1:], strict=False)
    ]
    merge_punctuations(words, BEFORE, AFTER)
    return [
        (Word(float(word["start"]), float(word["end"]), word["word"], float(word["probability"])), len(word["tokens"]))
        for word in words
        if word["word"]
    ]
