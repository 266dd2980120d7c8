"""`whisper-recipe validate`: everything that is wrong with a Kaldi data directory, in one pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from whisper_recipe.data.kaldi import UNSORTED, Directory, Utterance, scan_data_dir
from whisper_recipe.errors import RecipeError

MAX_SECONDS = 30.0  # one input of Whisper
DURATION_TOLERANCE = 0.1  # seconds by which utt2dur and segments may be off
SHOWN = 10  # problems of a kind that are printed


def validate(data_dir: Path) -> None:
    """Check a Kaldi data directory and print all its problems, each with file and line, and a table of counts.

    Tables are read in full, audio files as far as their header goes. Unsorted ids are told but are no error here.

    Args:
        data_dir: the Kaldi data directory.

    Raises:
        RecipeError: there are problems.
    """
    from tabulate import tabulate

    utterances, problems = scan_data_dir(data_dir)
    directory = Directory(data_dir, problems)
    _check_audio(directory, utterances)
    counts = Counter(problem.kind for problem in problems)
    shown: Counter[str] = Counter()
    for problem in problems:
        shown[problem.kind] += 1
        if shown[problem.kind] <= SHOWN:
            print(f"{problem.where}: {problem.kind}: {problem.what}")
    if counts:
        print(tabulate(counts.most_common(), headers=["problem", "count"]))
        if max(counts.values()) > SHOWN:
            print(f"(the first {SHOWN} of each kind are listed)")
    del counts[UNSORTED]
    if counts:
        raise RecipeError(f"{sum(counts.values())} problems", where=data_dir, cure="mend the lines listed above")
    print(f"{data_dir}: {len(utterances)} utterances, no problem")


def _check_audio(directory: Directory, utterances: list[Utterance]) -> None:
    durations: dict[Path, float | None] = {}
    for utterance in utterances:
        if utterance.audio not in durations:
            durations[utterance.audio] = _duration(directory, utterance)
        total = durations[utterance.audio]
        if total is None:
            continue
        end = total if utterance.end is None else utterance.end
        seconds = end - utterance.start
        if end > total + DURATION_TOLERANCE:
            directory.report("segment outside", utterance.where, f"{utterance.id} ends at {end:.2f} s of {total:.2f} s")
        if seconds > MAX_SECONDS:
            directory.report("over 30 s", utterance.where, f"{utterance.id} lasts {seconds:.2f} s")
        if utterance.duration is not None and abs(utterance.duration - seconds) > DURATION_TOLERANCE:
            what = f"{utterance.id} lasts {seconds:.2f} s, utt2dur says {utterance.duration:.2f} s"
            directory.report("wrong duration", utterance.where, what)


def _duration(directory: Directory, utterance: Utterance) -> float | None:
    """Return the seconds of a recording by its header; report it and return None where it can't be read."""
    import soundfile

    if not utterance.audio.is_file():
        directory.report("missing audio", utterance.where, f"{utterance.audio} is no file")
        return None
    try:
        duration = soundfile.info(str(utterance.audio)).duration
    except (soundfile.SoundFileError, RuntimeError) as error:
        directory.report("unreadable audio", utterance.where, f"{utterance.audio}: {error}")
        return None
    if duration <= 0:
        directory.report("empty audio", utterance.where, f"{utterance.audio} has no samples")
        return None
    return duration
