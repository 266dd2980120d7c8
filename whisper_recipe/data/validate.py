"""`whisper-recipe validate`: all problems of a corpus, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from whisper_recipe.data.corpus import scan_corpus
from whisper_recipe.data.tokens import MAX_TEXT_TOKENS, token_counter
from whisper_recipe.data.utterance import Problem, Scan, Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import remarks_on
from whisper_recipe.report.sound import AudioMode

if TYPE_CHECKING:
    from whisper_recipe.data.audio import Decoded

MIN_SECONDS = 0.01  # one frame of Whisper's features
REMARKS = {"clipping", "DC offset", "opposite phase"}  # the kinds that are reported but may be intended
MAX_CHARACTERS = 6 * MAX_TEXT_TOKENS  # more than 30 s of speech has, however long its tokens


def validate(
    corpus: Path,
    decode: bool = True,
    tokenizer: str | None = None,
    allow_pipes: bool = False,
    language: str | None = None,
    num_jobs: int = 2,
    show: int = 10,
    channel: int | Literal["mix", "auto"] = 0,
    report: Path | None = None,
    audio: AudioMode = "embedded",
    audio_limit_mb: float = 3.0,
) -> None:
    """Validate a Kaldi data directory or a JSON list; print its problems with file and line, and a table of counts.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        decode: decode all audio. This finds damage that headers don't show, silence, NaN or infinite samples and
            samples beyond full scale, and adds remarks on clipping, DC offset and channels in opposite phase.
        tokenizer: a Whisper folder or a name on the Hub, whose tokenizer finds texts over 448 tokens. Without it, only
            texts over 444 words or over 2,664 characters are found.
        allow_pipes: run the shell commands given in place of audio files.
        language: language of a list's utterances that have none.
        num_jobs: number of decoding threads.
        show: maximum number of problems of each kind to list; 0 lists all.
        channel: the channel of multi-channel audio that `prepare` will use: a number from 0, their mean (mix), or the
            loudest (auto). Silence and similar problems are detected on it.
        report: an HTML report to write, with histograms, and the utterances with problems and the longest, quietest,
            most clipped, fastest-spoken and other extreme utterances, with audio.
        audio: where to store the report's audio: in the page (embedded), in a folder next to it (linked), or not at all
            (none).
        audio_limit_mb: maximum size of the report's audio in megabytes.

    Raises:
        RecipeError: there are problems.
    """
    scan, durations = check_corpus(corpus, decode, tokenizer, allow_pipes, language, num_jobs, channel)
    counts = _print(scan.problems, show)
    if report is not None:
        from whisper_recipe.data.report import write_scan_report

        write_scan_report(report, scan, durations, audio, audio_limit_mb)
    for remark in remarks_on(row.language for row in scan.utterances if row.language):
        print(remark)
    remarks = sum(counts.pop(kind, 0) for kind in REMARKS)
    if counts:
        many = "1 problem" if counts.total() == 1 else f"{counts.total()} problems"
        cure = "correct the lines listed above, or drop them with whisper-recipe fix"
        raise RecipeError(many, where=corpus, cure=cure)
    also = f", {remarks} remarks" if remarks else ""
    print(f"{corpus}: {len(scan.utterances)} utterances, no problems{also}")


def _print(problems: list[Problem], show: int) -> Counter[str]:
    """Print the first `show` problems of each kind (0: all) and a table of counts; return the counts by kind."""
    from tabulate import tabulate

    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.kind] += 1
        if not show or counts[problem.kind] <= show:
            print(f"{problem.where}: {problem.kind}: {problem.what}")
    if counts:
        print(tabulate(counts.most_common(), headers=["problem", "count"]))
    if show and counts and max(counts.values()) > show:
        print(f"(the first {show} of each kind are listed; --show 0 lists all)")
    return counts


def check_corpus(
    corpus: Path,
    decode: bool,
    tokenizer: str | None,
    allow_pipes: bool,
    language: str | None,
    num_jobs: int,
    channel: int | Literal["mix", "auto"] = 0,
) -> tuple[Scan, dict[str, float]]:
    """Read and check a corpus as `validate` does; return it, and the seconds of each utterance with audio, by row.

    Raises:
        RecipeError: there is no such corpus or tokenizer.
    """
    scan = scan_corpus(corpus, allow_pipes, language)
    _check_texts(scan, tokenizer)
    return scan, _check_audio(scan, decode, num_jobs, channel)


def _check_texts(scan: Scan, tokenizer: str | None) -> None:
    # A byte-level tokenizer makes no more tokens than there are bytes, so nearly all texts need no tokenizing.
    long = [utterance for utterance in scan.utterances if len(utterance.text.encode()) > MAX_TEXT_TOKENS]
    count = token_counter(tokenizer) if tokenizer else None
    for utterance in long:
        text = utterance.text
        words, characters = len(text.split()), len(text)
        if count is not None and (tokens := count([text])[0].tokens) > MAX_TEXT_TOKENS:
            what = f"{utterance.id} has {tokens} tokens, over {MAX_TEXT_TOKENS}"
        elif count is None and (words > MAX_TEXT_TOKENS or characters > MAX_CHARACTERS):
            what = f"{utterance.id} has {words} words and {characters} characters, which exceeds 448 tokens"
        else:
            continue
        scan.report("text too long", utterance.row, what, utterance.row)


class _Audio(NamedTuple):
    """The state of an audio file; `seconds` is None if it can't be read, `silent` describes where it has no sound."""

    seconds: float | None
    faults: list[tuple[str, str]]
    remarks: list[tuple[str, str]] = []
    silent: str = ""


def _check_audio(scan: Scan, decode: bool, num_jobs: int, channel: int | Literal["mix", "auto"]) -> dict[str, float]:
    states: dict[str, _Audio] = {}
    durations = {}
    firsts = {utterance.audio: utterance for utterance in reversed(scan.utterances)}
    inspect = partial(_inspect, decode=decode, channel=channel)
    for audio, state in _inspect_all(dict.fromkeys(row.audio for row in scan.utterances), inspect, num_jobs):
        states[audio] = state
        for kind, what in state.faults + state.remarks:
            scan.report(kind, firsts[audio].audio_where, what)
        if state.silent and firsts[audio].text:
            scan.report("silent audio", firsts[audio].audio_where, f"{audio} {state.silent}")
    for utterance in scan.utterances:
        audio = states[utterance.audio]
        for kind, what in audio.faults:
            scan.lose(utterance.row, f"{kind}: {what}")
        if audio.silent and utterance.text:
            scan.lose(utterance.row, f"silent audio: {utterance.audio}")
        if audio.seconds is not None:
            durations[utterance.row] = _check_span(scan, utterance, audio.seconds)
            _check_segments(scan, utterance, durations[utterance.row])
    return durations


def _inspect_all(audio: Iterable[str], inspect: partial[_Audio], num_jobs: int) -> Iterator[tuple[str, _Audio]]:
    from tqdm import tqdm

    with (
        tqdm(total=len(audio), desc="audio", unit="file", disable=None) as progress,
        ThreadPoolExecutor(num_jobs) as pool,
    ):
        rest = iter(audio)
        while part := list(islice(rest, 1000)):
            # Decoding releases the GIL; reading headers does not.
            yield from zip(part, (pool.map if inspect.keywords["decode"] else map)(inspect, part), strict=True)
            progress.update(len(part))


def _inspect(audio: str, decode: bool, channel: int | Literal["mix", "auto"]) -> _Audio:
    from whisper_recipe.data.audio import DURATION_TOLERANCE, audio_info, decode_fully

    try:
        if not decode:
            return _Audio(audio_info(audio).duration, [])
        decoded = decode_fully(audio)
        row = decoded.index(channel, audio)
    except RecipeError as error:
        kind = "missing audio" if error.what == "no such file" else "damaged audio"
        return _Audio(None, [(kind, f"{audio}: {error.what}")])
    signals = decoded.signals
    faults = [(kind, f"{audio}: {what}") for kind, what in signals.faults(row)]
    remarks = [(kind, f"{audio}: {what}") for kind, what in signals.remarks(row)]
    seconds, by_header = signals.num_samples / decoded.info.sampling_rate, decoded.info.duration
    if by_header - seconds > DURATION_TOLERANCE:
        faults.append(("damaged audio", f"{audio}: {seconds:.2f} s of samples, but {by_header:.2f} s in its header"))
    return _Audio(seconds, faults, remarks, _silence(decoded, row, channel))


def _silence(decoded: Decoded, row: int, channel: int | Literal["mix", "auto"]) -> str:
    """Return where the audio is silent, as it will be used; "" if it is not."""
    if not decoded.signals.is_silent(row):
        return ""
    channels = range(decoded.info.num_channels)
    sound = next((index for index in channels if not decoded.signals.is_silent(index)), None)
    if sound is None:
        return "has no sound"
    used = "mix" if channel == "mix" else f"channel {row}"
    return f"has no sound in its {used}, but in channel {sound}: see --channel"


def _check_span(scan: Scan, utterance: Utterance, total: float) -> float:
    """Check the times of an utterance in a recording of `total` seconds; return its duration."""
    from whisper_recipe.data.audio import DURATION_TOLERANCE, is_longer

    end = total if utterance.end is None else utterance.end
    seconds = min(end, total) - utterance.start
    key, row = utterance.id, utterance.row
    if end > total + DURATION_TOLERANCE or utterance.start >= total:
        what = f"{key}: {utterance.start:.2f} to {end:.2f} s of {total:.2f} s"
        scan.report("segment outside", utterance.where, what, row)
        return seconds
    if is_longer(seconds):
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
        what = f"{utterance.id} lasts {seconds:.2f} s but has segments up to {last:.2f} s"
        what += "; times must be relative to the utterance's start, not the recording's" if absolute else ""
        scan.change("segments outside", utterance.row, what, utterance.row, segments=None)
