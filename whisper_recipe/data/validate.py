"""`whisper-recipe validate`: everything that is wrong with a Kaldi data directory, in one pass."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from whisper_recipe.data.kaldi import UNSORTED, Directory, Problem, Utterance, scan_data_dir
from whisper_recipe.errors import RecipeError

MAX_SECONDS = 30.0  # one input of Whisper
MIN_SECONDS = 0.01  # one frame of Whisper's features
SILENT_PEAK = 1e-4  # of full scale: three steps of 16 bits


def validate(data_dir: Path, decode: bool = False, show: int = 10) -> None:
    """Check a Kaldi data directory and print its problems, each with file and line, and a table of counts.

    Tables are read in full, audio files as far as their header goes. Unsorted ids are told but are no error here.

    Args:
        data_dir: the Kaldi data directory.
        decode: decode all audio: finds damage that headers don't show, silence and samples that are no numbers.
        show: problems of a kind to list; 0 lists all.

    Raises:
        RecipeError: there are problems.
    """
    from tabulate import tabulate

    utterances, problems = scan_data_dir(data_dir)
    _check_audio(Directory(data_dir, problems), utterances, decode)
    counts = Counter(problem.kind for problem in problems)
    _list(problems, show or len(problems))
    if counts:
        print(tabulate(counts.most_common(), headers=["problem", "count"]))
    if show and counts and max(counts.values()) > show:
        print(f"(the first {show} of each kind are listed; --show 0 lists all)")
    del counts[UNSORTED]
    if counts:
        many = "1 problem" if counts.total() == 1 else f"{counts.total()} problems"
        raise RecipeError(many, where=data_dir, cure="mend the lines listed above")
    print(f"{data_dir}: {len(utterances)} utterances, no problem")


def _list(problems: list[Problem], show: int) -> None:
    shown: Counter[str] = Counter()
    for problem in problems:
        shown[problem.kind] += 1
        if shown[problem.kind] <= show:
            print(f"{problem.where}: {problem.kind}: {problem.what}")


def _check_audio(directory: Directory, utterances: list[Utterance], decode: bool) -> None:
    from whisper_recipe.data.audio import DURATION_TOLERANCE

    durations: dict[Path, float] = {}
    for utterance in utterances:
        if utterance.audio not in durations:
            durations[utterance.audio] = _duration(directory, utterance, decode)
        total = durations[utterance.audio]
        if math.isnan(total):
            continue
        end = total if utterance.end is None else utterance.end
        seconds = end - utterance.start
        if end > total + DURATION_TOLERANCE or utterance.start >= total:
            what = f"{utterance.id}: {utterance.start:.2f} to {end:.2f} s of {total:.2f} s"
            directory.report("segment outside", utterance.where, what)
            continue
        if seconds > MAX_SECONDS:
            directory.report("over 30 s", utterance.where, f"{utterance.id} lasts {seconds:.2f} s")
        if seconds < MIN_SECONDS:
            directory.report("too short", utterance.where, f"{utterance.id} lasts {seconds:.4f} s")
        if utterance.duration is not None and abs(utterance.duration - seconds) > DURATION_TOLERANCE:
            what = f"{utterance.id} lasts {seconds:.2f} s, utt2dur says {utterance.duration:.2f} s"
            directory.report("wrong duration", utterance.where, what)


def _duration(directory: Directory, utterance: Utterance, decode: bool) -> float:
    """Return the seconds of a recording by its header; report what is wrong with it, and return NaN if unreadable."""
    from whisper_recipe.data.audio import DURATION_TOLERANCE, audio_info, decode_fully

    if not utterance.audio.is_file():
        directory.report("missing audio", utterance.audio_where, f"{utterance.audio} is no file")
        return math.nan
    try:
        info = audio_info(utterance.audio)
        found = decode_fully(utterance.audio) if decode else None
    except RecipeError as error:
        directory.report("damaged audio", utterance.audio_where, f"{error.where}: {error.what}")
        return math.nan
    if found is None:
        return info.duration
    if not found.finite:
        directory.report(
            "not a number", utterance.audio_where, f"{utterance.audio} has samples that are NaN or infinite"
        )
    elif found.peak < SILENT_PEAK:
        directory.report("silent audio", utterance.audio_where, f"{utterance.audio} has no sound in it")
    seconds = found.num_samples / info.sampling_rate
    if info.duration - seconds > DURATION_TOLERANCE:
        what = f"{utterance.audio}: {seconds:.2f} s of samples, {info.duration:.2f} s by its header"
        directory.report("damaged audio", utterance.audio_where, what)
    return seconds
