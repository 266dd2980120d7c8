"""From cuts to batches: like lengths together, features padded with silence, labels masked by length."""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler, DynamicCutSampler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import WhisperTokenizer

from whisper_recipe.data.features import MAX_FRAMES, collate_fbank
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.errors import RecipeError, check_proportion
from whisper_recipe.shares import Share
from whisper_recipe.text.prompt import IGNORED, MAX_SECONDS, MAX_TOKENS, training_ids
from whisper_recipe.training.augment import Augmenter, TrainingAugmentation
from whisper_recipe.training.cuts import Kept, Lengths, Mixture, Outline, are_sharded, mixed, outlines
from whisper_recipe.training.cuts import load_cuts as load_cuts  # what the training reads its manifests with
from whisper_recipe.training.encoder_cache import collate_states, has_states, load_states
from whisper_recipe.training.shards import ShardSampler

CUTS_PER_BUCKET = 10  # at least
SPECIAL_TOKENS = 5  # start, language, task, no times, end


@dataclass
class BatchOptions:
    """How cuts become batches.

    Args:
        max_duration: seconds of audio in a batch at most; more needs more memory.
        max_cuts: cuts in a batch at most.
        num_buckets: cuts of like duration share a bucket; more buckets, less padding, less random batches.
        num_workers: processes that load features ahead of the training.
        pad_to_30s: share of the batches that are padded to 30 s, 0 to 1: what keeps a model good for programs that pad
            all inputs (faster-whisper, whisper.cpp).
        timestamps: share of the cuts with segment times that are trained with them, 0 to 1.
        prompts: share of the cuts with previous text that are trained with it, 0 to 1.
        language_temperature: 1 leaves the languages their shares of the audio, more brings them nearer to each other: a
            language with share q gets one proportional to q^(1 / language_temperature).
    """

    max_duration: float = 200.0
    max_cuts: int | None = None
    num_buckets: int = 20
    num_workers: int = 1
    pad_to_30s: float = 0.0
    timestamps: float = 0.5
    prompts: float = 0.5
    language_temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("pad_to_30s", "timestamps", "prompts"):
            check_proportion(getattr(self, name), f"batches.{name}")
        if self.language_temperature is not None and not self.language_temperature > 0:
            what = f"{self.language_temperature} is no temperature"
            raise RecipeError(what, where="batches.language_temperature", cure="use a number over 0")


class BatchSampler(Sampler):
    """Lhotse's DynamicBucketingSampler as the Trainer needs it: with a length, dropping nothing, and able to go on.

    Shuffled batches differ in number from epoch to epoch, but the Trainer counts on one number. So one pass of the
    Trainer is as many batches as lhotse's first epoch has, and the next pass goes on where the last one ended: every
    cut is seen once in each of lhotse's epochs.

    Processes that train together deal the batches out: of each `share.count` in a row every one has its own. So they
    have equally many, and each cut is seen once in an epoch by one of them.

    Yields lists of one item, (number of the batch from the start of the training, its cuts): a DataLoader can pass over
    such items without reading features.
    """

    def __init__(
        self,
        cuts: CutSet,
        options: BatchOptions,
        shuffle: bool,
        seed: int,
        share: Share = Share(),  # noqa: B008
    ) -> None:
        self.share = share
        self.cuts = mixed(cuts, options.language_temperature, seed) if shuffle else cuts
        limits = {"max_duration": options.max_duration, "max_cuts": options.max_cuts, "shuffle": shuffle, "seed": seed}
        limits |= {"world_size": 1, "rank": 0}  # lhotse's own way repeats or leaves out what can't be dealt out evenly
        # Of a small corpus every bucket would hold a cut or two, and so would the batches.
        first = itertools.islice(outlines(self.cuts), options.num_buckets * CUTS_PER_BUCKET)
        buckets = sum(1 for _ in first) // CUTS_PER_BUCKET
        kind = partial(DynamicBucketingSampler, num_buckets=buckets) if buckets > 1 else DynamicCutSampler
        self.sampler = kind(self.cuts, **limits)
        self.batches = sum(1 for _ in kind(CutSet(Lengths(self.cuts)), **limits))
        self.length = math.ceil(self.batches / share.count)
        self._stream = enumerate(self._endless_batches())

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[tuple[int, CutSet]]]:
        for _ in range(self.length):
            yield [list(itertools.islice(self._stream, self.share.count))[self.share.index]]

    def pass_over(self, batches: int) -> None:
        """Leave out the first batches, of all processes, for a training that goes on; only the manifest is read."""
        self._stream = enumerate(self._endless_batches())
        for _ in itertools.islice(self._stream, batches):
            pass

    def _endless_batches(self) -> Iterator[CutSet]:
        epoch = 0
        while True:
            self.sampler.set_epoch(epoch)
            if isinstance(self.cuts.data, Mixture):
                self.cuts.data.epoch = epoch
            yield from self.sampler
            epoch += 1


class CutDataset(Dataset):
    """Turns a batch of cuts into the tensors that the model takes."""

    def __init__(
        self,
        tokenizer: WhisperTokenizer,
        num_mel_bins: int,
        options: BatchOptions | None = None,
        augment: TrainingAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.options = tokenizer, options or BatchOptions()
        augment = augment or TrainingAugmentation()
        self.augmenter, self.seed = Augmenter(augment, num_mel_bins), f"{seed} {augment.seed}"

    def __getitem__(self, item: tuple[int, CutSet]) -> dict[str, torch.Tensor]:
        """Return what the encoder takes, decoder_input_ids and labels (batch, tokens), ids of cuts, and unreadable.

        The encoder's is input_features (batch, mel bins, frames); of cuts with stored encoder outputs, encoder_outputs.
        A cut that can't be read is left out: unreadable has its id and the reason.

        Raises:
            RecipeError: none of the cuts can be read.
        """
        number, cuts = item
        # What is drawn depends on the batch alone, not on the process or on what was drawn before.
        draw = random.Random(f"{self.seed} {number}")
        frames = MAX_FRAMES if draw.random() < self.options.pad_to_30s else None
        unreadable: dict[str, str] = {}
        if has_states(cuts[0]):
            encoder = {"encoder_outputs": (collate_states([load_states(cut) for cut in cuts]),)}
        else:
            cuts, features = zip(*self._load(cuts, draw, unreadable), strict=True)
            encoder = {"input_features": collate_fbank(features, frames)}
        shares = self.options.timestamps, self.options.prompts
        ids = [training_example(self.tokenizer, cut, *(draw.random() < share for share in shares)) for cut in cuts]
        inputs, labels = ([torch.tensor(row) for row in rows] for rows in zip(*ids, strict=True))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            **encoder,
            # Masked by length: the end token is also the padding token, and masking it by value would teach the model
            # never to stop (https://github.com/huggingface/transformers/issues/19166).
            "decoder_input_ids": pad(inputs, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
            "cuts": [cut.id for cut in cuts],
            "unreadable": unreadable,
        }

    def _load(self, cuts: CutSet, draw: random.Random, unreadable: dict[str, str]) -> list[tuple[Cut, torch.Tensor]]:
        loaded = []
        for cut in cuts:
            try:
                loaded.append(self.augmenter.load(cut, draw))
            except Exception as error:  # each format of audio and features has errors of its own
                unreadable[cut.id] = " ".join(f"{error}".split()) or type(error).__name__
        if not loaded:
            key, reason = next(iter(unreadable.items()))
            what = f"none of the {len(unreadable)} cuts of a batch can be read: {reason}"
            raise RecipeError(what, where=key, cure="check the data with whisper-recipe validate, and run fbank again")
        return loaded


def training_example(
    tokenizer: WhisperTokenizer, cut: Cut, timestamps: bool = False, prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Return (decoder input ids, labels) of a cut; with times and with the previous text, if it has them."""
    text, language, task, _, segments, previous = supervision_of(cut)
    return training_ids(tokenizer, text, language, task, segments if timestamps else (), previous if prompt else "")


def make_loader(
    cuts: CutSet,
    tokenizer: WhisperTokenizer,
    options: BatchOptions,
    shuffle: bool,
    num_mel_bins: int = 80,
    augment: TrainingAugmentation | None = None,
    seed: int = 0,
    share: Share = Share(),  # noqa: B008
) -> DataLoader:
    """Return a DataLoader over batches of `cuts`; `len()` of it is the number of a process's batches in an epoch."""
    sharded = are_sharded(cuts)
    sampler = (ShardSampler if sharded else BatchSampler)(cuts, options, shuffle, seed, share)
    return DataLoader(
        CutDataset(tokenizer, num_mel_bins, options, augment, seed),
        batch_sampler=sampler,
        collate_fn=_only,
        num_workers=options.num_workers,
        persistent_workers=sharded and options.num_workers > 0,  # they hold shards that the next pass goes on with
    )


def _only(items: list[dict]) -> dict:
    return items[0]


def drop_untrainable(cuts: CutSet, tokenizer: WhisperTokenizer) -> tuple[CutSet, dict[str, str]]:
    """Return the cuts that the model can take, and id -> reason of the others: over 30 s or over 448 tokens.

    Times count as tokens; previous text does not, since it is cut to the room there is.
    """
    dropped, durations = {}, array("d")
    known = set()  # languages and tasks
    for cut in outlines(cuts):
        if (kind := _kind(cut)) not in known:
            training_example(tokenizer, cut)  # RecipeError where the tokenizer does not know them
            known.add(kind)
        if cut.duration > MAX_SECONDS:
            dropped[cut.id] = f"{cut.duration:.2f} s, over {MAX_SECONDS}"
        elif (tokens := _tokens(cut, tokenizer)) > MAX_TOKENS:
            dropped[cut.id] = f"{tokens} tokens, over {MAX_TOKENS}"
        else:
            durations.append(cut.duration)
    return CutSet(Kept(cuts, dropped, durations)), dropped


def _tokens(cut: Cut | Outline, tokenizer: WhisperTokenizer) -> int:
    """Return the number of a cut's tokens; a higher one where that is quicker and the model takes them anyway."""
    most = _most_tokens(cut)
    return most if most <= MAX_TOKENS else len(training_example(tokenizer, cut, timestamps=True)[0])


def _kind(cut: Cut | Outline) -> tuple[str, str, bool]:
    supervision = supervision_of(cut)
    return supervision.language, supervision.task, bool(supervision.text)


def _most_tokens(cut: Cut | Outline) -> int:
    """Return a number that a cut's tokens don't exceed, without tokenizing: each stands for a byte or more."""
    supervision = supervision_of(cut)
    texts = [supervision.text, *(segment.text for segment in supervision.segments)]
    return SPECIAL_TOKENS + sum(len(text.encode()) + 3 for text in texts)  # a leading space, two times
