"""`whisper-recipe transcribe` against faster-whisper on long audio: error rate, speed and lost speech.

    python tools/bench/long_audio.py --model CT2_FOLDER --data data/test [--minutes 10] [--files 1] [--seed 1]

The utterances of a Kaldi data directory are joined, in random order and with pauses of 0.1 to 2 s, into long files.
These are transcribed with the same weights by `transcribe` (in batches and sequentially) and by faster-whisper (file by
file and by its batched pipeline), with the same beam and temperatures; all other settings are defaults.

The error rate is that of the whole transcript. An utterance over 2 s is lost if no segment of the transcript overlaps
it. The RTF includes loading the model.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from measure import report

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.text.error_rates import ErrorCounts, count_errors
from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters

LONG = 2.0  # seconds: utterances over this must have words
Segments = list[tuple[float, float, str]]  # start, end, text


class LongFile(NamedTuple):
    """A joined file, and its utterances with their times."""

    path: Path
    utterances: Segments

    @property
    def seconds(self) -> float:
        """Duration."""
        return soundfile.info(self.path).duration


def main() -> None:
    """Join the utterances, transcribe with each program, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a CTranslate2 folder")
    parser.add_argument("--data", type=Path, required=True, help="a Kaldi data directory of one language")
    parser.add_argument("--minutes", type=float, default=10, help="length of each file")
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--beam_size", type=int, default=1)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0])
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS))
    parser.add_argument("--keep", type=Path, help="a folder for the files and transcripts")
    options = parser.parse_args()
    options.language = (options.data / "utt2lang").read_text(encoding="utf-8").split()[1]
    with tempfile.TemporaryDirectory() as folder:
        folder = options.keep or Path(folder)
        files = [join(options, folder, number) for number in range(options.files)]
        seconds = sum(file.seconds for file in files)
        rows = [measure(name, files, options, folder) for name in options.programs]
    report(f"{options.data}: {options.files} files, {seconds:.0f} s, beam {options.beam_size}", rows)


def join(options: argparse.Namespace, folder: Path, number: int) -> LongFile:
    """Write a long file of utterances in random order, each after a pause."""
    generator = random.Random(f"{options.seed} {number}")
    audio, text = (dict(_table(options.data / name)) for name in ("wav.scp", "text"))
    keys = sorted(audio.keys() & text.keys())
    generator.shuffle(keys)
    parts, utterances, position = [], [], 0
    for key in keys:
        if position >= 60 * options.minutes * SAMPLING_RATE:
            break
        pause = round(generator.uniform(0.1, 2) * SAMPLING_RATE)
        samples = read_audio(options.data / audio[key])
        parts += [np.zeros(pause, dtype=np.float32), samples]
        start = position + pause
        position = start + len(samples)
        utterances.append((start / SAMPLING_RATE, position / SAMPLING_RATE, text[key]))
    path = folder / f"long{number}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), SAMPLING_RATE)
    return LongFile(path, utterances)


def _table(path: Path) -> Iterator[list[str]]:
    return (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())


def measure(name: str, files: list[LongFile], options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return a row of the table."""
    start = time.perf_counter()
    transcripts = PROGRAMS[name](files, options)
    rtf = (time.perf_counter() - start) / sum(file.seconds for file in files)
    normalize = get_normalizer("whisper", options.language)
    characters = is_counted_in_characters(options.language, "transcribe")
    counts, lost = [], []
    for file, segments in zip(files, transcripts, strict=True):
        (folder / f"{file.path.stem}.{name.replace(' ', '_').replace(',', '')}.json").write_text(
            json.dumps({"reference": file.utterances, "segments": segments}, ensure_ascii=False, indent=1)
        )
        texts = (" ".join(text for _, _, text in rows) for rows in (file.utterances, segments))
        counts.append(count_errors(*map(normalize, texts), characters))
        lost += [
            end - start for start, end, _ in file.utterances if end - start > LONG and _silent(start, end, segments)
        ]
    total = ErrorCounts.sum(counts)
    return {
        "program": name,
        "CER %" if characters else "WER %": f"{100 * total.rate(total.errors):.1f}",
        "insertions": total.insertions,
        "deletions": total.deletions,
        "substitutions": total.substitutions,
        "RTF": f"{rtf:.3f}",
        f"utterances over {LONG:.0f} s without words": f"{len(lost)} ({sum(lost):.0f} s)",
    }


def _silent(start: float, end: float, segments: Segments) -> bool:
    return not any(first < end and start < last for first, last, _ in segments)


def ours(files: list[LongFile], options: argparse.Namespace, sequential: bool) -> list[Segments]:
    """Transcribe with the command's function."""
    from whisper_recipe.decoding.transcribe import transcribe

    with tempfile.TemporaryDirectory() as out:
        transcribe(
            [file.path for file in files],
            options.model,
            Path(out),
            formats=["json"],
            language=options.language,
            sequential=sequential,
            search=SearchOptions(beam_size=options.beam_size, temperatures=options.temperatures),
        )
        found = [json.loads((Path(out) / f"{file.path.stem}.json").read_text()) for file in files]
    return [[(row["start"], row["end"], row["text"]) for row in each["results"]] for each in found]


def theirs(files: list[LongFile], options: argparse.Namespace, batched: bool) -> list[Segments]:
    """Transcribe with faster-whisper; the batched pipeline without timestamps in the text, its default."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(options.model, device="auto", compute_type="default")
    search = {"language": options.language, "beam_size": options.beam_size, "temperature": options.temperatures}
    reader = BatchedInferencePipeline(model) if batched else model
    found = [reader.transcribe(str(file.path), **search)[0] for file in files]
    return [[(row.start, row.end, row.text.strip()) for row in segments] for segments in found]


PROGRAMS: dict[str, Callable[[list[LongFile], argparse.Namespace], list[Segments]]] = {
    "whisper-recipe": lambda files, options: ours(files, options, sequential=False),
    "whisper-recipe, sequential": lambda files, options: ours(files, options, sequential=True),
    "faster-whisper": lambda files, options: theirs(files, options, batched=False),
    "faster-whisper, batched": lambda files, options: theirs(files, options, batched=True),
}

if __name__ == "__main__":
    main()
