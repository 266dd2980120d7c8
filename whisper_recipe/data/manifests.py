"""`whisper-recipe prepare`: from a Kaldi data directory to Lhotse recordings and supervisions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
from tqdm import tqdm

from whisper_recipe.data.kaldi import Utterance, read_data_dir
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import written_aside


def manifest_path(folder: Path, kind: str, split: str) -> Path:
    """Return the path of a manifest: kind is recordings, supervisions or cuts."""
    return Path(folder) / f"{kind}_{split}.jsonl.gz"


def prepare(data_dir: Path, out: Path = Path("data/manifests")) -> None:
    """Write out/recordings_<split>.jsonl.gz and out/supervisions_<split>.jsonl.gz; the split is the directory's name.

    Args:
        data_dir: a Kaldi data directory.
        out: the folder for the manifests.

    Raises:
        RecipeError: the directory has problems, or an audio file can't be read.
    """
    data_dir = Path(data_dir)
    split = data_dir.resolve().name
    utterances = read_data_dir(data_dir)
    recordings: dict[str, Recording] = {}
    for utterance in tqdm(utterances, desc=f"prepare {split}", unit="utt"):
        known = recordings.get(utterance.recording)
        if known is None:
            recordings[utterance.recording] = _recording(utterance)
        elif known.sources[0].source != str(utterance.audio.resolve()):
            raise RecipeError(
                f"recording {utterance.recording} has two files",
                where=utterance.where,
                cure="give one of them another id",
            )
    _write(RecordingSet, recordings.values(), manifest_path(out, "recordings", split))
    supervisions = (_supervision(utterance, recordings[utterance.recording]) for utterance in utterances)
    _write(SupervisionSet, supervisions, manifest_path(out, "supervisions", split))
    hours = sum(recording.duration for recording in recordings.values()) / 3600
    print(f"{out}: {split}: {len(utterances)} supervisions of {len(recordings)} recordings, {hours:.2f} h")


def _recording(utterance: Utterance) -> Recording:
    try:
        return Recording.from_file(utterance.audio.resolve(), recording_id=utterance.recording)
    except Exception as error:  # each audio backend raises its own types
        raise RecipeError(
            f"{utterance.audio} can't be read ({error})", where=utterance.where, cure="run whisper-recipe validate"
        ) from error


def _supervision(utterance: Utterance, recording: Recording) -> SupervisionSegment:
    # A segment may end a little after its recording, by rounding; lhotse does not take that.
    end = recording.duration if utterance.end is None else min(utterance.end, recording.duration)
    return SupervisionSegment(
        id=utterance.id,
        recording_id=recording.id,
        start=utterance.start,
        duration=round(end - utterance.start, 8),
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom={"task": utterance.task},
    )


def _write(manifest_type: type, items: Iterable, path: Path) -> None:
    with written_aside(path) as aside, manifest_type.open_writer(aside) as writer:
        for item in items:
            writer.write(item)
