"""`whisper-recipe transcribe`: from audio files of any length, folders and lists to texts and subtitles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from whisper_recipe.data.audio import SAMPLING_RATE, audio_info, read_mono
from whisper_recipe.data.workers import load_ahead
from whisper_recipe.decoding.formats import FormatName, write_together, write_transcript
from whisper_recipe.decoding.inputs import SKIPPED, Source, find_sources
from whisper_recipe.decoding.long_audio import Recording, Transcriber
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.errors import PartialFailure, RecipeError
from whisper_recipe.files import atomic_write, printable
from whisper_recipe.languages import language_code

POOL_SECONDS = 1800  # of audio decoded together, or one recording if it is longer; the next pool is read meanwhile


def transcribe(
    inputs: list[Path],
    model: str,
    out: Path,
    formats: list[FormatName] = ["txt"],  # noqa: B006
    language: str = "auto",
    task: Literal["transcribe", "translate"] = "transcribe",
    word_timestamps: bool = False,
    sequential: bool = False,
    batch_duration: float | None = None,
    compute_type: str = "default",
    pad_to_30s: bool | None = None,
    spare_frames: int | None = None,
    search: SearchOptions = SearchOptions(),  # noqa: B008
) -> None:
    """Transcribe audio files of any length.

    Args:
        inputs: audio files; folders, including subfolders; lists that end in .txt, .lst or .list, with one path per
            line; and wav.scp. Unreadable inputs are reported and listed in out/skipped.tsv, and the exit status is 2.
            The readable part of truncated or damaged audio is transcribed, with a warning.
        model: a Whisper folder, a CTranslate2 folder, or a name on the Hub.
        out: the folder to write. It keeps the subfolders of the inputs.
        formats: txt, json, srt, vtt and tsv write one file per input; kaldi (text), trn (hyp.trn) and ctm (hyp.ctm)
            write one for all.
        language: a Whisper code or an English name; auto detects it for each input, in its first 30 s of speech.
        task: transcribe, or translate into English.
        word_timestamps: also write word times, in json; ctm always has them.
        sequential: decode the windows of long audio one after the other, each with the previous text as prompt: more
            consistent, but slower, and errors may propagate.
        batch_duration: maximum seconds of audio per batch. By default 120 per 2 GB of GPU memory, up to 1920, and 40 on
            a CPU, where CTranslate2 decodes one batch per core.
        compute_type: default, float32, float16, int8 and so on, if supported by the backend.
        pad_to_30s: pad every window to 30 s, as stock models require. By default as recorded in the model folder.
        spare_frames: frames (10 ms) of silence after the longest window of a batch that is not padded to 30 s. By
            default as recorded in the model folder.
        search: search options.

    Raises:
        RecipeError: an input or the model is missing, or two inputs would be written under the same name.
        PartialFailure: some inputs can't be read; the others are done.
    """
    code = None if language == "auto" else language_code(language, where="language")
    sources = find_sources(inputs)
    decoder = Transcriber(
        model,
        compute_type=compute_type,
        pad_to_30s=pad_to_30s,
        spare_frames=spare_frames,
        task=task,
        word_timestamps=word_timestamps or "ctm" in formats,
        sequential=sequential,
        batch_duration=batch_duration,
        search=search,
    )
    skipped: list[tuple[Source, str]] = []
    durations = dict(_attempt(sources, skipped, lambda source: _duration(source.audio)))
    transcripts, start = [], time.perf_counter()
    with tqdm(total=round(sum(durations.values())), unit="s", desc="transcribe") as progress:
        done = 0.0

        def count(seconds: float) -> None:
            nonlocal done
            done += seconds
            progress.set_postfix(RTF=f"{(time.perf_counter() - start) / max(done, 1e-9):.4f}", refresh=False)
            progress.update(min(round(done), progress.total) - progress.n)

        def read(pool: list[Source]) -> list[Recording]:
            samples = _attempt(pool, skipped, lambda source: _mono(source.audio))
            recordings = [Recording(source.name, mono) for source, mono in samples]
            for recording in recordings:
                recording.windows(merge=False)  # detects speech ahead, so that a GPU need not wait for it
            return recordings

        for recordings in load_ahead(read, _pools(durations)):
            for transcript in decoder.transcribe(recordings, code, count):
                write_transcript(transcript, out, formats)
                transcripts.append(transcript)
    write_together(transcripts, out, formats)
    rtf = (time.perf_counter() - start) / done if done else 0.0
    print(f"{out}: {len(transcripts)} files, {done:.0f} s of audio, RTF {rtf:.4f} (processing time / audio time)")
    _finish(out, skipped, len(sources))


def _attempt(
    sources: list[Source], skipped: list[tuple[Source, str]], read: Callable[[Source], float | np.ndarray]
) -> Iterator[tuple[Source, float | np.ndarray]]:
    """Yield (source, result of `read`); report and collect those that can't be read."""
    for source in sources:
        try:
            yield source, read(source)
        except RecipeError as error:
            tqdm.write(f"skipped: {printable(' '.join(str(error).split()))}", file=sys.stderr)
            skipped.append((source, str(error)))


def _duration(audio: str) -> float:
    """Return the seconds of audio, by the header if it is right."""
    if audio.endswith("|"):
        raise RecipeError("shell commands are not executed", where=audio, cure="write its output to a file")
    try:
        return audio_info(audio).duration
    except RecipeError:  # part of truncated or damaged audio may be readable
        return len(read_mono(audio)[0]) / SAMPLING_RATE


def _mono(audio: str) -> np.ndarray:
    """Return all readable audio as mono, float32 (n,) at 16 kHz; warn if something is wrong with it."""
    samples, wrong = read_mono(audio)
    if wrong:
        tqdm.write(printable(f"warning: {audio}: {wrong}; the readable part is transcribed"), file=sys.stderr)
    return samples


def _pools(durations: dict[Source, float]) -> Iterator[list[Source]]:
    """Yield groups of sources of similar duration, the longest first, each to be held in memory together."""
    pool, seconds = [], 0.0
    for source in sorted(durations, key=lambda source: -durations[source]):
        if pool and seconds + durations[source] > POOL_SECONDS:
            yield pool
            pool, seconds = [], 0.0
        pool.append(source)
        seconds += durations[source]
    if pool:
        yield pool


def _finish(out: Path, skipped: list[tuple[Source, str]], count: int) -> None:
    """Write the list of skipped inputs; raise PartialFailure if there are any."""
    path = out / f"{SKIPPED}.tsv"
    path.unlink(missing_ok=True)
    if not skipped:
        return
    with atomic_write(path) as aside:
        rows = ["\t".join([source.where, source.audio, " ".join(why.split())]) + "\n" for source, why in skipped]
        aside.write_text(printable("".join(rows)), encoding="utf-8")
    what = f"{len(skipped)} of {count} inputs can't be read and were skipped"
    raise PartialFailure(what, where=path, cure="correct or remove them; the others are done")
