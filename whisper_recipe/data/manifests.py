"""`whisper-recipe prepare`: from a Kaldi data directory to Lhotse recordings and supervisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from tqdm import tqdm

from whisper_recipe.data.audio import DURATION_TOLERANCE, audio_info
from whisper_recipe.data.corpus import read_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_jsonl, written_aside


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
    split = Path(data_dir).resolve().name
    utterances = read_corpus(data_dir)
    durations: dict[str, float] = {}  # of each recording
    progress = tqdm(utterances, desc=f"prepare {split}", unit="utt")
    with (
        written_aside(manifest_path(out, "recordings", split)) as recordings,
        written_aside(manifest_path(out, "supervisions", split)) as supervisions,
    ):
        write_jsonl(recordings, (recording.to_dict() for recording in _recordings(progress, durations)))
        rows = (_supervision(utterance, durations[utterance.recording]) for utterance in utterances)
        write_jsonl(supervisions, (supervision.to_dict() for supervision in rows))
    hours = sum(durations.values()) / 3600
    print(f"{out}: {split}: {len(utterances)} supervisions of {len(durations)} recordings, {hours:.2f} h")


def _recordings(utterances: Iterable[Utterance], durations: dict[str, float]) -> Iterator[Recording]:
    """Yield each recording once, and note its seconds."""
    for utterance in utterances:
        if utterance.recording not in durations:
            recording = _recording(utterance)
            durations[recording.id] = recording.duration
            yield recording


def _recording(utterance: Utterance) -> Recording:
    info = audio_info(utterance.audio)
    channels = list(range(info.num_channels))
    return Recording(
        id=utterance.recording,
        sources=[AudioSource("file", channels, utterance.audio)],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=info.duration,
        channel_ids=channels,
    )


def _supervision(utterance: Utterance, total: float) -> SupervisionSegment:
    """Return the supervision of an utterance in a recording of `total` seconds."""
    end = total if utterance.end is None else utterance.end
    if utterance.start >= total or end > total + DURATION_TOLERANCE:
        raise RecipeError(
            f"{utterance.id}: {utterance.start} to {end} s lies outside its recording of {total:.2f} s",
            where=utterance.where,
            cure="whisper-recipe validate lists all such segments",
        )
    # A segment may end a little after its recording, by rounding; lhotse does not take that.
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.recording,
        start=utterance.start,
        duration=round(min(end, total) - utterance.start, 8),
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom={"task": utterance.task},
    )
