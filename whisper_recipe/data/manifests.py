"""`whisper-recipe prepare`: from a Kaldi data directory or a JSON list to Lhotse recordings and supervisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from lhotse import Recording, SupervisionSegment
from lhotse.audio import AudioSource
from tqdm import tqdm

from whisper_recipe.data.audio import (
    DURATION_TOLERANCE,
    AudioInfo,
    Channel,
    audio_info,
    copy_as_flac,
    decode_fully,
    spoken_channel,
)
from whisper_recipe.data.corpus import is_list, read_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, list_dropped, write_jsonl


def manifest_path(folder: Path, kind: str, split: str) -> Path:
    """Return the path of a manifest: kind is recordings, supervisions or cuts."""
    return Path(folder) / f"{kind}_{split}.jsonl.gz"


def prepare(
    corpus: Path,
    out: Path = Path("data/manifests"),
    allow_pipes: bool = False,
    channel: Channel = 0,
    prompts: Literal["given", "recording"] = "given",
) -> None:
    """Write out/recordings_<split>.jsonl.gz and out/supervisions_<split>.jsonl.gz, in the same order of recordings.

    The split is named after the data directory or list. Audio that not every Lhotse program reads correctly (a pipe's
    output, an entry of an ark, M4A, a file with a wrong header) and mixed channels are written once to
    out/audio_<split>/ as FLAC. Unreadable recordings are dropped and listed in out/dropped_<split>.tsv.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the folder for the manifests.
        allow_pipes: run the shell commands given in place of audio files.
        channel: the channel of multi-channel recordings to use: a number from 0, the mean of all (mix), or the loudest
            of each recording (auto).
        prompts: given uses the corpus's own prompts (utt2prompt, or `prompt` of a list); recording also sets the prompt
            of utterances without one to the previous text in the same recording, language and task.

    Raises:
        RecipeError: the corpus has problems, or no audio can be read.
    """
    split = Path(corpus).resolve().stem if is_list(corpus) else Path(corpus).resolve().name
    # Grouped by recording, so that readers of the manifests need one recording at a time.
    utterances = sorted(read_corpus(corpus, allow_pipes), key=lambda row: (row.recording, row.start, row.id))
    if prompts == "recording":
        utterances = list(_with_texts_before(utterances))
    copies = Path(out) / f"audio_{split}"
    found: dict[str, _Located | None] = {}  # by recording; None if it can't be read
    dropped: list[str] = []
    with (
        atomic_write(manifest_path(out, "recordings", split)) as recordings,
        atomic_write(manifest_path(out, "supervisions", split)) as supervisions,
        atomic_write(copies, replace_folder=True) as aside,
    ):
        aside.mkdir()
        locate = partial(_located, aside=aside, final=copies.absolute(), channel=channel)
        progress = tqdm(utterances, desc=f"prepare {split}", unit="utt")
        write_jsonl(recordings, (row.to_dict() for row in _recordings(progress, found, locate, dropped)))
        read = [(utterance, found[utterance.recording]) for utterance in utterances if found[utterance.recording]]
        if not read:
            what = f"no audio can be read; the first error: {dropped[0].split(chr(9))[-1]}"
            raise RecipeError(what, where=corpus, cure="whisper-recipe validate lists them all")
        write_jsonl(supervisions, (_supervision(utterance, located).to_dict() for utterance, located in read))
    if not any(copies.iterdir()):
        copies.rmdir()
    list_dropped(Path(out) / f"dropped_{split}.tsv", dropped, "recordings can't be read and are dropped")
    durations = [located.info.duration for located in found.values() if located]
    print(f"{out}: {split}: {len(read)} supervisions of {len(durations)} recordings, {sum(durations) / 3600:.2f} h")


class _Located(NamedTuple):
    """The path to read a recording from, its header, and the channel to use."""

    path: str
    info: AudioInfo
    channel: int


def _with_texts_before(utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Yield utterances, in order of time, each with a prompt: its own, or the previous text in its recording."""
    before: dict[tuple[str, str, str], str] = {}
    for utterance in utterances:
        key = utterance.recording, utterance.language, utterance.task
        yield replace(utterance, prompt=utterance.prompt or before.get(key, ""))
        if utterance.text:  # Whisper also skips parts without speech
            before[key] = utterance.text


def _recordings(
    utterances: Iterable[Utterance],
    found: dict[str, _Located | None],
    locate: Callable[[Utterance], _Located],
    dropped: list[str],
) -> Iterator[Recording]:
    """Yield each recording once, and add its location to `found`; add unreadable ones to `dropped` with the reason."""
    for utterance in utterances:
        key = utterance.recording
        if key in found:
            continue
        try:
            found[key] = locate(utterance)
        except RecipeError as error:
            found[key] = None
            dropped.append(f"{key}\t{utterance.audio_where}\t{' '.join(str(error).split())}")
        else:
            yield _recording(key, found[key].path, found[key].info)


def _located(utterance: Utterance, aside: Path, final: Path, channel: Channel) -> _Located:
    """Return the location of an utterance's recording, after copying it as FLAC if necessary."""
    path, info = utterance.audio, audio_info(utterance.audio)
    mix = channel == "mix" and info.num_channels > 1
    if mix or not info.plain:
        name = f"{quote(utterance.recording, safe='')}.flac"
        copy_as_flac(path, aside / name, mix)
        path, info = str(final / name), audio_info(aside / name)
        source = str(aside / name)
    else:
        source = path
    if channel == "auto" and info.num_channels > 1:
        return _Located(path, info, decode_fully(source).signals.loudest)
    spoken = channel if isinstance(channel, int) else 0
    return _Located(path, info, spoken_channel(spoken, info.num_channels, utterance.audio))


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


def _supervision(utterance: Utterance, located: _Located) -> SupervisionSegment:
    """Return the supervision of an utterance in its recording."""
    total = located.info.duration
    end = total if utterance.end is None else utterance.end
    if utterance.start >= total or end > total + DURATION_TOLERANCE:
        raise RecipeError(
            f"{utterance.id}: {utterance.start} to {end} s lies outside its recording of {total:.2f} s",
            where=utterance.where,
            cure="whisper-recipe validate lists all such segments",
        )
    # Rounding may put the end of a segment slightly after its recording's, which lhotse rejects.
    duration = round(min(end, total) - utterance.start, 8)
    custom: dict[str, object] = {"task": utterance.task}
    if utterance.segments is not None:
        if utterance.segments and utterance.segments[-1].end > duration + DURATION_TOLERANCE:
            what = f"{utterance.id} lasts {duration:.2f} s but has segments up to {utterance.segments[-1].end:.2f} s"
            raise RecipeError(what, where=utterance.row, cure="whisper-recipe fix removes such segments")
        custom["segments"] = [segment._asdict() for segment in utterance.segments]
    if utterance.prompt:
        custom["prompt"] = utterance.prompt
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.recording,
        start=utterance.start,
        duration=duration,
        channel=located.channel,
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom=custom,
    )
