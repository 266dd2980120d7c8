"""`whisper-recipe decode` against faster-whisper and transformers: utterances per second on a list of files.

    python tools/bench/decode.py [--model WHISPER_FOLDER] [--utterances 200] [--tokens 20] [--rounds 3]

All decode the same WAV files of noise, with AISHELL-like durations (5.7 s on average), with random weights in
whisper-tiny's shape, or with --model. Decoding is greedy, with the same number of tokens for each file, without
timestamps or fallback, on all cores. faster-whisper runs as its users decode a list of files: with `transcribe` for
each, and with its batched pipeline for each; transformers runs `generate` on batches of 16, padded to 30 s by
WhisperFeatureExtractor. The time includes reading audio and computing features, but not loading the model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corpus import make_noise, place_model
from measure import child, report, spread

END_OF_TEXT = 50257  # in Whisper's vocabulary of 51,865; suppressed, so that all texts are equally long
BATCH = 16
PROMPT = 4  # tokens of <|startoftranscript|><|en|><|transcribe|><|notimestamps|>


def main() -> None:
    """Make files and model, decode with each in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a multilingual Whisper folder (transformers)")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, folder = options.child
        SIDES[side](Path(folder), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options)
        speeds: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(options.rounds):
            for name in SIDES:
                speeds[name].append(json.loads(child(__file__, name, folder).splitlines()[-1]))
    ours = {name: speeds[name] for name in SIDES if name.startswith("whisper-recipe")}
    rows = []
    for name, found in speeds.items():
        row = {"program": name, "utterances/s": spread(found, 2)}
        for own, fast in ours.items():
            ratios = [quick / slow for quick, slow in zip(fast, found, strict=True)]
            row[f"speedup of {own}"] = spread(ratios, 1)
        rows.append(row)
    what = f"{options.model or 'random weights'}: {options.utterances} files, {options.tokens} tokens each"
    report(f"{what}, {options.rounds} rounds: median (range)", rows)


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write the files, cuts whose features are computed on the fly, the model and its int8 export."""
    from whisper_recipe.data.fbank import fbank
    from whisper_recipe.export.ct2 import export

    make_noise(folder, options.utterances)
    fbank("noise", folder, folder, storage="none")
    export(place_model(folder, options.model), folder / "int8", "int8")


def ours(model: str) -> Callable:
    """Return a function that runs `whisper-recipe decode` with one of the folder's models."""

    def run(folder: Path, options: argparse.Namespace) -> None:
        from whisper_recipe.decoding.decode import decode
        from whisper_recipe.decoding.search import SearchOptions
        from whisper_recipe.files import read_json

        search = SearchOptions(max_new_tokens=options.tokens, suppress_tokens=[END_OF_TEXT], suppress_blank=False)
        with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as out:
            decode(f"{folder}/{model}", folder / "cuts_noise.jsonl.gz", Path(out), pad_to_30s=False, search=search)
            seconds = read_json(Path(out) / "decode.json")["processing_seconds"]
        print(json.dumps(options.utterances / seconds))

    return run


def faster_whisper(batched: bool) -> Callable:
    """Return a function that runs faster-whisper's `transcribe`, or its batched pipeline, on each file."""

    def run(folder: Path, options: argparse.Namespace) -> None:
        import soundfile
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        model = WhisperModel(str(folder / "int8"), device="cpu", compute_type="int8", cpu_threads=os.cpu_count())
        reader = BatchedInferencePipeline(model) if batched else model
        settings = {
            "language": "en",
            "beam_size": 1,
            "temperature": 0.0,
            "suppress_tokens": [END_OF_TEXT],
            "suppress_blank": False,
            "without_timestamps": True,
            "no_speech_threshold": None,
            # CTranslate2's limit is half the sum of this and the prompt.
            "max_new_tokens": 2 * options.tokens - PROMPT,
        }
        start = time.perf_counter()
        for path in files(folder):
            if batched:  # by default it would look for speech, and find none in noise
                whole = [{"start": 0, "end": soundfile.info(path).duration}]
                settings |= {"vad_filter": False, "batch_size": BATCH, "clip_timestamps": whole}
            segments = list(reader.transcribe(str(path), **settings)[0])
            check(len(segments[0].tokens), options)
        print(json.dumps(options.utterances / (time.perf_counter() - start)))

    return run


def transformers(folder: Path, options: argparse.Namespace) -> None:
    """Decode with transformers' `generate`."""
    import soundfile
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    processor = WhisperProcessor.from_pretrained(folder / "model")
    model = WhisperForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).eval()
    start = time.perf_counter()
    for paths in batches(files(folder)):
        samples = [soundfile.read(path, dtype="float32")[0] for path in paths]
        features = processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
        with torch.inference_mode():
            ids = model.generate(
                features,
                language="en",
                task="transcribe",
                max_new_tokens=options.tokens,
                suppress_tokens=[END_OF_TEXT],
                begin_suppress_tokens=None,
            )
        check(ids.shape[1] - (PROMPT if ids[0, 0] == model.config.decoder_start_token_id else 0), options)
    print(json.dumps(options.utterances / (time.perf_counter() - start)))


def files(folder: Path) -> list[Path]:
    """Return the files, sorted by name."""
    return sorted((folder / "noise" / "wav").iterdir())


def batches(paths: list[Path]) -> Iterator[list[Path]]:
    """Yield the files in batches of sixteen."""
    for start in range(0, len(paths), BATCH):
        yield paths[start : start + BATCH]


def check(tokens: int, options: argparse.Namespace) -> None:
    """Exit if a program wrote another number of tokens."""
    if tokens != options.tokens:
        sys.exit(f"expected {options.tokens} tokens, got {tokens}")


SIDES = {
    "whisper-recipe int8": ours("int8"),
    "whisper-recipe transformers": ours("model"),
    "faster-whisper int8, file by file": faster_whisper(batched=False),
    "faster-whisper int8, batched pipeline": faster_whisper(batched=True),
    "transformers generate at 30 s": transformers,
}

if __name__ == "__main__":
    main()
