"""A CTranslate2 Whisper folder -> a plain Hugging Face Whisper folder."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
from whisper_recipe.files import atomic_write, read_json, require
from whisper_recipe.model.ctranslate2_folder import WEIGHTS, read_number, read_string, vocabulary
from whisper_recipe.model.generation import make_generation_config, special_token_ids
from whisper_recipe.model.load import load_tokenizer, read_training_record, save_model
from whisper_recipe.text.vocabulary import merges_of, tokenizer_of

CURE = "copy the folder again"
# ctranslate2/specs/model_spec.py: `_serialize` writes the file, and the types are numbered in this order.
VERSIONS = (4, 5, 6)  # the same layout; they differ in how int8 was rounded
REVISION = 3  # of WhisperSpec; CTranslate2 itself rejects older ones
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.int16)
# Modules in CTranslate2 -> the modules in transformers that they stack.
MODULES = {
    "conv1": ("conv1",),
    "conv2": ("conv2",),
    "embeddings": ("embed_tokens",),
    "position_encodings": ("embed_positions",),
    "layer_norm": ("layer_norm",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
PARAMETERS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
# Keys of CTranslate2's config.json -> of generation_config.json.
LISTED = {
    "suppress_ids": "suppress_tokens",
    "suppress_ids_begin": "begin_suppress_tokens",
    "alignment_heads": "alignment_heads",
}


class Weights(NamedTuple):
    """The contents of model.bin, under CTranslate2's names, with aliases resolved and integers dequantised."""

    tensors: dict[str, torch.Tensor]
    dequantized: bool


def import_folder(folder: Path, out: Path, tokenizer: str | None = None) -> None:
    """Convert a CTranslate2 Whisper folder to a Hugging Face one, in its own precision; integers become float32.

    Args:
        folder: a folder with model.bin, config.json and vocabulary.json or vocabulary.txt; tokenizer.json and
            generation_config.json are used if present.
        out: the folder to write.
        tokenizer: a Whisper folder, or a name on the Hub, with the model's tokenizer.

    Raises:
        RecipeError: a file is missing or damaged, or it is not a Whisper model.
    """
    weights = read_weights(folder / WEIGHTS)
    try:
        sizes = _sizes(weights.tensors)
        state = dict(_renamed(weights.tensors))
    except KeyError as error:
        raise RecipeError(f"{error} is missing", where=folder / WEIGHTS, cure=CURE) from None
    own = load_tokenizer(tokenizer) if tokenizer else _tokenizer(folder, sizes["vocab_size"])
    if len(own) != sizes["vocab_size"]:
        what = f"the tokenizer has {len(own)} tokens, but the weights have {sizes['vocab_size']}"
        raise RecipeError(what, where=tokenizer or folder, cure="give the model's own --tokenizer")
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **special_token_ids(own)))
    try:
        model.model.load_state_dict(state)
    except RuntimeError as error:
        what = f"its weights are not Whisper's ({' '.join(str(error).split())})"
        raise RecipeError(what, where=folder / WEIGHTS, cure=CURE) from error
    precision = torch.float32 if weights.dequantized else weights.tensors["decoder/embeddings/weight"].dtype
    model.to(precision)
    model.generation_config = _generation_config(folder, own, model.config)
    extractor = WhisperFeatureExtractor(feature_size=sizes["num_mel_bins"])
    with atomic_write(out) as aside:
        save_model(aside, model, WhisperProcessor(extractor, own), read_training_record(folder))
    print(
        f"{out}: {sum(map(torch.numel, model.parameters())) / 1e6:.2f} M parameters, {len(own)} tokens, "
        f"{sizes['num_mel_bins']} mel bins, {str(precision).removeprefix('torch.')}"
        + (" (dequantised from integers, with their rounding errors)" if weights.dequantized else "")
    )


def read_weights(path: Path) -> Weights:
    """Read model.bin.

    Raises:
        RecipeError: it is missing, truncated, or of another kind or version.
    """
    with open(require(path, "give a CTranslate2 folder"), "rb") as file:
        try:
            version, name, revision = read_number(file, "I"), read_string(file), read_number(file, "I")
            if version not in VERSIONS or name != "WhisperSpec" or revision != REVISION:
                what = f"it is {name[:40]!r}, revision {revision}, in version {version} of CTranslate2's format"
                raise RecipeError(what, where=path, cure=f"give a WhisperSpec of revision {REVISION}")
            tensors = dict(_variable(file) for _ in range(read_number(file, "I")))
            aliases = {read_string(file): read_string(file) for _ in range(read_number(file, "I"))}
            for alias, target in aliases.items():
                tensors[alias] = tensors[target]
                if f"{target}_scale" in tensors:
                    tensors[f"{alias}_scale"] = tensors[f"{target}_scale"]
        except (struct.error, ValueError, IndexError, KeyError, RuntimeError):
            raise RecipeError("it is damaged or truncated, or not CTranslate2's", where=path, cure=CURE) from None
    quantized = [name for name, tensor in tensors.items() if f"{name}_scale" in tensors and tensor.dtype in INTEGERS]
    for name in quantized:
        scale = tensors[f"{name}_scale"].float()
        # One scale for the matrix (int16) or for each of its rows.
        tensors[name] = tensors[name].float() / scale.reshape(-1, *[1] * (tensors[name].dim() - 1))
    return Weights(tensors, bool(quantized))


def _variable(file: BinaryIO) -> tuple[str, torch.Tensor]:
    name = read_string(file)
    shape = [read_number(file, "I") for _ in range(read_number(file, "B"))]
    kind, size = TYPES[read_number(file, "B")], read_number(file, "I")
    tensor = torch.frombuffer(bytearray(file.read(size)), dtype=kind)
    if tensor.nbytes != size:
        raise ValueError
    return name, tensor.reshape(shape)


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Return the sizes of the model, under the names of WhisperConfig."""
    vocab_size, d_model = tensors["decoder/embeddings/weight"].shape
    sizes = {"vocab_size": vocab_size, "d_model": d_model, "num_mel_bins": tensors["encoder/conv1/weight"].shape[1]}
    for side, positions in (("encoder", "source"), ("decoder", "target")):
        layers = {name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_") and name.count("/") > 2}
        sizes |= {
            f"{side}_layers": len(layers),
            f"{side}_attention_heads": int(tensors[f"{side}/num_heads"]),
            f"{side}_ffn_dim": len(tensors[f"{side}/layer_0/ffn/linear_0/weight"]),
            f"max_{positions}_positions": len(tensors[f"{side}/position_encodings/encodings"]),
        }
    return sizes


def _renamed(tensors: dict[str, torch.Tensor]):
    """Yield names and tensors as in transformers' WhisperModel."""
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(encoder|decoder)/(?:layer_(\d+)/)?(.+)/(\w+)", name)
        if not found or found[3] not in MODULES or found[4] not in PARAMETERS:
            continue  # numbers of heads, scales, and the output layer, which shares the embeddings
        prefix = f"{found[1]}." if found[2] is None else f"{found[1]}.layers.{found[2]}."
        modules = MODULES[found[3]]
        for module, part in zip(modules, tensor.chunk(len(modules)), strict=True):
            # CTranslate2 adds a bias of keys, which Whisper lacks: it changes all scores of a query equally.
            if not module.endswith("k_proj") or found[4] != "bias":
                yield f"{prefix}{module}.{PARAMETERS[found[4]]}", part
    if not torch.equal(tensors["decoder/projection/weight"], tensors["decoder/embeddings/weight"]):
        raise KeyError("a shared matrix of decoder/projection and decoder/embeddings")


def _tokenizer(folder: Path, vocab_size: int) -> WhisperTokenizer:
    """Return the tokenizer of tokenizer.json if it is complete, else one built from the vocabulary."""
    tokens = vocabulary(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        tokenizer = load_tokenizer(folder)
        # Many converted folders have an early version: without timestamps, or without the first merge, "Ġ t".
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        ranks = {token: rank for rank, token in enumerate(tokens[: tokenizer.convert_tokens_to_ids("<|endoftext|>")])}
        if len(tokenizer) == vocab_size and len(merges) >= len(merges_of(ranks)):
            return tokenizer
        print(f"{path} lacks timestamps or merges: building the tokenizer from the vocabulary")
    return tokenizer_of(tokens, folder)


def _generation_config(folder: Path, tokenizer: WhisperTokenizer, config: WhisperConfig) -> GenerationConfig:
    """Return the folder's own generation config, or one with the values of CTranslate2's config.json.

    Its list of languages is not used: they are in the tokenizer, and some folders list other tokens too.
    """
    if (folder / "generation_config.json").exists():
        return GenerationConfig.from_dict(read_json(folder / "generation_config.json"))
    generation = make_generation_config(tokenizer, config)
    listed = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    for theirs, name in LISTED.items():
        if listed.get(theirs):
            setattr(generation, name, listed[theirs])
    return generation
