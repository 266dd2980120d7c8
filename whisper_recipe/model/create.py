"""A small Whisper with random weights: a base model for recipes and tests that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require, written_aside
from whisper_recipe.languages import LANGUAGES
from whisper_recipe.model.load import save_model
from whisper_recipe.tasks import TASKS
from whisper_recipe.text.tokenizer import END_OF_TEXT, NO_TIMESTAMPS, START_OF_TRANSCRIPT, build_tokenizer


def init_model(
    out: Path,
    text: list[Path],
    vocab_size: Literal[0, 51865, 51866] = 0,
    bpe_size: int = 500,
    d_model: int = 160,
    encoder_layers: int = 3,
    decoder_layers: int = 2,
    attention_heads: int = 4,
    dropout: float = 0.0,
    num_mel_bins: Literal[80, 128] = 80,
    seed: int = 1,
) -> None:
    """Create a Whisper model with random weights and a byte-level BPE trained on text.

    Args:
        out: the model folder to write.
        text: Kaldi `text` files; what follows the id is the training text of the BPE.
        vocab_size: 0 is as small as the BPE allows; 51865 and 51866 are OpenAI's layouts, ids included.
        bpe_size: BPE tokens at most, the 256 bytes included.
        d_model: width of the model; OpenAI's tiny has 384.
        encoder_layers: layers of the encoder; tiny has 4.
        decoder_layers: layers of the decoder; tiny has 4.
        attention_heads: heads of every attention; tiny has 6.
        dropout: dropout while training.
        num_mel_bins: mel bins of the features; 128 is large-v3's.
        seed: of the random weights.

    Raises:
        RecipeError: a text file is missing, or the numbers don't fit each other.
    """
    if d_model % attention_heads or d_model % 2:
        raise RecipeError(
            f"d_model {d_model} can't be shared out among {attention_heads} heads",
            where="d_model",
            cure="use an even multiple of attention_heads",
        )
    tokenizer = build_tokenizer(_transcripts(text), bpe_size, vocab_size)
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=num_mel_bins,
            d_model=d_model,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            encoder_attention_heads=attention_heads,
            decoder_attention_heads=attention_heads,
            encoder_ffn_dim=4 * d_model,
            decoder_ffn_dim=4 * d_model,
            dropout=dropout,
            # transformers' 0.02 is meant for wide models; a narrow one takes many steps more to start learning.
            init_std=d_model**-0.5,
            **_token_ids(tokenizer),
        )
    )
    model.generation_config = _generation_config(tokenizer, decoder_layers, attention_heads)
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=num_mel_bins), tokenizer)
    with written_aside(out) as aside:
        save_model(aside, model, processor)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, {num_mel_bins} mel bins")


def _transcripts(paths: list[Path]):
    for path in paths:
        with open(require(path, "give Kaldi text files"), encoding="utf-8") as file:
            for line in file:
                yield line.partition(" ")[2]


def _token_ids(tokenizer: WhisperTokenizer) -> dict[str, int]:
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    start = tokenizer.convert_tokens_to_ids(START_OF_TRANSCRIPT)
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def _generation_config(tokenizer: WhisperTokenizer, decoder_layers: int, attention_heads: int) -> GenerationConfig:
    """What `generate` needs to know of a multilingual Whisper, with the keys of OpenAI's folders on the hub."""
    ids = tokenizer.convert_tokens_to_ids
    languages = [f"<|{code}|>" for code in LANGUAGES if f"<|{code}|>" in tokenizer.get_vocab()]
    upper = range(decoder_layers // 2, decoder_layers)
    return GenerationConfig(
        **_token_ids(tokenizer),
        lang_to_id={token: ids(token) for token in languages},
        task_to_id={task: ids(f"<|{task}|>") for task in TASKS},
        no_timestamps_token_id=ids(NO_TIMESTAMPS),
        prev_sot_token_id=ids("<|startofprev|>"),
        is_multilingual=True,
        return_timestamps=False,
        max_length=448,
        max_initial_timestamp_index=50,
        # Tokens that never are text; as in OpenAI's folders, which also keep some punctuation out.
        suppress_tokens=sorted(
            {ids(START_OF_TRANSCRIPT), ids("<|startoflm|>"), ids("<|startofprev|>"), ids("<|nospeech|>")}
            | {ids(f"<|{task}|>") for task in TASKS}
        ),
        begin_suppress_tokens=[ids(END_OF_TEXT)],
        # All heads of the upper half, as CTranslate2 takes them where a model names none.
        alignment_heads=[[layer, head] for layer in upper for head in range(attention_heads)],
    )
