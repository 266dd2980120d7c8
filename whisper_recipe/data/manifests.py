"""`whisper-recipe prepare`: from a Kaldi data directory or a JSON list to Lhotse recordings and supervisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from tqdm import tqdm

from whisper_recipe.data.audio import (
    DURATION_TOLERANCE,
    AudioInfo,
    audio_info,
    check_channel,
    copy_as_flac,
    is_plain_file,
)
from whisper_recipe.data.corpus import is_list, read_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_jsonl, written_aside


def manifest_path(folder: Path, kind: str, split: str) -> Path:
    """Return the path of a manifest: kind is recordings, supervisions or cuts."""
    return Path(folder) / f"{kind}_{split}.jsonl.gz"


def prepare(
    corpus: Path,
    out: Path = Path("data/manifests"),
    allow_pipes: bool = False,
    channel: int | Literal["mix"] = 0,
    prompts: Literal["given", "recording"] = "given",
) -> None:
    """Write out/recordings_<split>.jsonl.gz and out/supervisions_<split>.jsonl.gz, in one order of recordings.

    The split is named for the data directory or the list. What is no audio file that every Lhotse program reads (a
    pipe's output, an entry of an ark, M4A), and mixed channels, are written once to out/audio_<split>/ as FLAC.

    Args:
        corpus: a Kaldi data directory, or a JSON list that ends in .json or .jsonl.
        out: the folder for the manifests.
        allow_pipes: run the shell commands that stand for audio.
        channel: of recordings with several channels the one that speaks, from 0, or the mean of all.
        prompts: given takes the corpus' own (utt2prompt, or `prompt` of a list); recording also gives utterances
            without one the text of the one before it in the same recording, language and task.

    Raises:
        RecipeError: the corpus has problems, or audio can't be read.
    """
    split = Path(corpus).resolve().stem if is_list(corpus) else Path(corpus).resolve().name
    # All of a recording together: so what reads the manifests needs one recording at a time.
    utterances = sorted(read_corpus(corpus, allow_pipes), key=lambda row: (row.recording, row.start, row.id))
    if prompts == "recording":
        utterances = list(_with_texts_before(utterances))
    copies = Path(out) / f"audio_{split}"
    durations: dict[str, float] = {}  # of each recording
    with (
        written_aside(manifest_path(out, "recordings", split)) as recordings,
        written_aside(manifest_path(out, "supervisions", split)) as supervisions,
        written_aside(copies, replace_folder=True) as aside,
    ):
        aside.mkdir()
        locate = partial(_located, aside=aside, final=copies.absolute(), mix=channel == "mix")
        spoken = 0 if channel == "mix" else channel
        progress = tqdm(utterances, desc=f"prepare {split}", unit="utt")
        write_jsonl(recordings, (row.to_dict() for row in _recordings(progress, durations, locate, spoken)))
        rows = (_supervision(utterance, durations[utterance.recording], spoken) for utterance in utterances)
        write_jsonl(supervisions, (supervision.to_dict() for supervision in rows))
    if not any(copies.iterdir()):
        copies.rmdir()
    hours = sum(durations.values()) / 3600
    print(f"{out}: {split}: {len(utterances)} supervisions of {len(durations)} recordings, {hours:.2f} h")


def _with_texts_before(utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Yield utterances, in order of time, each with a prompt: its own, or the text before it in its recording."""
    before: dict[tuple[str, str, str], str] = {}
    for utterance in utterances:
        key = utterance.recording, utterance.language, utterance.task
        yield replace(utterance, prompt=utterance.prompt or before.get(key, ""))
        if utterance.text:  # Whisper too passes over what has no speech
            before[key] = utterance.text


def _recordings(
    utterances: Iterable[Utterance],
    durations: dict[str, float],
    locate: Callable[[Utterance], tuple[str, AudioInfo]],
    channel: int,
) -> Iterator[Recording]:
    """Yield each recording once, and note its seconds."""
    for utterance in utterances:
        if utterance.recording not in durations:
            path, info = locate(utterance)
            check_channel(channel, info.num_channels, utterance.audio_where)
            durations[utterance.recording] = info.duration
            yield _recording(utterance.recording, path, info)


def _located(utterance: Utterance, aside: Path, final: Path, mix: bool) -> tuple[str, AudioInfo]:
    """Return path and header of an utterance's recording, after it has been copied where it needs that."""
    plain = is_plain_file(utterance.audio)
    info = audio_info(utterance.audio) if plain else None
    if info is not None and not (mix and info.num_channels > 1):
        return utterance.audio, info
    name = f"{quote(utterance.recording, safe='')}.flac"
    copy_as_flac(utterance.audio, aside / name, mix)
    return str(final / name), audio_info(aside / name)


def _recording(key: str, path: str, info: AudioInfo) -> Recording:
    channels = list(range(info.num_channels))
    return Recording(
        id=key,
        sources=[AudioSource("file", channels, path)],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=info.duration,
        channel_ids=channels,
    )


def _supervision(utterance: Utterance, total: float, channel: int) -> SupervisionSegment:
    """Return the supervision of an utterance in a recording of `total` seconds."""
    end = total if utterance.end is None else utterance.end
    if utterance.start >= total or end > total + DURATION_TOLERANCE:
        raise RecipeError(
            f"{utterance.id}: {utterance.start} to {end} s lies outside its recording of {total:.2f} s",
            where=utterance.where,
            cure="whisper-recipe validate lists all such segments",
        )
    # A segment may end a little after its recording, by rounding; lhotse does not take that.
    duration = round(min(end, total) - utterance.start, 8)
    custom: dict[str, object] = {"task": utterance.task}
    if utterance.segments is not None:
        if utterance.segments and utterance.segments[-1].end > duration + DURATION_TOLERANCE:
            what = f"{utterance.id} lasts {duration:.2f} s and has segments up to {utterance.segments[-1].end:.2f} s"
            raise RecipeError(what, where=utterance.row, cure="whisper-recipe fix removes such segments")
        custom["segments"] = [segment._asdict() for segment in utterance.segments]
    if utterance.prompt:
        custom["prompt"] = utterance.prompt
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.recording,
        start=utterance.start,
        duration=duration,
        channel=channel,
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom=custom,
    )
