"""LoRA adapters for Whisper: adding them, and merging them into a plain Whisper folder."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, read_json, require

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

Quantization = Literal["none", "8bit", "4bit"]  # of a base model, by bitsandbytes
# Preset -> names of Whisper's layers.
TARGET_PRESETS = {
    "attention": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
EMBEDDINGS = "embed_tokens"  # Whisper's name for them


@dataclass
class LoraOptions:
    """LoRA (https://arxiv.org/abs/2106.09685) and its variants, through peft.

    Args:
        variant: lora; rslora, which scales by alpha / sqrt(rank) (https://arxiv.org/abs/2312.03732); dora, which trains
            direction and magnitude of the weights separately (https://arxiv.org/abs/2402.09353); adalora, which assigns
            more rank to the matrices that need it, `rank` on average (https://arxiv.org/abs/2303.10512).
        rank: rank of the update; a higher rank has more parameters.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout before the update.
        target_modules: `attention`, `all-linear`, or names of layers.
        train_embeddings: also train the embeddings of all tokens, for a language that the base model has never written;
            the adapter grows by vocabulary size times width.
        quantize_base: keep the base model's matrices in 8 or 4 bits (nf4) with bitsandbytes while training the adapter
            (https://arxiv.org/abs/2305.14314); takes a quarter of the memory or less, but is slower. `merge` uses the
            unquantized weights.
    """

    variant: Literal["lora", "rslora", "dora", "adalora"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    train_embeddings: bool = False
    quantize_base: Quantization = "none"


def add_lora(
    model: WhisperForConditionalGeneration, options: LoraOptions, steps: int = 1, new_ids: Collection[int] = ()
) -> PeftModel:
    """Freeze the model and add LoRA adapters to it.

    Args:
        model: a plain Whisper model; one in bfloat16 must be run under autocast, since the adapters are in float32.
        options: options of the adapters.
        steps: number of training steps, by which adalora schedules its ranks.
        new_ids: ids of tokens that the base model lacks; their rows are trained and kept in the adapter.

    Raises:
        RecipeError: a target is neither a preset nor a layer of the model.
    """
    from peft import AdaLoraConfig, LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from peft.tuners.tuners_utils import BaseTunerLayer

    if options.quantize_base != "none":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)  # the Trainer does that
    targets = sorted({name for target in options.target_modules for name in TARGET_PRESETS.get(target, [target])})
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for target in targets:
        if target not in layers:
            raise RecipeError(
                f"the model has no layer {target!r}",
                where="lora.target_modules",
                cure=f"use {', '.join(TARGET_PRESETS)} or names such as q_proj, fc1",
            )
    common = {
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "target_modules": targets,
        # Whisper's output layer is its embedding; both options keep the two tied. The second trains only the rows of
        # new tokens, but copies all rows twice in each step.
        "modules_to_save": [EMBEDDINGS] if options.train_embeddings else None,
        "ensure_weight_tying": options.train_embeddings,
        "trainable_token_indices": {EMBEDDINGS: sorted(new_ids)} if new_ids and not options.train_embeddings else None,
    }
    if options.variant == "adalora":
        # It starts with 1.5 times the rank, keeps it in the first tenth of training, and keeps the final ranks in the
        # second half: the proportions of the paper's experiments.
        config = AdaLoraConfig(
            target_r=options.rank, init_r=math.ceil(1.5 * options.rank), tinit=steps // 10, tfinal=steps // 2,
            total_step=steps, **common,
        )  # fmt: skip
    else:
        config = LoraConfig(
            r=options.rank, use_rslora=options.variant == "rslora", use_dora=options.variant == "dora", **common
        )
    adapted = get_peft_model(model, config)
    if options.variant != "dora" and options.quantize_base == "none":
        # peft casts the input of adapters to float32, and autocast casts it back. The copies take time, and one that
        # is kept for the backward pass undoes what model/memory_efficient.py saves. DoRA's norms need float32.
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.cast_input_dtype_enabled = False
    # Also in the Trainer's checkpoints: otherwise peft saves all embeddings in addition to the new rows.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def adapter_regularisation(model: torch.nn.Module) -> torch.Tensor | float:
    """Return the loss term that keeps AdaLoRA's matrices orthogonal; 0 for other models.

    peft adds it to a loss computed by the model itself, but ours is computed outside of it.
    """
    config = getattr(model, "active_peft_config", None)
    weight = getattr(config, "orth_reg_weight", 0.0)
    if not weight:
        return 0.0
    norms = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            norms.append((gram - gram.new_ones(len(gram)).diag()).norm())
    return weight * sum(norms) / len(norms)


def load_adapter(folder: Path) -> tuple[PeftModel, str]:
    """Load an adapter folder onto its base model; return the model and the base model's folder or name.

    The base model's embeddings are extended for the adapter's new tokens.
    """
    from peft import PeftModel
    from safetensors import safe_open

    from whisper_recipe.model.embeddings import make_room
    from whisper_recipe.model.load import load_model

    folder = Path(folder)
    config = read_json(folder / "adapter_config.json", "train with --method lora first (stage 4)")
    weights = require(
        folder / "adapter_model.safetensors", "the adapter's weights are missing: train it again (stage 4)"
    )
    base = config["base_model_name_or_path"]
    model = load_model(base)
    rows = [1 + index for index in (config.get("trainable_token_indices") or {}).get(EMBEDDINGS, [])]
    with safe_open(weights, "pt") as tensors:
        names = [name for name in tensors.keys() if name.endswith(f"{EMBEDDINGS}.weight")]  # noqa: SIM118 (no dict)
        rows += [tensors.get_slice(name).get_shape()[0] for name in names]
    make_room(model, max(rows, default=0))
    return PeftModel.from_pretrained(model, str(folder)).eval(), base


def adapter_processor(folder: Path, base: str) -> WhisperProcessor:
    """Load the processor of an adapter: the base model's, with the adapter's tokenizer if it has one.

    Raises:
        RecipeError: one of them is missing or damaged.
    """
    from whisper_recipe.model.load import load_processor, read_tokenizer

    processor = load_processor(base)
    if (folder / "tokenizer.json").exists():
        processor.tokenizer = read_tokenizer(str(folder))
    return processor


def merge(exp: Path, scale: float = 1.0, out: Path | None = None) -> None:
    """Merge a LoRA adapter into its base model and write a plain Whisper folder.

    Args:
        exp: the folder of a LoRA run, or the `adapter/` in it.
        scale: share of the adapter to add: 1 is all of it, 0 the base model; 0.5 keeps more of the base model's
            knowledge.
        out: the folder to write; by default `model/` next to the adapter.

    Raises:
        RecipeError: the adapter or its base model is missing, or the scale is not between 0 and 1.
    """
    from whisper_recipe.model.embeddings import make_room
    from whisper_recipe.model.load import TRAINING_RECORD, load_model, save_model
    from whisper_recipe.model.mean import mean_state, unmeasured

    if not 0 <= scale <= 1:
        raise RecipeError(f"must be between 0 and 1, got {scale:g}", where="scale")
    adapter = Path(exp) if (Path(exp) / "adapter_config.json").exists() else Path(exp) / "adapter"
    out = out or adapter.parent / "model"
    adapted, base = load_adapter(adapter)
    processor = adapter_processor(adapter, base)
    model, record = adapted.merge_and_unload(), read_json(adapter / TRAINING_RECORD)
    if scale != 1:
        # Scale the weights and not the adapter's factors: this works for every variant, and for trained embeddings.
        start, rows = load_model(base), model.get_input_embeddings().weight
        known = len(start.get_input_embeddings().weight)
        make_room(start, len(rows))
        start.get_input_embeddings().weight.data[known:] = rows.data[known:]  # the base model lacks them
        model.load_state_dict(mean_state((start.state_dict(), model.state_dict()), (1 - scale, scale)))
        record = {**unmeasured(record), "merge_scale": scale}
    with atomic_write(out, replace_folder=True) as aside:
        save_model(aside, model, processor, record)
    print(f"{out}: {adapter} merged into {base}" + (f", scaled by {scale:g}" if scale != 1 else ""))
