"""Run a part of tools/gpu_check.sh: tests, training compared with the CPU, or decoding with several batch sizes.

    python tools/bench/gpu_check.py tests|training|decoding OUT

Writes OUT/<part>.json and OUT/report.md after each row. Without a GPU, the same runs at a small size on the CPU. The
exit status is 1 if anything failed or is not as expected.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from corpus import make_model, make_noise
from decode import END_OF_TEXT
from gpu_measure import GPU, Results, card_memory, forget, peak_gigabytes, synchronize, waits

if TYPE_CHECKING:  # these imports take seconds in each part
    from lhotse import CutSet
    from transformers import Seq2SeqTrainingArguments

    from whisper_recipe.training.trainer import WhisperTrainer

SHAPE, CUTS, STEPS, SECONDS = ("tiny", 400, 12, 120) if GPU else ("micro", 12, 2, 20)
TOKENS = 20 if GPU else 3


class Variant(SimpleNamespace):
    """A way to train.

    Args:
        alike: name of the variant whose float32 losses on the CPU are the reference.
        most: largest relative difference of a step's loss; a judgement by precision, for a few steps.
    """

    def __init__(self, alike: str, most: float, **options: object) -> None:
        defaults = {"trainer": {}, "tf32": False, "lora": None, "cached": False, "padded": 0.0, "only_gpu": False}
        super().__init__(alike=alike, most=most, **(defaults | options))


FULL, LORA, CACHED, PADDED = "full, float32", "LoRA, float32", "full, --cache-encoder", "full, pad_to_30s: 1"
BF16, FP16, LESS = {"bf16": True}, {"fp16": True}, {"gradient_checkpointing": True}
VARIANTS = {
    FULL: Variant(FULL, 0.001),
    "full, TF32": Variant(FULL, 0.01, tf32=True, only_gpu=True),
    "full, bf16": Variant(FULL, 0.03, trainer=BF16),
    "full, fp16": Variant(FULL, 0.02, trainer=FP16, only_gpu=True),
    "full, gradient checkpointing": Variant(FULL, 0.001, trainer=LESS),
    "full, bf16, gradient checkpointing": Variant(FULL, 0.03, trainer=BF16 | LESS),
    LORA: Variant(LORA, 0.001, lora="none"),
    "LoRA, bf16": Variant(LORA, 0.03, lora="none", trainer=BF16),
    "LoRA, 8-bit base": Variant(LORA, 0.05, lora="8bit"),
    "LoRA, 4-bit base": Variant(LORA, 0.1, lora="4bit"),
    CACHED: Variant(CACHED, 0.005, cached=True),
    PADDED: Variant(PADDED, 0.001, padded=1.0),
}


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        failed = PARTS[options.part](Path(folder), options.out.resolve())
    sys.exit(1 if failed else 0)


def tests(_folder: Path, out: Path) -> int:
    """Run the tests marked `gpu`; return how many failed."""
    import pytest

    results = Results(out, "tests", "Tests marked gpu")

    class Watch:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.outcome != "passed":
                results.failed += report.failed
                what = report.nodeid.rpartition("::")[2]
                results.add({"what": what, "outcome": report.outcome, "seconds": f"{report.duration:.1f}"})

    root = Path(__file__).parents[2]
    pytest.main(
        ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--rootdir", str(root), str(root / "tests/gpu")], [Watch()]
    )
    results.finish()
    return results.failed


def training(folder: Path, out: Path) -> int:
    """Train all variants; return how many failed or are not as expected."""
    from whisper_recipe.data.fbank import fbank

    results = Results(out, "training", f"Training, whisper-{SHAPE}'s shape, {STEPS} steps of {SECONDS} s")
    make_noise(folder, CUTS)
    fbank("noise", folder, folder, num_jobs=8 if GPU else 1)
    make_model(folder, SHAPE)

    @functools.cache
    def on_cpu(name: str) -> list[float]:
        return run(folder, VARIANTS[name], cpu=True).losses

    def row(variant: Variant) -> dict[str, object]:
        trained = run(folder, variant)
        return describe(trained) | compare(trained.losses, on_cpu(variant.alike), variant.most)

    def compare(losses: list[float], expected: list[float], most: float) -> dict[str, object]:
        apart = max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(losses, expected, strict=True))
        wrong = not apart <= most  # NaN too
        results.failed += wrong
        return {"differs by": f"{apart:.2e}", "remark": f"WRONG: more than {most}" if wrong else ""}

    def resumed() -> dict[str, object]:
        half = STEPS // 2
        whole = run(folder, VARIANTS[FULL], trainer={"save_strategy": "steps", "save_steps": half})
        again = run(folder, VARIANTS[FULL], checkpoint=folder / "exp" / f"checkpoint-{half}")
        return describe(again) | compare(again.losses, whole.losses[half:], 0.001)

    def broken() -> dict[str, object]:
        trained = run(folder, VARIANTS[FULL], broken=0)
        right = trained.skipped == 1 and all(loss == loss for loss in trained.losses)
        results.failed += not right
        return {"remark": f"{trained.skipped} step skipped" if right else "WRONG: not only this step was skipped"}

    for name, variant in VARIANTS.items():
        if variant.only_gpu and not GPU:
            results.add({"what": name, "remark": "needs a GPU"})
        else:
            results.attempt(name, functools.partial(row, variant))
    results.attempt("resumed in the middle", resumed)
    results.attempt("a NaN gradient", broken)
    results.finish()
    return results.failed


def describe(trained: SimpleNamespace) -> dict[str, object]:
    """Return speed, memory, waits and losses of a training run."""
    places = ", ".join(f"{place} ({count})" for place, count in trained.waits.most_common(3))
    return {
        "tokens/s": f"{trained.speed:.0f}",
        "peak GB": peak_gigabytes(),
        "waits a step": f"{trained.waits.total() / STEPS:.1f}" if GPU else "",
        "most at": places,
        "losses": " ".join(f"{loss:.4f}" for loss in (trained.losses[0], trained.losses[-1])),
    }


def run(
    folder: Path,
    variant: Variant,
    cpu: bool = not GPU,
    trainer: dict | None = None,
    checkpoint: Path | None = None,
    broken: int | None = None,
) -> SimpleNamespace:
    """Train with the components of `whisper-recipe train`; return losses, tokens per second, waits and skipped steps.

    Args:
        folder: of data and model.
        variant: the way to train.
        cpu: train on the CPU; if there is a GPU, in float32 with unquantised weights.
        trainer: more options of the Trainer.
        checkpoint: to resume from.
        broken: the step in which a gradient is NaN.
    """
    from transformers import set_seed

    from whisper_recipe.model.load import load_tokenizer
    from whisper_recipe.training.batches import BatchOptions
    from whisper_recipe.training.parameters import ParameterOptions
    from whisper_recipe.training.trainer import make_loaders

    forget()
    reference = cpu and GPU
    args = arguments(folder, variant, cpu, **({} if reference else variant.trainer) | (trainer or {}))
    set_seed(1)
    model, cuts = prepared(folder, variant, args, "none" if reference else variant.lora)
    batches = BatchOptions(max_duration=SECONDS, num_workers=0, num_buckets=2, pad_to_30s=variant.padded)
    bins = model.config.num_mel_bins
    loaders = make_loaders(cuts, cuts, load_tokenizer(folder / "model"), batches, bins, args)
    trained = watched()(model, args, *loaders, ParameterOptions(freeze_encoder=variant.cached))
    if broken is not None:
        weight = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        weight.register_hook(lambda grad: grad * float("nan") if trained.state.global_step == broken else grad)
    with waits() as places:
        trained.train_from(checkpoint)
    synchronize()
    speed = trained.tokens / (time.perf_counter() - trained.start)
    losses = torch.stack(trained.losses).tolist()
    return SimpleNamespace(losses=losses, speed=speed, waits=places, skipped=trained.skipped)


def arguments(folder: Path, variant: Variant, cpu: bool, **more: object) -> Seq2SeqTrainingArguments:
    """Return a variant's options for the Trainer, and set its precision of float32 products."""
    from transformers import Seq2SeqTrainingArguments

    from whisper_recipe.training.options import spare_time

    torch.set_float32_matmul_precision("high" if variant.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = variant.tf32
    options = {"max_steps": STEPS, "learning_rate": 1e-4, "save_strategy": "no", "report_to": "none"}
    options |= {"disable_tqdm": True, "use_cpu": cpu, "logging_steps": STEPS}
    args = Seq2SeqTrainingArguments(str(folder / "exp"), **options | more)
    spare_time(args)
    return args


def prepared(
    folder: Path, variant: Variant, args: Seq2SeqTrainingArguments, quantize: str | None
) -> tuple[torch.nn.Module, CutSet]:
    """Return the model as prepared by `whisper-recipe train`, and the cuts, with encoder outputs if cached.

    Args:
        folder: of data and model.
        variant: the way to train.
        args: of the Trainer.
        quantize: type of a LoRA base: none, 8bit or 4bit.
    """
    from whisper_recipe.model.adapters import LoraOptions
    from whisper_recipe.model.load import load_model
    from whisper_recipe.training.batches import load_cuts
    from whisper_recipe.training.encoder_cache import with_encoder_states
    from whisper_recipe.training.parameters import ParameterOptions, freeze
    from whisper_recipe.training.train import with_adapters

    manifest = folder / "cuts_noise.jsonl.gz"
    cuts, model = load_cuts([manifest]), load_model(folder / "model", quantize or "none")
    if variant.lora:
        return with_adapters(model, LoraOptions(quantize_base=quantize), args), cuts
    freeze(model, ParameterOptions(freeze_encoder=variant.cached))
    if variant.cached:
        states = folder / f"states_{args.device.type}"
        cuts = with_encoder_states(cuts, [manifest], "model", model.to(args.device), states)
    return model, cuts


def watched() -> type[WhisperTrainer]:
    """Return a subclass of the Trainer that records its losses and its speed."""
    from whisper_recipe.training.trainer import WhisperTrainer

    class Watched(WhisperTrainer):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.losses, self.tokens, self.start = [], 0, 0.0

        def training_step(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor:
            first, tokens = not self.losses, int((inputs["labels"] >= 0).sum())
            loss = super().training_step(model, inputs, *args, **kwargs)
            if first:  # this step allocates and compiles
                synchronize()
                self.start = time.perf_counter()
            else:
                self.tokens += tokens
            return loss

        def compute_loss(self, *args, **kwargs) -> torch.Tensor:
            loss = super().compute_loss(*args, **kwargs)
            self.losses.append(loss.detach())  # unfiltered: training_step returns the previous loss instead of NaN
            return loss

    return Watched


def decoding(folder: Path, out: Path) -> int:
    """Decode with both backends and several batch sizes; return how many failed."""
    import ctranslate2

    from whisper_recipe.data.fbank import fbank
    from whisper_recipe.decoding.decode import decode
    from whisper_recipe.decoding.search import SearchOptions
    from whisper_recipe.export.ct2 import export
    from whisper_recipe.files import read_json, read_jsonl

    shape, count = ("small", 600) if GPU else ("micro", 4)
    results = Results(out, "decoding", f"Decoding, whisper-{shape}'s shape, {count} utterances, {TOKENS} tokens each")
    make_noise(folder, count)
    fbank("noise", folder, folder, num_jobs=8 if GPU else 1)
    model = make_model(folder, shape)
    search = SearchOptions(max_new_tokens=TOKENS, suppress_tokens=[END_OF_TEXT] if GPU else [], suppress_blank=False)
    texts: dict[str, str] = {}

    def row(folder_of_model: Path, seconds: int, compute_type: str) -> dict[str, object]:
        forget()
        target = folder / f"decode_{folder_of_model.name}_{compute_type}_{seconds}"
        with card_memory() as used:
            decode(
                str(folder_of_model), folder / "cuts_noise.jsonl.gz", target, batch_duration=seconds, pad_to_30s=False,
                compute_type=compute_type, search=search,
            )  # fmt: skip
        record = read_json(target / "decode.json")
        found = {row["id"]: row["text"] for _, row in read_jsonl(target / "hyp.jsonl")}
        texts.update({} if texts else found)
        same = sum(texts[key] == text for key, text in found.items()) / len(found)
        return {
            "computes in": f"{record['compute_type']} on {record['device']}",
            "utterances/s": f"{count / max(record['processing_seconds'], 1e-3):.1f}",
            "GB of the card": f"{max(used) / 1e9:.2f}" if GPU else "",
            "texts as in the first row": f"{100 * same:.0f} %",
        }

    exported = folder / "ct2"

    def exporting() -> dict[str, object]:
        quantization = "float16" if GPU and ctranslate2.get_cuda_device_count() else "float32"
        export(model, exported, quantization)
        return {"computes in": quantization}

    ways = [(f"transformers, {seconds} s", model, seconds, "default") for seconds in (120, 480, 960)]
    ways.insert(0, ("transformers, float32, 120 s", model, 120, "float32"))
    if GPU:
        ways.insert(2, ("transformers, bfloat16, 120 s", model, 120, "bfloat16"))
    ways += [(f"CTranslate2, {seconds} s", exported, seconds, "default") for seconds in (120, 480, 960)]
    results.attempt("export", exporting)
    for name, *way in ways:
        results.attempt(name, functools.partial(row, *way))
    results.finish()
    return results.failed


PARTS = {"tests": tests, "training": training, "decoding": decoding}

if __name__ == "__main__":
    main()
