"""`whisper-recipe fbank`: Whisper's log-mel features through lhotse, equal to transformers' own."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lhotse import Recording, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.features.base import FeatureExtractor, register_extractor
from lhotse.features.io import FeaturesWriter, LilcomChunkyWriter, NumpyFilesWriter
from lhotse.utils import compute_num_frames_from_samples, fastcopy
from tqdm import tqdm
from transformers.audio_utils import mel_filter_bank

from whisper_recipe.data.audio import SAMPLING_RATE, read_audio
from whisper_recipe.data.manifests import manifest_path
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, require, write_jsonl, written_aside

# whisper/audio.py of openai/whisper
N_FFT = 400  # samples of a window: 25 ms
HOP_LENGTH = 160  # samples between frames: 10 ms
MAX_SAMPLES = 30 * SAMPLING_RATE
MAX_FRAMES = MAX_SAMPLES // HOP_LENGTH
DYNAMIC_RANGE = 2.0  # silence lies this far under the loudest value: 8 decades, divided by 4 in the scaling
LOWEST = -1.5  # of all values: mel energies are at least 1e-10
PART = 200  # cuts that a process takes at a time


@dataclass
class WhisperLogMelConfig:
    """Mel bins: 80, or 128 for large-v3 and its descendants."""

    num_mel_bins: int = 80

    def to_dict(self) -> dict:
        """As lhotse stores it."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict) -> WhisperLogMelConfig:
        """As lhotse reads it."""
        return WhisperLogMelConfig(**data)


@register_extractor
class WhisperLogMel(FeatureExtractor):
    """Whisper's log-mel of an utterance, as it is at the beginning of the same utterance padded to 30 s.

    lhotse's own WhisperFbank reflects the waveform at the utterance's end where Whisper sees silence, so its last
    frames differ, and it pads with 0, which is a loud value here (silence lies 2 under the loudest value).
    """

    name = "whisper-log-mel"
    config_type = WhisperLogMelConfig

    @property
    def frame_shift(self) -> float:
        """Seconds between frames."""
        return HOP_LENGTH / SAMPLING_RATE

    def feature_dim(self, sampling_rate: int) -> int:
        """Return the number of mel bins."""
        return self.config.num_mel_bins

    def extract(self, samples: np.ndarray | torch.Tensor, sampling_rate: int) -> np.ndarray:
        """Return features of shape (frames, mel bins) for samples of shape (n,) or (1, n) at 16 kHz."""
        if sampling_rate != SAMPLING_RATE:
            raise RecipeError(f"audio at {sampling_rate} Hz", cure=f"resample it to {SAMPLING_RATE} Hz")
        samples = torch.as_tensor(samples, dtype=torch.float32).reshape(-1)
        count = len(samples)
        # Silence after the end; at 30 s there is no more room, and Whisper's own window reflects there too.
        samples = torch.nn.functional.pad(samples, (0, min(2 * N_FFT, max(0, MAX_SAMPLES - count))))
        spectrum = torch.stft(samples, N_FFT, HOP_LENGTH, window=_window(), return_complex=True)[:, :-1]
        mel = _mel_filters(self.config.num_mel_bins) @ spectrum.abs().square()
        log_mel = mel.clamp(min=1e-10).log10()
        log_mel = (torch.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0
        frames = compute_num_frames_from_samples(count, self.frame_shift, SAMPLING_RATE)
        return log_mel[:, :frames].T.contiguous().numpy()


@functools.cache
def _window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@functools.cache
def _mel_filters(num_mel_bins: int) -> torch.Tensor:
    """Return Whisper's mel filters, shape (mel bins, N_FFT / 2 + 1)."""
    filters = mel_filter_bank(
        N_FFT // 2 + 1, num_mel_bins, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(filters.T.astype(np.float32)).contiguous()


def silence_value(features: torch.Tensor) -> torch.Tensor:
    """Return the value that silence has among the features (frames, mel bins) of an utterance, a scalar tensor."""
    return (features.max() - DYNAMIC_RANGE).clamp(min=LOWEST)


def collate_fbank(features: list[torch.Tensor], frames: int | None = None) -> torch.Tensor:
    """Stack utterances, each padded with its own silence; return float32 of shape (batch, mel bins, frames).

    Args:
        features: of each utterance, (frames, mel bins).
        frames: pad to so many; by default to the longest utterance's.
    """
    frames = frames or max(len(utterance) for utterance in features)
    batch = torch.stack([silence_value(utterance.float()) for utterance in features])
    batch = batch[:, None, None].repeat(1, features[0].shape[1], frames)
    for row, utterance in zip(batch, features, strict=True):
        row[:, : len(utterance)] = utterance.T
    return batch


def load_fbank(cut: MonoCut, num_mel_bins: int = 80) -> torch.Tensor:
    """Return a cut's features, float32 (frames, mel bins): the stored ones, or computed where none are stored."""
    if cut.has_features:
        return torch.from_numpy(cut.load_features()).float()
    return torch.from_numpy(WhisperLogMel(WhisperLogMelConfig(num_mel_bins)).extract(_samples(cut), SAMPLING_RATE))


def _samples(cut: MonoCut) -> np.ndarray:
    return read_audio(Path(cut.recording.sources[0].source), cut.start, cut.duration, cut.channel)


class FineLilcomWriter(LilcomChunkyWriter):
    """lhotse's default storage, in steps that are small for Whisper's scaled log-mel (about -1 to 1.5).

    The largest error is half a step: 2^-9 here. lhotse's default of 2^-5 is made for natural logarithms.
    """

    def __init__(self, storage_path: Path) -> None:
        super().__init__(storage_path, tick_power=-8)


class Float16Writer(NumpyFilesWriter):
    """A .npy file of float16 for each utterance."""

    def write(self, key: str, value: np.ndarray) -> str:
        """Store features (frames, mel bins)."""
        return super().write(key, value.astype(np.float16))


WRITERS: dict[str, type[FeaturesWriter]] = {"lilcom_chunky": FineLilcomWriter, "float16": Float16Writer}


def fbank(
    split: str,
    manifests: Path = Path("data/manifests"),
    out: Path = Path("data/fbank_whisper80"),
    num_mel_bins: Literal[80, 128] = 80,
    storage: Literal["lilcom_chunky", "float16", "none"] = "lilcom_chunky",
    num_jobs: int = 2,
) -> None:
    """Compute Whisper's log-mel features; write out/cuts_<split>.jsonl.gz and out/feats_<split>/.

    Args:
        split: name of the split, as in the manifests' names.
        manifests: the folder that `whisper-recipe prepare` wrote.
        out: the folder for cuts and features.
        num_mel_bins: 80; 128 for large-v3 and its descendants.
        storage: lilcom_chunky takes 1.1 bytes a value and is off by 0.002 at most; float16 takes 2 bytes and is off by
            0.0005, in one file an utterance; none stores nothing, and features are computed whenever a cut is loaded.
        num_jobs: processes.

    Raises:
        RecipeError: a manifest is missing, empty or damaged, or audio can't be read.
    """
    path, final = manifest_path(out, "cuts", split), Path(out).absolute() / f"feats_{split}"
    count, seconds = _total(_supervisions_path(manifests, split))
    cuts: Iterable[MonoCut] = _cuts(manifests, split)
    # The manifest is the sign that the features are whole: it goes first and comes back last.
    path.unlink(missing_ok=True)
    if storage == "none":
        _write(path, tqdm(cuts, desc=f"fbank {split}", total=count, unit="cut"))
    else:
        with (
            ProcessPoolExecutor(num_jobs, initializer=torch.set_num_threads, initargs=(1,)) as executor,
            written_aside(path) as manifest,
            written_aside(final, replace_folder=True) as aside,
        ):
            aside.mkdir()
            extract = functools.partial(_extract, WRITERS[storage], num_mel_bins, aside, final)
            done = _in_order(executor, extract, cuts, ahead=2 * num_jobs)
            _write(manifest, tqdm(done, desc=f"fbank {split}", total=count, unit="cut"))
    print(f"{path}: {count} cuts, {seconds / 3600:.2f} h, {num_mel_bins} mel bins, storage {storage}")


def _supervisions_path(manifests: Path, split: str) -> Path:
    path = manifest_path(manifests, "supervisions", split)
    return require(path, "run stage 1 (whisper-recipe prepare) first")


def _total(path: Path) -> tuple[int, float]:
    """Return how many supervisions there are, and their seconds."""
    count, seconds = 0, 0.0
    for _, row in read_jsonl(path):
        count, seconds = count + 1, seconds + row["duration"]
    if not count:
        raise RecipeError("no supervisions in it", where=path, cure="check the data directory it was made from")
    return count, seconds


def _cuts(manifests: Path, split: str) -> Iterator[MonoCut]:
    """Yield one cut a supervision, with its id, at 16 kHz."""
    path = require(manifest_path(manifests, "recordings", split), "run stage 1 (whisper-recipe prepare) first")
    recordings = {row["id"]: Recording.from_dict(row).resample(SAMPLING_RATE) for _, row in read_jsonl(path)}
    path = _supervisions_path(manifests, split)
    for number, row in read_jsonl(path):
        supervision = SupervisionSegment.from_dict(row)
        recording = recordings.get(supervision.recording_id)
        if recording is None:
            raise RecipeError(f"no recording {supervision.recording_id}", where=f"{path}:{number}", cure="prepare anew")
        cut = _cut(supervision, recording)
        if cut.duration < HOP_LENGTH / SAMPLING_RATE:
            raise RecipeError(f"{cut.id} is shorter than a frame", where=f"{path}:{number}", cure="remove it")
        yield cut


def _cut(supervision: SupervisionSegment, recording: Recording) -> MonoCut:
    """Return the cut of a supervision, in whole samples: so cut, features and audio agree on their lengths."""
    first = round(supervision.start * SAMPLING_RATE)
    count = min(round(supervision.duration * SAMPLING_RATE), recording.num_samples - first)
    duration = count / SAMPLING_RATE
    return MonoCut(
        id=supervision.id,
        start=first / SAMPLING_RATE,
        duration=duration,
        channel=0,
        supervisions=[fastcopy(supervision, start=0.0, duration=duration)],
        recording=recording,
    )


def _in_order(executor: Executor, function: Callable, cuts: Iterable[MonoCut], ahead: int) -> Iterator[MonoCut]:
    """Yield what `function` (number of the part, cuts) makes of each part of the cuts, keeping few parts in memory."""
    cuts, waiting, number = iter(cuts), deque(), 0
    try:
        while (part := list(islice(cuts, PART))) or waiting:
            if part:
                waiting.append(executor.submit(function, number, part))
                number += 1
            if len(waiting) > ahead or not part:
                yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise RecipeError(
            "a process was killed", where="fbank", cure="if memory ran out, use fewer --num_jobs"
        ) from None


def _extract(
    writer_type: type[FeaturesWriter], num_mel_bins: int, aside: Path, final: Path, number: int, cuts: list[MonoCut]
) -> list[MonoCut]:
    """Store the features of a part under `aside`; return its cuts with features that will be found under `final`."""
    extractor = WhisperLogMel(WhisperLogMelConfig(num_mel_bins))
    with writer_type(aside / f"part{number:05d}") as writer:
        for cut in cuts:
            features = extractor.extract_from_samples_and_store(
                _samples(cut)[None], writer, SAMPLING_RATE, offset=cut.start, channel=cut.channel
            )
            features.recording_id = cut.recording_id
            features.storage_path = str(final / Path(features.storage_path).name)
            cut.features = features
    return cuts


def _write(path: Path, cuts: Iterable[MonoCut]) -> None:
    write_jsonl(path, (cut.to_dict() for cut in cuts))


def check_mel_bins(cut: MonoCut, num_mel_bins: int, where: str | Path) -> None:
    """RecipeError where a cut's stored features have another number of mel bins than the model takes."""
    if cut.has_features and cut.num_features != num_mel_bins:
        raise RecipeError(
            f"the features have {cut.num_features} mel bins and the model takes {num_mel_bins}",
            where=where,
            cure=f"compute them with whisper-recipe fbank --num_mel_bins {num_mel_bins}",
        )
