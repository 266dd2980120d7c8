"""`whisper-recipe fbank`: cuts with Whisper's log-mel features, from Lhotse manifests."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lhotse import Recording, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.features.base import Features
from lhotse.features.io import FeaturesWriter, LilcomChunkyWriter, NumpyFilesWriter
from lhotse.utils import fastcopy
from tqdm import tqdm

from whisper_recipe.data.audio import SAMPLING_RATE, is_longer
from whisper_recipe.data.augment import Augmentation, Noises, load_samples, speeds
from whisper_recipe.data.features import HOP_LENGTH, WhisperLogMel, log_mel
from whisper_recipe.data.manifests import manifest_path
from whisper_recipe.data.workers import DASK_AHEAD, finished, in_order, workers
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, file_digest, list_dropped, read_json, read_jsonl, require, write_jsonl
from whisper_recipe.processes import parse_part
from whisper_recipe.resumable import ResumableWork

PART = 200  # cuts that a process computes at a time, and may lose when interrupted
LILCOM_TICK_POWER = -8  # steps of 2^-8
FEATURES = "features"  # subfolder of the unfinished work, next to the pieces' cuts
UNREAD = "unread"  # in a piece, replaces a cut with unreadable audio: its id and the reason


class FineLilcomWriter(LilcomChunkyWriter):
    """lhotse's default storage, with steps small enough for Whisper's scaled log-mel (about -1 to 1.5).

    The largest error is half a step: 2^-9 here. lhotse's default of 2^-5 is meant for natural logarithms.
    """

    def __init__(self, storage_path: Path) -> None:
        super().__init__(storage_path, tick_power=LILCOM_TICK_POWER)


class Float16Writer(NumpyFilesWriter):
    """Storage in one float16 .npy file per utterance."""

    def write(self, key: str, value: np.ndarray) -> str:
        """Store features (frames, mel bins)."""
        return super().write(key, value.astype(np.float16))


WRITERS: dict[str, type[FeaturesWriter]] = {"lilcom_chunky": FineLilcomWriter, "float16": Float16Writer}


def fbank(
    split: str,
    manifests: Path = Path("data/manifests"),
    out: Path = Path("data/fbank_whisper80"),
    base_model: str | None = None,
    num_mel_bins: Literal[80, 128] | None = None,
    storage: Literal["lilcom_chunky", "float16", "none"] = "lilcom_chunky",
    num_jobs: int = 2,
    part: str | None = None,
    dask: str | None = None,
    augment: Augmentation = Augmentation(),  # noqa: B008 (never written to; jsonargparse shows its values as defaults)
) -> None:
    """Compute Whisper's log-mel features; write out/cuts_<split>.jsonl.gz and out/feats_<split>/.

    Run the same command again to resume an interrupted run; until it is complete, finished work is in
    out/.unfinished_<split>.*/.

    Args:
        split: name of the split, as in the manifests' names.
        manifests: the folder written by `whisper-recipe prepare`.
        out: the folder for cuts and features.
        base_model: a Whisper folder or a name on the Hub, which sets the number of mel bins.
        num_mel_bins: 80 (default), or 128 for large-v3 and models derived from it.
        storage: lilcom_chunky takes 1.1 bytes per value with an error of at most 0.002; float16 takes 2 bytes with an
            error of 0.0005, in one file per utterance; none stores nothing and computes features when a cut is loaded.
        num_jobs: number of processes.
        part: 2/8 computes the second eighth. Start all eight, on any machines that share OUT, with the same other
            options; the one that finishes last writes the manifest, identical to that of one process.
        dask: address of a Dask scheduler (tcp://host:8786) whose workers compute instead of num_jobs processes. They
            must see the same files.
        augment: copies at other speeds, and noise.

    Raises:
        RecipeError: a manifest is missing, empty or damaged, a noise file can't be read, or no cut's audio can be read.
    """
    own_part = parse_part(part)
    if storage == "none" and (part or dask):
        raise RecipeError("nothing to compute with --storage none", where="--part, --dask", cure="leave them out")
    bins = num_mel_bins or (mel_bins(base_model) if base_model else 80)
    path = manifest_path(out, "cuts", split)
    count, seconds = _total(manifests, split)
    dropped: list[str] = []
    cuts = _augmented(_cuts(manifests, split), augment, dropped)
    progress = functools.partial(tqdm, desc=f"fbank {split}", total=count * (1 + len(augment.speed)), unit="cut")
    # The manifest marks the features as complete: it is deleted first and written last.
    path.unlink(missing_ok=True)
    if storage == "none":
        write_jsonl(path, (cut.to_dict() for cut in progress(cuts)))
    else:
        settings = {"storage": storage, "num_mel_bins": bins, "part": PART, "manifests": _digest(manifests, split)}
        work = ResumableWork(Path(out) / split, settings | _plain(augment), own_part)
        if done := work.open():
            print(f"{path}: resuming, {done} parts of {PART} cuts are done")
        final = Path(out).absolute() / f"feats_{split}"
        extract = functools.partial(_extract, WRITERS[storage], bins, work, final)
        pieces = 0
        with progress() as bar, workers(num_jobs, dask) as executor:
            for size in _in_pieces(extract, cuts, work, executor, 2 * num_jobs if dask is None else DASK_AHEAD):
                bar.update(size)
                pieces += 1
        if not work.is_ours_to_finish(pieces):
            print(f"{path}: part {part} is done; the part that finishes last merges them")
            return
        dropped += _finish(work, path, final)
    list_dropped(path.with_name(f"dropped_{split}.tsv"), dropped, "cuts are dropped")
    print(f"{path}: {count} supervisions, {seconds / 3600:.2f} h, {bins} mel bins, storage {storage}")


def _manifest(manifests: Path, kind: str, split: str) -> Path:
    return require(manifest_path(manifests, kind, split), "run stage 1 (whisper-recipe prepare) first")


def _supervisions(manifests: Path, split: str) -> Iterator[tuple[str, SupervisionSegment]]:
    """Yield (file:line, supervision)."""
    path = _manifest(manifests, "supervisions", split)
    for number, row in read_jsonl(path):
        try:
            supervision = SupervisionSegment.from_dict(row)
            supervision.start, supervision.duration = float(supervision.start), float(supervision.duration)
        except (TypeError, ValueError) as error:
            what = f"not a supervision ({error})"
            raise RecipeError(what, where=f"{path}:{number}", cure="run whisper-recipe prepare again") from None
        yield f"{path}:{number}", supervision


def _total(manifests: Path, split: str) -> tuple[int, float]:
    """Return the number of supervisions and their total seconds."""
    count, seconds = 0, 0.0
    for _, supervision in _supervisions(manifests, split):
        count, seconds = count + 1, seconds + supervision.duration
    if not count:
        path = manifest_path(manifests, "supervisions", split)
        raise RecipeError("contains no supervisions", where=path, cure="check the data directory it was made from")
    return count, seconds


def mel_bins(model: str) -> int:
    """Return the number of mel bins of a Whisper folder or a name on the Hub, from its configuration only.

    Raises:
        RecipeError: there is no such model, or it is not a Whisper model.
    """
    cure = "give a Whisper folder, or a name on the Hub"
    if Path(model).is_dir():
        config = read_json(Path(model) / "config.json", cure)
    else:
        from transformers import PretrainedConfig

        try:
            config, _ = PretrainedConfig.get_config_dict(model)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"no Whisper configuration ({' '.join(str(error).split())})", where=model, cure=cure
            ) from None
    if not isinstance(config.get("num_mel_bins"), int):
        raise RecipeError("its config.json has no num_mel_bins, so it is not a Whisper model", where=model, cure=cure)
    return config["num_mel_bins"]


def _augmented(cuts: Iterable[MonoCut], augment: Augmentation, dropped: list[str]) -> Iterator[MonoCut]:
    """Yield the cuts and their copies; drop and list slowed copies that are too long for Whisper."""
    noises = Noises(augment) if augment.noise else None
    for cut in cuts:
        for copy in speeds(cut, augment.speed):
            if copy.id != cut.id and is_longer(copy.duration):
                dropped.append(f"{copy.id}\tover 30 s at this speed")
            else:
                yield noises.note(copy) if noises else copy


def _cuts(manifests: Path, split: str) -> Iterator[MonoCut]:
    """Yield one cut per supervision, with its id, at 16 kHz."""
    recordings = _Recordings(_manifest(manifests, "recordings", split))
    for where, supervision in _supervisions(manifests, split):
        recording = recordings.find(supervision.recording_id, where)
        if supervision.channel not in recording.channel_ids:
            what = f"{supervision.id} has channel {supervision.channel}, its recording has {recording.channel_ids}"
            raise RecipeError(what, where=where, cure="use one of them")
        cut = _cut(supervision, recording)
        if cut.duration < HOP_LENGTH / SAMPLING_RATE:
            raise RecipeError(f"{cut.id} is shorter than a frame", where=where, cure="drop it")
        yield cut


class _Recordings:
    """A manifest of recordings, read on demand.

    `whisper-recipe prepare` writes both manifests in the same order of recordings, so only one recording is held in
    memory. In other orders, skipped recordings are held until they are requested, and all once one is requested again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = read_jsonl(path)
        self.held: dict[str, dict] = {}
        self.all_held = False
        self.last: Recording | None = None

    def find(self, key: str, where: str) -> Recording:
        """Return a recording at 16 kHz; `where` is the supervision's `file:line`."""
        if self.last is None or self.last.id != key:
            row = self.held.get(key) if self.all_held else self.held.pop(key, None) or next(self._read_to(key), None)
            if row is None and not self.all_held:
                self.held, self.all_held = {row.get("id"): row for _, row in read_jsonl(self.path)}, True
                row = self.held.get(key)
            if row is None:
                raise RecipeError(f"no recording {key}", where=where, cure="run whisper-recipe prepare again")
            try:
                self.last = Recording.from_dict(dict(row)).resample(SAMPLING_RATE)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"{key} is not a recording ({type(error).__name__}: {error})"
                raise RecipeError(what, where=self.path, cure="run whisper-recipe prepare again") from None
        return self.last

    def _read_to(self, key: str) -> Iterator[dict]:
        for _, row in self.rest:
            if row.get("id") == key:
                yield row
                return
            self.held[row.get("id")] = row


def _cut(supervision: SupervisionSegment, recording: Recording) -> MonoCut:
    """Return the cut of a supervision, in whole samples, so that cut, features and audio have the same length."""
    first = round(supervision.start * SAMPLING_RATE)
    count = min(round(supervision.duration * SAMPLING_RATE), recording.num_samples - first)
    duration = count / SAMPLING_RATE
    return MonoCut(
        id=supervision.id,
        start=first / SAMPLING_RATE,
        duration=duration,
        channel=supervision.channel,
        supervisions=[fastcopy(supervision, start=0.0, duration=duration)],
        recording=recording,
    )


def _digest(manifests: Path, split: str) -> str:
    """Return a hash of the split's manifests, which determine the cuts."""
    return " ".join(file_digest(_manifest(manifests, kind, split)) for kind in ("recordings", "supervisions"))


def _plain(augment: Augmentation) -> dict:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(augment).items()}


def _finish(work: ResumableWork, path: Path, final: Path) -> list[str]:
    """Rename the features and then the manifest to their final names; if interrupted, the same command resumes.

    Returns:
        Rows (id, reason) of cuts with unreadable audio.

    Raises:
        RecipeError: no cut's audio can be read.
    """
    unread = [row[UNREAD] for row in work.rows() if UNREAD in row]
    with atomic_write(path) as manifest:
        if not write_jsonl(manifest, (row for row in work.rows() if UNREAD not in row)):
            what = f"no audio can be read; the first: {unread[0].partition(chr(9))[2]}"
            raise RecipeError(what, where=path, cure="whisper-recipe validate lists them all")
        features = work.folder / FEATURES
        if features.exists():  # otherwise they are in place, and only the manifest was missing
            if final.exists():
                final.rename(work.folder / "replaced")
            features.rename(final)
    work.discard()
    return unread


def _in_pieces(
    extract: Callable[[int, list[MonoCut]], int],
    cuts: Iterable[MonoCut],
    work: ResumableWork,
    executor: Executor,
    ahead: int,
) -> Iterator[int]:
    """Yield the number of cuts in each piece, in order, once it is done; 0 for pieces of other parts.

    At most `ahead` + 1 pieces are in memory at a time.
    """
    cuts = iter(cuts)

    def futures() -> Iterator[Future]:
        for number in itertools.count():
            piece = list(islice(cuts, PART))
            if not piece:
                return
            ours = work.own.has(number)
            done = not ours or work.piece(number).exists()
            yield finished(len(piece) * ours) if done else executor.submit(extract, number, piece)

    try:
        yield from in_order(futures(), ahead)
    except BrokenProcessPool:
        raise RecipeError(
            "a process was killed", where="fbank", cure="if memory ran out, use fewer --num_jobs; run again to resume"
        ) from None


def _extract(
    writer_type: type[FeaturesWriter],
    num_mel_bins: int,
    work: ResumableWork,
    final: Path,
    number: int,
    cuts: list[MonoCut],
) -> int:
    """Store a piece's features in the work folder, then its cuts, which refer to the features in `final`.

    Cuts with unreadable audio are replaced by their id and the reason.
    """
    torch.set_num_threads(1)
    (work.folder / FEATURES).mkdir(exist_ok=True)
    rows = []
    with writer_type(work.folder / FEATURES / work.piece(number).stem) as writer:
        for index, cut in enumerate(cuts):
            try:
                samples = load_samples(cut)
            except RecipeError as error:
                rows.append({UNREAD: f"{cut.id}\t{' '.join(str(error).split())}"})
                continue
            key = f"{number:06d}-{index:03d}"  # ids may contain characters that file names can't
            values = log_mel(samples, num_mel_bins).numpy()
            cut.features = Features(
                type=WhisperLogMel.name,
                num_frames=len(values),
                num_features=num_mel_bins,
                frame_shift=HOP_LENGTH / SAMPLING_RATE,
                sampling_rate=SAMPLING_RATE,
                start=cut.start,
                duration=round(len(values) * HOP_LENGTH / SAMPLING_RATE, 8),  # including the frames after the end
                storage_type=writer.name,
                storage_path=str(final / Path(writer.storage_path).name),
                storage_key=writer.write(key, values),
                recording_id=cut.recording_id,
                channels=cut.channel,
            )
            rows.append(cut.to_dict())
    work.write(number, rows)
    return len(cuts)
