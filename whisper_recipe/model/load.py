"""Loading Whisper models, adapters and processors from folders or the Hub, safely and with clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import transformers
from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require, write_json
from whisper_recipe.model.ctranslate2_folder import check_ids, is_ctranslate2, vocabulary
from whisper_recipe.model.precision import pick_precision
from whisper_recipe.text.tokenizer import complete_tokenizer

if TYPE_CHECKING:  # these take seconds to import, and a program that only needs the tokenizer need not wait for them
    from transformers import BitsAndBytesConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

# Its progress bars for reading and writing weights would clutter the output of a stage.
transformers.utils.logging.disable_progress_bar()

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
FEATURES = ("preprocessor_config.json", "processor_config.json")  # where transformers finds the feature extractor
MAX_PADDING = 128  # embedding rows beyond the tokenizer, up to a multiple of 8 or more
# Types of the training record's values, and of each row of its `data`.
RECORD_TYPES = {"natural_length": (int, float), "spare_frames": int, "timestamps": (int, float), "data": list,
         "train_cuts": list, "base_model": str, "lora": dict, "canaries": dict}  # fmt: skip
ROW_TYPES = {"language": str, "task": str, "utterances": int, "hours": (int, float)}
TRAINING_RECORD = "whisper_recipe.json"  # next to the weights: how the model was trained (see training/record.py)
# Share of the training cuts that must have timestamps for a model to be asked for them: a judgement, not measured.
TIMED_SHARE = 0.1


def load_model(name: str | Path, quantize: Literal["none", "8bit", "4bit"] = "none") -> WhisperForConditionalGeneration:
    """Load a Whisper model in float32, with an encoder that accepts inputs of any length up to 30 s.

    Args:
        name: a local folder, or a name on the Hub (`openai/whisper-small`). A local folder never causes network access.
        quantize: keep its matrices in 8 or 4 bits, with bitsandbytes.

    Raises:
        RecipeError: the folder or its weights are missing or can't be read, or bitsandbytes can't be used here.
    """
    from transformers import WhisperForConditionalGeneration

    from whisper_recipe.model.encoder import accept_any_length
    from whisper_recipe.model.memory_efficient import make_memory_efficient
    from whisper_recipe.model.precision import attend_without_plans

    attend_without_plans()
    name = _check_folder(name, WEIGHTS)
    quantized = {} if quantize == "none" else {"quantization_config": _quantization(quantize)}
    try:
        # Weights in PyTorch's own format are read with `weights_only=True` by transformers: no pickled code runs.
        model, info = WhisperForConditionalGeneration.from_pretrained(
            name, dtype=torch.float32, local_files_only=Path(name).is_dir(), output_loading_info=True, **quantized
        )
    except Exception as error:  # transformers, safetensors and pickle each raise their own types
        raise _unreadable("model", name, error) from error
    if missing := sorted(info["missing_keys"]):
        # transformers would fill them with random numbers and only warn.
        raise RecipeError(
            f"{len(missing)} weights are missing, {missing[0]} first", where=name, cure="copy or train the model again"
        )
    _check_config(model.config, name)
    for module in model.modules():
        # bitsandbytes 0.50 packs 4-bit weights for a CPU at the first evaluation, and then has no gradients for them.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # Whisper's sinusoids are fixed; transformers 5.23 freezes them in a new model, but not in a loaded one.
    model.get_encoder().embed_positions.requires_grad_(False)
    return make_memory_efficient(accept_any_length(model))


def _check_config(config: WhisperConfig, name: str) -> None:
    """Raise RecipeError for values that transformers accepts, but that fail once the model is used."""
    for key in ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        if not 0 <= (value := getattr(config, key)) <= 1:
            raise RecipeError(f"{key} must be between 0 and 1, got {value}", where=f"{name}/config.json")
    for side in ("encoder", "decoder"):
        layers, heads = getattr(config, f"{side}_layers"), getattr(config, f"{side}_attention_heads")
        if layers < 1 or heads < 1:
            what = f"the {side} must have layers and heads, got {layers} and {heads}"
            raise RecipeError(what, where=f"{name}/config.json")


def _quantization(bits: str) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401 (transformers itself would name neither the option nor the reason)
    except (ImportError, OSError, RuntimeError) as error:  # not installed; no library for this device
        what = f"bitsandbytes can't be used here ({error})"
        raise RecipeError(what, where="lora.quantize_base", cure="install it, or set it to none") from error
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    precision = pick_precision(pick_device())
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=precision)


def load_processor(name: str | Path) -> WhisperProcessor:
    """Load the tokenizer (see load_tokenizer) and the feature extractor of a folder or Hub name.

    Raises:
        RecipeError: they are missing, or don't match the model.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperProcessor

    tokenizer = load_tokenizer(name)
    bins = _from_pretrained(WhisperConfig, "config", str(name)).num_mel_bins
    if Path(name).is_dir() and not any((Path(name) / file).exists() for file in FEATURES):
        extractor = WhisperFeatureExtractor(feature_size=bins)  # Whisper's features differ in nothing else
    else:
        extractor = _from_pretrained(WhisperFeatureExtractor, "feature extractor", str(name))
    if extractor.feature_size != bins:
        what = f"the feature extractor has {extractor.feature_size} mel bins, but the weights expect {bins}"
        raise RecipeError(what, where=name, cure=f"copy {FEATURES[0]} from the base model")
    return WhisperProcessor(extractor, tokenizer)


def load_tokenizer(name: str | Path) -> WhisperTokenizer:
    """Load the tokenizer of a folder or Hub name, with its special and time tokens complete.

    Args:
        name: a transformers folder, a CTranslate2 folder, or a name on the Hub.

    Raises:
        RecipeError: it is missing, or does not match the model.
    """
    name = _check_folder(name, ("tokenizer.json", "vocab.json"))
    if is_ctranslate2(name):
        tokenizer = read_tokenizer(name)
        _check_size(tokenizer, len(vocabulary(Path(name))), name)
        check_ids(Path(name), tokenizer)
        return tokenizer
    from transformers import WhisperConfig

    # First, since transformers 5.23 makes an empty tokenizer for a name that does not exist.
    size = _from_pretrained(WhisperConfig, "config", name).vocab_size
    tokenizer = read_tokenizer(name)
    _check_size(tokenizer, size, name)
    return tokenizer


def read_tokenizer(folder: str) -> WhisperTokenizer:
    """Load the tokenizer of a folder that may contain nothing else, with its special and time tokens complete.

    Raises:
        RecipeError: it is missing or damaged, or is not a Whisper tokenizer.
    """
    return complete_tokenizer(_from_pretrained(WhisperTokenizer, "tokenizer", folder), folder)


def _check_size(tokenizer: WhisperTokenizer, size: int, where: str | Path) -> None:
    """Raise RecipeError if the weights have fewer rows than tokens, or more than padding explains."""
    spare = size - len(tokenizer)
    if spare and not (0 < spare < MAX_PADDING and size % 8 == 0):
        what = f"the tokenizer has {len(tokenizer)} tokens, but the weights have {size}"
        raise RecipeError(what, where=where, cure="copy the tokenizer from the base model")


def _from_pretrained(kind: type, what: str, name: str) -> object:
    try:
        return kind.from_pretrained(name, local_files_only=Path(name).is_dir())
    except Exception as error:  # transformers, tokenizers and json each raise their own types
        raise _unreadable(what, name, error) from error


def save_model(
    folder: Path, model: WhisperForConditionalGeneration, processor: WhisperProcessor, record: dict | None = None
) -> None:
    """Write a plain Hugging Face Whisper folder: weights, configurations, tokenizer, feature extractor.

    Args:
        folder: the folder to write.
        model: its generation config is completed first.
        processor: the model's.
        record: the training record (`training.record`), written next to the weights; None for stock models.
    """
    from whisper_recipe.model.generation import complete_generation_config

    data = (record or {}).get("data", [])
    languages, tasks = (sorted({row[key] for row in data}) for key in ("language", "task"))
    complete_generation_config(model, processor.tokenizer, languages, tasks)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    # Since version 5 transformers nests these values in processor_config.json; other programs look for them here.
    processor.feature_extractor.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # safetensors makes them readable only by their owner
        weights.chmod((folder / "config.json").stat().st_mode)
    if record is not None:
        write_json(folder / TRAINING_RECORD, record)


def read_training_record(folder: str | Path) -> dict | None:
    """Return the training record of a model folder; None for stock models, which have none.

    Raises:
        RecipeError: the record is invalid.
    """
    path = Path(folder) / TRAINING_RECORD
    if not path.exists():
        return None
    record = read_json(path)
    rows = record["data"] if isinstance(record.get("data"), list) else []
    for types, values in ((RECORD_TYPES, record), *((ROW_TYPES, row) for row in rows)):
        required = types if types is ROW_TYPES else types.keys() & values.keys()
        if not isinstance(values, dict) or not all(isinstance(values.get(key), types[key]) for key in required):
            raise RecipeError(
                f"not a valid training record: {values}", where=path, cure="copy it from the trained model"
            )
    return record


def natural_length(folder: str | Path) -> bool:
    """Whether a model folder records that it was trained on inputs at their own length, not padded to 30 s."""
    return bool((read_training_record(folder) or {}).get("natural_length"))


def timestamps(folder: str | Path) -> bool:
    """Whether a model may be asked for timestamps: stock models may, ours if enough training cuts had them.

    A model trained without them responds with loops and invented text
    (https://github.com/SYSTRAN/faster-whisper/issues/1099). A folder records the share of the cuts that had them; older
    ones record a boolean.
    """
    return (read_training_record(folder) or {}).get("timestamps", True) >= TIMED_SHARE


def pick_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_hub_name(name: str | Path) -> bool:
    """Whether a model's name is one on the Hub: one slash, no leading dot, slash or exp/, and no such path exists."""
    name = str(name)
    return name.count("/") == 1 and not name.startswith((".", "/", "exp/")) and not Path(name).exists()


def _check_folder(name: str | Path, any_of: tuple[str, ...]) -> str:
    path = Path(name)
    if not path.is_dir():
        if not is_hub_name(name):  # then it was meant as a path
            raise RecipeError("no such model folder", where=name, cure="give a folder, or a name on the Hub")
        return _cached(str(name), any_of) or str(name)
    require(path / "config.json", "a Whisper folder has config.json, weights and a tokenizer")
    if not any((path / file).exists() for file in any_of):
        raise RecipeError(f"contains none of {', '.join(any_of)}", where=path, cure="copy or train the model again")
    return str(path)


def _cached(name: str, any_of: tuple[str, ...]) -> str | None:
    """Return the folder of a model in the Hub's cache; None if it is not cached.

    A cached model needs no network; without one, transformers requests each of twenty files six times.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return str(folder) if folder and any((folder / file).exists() for file in any_of) else None


def _unreadable(what: str, name: str, error: Exception) -> RecipeError:
    cure = "copy or train it again"
    if not Path(name).is_dir():
        cure = "check the name and the network"
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            cure = "it is not in the local cache and HF_HUB_OFFLINE=1 forbids the network: give a local folder"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return RecipeError(f"the {what} can't be loaded ({reason})", where=name, cure=cure)
