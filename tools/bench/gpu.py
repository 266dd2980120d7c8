"""Training and decoding on a GPU against their peers, side by side in one run.

    python tools/bench/gpu.py --out OUT [--shapes small large-v3-turbo large-v3] [--seconds 8]

All train the same shapes of Whisper with random weights, in bfloat16 autocast with AdamW, on noise with AISHELL-like
durations (5.7 s on average). whisper-recipe loads stored features with its own loader, at natural length.
Seq2SeqTrainer trains as in Hugging Face's course, at 30 s, with PyTorch's attention; its features are in memory, so
loading costs nothing. Unsloth's notebook for Whisper (LoRA of rank 64 on q_proj and v_proj, its gradient checkpointing)
is measured if the package is installed. Each program uses its best batch size: it is doubled until it is no faster or
does not fit. The share of the peak is the rate of operations in matrix products (padding included, three forward passes
per step, two with LoRA), divided by the rate that the GPU reaches in a product of bfloat16 matrices.

Decoding: `whisper-recipe decode` with CTranslate2 and transformers, and faster-whisper's batched pipeline on one
recording of all utterances with their times, at its best batch size; 20 tokens each, greedy, in float16. Without a GPU,
`--shapes micro` runs on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from corpus import SHAPES, TEXT, make_model, make_noise
from decode import END_OF_TEXT, files
from gpu_measure import (
    DEVICE,
    GPU,
    Results,
    card_memory,
    forget,
    forward_operations,
    matrix_peak,
    peak_gigabytes,
    synchronize,
)

from whisper_recipe.errors import RecipeError, is_out_of_memory

WARM_UP = 3 if GPU else 1  # steps before the clock starts
GAIN = 1.03  # by which a larger batch must be faster to be chosen
FRAMES = 3000  # in 30 s
TOKENS = 20 if GPU else 4
NEVER = [END_OF_TEXT] if GPU else []  # suppressed, so that all texts are equally long; the micro shape lacks this id
UTTERANCES = 2000 if GPU else 16
WORKERS = min(8, os.cpu_count() or 1) if GPU else 0
BATCHES = {"ours": (480 if GPU else 30), "at 30 s": (16 if GPU else 2)}  # first sizes to try: seconds, utterances


def main() -> None:
    """Measure everything, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    usual = ["small", "large-v3-turbo", "large-v3"] if GPU else ["micro"]
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=usual)
    parser.add_argument("--seconds", type=float, default=8.0, help="time to measure each batch size")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    peak = matrix_peak() if GPU else matrix_peak(512, 2)
    results = Results(options.out, "bench", f"Side by side; the matrix peak is {peak / 1e12:.1f} TFLOP/s in bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        make_noise(Path(folder), UTTERANCES)
        compare_decodings(Path(folder), options.shapes[0], results)
        for shape in options.shapes:
            compare_trainings(Path(folder), shape, options.seconds, peak, results)
    results.finish()
    sys.exit(1 if results.failed else 0)


def compare_trainings(folder: Path, shape: str, seconds: float, peak: float, results: Results) -> None:
    """Add a row for each training program."""
    make_model(folder, "micro", SHAPES[shape]["vocab_size"])  # for its tokenizer; the weights are created on the GPU
    programs: dict[str, tuple[Callable[[int], dict], int]] = {
        "whisper-recipe, full": (functools.partial(ours, folder, shape, False, seconds), BATCHES["ours"]),
        "whisper-recipe, LoRA": (functools.partial(ours, folder, shape, True, seconds), BATCHES["ours"]),
        "Seq2SeqTrainer at 30 s, full": (functools.partial(common, folder, shape, seconds), BATCHES["at 30 s"]),
    }
    if importlib.util.find_spec("unsloth"):
        way = functools.partial(unsloth, folder, shape, seconds)
        programs["Unsloth at 30 s, LoRA"] = way, BATCHES["at 30 s"]
    else:
        results.add({"what": f"{shape}: Unsloth", "remark": "not installed"})
    for name, (measure, first) in programs.items():
        results.attempt(f"{shape}: {name}", functools.partial(best, measure, first, peak))


def features(folder: Path, shape: str) -> Path:
    """Return the cut manifest of the noise with features for a shape; compute them if there are none."""
    from whisper_recipe.data.fbank import fbank

    bins = SHAPES[shape].get("num_mel_bins", 80)
    if not (folder / f"{bins}").exists():
        fbank("noise", folder, folder / f"{bins}", num_mel_bins=bins, num_jobs=max(1, WORKERS))
    return folder / f"{bins}" / "cuts_noise.jsonl.gz"


def best(measure: Callable[[int], dict], size: int, peak: float) -> dict[str, object]:
    """Return the row of the fastest batch size, starting from `size`."""
    found: dict | None = None
    while True:
        forget()
        try:
            tried = {"size": size, **measure(size), "memory": peak_gigabytes()}
        except (RuntimeError, RecipeError) as error:
            if found is None or not (is_out_of_memory(error) or "out of memory" in str(error)):
                raise
            break
        if found is not None and tried["speed"] < GAIN * found["speed"]:
            break
        found, size = tried, 2 * size
        if not GPU:
            break
    return {
        "batch": found["size"],
        "utterances/s": f"{found['speed']:.1f}",
        "peak GB": found["memory"],
        "of the matrix peak": f"{100 * found['operations'] / peak:.1f} %",
    }


def whisper(shape: str, **others: int) -> torch.nn.Module:
    """Return a Whisper with random weights on the GPU, in a shape whose sizes `others` override."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = SHAPES[shape] | others
    config = WhisperConfig(
        vocab_size=sizes["vocab_size"] or 51865,
        d_model=sizes["d_model"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["attention_heads"],
        decoder_attention_heads=sizes["attention_heads"],
        encoder_ffn_dim=4 * sizes["d_model"],
        decoder_ffn_dim=4 * sizes["d_model"],
        num_mel_bins=sizes.get("num_mel_bins", 80),
    )
    with DEVICE:
        model = WhisperForConditionalGeneration(config)
    model.get_encoder().embed_positions.requires_grad_(False)
    return model


def clocked(trainer: type, seconds: float, passes: int) -> type:
    """Return a subclass of the Trainer that measures its speed and stops after `seconds`.

    Args:
        trainer: a Trainer.
        seconds: of training after the warm-up.
        passes: cost of a step in forward passes: 3 if each weight has a gradient, otherwise 2.
    """

    class Clocked(trainer):
        steps = done = operations = 0
        start = 0.0

        def training_step(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor:
            features, labels = inputs["input_features"], inputs["labels"]
            config = getattr(model, "module", model).config
            operations = passes * forward_operations(config, len(labels), features.shape[-1], labels.shape[1])
            loss = super().training_step(model, inputs, *args, **kwargs)
            self.steps += 1
            if self.steps == WARM_UP:
                synchronize()
                self.start = time.perf_counter()
            elif self.steps > WARM_UP:
                self.done, self.operations = self.done + len(labels), self.operations + operations
                self.control.should_training_stop = time.perf_counter() - self.start > seconds
            return loss

        def timed(self) -> dict[str, float]:
            self.train()
            synchronize()
            took = time.perf_counter() - self.start
            return {"speed": self.done / took, "operations": self.operations / took}

    return Clocked


def arguments(folder: Path, **more: object) -> object:
    """Return the training arguments that all programs share."""
    from transformers import Seq2SeqTrainingArguments

    return Seq2SeqTrainingArguments(
        str(folder / "exp"), max_steps=10000 if GPU else WARM_UP + 2, learning_rate=1e-5, bf16=True, save_strategy="no",
        report_to="none", disable_tqdm=True, logging_steps=100000, remove_unused_columns=False, use_cpu=not GPU, **more,
    )  # fmt: skip


def ours(folder: Path, shape: str, lora: bool, seconds: float, size: int) -> dict[str, float]:
    """Train with the components of `whisper-recipe train`; `size` is batches.max_duration."""
    from whisper_recipe.model.adapters import LoraOptions, add_lora
    from whisper_recipe.model.encoder import accept_any_length
    from whisper_recipe.model.load import load_tokenizer
    from whisper_recipe.model.memory_efficient import make_memory_efficient
    from whisper_recipe.model.precision import attend_without_plans
    from whisper_recipe.training.batches import BatchOptions, load_cuts
    from whisper_recipe.training.options import spare_time
    from whisper_recipe.training.parameters import ParameterOptions
    from whisper_recipe.training.trainer import WhisperTrainer, make_loaders

    attend_without_plans()  # as load_model does
    model, args = make_memory_efficient(accept_any_length(whisper(shape))), arguments(folder)
    spare_time(args)
    bins = model.config.num_mel_bins
    cuts = load_cuts([features(folder, shape)])
    if lora:
        model = add_lora(model.to(torch.bfloat16), LoraOptions())
    options = BatchOptions(max_duration=size, num_workers=WORKERS)
    loaders = make_loaders(cuts, cuts, load_tokenizer(folder / "model"), options, bins, args)
    trainer = clocked(WhisperTrainer, seconds, 2 if lora else 3)
    return trainer(model, args, *loaders, ParameterOptions()).timed()


class Padded(torch.utils.data.Dataset):
    """Identical utterances of 30 s."""

    def __init__(self, num_mel_bins: int, labels: list[int]) -> None:
        row = {"input_features": torch.randn(num_mel_bins, FRAMES), "labels": torch.tensor(labels)}
        self.row = row

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.row


def common(folder: Path, shape: str, seconds: float, size: int) -> dict[str, float]:
    """Train with Seq2SeqTrainer; `size` is per_device_train_batch_size."""
    return by_their_trainer(folder, whisper(shape), seconds, size, passes=3)


def by_their_trainer(folder: Path, model: torch.nn.Module, seconds: float, size: int, passes: int) -> dict[str, float]:
    """Train a model with Seq2SeqTrainer at 30 s."""
    from transformers import Seq2SeqTrainer

    from whisper_recipe.model.load import load_tokenizer

    tokenizer = load_tokenizer(folder / "model")
    tokenizer.set_prefix_tokens(language="en", task="transcribe")
    torch.backends.cuda.enable_cudnn_sdp(True)  # PyTorch's default: all inputs have the same shape here
    data = Padded(model.config.num_mel_bins, tokenizer(TEXT).input_ids[1:])
    args = arguments(folder, per_device_train_batch_size=size, dataloader_num_workers=WORKERS)
    return clocked(Seq2SeqTrainer, seconds, passes)(model, args, train_dataset=data).timed()


def unsloth(folder: Path, shape: str, seconds: float, size: int) -> dict[str, float]:
    """Train as Unsloth's notebook for Whisper does (https://docs.unsloth.ai/basics/text-to-speech-tts-fine-tuning)."""
    from unsloth import FastModel  # first, since it patches transformers
    from transformers import WhisperForConditionalGeneration  # isort: skip

    saved = folder / f"unsloth_{shape}"
    if not saved.exists():
        whisper(shape).save_pretrained(saved)
        from whisper_recipe.model.load import load_processor

        load_processor(folder / "model").save_pretrained(saved)
    model, _ = FastModel.from_pretrained(
        str(saved), dtype=None, load_in_4bit=False, auto_model=WhisperForConditionalGeneration,
        whisper_language="English", whisper_task="transcribe",
    )  # fmt: skip
    model = FastModel.get_peft_model(
        model, r=64, lora_alpha=64, lora_dropout=0, bias="none", target_modules=["q_proj", "v_proj"],
        use_gradient_checkpointing="unsloth", random_state=1, task_type=None,
    )  # fmt: skip
    return by_their_trainer(folder, model, seconds, size, passes=2)


def compare_decodings(folder: Path, shape: str, results: Results) -> None:
    """Add a row for each decoding program."""
    import ctranslate2

    from whisper_recipe.export.ct2 import export

    manifest = features(folder, shape)
    on_gpu = bool(ctranslate2.get_cuda_device_count())
    model, converted = make_model(folder, shape), folder / "ct2"
    export(model, converted, "float16" if on_gpu else "float32")
    ways: dict[str, Callable[[], float]] = {
        "whisper-recipe, CTranslate2": functools.partial(our_decoding, converted, manifest),
        "whisper-recipe, transformers": functools.partial(our_decoding, model, manifest),
        "faster-whisper, batched": functools.partial(faster_whisper, folder, converted, on_gpu),
    }

    def row(decoding: Callable[[], float]) -> dict[str, object]:
        forget()
        with card_memory() as used, contextlib.redirect_stdout(sys.stderr):
            took = decoding()
        memory = f"{max(used) / 1e9:.2f}" if GPU else ""
        return {"batch": "", "utterances/s": f"{UTTERANCES / took:.1f}", "peak GB": memory}

    for name, decoding in ways.items():
        results.attempt(f"{shape}: decoding, {name}", functools.partial(row, decoding))


def our_decoding(model: Path, manifest: Path) -> float:
    """Return the seconds that `whisper-recipe decode` took, without loading the model."""
    from whisper_recipe.decoding.decode import decode
    from whisper_recipe.decoding.search import SearchOptions
    from whisper_recipe.files import read_json

    search = SearchOptions(max_new_tokens=TOKENS, suppress_tokens=NEVER, suppress_blank=False)
    with tempfile.TemporaryDirectory() as out:
        decode(str(model), manifest, Path(out), pad_to_30s=False, search=search)
        return max(read_json(Path(out) / "decode.json")["processing_seconds"], 1e-3)


def faster_whisper(folder: Path, converted: Path, on_gpu: bool) -> float:
    """Return the seconds that faster-whisper's pipeline took with its best batch size."""
    import numpy as np
    import soundfile
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from whisper_recipe.decoding.backends.ctranslate2 import load_cublas

    if on_gpu:
        load_cublas()
    samples = [soundfile.read(path, dtype="float32")[0] for path in files(folder)]
    ends = np.cumsum([len(row) for row in samples]) / 16000
    times = [
        {"start": float(end - len(row) / 16000), "end": float(end)} for end, row in zip(ends, samples, strict=True)
    ]
    model = WhisperModel(str(converted), device="cuda" if on_gpu else "cpu")
    pipeline = BatchedInferencePipeline(model)
    # With a second of silence at the end, because it stops if rounding makes the times longer than the recording.
    whole = np.concatenate([*samples, np.zeros(16000, np.float32)])

    def decoding(size: int) -> float:
        start = time.perf_counter()
        segments, _ = pipeline.transcribe(
            whole, language="en", beam_size=1, temperature=0.0, suppress_tokens=NEVER,
            without_timestamps=True, no_speech_threshold=None, vad_filter=False, batch_size=size, clip_timestamps=times,
            suppress_blank=False, max_new_tokens=2 * TOKENS - 4,  # CTranslate2's limit is half of this and the prompt
        )  # fmt: skip
        count = sum(1 for _ in segments)
        if count < len(samples) / 2:
            raise RuntimeError(f"only {count} segments for {len(samples)} utterances")
        return time.perf_counter() - start

    return min(decoding(size) for size in ((16, 64, 256) if GPU else (4,)))


if __name__ == "__main__":
    main()
