"""Checkpoints in OpenAI's format (small.pt): imported as plain Hugging Face Whisper folders, and made from models."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require
from whisper_recipe.model.generation import make_generation_config, special_token_ids
from whisper_recipe.model.load import load_processor, save_model
from whisper_recipe.text.tokenizer import NO_TIMESTAMPS, TIMESTAMPS

# ModelDimensions of openai/whisper (whisper/model.py) -> transformers' WhisperConfig.
DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_vocab": "vocab_size",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# Parts of the weights' names in openai/whisper -> in transformers, replaced in this order.
NAMES = (
    ("blocks.", "layers."),
    ("cross_attn_ln.", "encoder_attn_layer_norm."),
    ("attn_ln.", "self_attn_layer_norm."),
    ("mlp_ln.", "final_layer_norm."),
    ("cross_attn.", "encoder_attn."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    ("mlp.0.", "fc1."),
    ("mlp.2.", "fc2."),
    ("encoder.ln_post.", "encoder.layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."),
    ("token_embedding.", "embed_tokens."),
    ("positional_embedding", "embed_positions.weight"),
)
# The checkpoint contains no tokenizer; all of OpenAI's models with the same vocabulary size share one.
TOKENIZERS = {51864: "openai/whisper-tiny.en", 51865: "openai/whisper-tiny", 51866: "openai/whisper-large-v3"}


def import_checkpoint(checkpoint: Path, out: Path, tokenizer: str | None = None) -> None:
    """Convert a checkpoint in OpenAI's format to a Whisper folder, in its own precision.

    Args:
        checkpoint: OpenAI's file (tiny.pt ... large-v3.pt), or a file in the same format from another program.
        out: the folder to write.
        tokenizer: a Whisper folder, or a name on the Hub, with the checkpoint's tokenizer; by default
            that of one of OpenAI's models with the same vocabulary size.

    Raises:
        RecipeError: the file can't be read, is not a Whisper model, or the tokenizer is not the checkpoint's.
    """
    dims, weights = _read(checkpoint)
    tokenizer = tokenizer or TOKENIZERS.get(dims["n_vocab"])
    if tokenizer is None:
        what = f"OpenAI has no model with {dims['n_vocab']} tokens"
        raise RecipeError(what, where=checkpoint, cure="give its --tokenizer")
    own = load_processor(tokenizer).tokenizer
    # The timestamps end the vocabulary, right after this token.
    if own.convert_tokens_to_ids(NO_TIMESTAMPS) != dims["n_vocab"] - TIMESTAMPS - 1:
        what = f"its ids differ from those of OpenAI's vocabulary of {dims['n_vocab']} tokens"
        raise RecipeError(what, where=tokenizer, cure="give the model's own --tokenizer")
    sizes = {theirs: dims[ours] for ours, theirs in DIMENSIONS.items()}
    sizes |= {"encoder_ffn_dim": 4 * sizes["d_model"], "decoder_ffn_dim": 4 * sizes["d_model"]}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **special_token_ids(own)))
    try:
        model.model.load_state_dict({_renamed(name): weight for name, weight in weights.items()})
    except RuntimeError as error:
        what = f"its weights don't fit its dims ({' '.join(str(error).split())})"
        raise RecipeError(what, where=checkpoint, cure="download it again") from error
    model.to(weights["decoder.token_embedding.weight"].dtype)
    model.generation_config = make_generation_config(own, model.config, checkpoint.stem)
    with atomic_write(out) as aside:
        save_model(aside, model, WhisperProcessor(WhisperFeatureExtractor(feature_size=dims["n_mels"]), own))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {parameters / 1e6:.2f} M parameters, {dims['n_vocab']} tokens, {dims['n_mels']} mel bins")


def _read(path: Path) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """Return the dims and the weights of a checkpoint, without running any code in it."""
    try:
        content = torch.load(require(path, "give OpenAI's file"), map_location="cpu", weights_only=True)
    except RecipeError:
        raise
    except Exception as error:  # pickle, zipfile and torch each raise their own types
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(f"can't be read ({reason})", where=path, cure="download it again") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("dims", "model_state_dict")]
    if not all(isinstance(part, dict) for part in parts):
        cure = "give OpenAI's file, or a Hugging Face folder"
        raise RecipeError("no dims and model_state_dict, as in OpenAI's files", where=path, cure=cure)
    dims, weights = parts
    if missing := [name for name in DIMENSIONS if not isinstance(dims.get(name), int)]:
        raise RecipeError(f"its dims have no {missing[0]}", where=path, cure="download it again")
    return dims, weights


def openai_dims(model: WhisperForConditionalGeneration, tokens: int) -> dict[str, int]:
    """Return openai/whisper's ModelDimensions of a model with this number of tokens."""
    return {ours: getattr(model.config, theirs) for ours, theirs in DIMENSIONS.items()} | {"n_vocab": tokens}


def openai_weights(model: WhisperForConditionalGeneration, tokens: int) -> dict[str, torch.Tensor]:
    """Return a model's weights under their names in openai/whisper; they share memory with the model.

    Args:
        model: a Whisper model.
        tokens: number of its tokenizer's tokens; embedding rows beyond them are padding and dropped.
    """
    weights = {_original(name): weight for name, weight in model.model.state_dict().items()}
    embedding = "decoder.token_embedding.weight"
    return weights | {embedding: weights[embedding][:tokens]}


def _original(name: str) -> str:
    for theirs, ours in reversed(NAMES):
        name = name.replace(ours, theirs)
    return name


def _renamed(name: str) -> str:
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name
