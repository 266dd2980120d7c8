"""Synthesise the corpus of egs/mini: spoken English, Mandarin and Spanish in Kaldi data directories."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import sys
import zlib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import grammar
import numpy as np
import soundfile
import soxr
from espeak import espeak
from tqdm import tqdm

from whisper_recipe.data.workers import in_order
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write

SAMPLING_RATE = 16000
VOICES = {"en": "en-us", "zh": "cmn", "es": "es-419"}  # espeak-ng's names for the languages
CHUNK = 32  # utterances per process
QUIET = 0.01  # quieter samples at either end are trimmed


class Split(NamedTuple):
    """A data directory.

    `share`: of the grammar's sentences, in %. `counts`: utterances per (language, task). `speakers`: variants of
    espeak-ng's voices. `snr`: the range of the signal-to-noise ratio, in dB.
    """

    share: int
    counts: dict[tuple[str, str], int]
    speakers: str
    snr: tuple[float, float]


def _mixture(total: int, **shares: float) -> dict[tuple[str, str], int]:
    tasks = {
        "en": ("en", "transcribe"),
        "zh": ("zh", "transcribe"),
        "es": ("es", "transcribe"),
        "zh_en": ("zh", "translate"),
    }
    return {tasks[name]: round(total * share) for name, share in shares.items()}


BASE = {"en": 0.5, "zh": 0.5}
TARGET = {"en": 0.2, "zh": 0.15, "es": 0.3, "zh_en": 0.35}
EVEN = {"en": 0.25, "zh": 0.25, "es": 0.25, "zh_en": 0.25}
CLEAN, NOISY = (30.0, 45.0), (20.0, 35.0)
# Variants of espeak-ng's voices. Excluded: robots and whispers; vocal tracts far from human (one of the first three
# formants more than 35 % off the language's own, in the test sets more than 15 %); and f2, f3, f5, Alicia, sandro and
# victor, whose breath noise is random and can't be seeded.
BASE_SPEAKERS = (
    "m1 m3 m5 f4 Annie Gene Hugo Mario linda max caleb ed ian iven john miguel rob Denis aunty klatt2 klatt5 norbert"
)
TARGET_SPEAKERS = (
    "m4 m7 f1 Alex belinda david steph antonio grandma iven3 michel mike2 pedro robert Diogo Henrique Storm anika "
    "klatt4 klatt6 Gene2 announcer"
)
SPLITS = {
    "base_train": Split(40, _mixture(6000, **BASE), BASE_SPEAKERS, CLEAN),
    "base_dev": Split(3, _mixture(100, **BASE), "m2 Nguyen", CLEAN),
    "train": Split(40, _mixture(6000, **TARGET), TARGET_SPEAKERS, NOISY),
    "dev": Split(3, _mixture(160, **EVEN), "m6 quincy", NOISY),
    "test_base": Split(5, _mixture(200, **BASE), "m8 adam benjamin paul", CLEAN),
    "test": Split(9, _mixture(480, **EVEN), "Andrea edward pablo grandpa Mike", NOISY),
}
ENDS = list(itertools.accumulate(split.share for split in SPLITS.values()))


class Utterance(NamedTuple):
    """What to say, and how."""

    id: str
    language: str
    task: str
    spoken: str
    text: str
    speaker: str
    snr: float
    seed: tuple[int, ...]


def plan(seed: int, scale: float) -> dict[str, list[Utterance]]:
    """Draw all utterances of all splits; no sentence (in any language) is in two of them."""
    splits = {}
    for number, (name, split) in enumerate(SPLITS.items()):
        rng = np.random.default_rng([seed, number])
        utterances = []
        for (language, task), count in split.counts.items():
            for _ in range(max(1, round(count * scale))):
                while _split_of(meaning := grammar.draw(rng), seed) != name:
                    pass
                speaker = str(rng.choice(split.speakers.split()))
                spoken = getattr(meaning, language)
                index = len(utterances)
                utterances.append(
                    Utterance(
                        id=f"{speaker}-{language}-{index:05d}",
                        language=language,
                        task=task,
                        spoken=spoken,
                        text=meaning.en if task == "translate" else spoken,
                        speaker=speaker,
                        snr=float(rng.uniform(*split.snr)),
                        seed=(seed, number, index),
                    )
                )
        splits[name] = sorted(utterances, key=lambda utterance: utterance.id.encode())
    return splits


def _split_of(meaning: grammar.Meaning, seed: int) -> str:
    """Return the split that a sentence belongs to, by a hash, so that each kind of sentence is in all splits."""
    place = zlib.crc32(f"{seed} {meaning.en}".encode()) % 100
    return next(name for name, end in zip(SPLITS, ENDS, strict=True) if place < end)


def synthesise(utterance: Utterance) -> np.ndarray:
    """Return an utterance's samples with noise, 16 kHz, float32; the same utterance has the same samples."""
    rng = np.random.default_rng(utterance.seed)
    # Each speaker has a pitch, a pitch range and a rate; each utterance varies pitch and rate a little.
    speaker = np.random.default_rng([ord(letter) for letter in utterance.speaker])
    pitch, pitch_range, rate = speaker.integers(35, 65), speaker.integers(30, 70), speaker.integers(225, 255)
    engine = espeak()
    samples = engine.say(
        utterance.spoken,
        f"{VOICES[utterance.language]}+{utterance.speaker}",
        rate=int(rate + rng.integers(-25, 26)),
        pitch=int(pitch + rng.integers(-15, 16)),
        pitch_range=int(pitch_range),
    )
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    if not len(loud):
        raise RecipeError(f"espeak-ng produced no sound for {utterance.spoken!r}", where=utterance.id)
    # A vocal tract slightly shorter or longer than the voice's own, which shifts its formants.
    tract = rng.uniform(0.95, 1.06)
    samples = soxr.resample(samples[loud[0] : loud[-1] + 1], engine.sampling_rate * tract, SAMPLING_RATE)
    margins = rng.integers(SAMPLING_RATE // 50, SAMPLING_RATE // 12, size=2)
    return _with_noise(np.pad(samples, margins), utterance.snr, rng)


class Synthesis:
    """A process that synthesises utterances; `result` waits for their samples.

    Not multiprocessing.Pool with maxtasksperchild=1: on a busy machine it sometimes hung instead of reporting an error.
    """

    def __init__(self, utterances: list[Utterance]) -> None:
        context = multiprocessing.get_context("fork")
        self.samples, out = context.Pipe(duplex=False)
        self.process = context.Process(target=self._run, args=(utterances, out), daemon=True)
        self.process.start()
        out.close()  # so that `result` notices if the process dies

    def _run(self, utterances: list[Utterance], out: Connection) -> None:
        self.samples.close()  # so that sending fails if the parent is killed
        try:
            found = [synthesise(utterance) for utterance in utterances]
        except RecipeError as error:
            found = error
        with contextlib.suppress(BrokenPipeError):
            out.send(found)

    def result(self) -> list[np.ndarray]:
        """Return the utterances' samples.

        Raises:
            RecipeError: espeak-ng is missing, can't be used, or is silent.
        """
        try:
            found = self.samples.recv()
        except EOFError:
            self.process.join()
            raise RecipeError(f"the process with espeak-ng died (exit status {self.process.exitcode})") from None
        self.process.join()
        if isinstance(found, RecipeError):
            raise found
        return found


def _with_noise(samples: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise of a random colour (white to brown) at `snr` dB and set a random level."""
    length = 1 << len(samples).bit_length()  # a power of two: the FFT of a prime length is many times slower
    spectrum = np.fft.rfft(rng.standard_normal(length))
    # Flat below 50 Hz, so that brown noise does not have its energy where there is no speech.
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLING_RATE), 50.0)
    noise = np.fft.irfft(spectrum / frequencies ** rng.uniform(0.0, 1.0))[: len(samples)]
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    mixed = samples + noise
    return (mixed / np.abs(mixed).max() * 10 ** rng.uniform(-1.0, -0.05)).astype(np.float32)


def write_split(folder: Path, utterances: list[Utterance], num_jobs: int) -> float:
    """Write a Kaldi data directory, complete or absent; return its duration in seconds."""
    with atomic_write(folder, replace_folder=True) as aside:
        (aside / "wav").mkdir(parents=True)
        durations = []
        # espeak-ng's output depends on its earlier output, and nothing resets it: a new process for each CHUNK of
        # utterances makes the bytes independent of the number of processes.
        chunks = [utterances[start : start + CHUNK] for start in range(0, len(utterances), CHUNK)]
        with tqdm(total=len(utterances), desc=folder.name, unit="utt") as progress:
            synthesised = in_order(map(Synthesis, chunks), ahead=num_jobs - 1)
            for utterance, samples in zip(utterances, itertools.chain.from_iterable(synthesised), strict=True):
                soundfile.write(aside / "wav" / f"{utterance.id}.wav", samples, SAMPLING_RATE, subtype="PCM_16")
                durations.append(len(samples) / SAMPLING_RATE)
                progress.update()
        tables = {
            "wav.scp": [f"wav/{utterance.id}.wav" for utterance in utterances],
            "text": [utterance.text for utterance in utterances],
            "utt2lang": [utterance.language for utterance in utterances],
            "utt2spk": [utterance.speaker for utterance in utterances],
            "utt2task": [utterance.task for utterance in utterances],
            "utt2dur": [f"{duration:.4f}" for duration in durations],
        }
        for name, values in tables.items():
            rows = zip(utterances, values, strict=True)
            lines = "".join(f"{utterance.id} {value}\n" for utterance, value in rows)
            (aside / name).write_text(lines, encoding="utf-8")
    return sum(durations)


def main() -> None:
    """Write every split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the splits")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the utterances; 0.01 for a trial")
    parser.add_argument("--num-jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    try:
        for option, value in (("--scale", options.scale), ("--num-jobs", options.num_jobs)):
            if not value > 0:
                raise RecipeError(f"must be above 0, got {value}", where=option, cure="give a larger value")
        for name, utterances in plan(options.seed, options.scale).items():
            seconds = write_split(options.out / name, utterances, options.num_jobs)
            print(f"{options.out / name}: {len(utterances)} utterances, {seconds / 3600:.2f} h")
    except RecipeError as error:
        sys.exit(f"make_corpus.py: error: {error}")


if __name__ == "__main__":
    main()
