"""`whisper-recipe validate`: everything that is wrong with a corpus, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.data.corpus import scan_corpus
from whisper_recipe.data.tokens import token_counter
from whisper_recipe.data.utterance import Problem, Scan, Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.report.page import Table
from whisper_recipe.report.sound import AudioMode

MAX_SECONDS = 30.0  # one input of Whisper
MIN_SECONDS = 0.01  # one frame of Whisper's features
SILENT_PEAK = 1e-4  # of full scale: three steps of 16 bits
MAX_TEXT_TOKENS = 448 - 4  # of Whisper's decoder, without the tokens for start, language, task and no timestamps
MAX_CHARACTERS = 6 * MAX_TEXT_TOKENS  # more than any speech of 30 s has, in tokens of whatever length


def validate(
    corpus: Path,
    decode: bool = True,
    tokenizer: str | None = None,
    allow_pipes: bool = False,
    language: str | None = None,
    num_jobs: int = 2,
    show: int = 10,
    report: Path | None = None,
    audio: AudioMode = "embedded",
    audio_limit_mb: float = 3.0,
) -> None:
    """Check a Kaldi data directory or a JSON list; print its problems with file and line, and a table of counts.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        decode: decode all audio: finds damage that headers don't show, silence and samples that are no numbers.
        tokenizer: a Whisper folder or name on the hub: texts over 448 tokens are found by its tokenizer. Without one
            only texts are found that no tokenizer makes shorter (over 444 words, or over 2,664 characters).
        allow_pipes: run the shell commands that stand for audio.
        language: of a list's utterances that name none.
        num_jobs: threads that decode.
        show: problems of a kind to list; 0 lists all.
        report: an HTML page to write, with histograms, and the utterances with problems and the longest, quietest, most
            clipped, fastest-spoken and other extreme ones to listen to.
        audio: where the sound of the report is: in the page, in a folder beside it (linked), or nowhere.
        audio_limit_mb: megabytes of sound at most.

    Raises:
        RecipeError: there are problems.
    """
    from tabulate import tabulate

    scan, durations = check_corpus(corpus, decode, tokenizer, allow_pipes, language, num_jobs)
    counts = Counter(problem.kind for problem in scan.problems)
    _list(scan.problems, show or len(scan.problems))
    if counts:
        print(tabulate(counts.most_common(), headers=["problem", "count"]))
    if show and counts and max(counts.values()) > show:
        print(f"(the first {show} of each kind are listed; --show 0 lists all)")
    if report is not None:
        from whisper_recipe.data.report import spoken_in_corpus, write_corpus_report

        rows = [[kind, f"{count:,}"] for kind, count in counts.most_common()]
        tables = [Table("Problems", ["problem", "count"], rows)] if counts else []
        spoken = list(spoken_in_corpus(scan, durations))
        write_corpus_report(report, Path(corpus).name, spoken, tables, audio, audio_limit_mb)
    if counts:
        many = "1 problem" if counts.total() == 1 else f"{counts.total()} problems"
        cure = "mend the lines listed above, or leave them out: whisper-recipe fix"
        raise RecipeError(many, where=corpus, cure=cure)
    print(f"{corpus}: {len(scan.utterances)} utterances, no problem")


def _list(problems: list[Problem], show: int) -> None:
    shown: Counter[str] = Counter()
    for problem in problems:
        shown[problem.kind] += 1
        if shown[problem.kind] <= show:
            print(f"{problem.where}: {problem.kind}: {problem.what}")


def check_corpus(
    corpus: Path, decode: bool, tokenizer: str | None, allow_pipes: bool, language: str | None, num_jobs: int
) -> tuple[Scan, dict[str, float]]:
    """Read and check a corpus as `validate` does; return it, and the seconds of each utterance (by row) that has audio.

    Raises:
        RecipeError: there is no such corpus or tokenizer.
    """
    scan = scan_corpus(corpus, allow_pipes, language)
    _check_texts(scan, tokenizer)
    return scan, _check_audio(scan, decode, num_jobs)


def _check_texts(scan: Scan, tokenizer: str | None) -> None:
    # A byte-level tokenizer makes no more tokens than there are bytes, so nearly all texts are done with at once.
    long = [utterance for utterance in scan.utterances if len(utterance.text.encode()) > MAX_TEXT_TOKENS]
    count = token_counter(tokenizer) if tokenizer else None
    for utterance in long:
        text = utterance.text
        words, characters = len(text.split()), len(text)
        if count is not None and (tokens := count([text])[0]) > MAX_TEXT_TOKENS:
            what = f"{utterance.id} has {tokens} tokens, over {MAX_TEXT_TOKENS}"
        elif count is None and (words > MAX_TEXT_TOKENS or characters > MAX_CHARACTERS):
            what = f"{utterance.id} has {words} words and {characters} characters, over 448 tokens"
        else:
            continue
        scan.report("text too long", utterance.row, what, utterance.row)


class _Audio(NamedTuple):
    """What is known of an audio file; its seconds are None where it can't be read."""

    seconds: float | None
    faults: list[tuple[str, str]]
    silent: bool = False


def _check_audio(scan: Scan, decode: bool, num_jobs: int) -> dict[str, float]:
    found: dict[str, _Audio] = {}
    durations = {}
    firsts = {utterance.audio: utterance for utterance in reversed(scan.utterances)}
    for audio, state in _look_at_all(dict.fromkeys(utterance.audio for utterance in scan.utterances), decode, num_jobs):
        found[audio] = state
        for kind, what in state.faults:
            scan.report(kind, firsts[audio].audio_where, what)
        if state.silent and firsts[audio].text:
            scan.report("silent audio", firsts[audio].audio_where, f"{audio} has no sound in it")
    for utterance in scan.utterances:
        audio = found[utterance.audio]
        for kind, what in audio.faults:
            scan.lose(utterance.row, f"{kind}: {what}")
        if audio.silent and utterance.text:
            scan.lose(utterance.row, f"silent audio: {utterance.audio}")
        if audio.seconds is not None:
            durations[utterance.row] = _check_span(scan, utterance, audio.seconds)
            _check_segments(scan, utterance, durations[utterance.row])
    return durations


def _look_at_all(audio: Iterable[str], decode: bool, num_jobs: int) -> Iterator[tuple[str, _Audio]]:
    from tqdm import tqdm

    look = partial(_look, decode=decode)
    with (
        tqdm(total=len(audio), desc="audio", unit="file", disable=None) as progress,
        ThreadPoolExecutor(num_jobs) as pool,
    ):
        rest = iter(audio)
        while part := list(islice(rest, 1000)):
            # Decoding leaves the interpreter free for other threads; reading headers does not.
            yield from zip(part, (pool.map if decode else map)(look, part), strict=True)
            progress.update(len(part))


def _look(audio: str, decode: bool) -> _Audio:
    from whisper_recipe.data.audio import DURATION_TOLERANCE, audio_info, decode_fully

    try:
        if not decode:
            return _Audio(audio_info(audio).duration, [])
        found = decode_fully(audio)
    except RecipeError as error:
        kind = "missing audio" if error.what == "no such file" else "damaged audio"
        return _Audio(None, [(kind, f"{audio}: {error.what}")])
    faults = []
    if not found.finite:
        faults.append(("not a number", f"{audio} has samples that are NaN or infinite"))
    seconds, by_header = found.num_samples / found.info.sampling_rate, found.info.duration
    if by_header - seconds > DURATION_TOLERANCE:
        faults.append(("damaged audio", f"{audio}: {seconds:.2f} s of samples, {by_header:.2f} s by its header"))
    return _Audio(seconds, faults, silent=found.finite and found.peak < SILENT_PEAK)


def _check_span(scan: Scan, utterance: Utterance, total: float) -> float:
    """Check the times of an utterance in a recording of `total` seconds; return its own seconds."""
    from whisper_recipe.data.audio import DURATION_TOLERANCE

    end = total if utterance.end is None else utterance.end
    seconds = min(end, total) - utterance.start
    key, row = utterance.id, utterance.row
    if end > total + DURATION_TOLERANCE or utterance.start >= total:
        what = f"{key}: {utterance.start:.2f} to {end:.2f} s of {total:.2f} s"
        scan.report("segment outside", utterance.where, what, row)
        return seconds
    if seconds > MAX_SECONDS:
        scan.report("over 30 s", utterance.where, f"{key} lasts {seconds:.2f} s", row)
    if seconds < MIN_SECONDS:
        scan.report("too short", utterance.where, f"{key} lasts {seconds:.4f} s", row)
    if utterance.duration is not None and abs(utterance.duration - seconds) > DURATION_TOLERANCE:
        what = f"{key} lasts {seconds:.2f} s, not {utterance.duration:.2f} s"
        scan.report("wrong duration", utterance.where, what)
    return seconds


def _check_segments(scan: Scan, utterance: Utterance, seconds: float) -> None:
    from whisper_recipe.data.audio import DURATION_TOLERANCE

    if utterance.segments and (last := utterance.segments[-1].end) > seconds + DURATION_TOLERANCE:
        absolute = utterance.start and last <= utterance.start + seconds + DURATION_TOLERANCE
        what = f"{utterance.id} lasts {seconds:.2f} s and has segments up to {last:.2f} s"
        what += "; times count from the utterance's start, not from the recording's" if absolute else ""
        scan.change("segments outside", utterance.row, what, utterance.row, segments=None)
