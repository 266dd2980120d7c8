"""Corpora prepared by lhotse's recipes, written as Kaldi data directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lhotse import RecordingSet, SupervisionSet
from lhotse.audio.utils import AudioLoadingError
from soundfile import SoundFileError

from whisper_recipe.data.corpus import Dropped, write_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import language_code


def utterances(recordings: RecordingSet, supervisions: SupervisionSet) -> Iterator[Utterance]:
    """Yield the utterances of a prepared split.

    Args:
        recordings: recordings with one audio file each.
        supervisions: supervisions of these recordings, with a language; the default speaker is the supervision's id.

    Raises:
        RecipeError: the language is unknown.
    """
    known = {recording.id: recording for recording in recordings}
    for supervision in supervisions:
        recording = known[supervision.recording_id]
        whole = supervision.start == 0 and supervision.duration == recording.duration
        yield Utterance(
            supervision.id,
            recording=recording.id,
            audio=str(Path(recording.sources[0].source).absolute()),
            text=supervision.text,
            language=language_code(supervision.language),
            task="transcribe",
            speaker=supervision.speaker or supervision.id,
            start=supervision.start,
            end=None if whole else supervision.end,
            duration=supervision.duration,
        )


@contextmanager
def named(corpus: Path) -> Iterator[None]:
    """Turn lhotse's exceptions into an error that names the corpus: `with named(corpus): prepare_x(corpus)`.

    Raises:
        RecipeError: the corpus lacks the files or the format that lhotse's recipe expects.
    """
    try:
        yield
    except (AssertionError, AudioLoadingError, IndexError, KeyError, OSError, SoundFileError, ValueError) as error:
        what = f"lhotse can't prepare it ({type(error).__name__}: {error})"
        raise RecipeError(what, where=corpus, cure="compare it with the layout in the recipe's README") from error


def write_split(rows: Iterable[Utterance], folder: Path, dropped: Iterable[Dropped]) -> None:
    """Write a split as a Kaldi data directory, list dropped utterances in its dropped.tsv, and print the counts.

    Unchanged files keep their modification time, so that nothing derived from them is regenerated.

    Raises:
        RecipeError: there are no utterances, or two have the same id.
    """
    rows, dropped = list(rows), list(dropped)
    if not rows:
        raise RecipeError(
            "the corpus has no utterances for it", where=folder, cure="compare it with the recipe's README"
        )
    before = [(path, path.read_bytes(), path.stat()) for path in folder.glob("*") if path.is_file()]
    write_corpus(rows, folder, dropped)
    for path, content, stat in before:
        if path.is_file() and path.read_bytes() == content:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    hours = sum(row.duration for row in rows) / 3600
    left_out = f"; {len(dropped)} dropped, see {folder / 'dropped.tsv'}" if dropped else ""
    print(f"{folder}: {len(rows)} utterances, {hours:.2f} h{left_out}", flush=True)
