"""From cuts to batches: like lengths together, features padded with silence, labels masked by length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler, DynamicCutSampler
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import WhisperTokenizer

from whisper_recipe.data.features import collate_fbank, load_fbank
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require
from whisper_recipe.text.prompt import MAX_SECONDS, MAX_TOKENS, training_ids

CUTS_PER_BUCKET = 10  # at least
IGNORED = -100  # label value that the loss passes over


@dataclass
class BatchOptions:
    """How cuts become batches.

    Args:
        max_duration: seconds of audio in a batch at most; more needs more memory.
        max_cuts: cuts in a batch at most.
        num_buckets: cuts of like duration share a bucket; more buckets, less padding, less random batches.
        num_workers: processes that load features ahead of the training.
    """

    max_duration: float = 200.0
    max_cuts: int | None = None
    num_buckets: int = 20
    num_workers: int = 1


class BatchSampler(Sampler):
    """Lhotse's DynamicBucketingSampler as the Trainer needs it: with a length, and dropping nothing.

    Shuffled batches differ in number from epoch to epoch, but the Trainer counts on one number. So one pass of the
    Trainer is as many batches as lhotse's first epoch has, and the next pass goes on where the last one ended: every
    cut is seen once in each of lhotse's epochs.
    """

    def __init__(self, cuts: CutSet, options: BatchOptions, shuffle: bool, seed: int) -> None:
        limits = {"max_duration": options.max_duration, "max_cuts": options.max_cuts, "shuffle": shuffle, "seed": seed}
        # Of a small corpus every bucket would hold a cut or two, and so would the batches.
        buckets = sum(1 for _ in itertools.islice(cuts, options.num_buckets * CUTS_PER_BUCKET)) // CUTS_PER_BUCKET
        if buckets > 1:
            self.sampler = DynamicBucketingSampler(cuts, num_buckets=buckets, **limits)
        else:
            self.sampler = DynamicCutSampler(cuts, **limits)
        self.length = sum(1 for _ in self.sampler)
        self._stream = self._endless_batches()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[CutSet]:
        for _ in range(self.length):
            yield next(self._stream)

    def _endless_batches(self) -> Iterator[CutSet]:
        epoch = 0
        while True:
            self.sampler.set_epoch(epoch)
            yield from self.sampler
            epoch += 1


class CutDataset(Dataset):
    """Turns a batch of cuts into the tensors that the model takes."""

    def __init__(self, tokenizer: WhisperTokenizer, num_mel_bins: int) -> None:
        self.tokenizer, self.num_mel_bins = tokenizer, num_mel_bins

    def __getitem__(self, cuts: CutSet) -> dict[str, torch.Tensor]:
        """Return input_features (batch, mel bins, frames), decoder_input_ids and labels (batch, tokens)."""
        features = [load_fbank(cut, self.num_mel_bins) for cut in cuts]
        inputs, labels = [], []
        for cut in cuts:
            ids = _training_ids(self.tokenizer, cut)
            inputs.append(torch.tensor(ids[0]))
            labels.append(torch.tensor(ids[1]))
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_features": collate_fbank(features),
            # Masked by length: the end token is also the padding token, and masking it by value would teach the model
            # never to stop (https://github.com/huggingface/transformers/issues/19166).
            "decoder_input_ids": pad(inputs, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        }


def make_loader(
    cuts: CutSet,
    tokenizer: WhisperTokenizer,
    options: BatchOptions,
    shuffle: bool,
    num_mel_bins: int = 80,
    seed: int = 0,
) -> DataLoader:
    """Return a DataLoader over batches of `cuts`; `len()` of it is the number of batches in an epoch."""
    return DataLoader(
        CutDataset(tokenizer, num_mel_bins),
        sampler=BatchSampler(cuts, options, shuffle, seed),
        batch_size=None,
        num_workers=options.num_workers,
    )


def load_cuts(paths: list[Path]) -> CutSet:
    """Open cut manifests lazily and in a row; RecipeError where one is missing or empty."""
    for path in paths:
        require(path, "run stage 2 (whisper-recipe fbank) first")
        if next(iter(CutSet.from_jsonl_lazy(path)), None) is None:
            raise RecipeError("no cuts in it", where=path, cure="check the data directory it was made from")
    return CutSet.from_files(paths, shuffle_iters=False)


def drop_untrainable(cuts: CutSet, tokenizer: WhisperTokenizer) -> tuple[CutSet, dict[str, str]]:
    """Return the cuts that the model can take, and id -> reason of the others: over 30 s or over 448 tokens."""
    dropped = {}
    for cut in cuts:
        tokens = len(_training_ids(tokenizer, cut)[0])
        if cut.duration > MAX_SECONDS:
            dropped[cut.id] = f"{cut.duration:.2f} s, over {MAX_SECONDS}"
        elif tokens > MAX_TOKENS:
            dropped[cut.id] = f"{tokens} tokens, over {MAX_TOKENS}"
    return cuts.filter(partial(_is_kept, dropped)), dropped


def _is_kept(dropped: dict[str, str], cut: Cut) -> bool:
    return cut.id not in dropped


def _training_ids(tokenizer: WhisperTokenizer, cut: Cut) -> tuple[list[int], list[int]]:
    supervision = cut.supervisions[0]
    return training_ids(tokenizer, supervision.text, supervision.language, supervision.custom["task"])
