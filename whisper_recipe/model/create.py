"""A small Whisper with random weights: a base model for recipes and tests that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require
from whisper_recipe.model.generation import make_generation_config, special_token_ids
from whisper_recipe.model.load import save_model
from whisper_recipe.text.tokenizer import build_tokenizer


def init_model(
    out: Path,
    text: list[Path],
    vocab_size: Literal[0, 51864, 51865, 51866] = 0,
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
        text: Kaldi `text` files to train the BPE on.
        vocab_size: 0 is as small as the BPE allows; 51864 (English-only), 51865 and 51866 (large-v3) are OpenAI's
            layouts, with the same ids.
        bpe_size: maximum number of BPE tokens, including the 256 bytes.
        d_model: width of the model; OpenAI's tiny has 384.
        encoder_layers: layers of the encoder; tiny has 4.
        decoder_layers: layers of the decoder; tiny has 4.
        attention_heads: heads of every attention layer; tiny has 6.
        dropout: dropout in training.
        num_mel_bins: mel bins of the features; large-v3 has 128.
        seed: random seed of the weights.

    Raises:
        RecipeError: a text file is missing, or the sizes don't match.
    """
    if d_model % attention_heads or d_model % 2:
        raise RecipeError(
            f"d_model {d_model} can't be divided among {attention_heads} heads",
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
            # transformers' 0.02 is meant for wide models; with it, narrow ones take many more steps to start learning.
            init_std=d_model**-0.5,
            **special_token_ids(tokenizer),
        )
    )
    model.generation_config = make_generation_config(tokenizer, model.config)
    processor = WhisperProcessor(WhisperFeatureExtractor(feature_size=num_mel_bins), tokenizer)
    with atomic_write(out) as aside:
        save_model(aside, model, processor)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, {num_mel_bins} mel bins")


def _transcripts(paths: list[Path]):
    for path in paths:
        with open(require(path, "give Kaldi text files"), encoding="utf-8") as file:
            for line in file:
                yield line.partition(" ")[2]
