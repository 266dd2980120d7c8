"""Batches of cuts: similar lengths together, features padded with silence, labels masked by length."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import DataLoader, Dataset
from transformers import WhisperTokenizer

from whisper_recipe.data.audio import MAX_SECONDS, is_longer
from whisper_recipe.data.features import MAX_FRAMES, check_features, collate_fbank
from whisper_recipe.data.supervision import Outline, supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write
from whisper_recipe.processes import Part
from whisper_recipe.text.labels import IGNORED, training_ids
from whisper_recipe.text.prompt import MAX_TOKENS
from whisper_recipe.training.augment import Augmenter, TrainingAugmentation
from whisper_recipe.training.cuts import Selection, selected
from whisper_recipe.training.cuts import load_cuts as load_cuts  # re-exported: train reads its manifests with it
from whisper_recipe.training.encoder_cache import collate_states, has_states, load_states
from whisper_recipe.training.logs import log_and_print
from whisper_recipe.training.sampler import Batch, BatchOptions, BatchSampler
from whisper_recipe.training.shard_sampler import ShardSampler

SPECIAL_TOKENS = 5  # start, language, task, no timestamps, end


class CutDataset(Dataset):
    """Converts a batch of cuts to the model's input tensors."""

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

    def __getitem__(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the encoder input, decoder_input_ids and labels (batch, tokens), cut ids, and unreadable.

        The encoder input is input_features (batch, mel bins, frames), or encoder_outputs for cuts with stored ones.
        A cut that can't be read is dropped: unreadable maps its id to the reason.

        Raises:
            RecipeError: none of the cuts can be read.
        """
        number, cuts, padded, repeated = batch
        # Random draws depend only on the batch, not on the process or on earlier draws.
        draw = random.Random(f"{self.seed} {number}")
        unreadable: dict[str, str] = {}
        if has_states(cuts[0]):
            encoder = {"encoder_outputs": (collate_states([load_states(cut) for cut in cuts]),)}
        else:
            cuts, features = zip(*self._load(cuts, draw, unreadable), strict=True)
            encoder = {
                "input_features": collate_fbank(features, MAX_FRAMES if padded else None, self.options.spare_frames)
            }
        shares = self.options.timestamps, self.options.prompts
        ids = [training_example(self.tokenizer, cut, *(draw.random() < share for share in shares)) for cut in cuts]
        inputs, labels = ([torch.tensor(row) for row in rows] for rows in zip(*ids, strict=True))
        pad = torch.nn.utils.rnn.pad_sequence
        labels = pad(labels, batch_first=True, padding_value=IGNORED)
        return {
            **encoder,
            # Masked by length: the end token is also the padding token, and masking it by value would teach the model
            # never to stop (https://github.com/huggingface/transformers/issues/19166).
            "decoder_input_ids": pad(inputs, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            "labels": torch.full_like(labels, IGNORED) if repeated else labels,
            "cuts": [cut.id for cut in cuts],
            "unreadable": unreadable,
        }

    def _load(self, cuts: CutSet, draw: random.Random, unreadable: dict[str, str]) -> list[tuple[Cut, torch.Tensor]]:
        loaded = []
        for cut in cuts:
            try:
                loaded.append(self.augmenter.load(cut, draw))
            except Exception as error:  # each audio and feature format raises its own types
                unreadable[cut.id] = " ".join(f"{error}".split()) or type(error).__name__
        if not loaded:
            key, reason = next(iter(unreadable.items()))
            what = f"none of the {len(unreadable)} cuts of a batch can be read: {reason}"
            raise RecipeError(what, where=key, cure="check the data with whisper-recipe validate, and run fbank again")
        return loaded


def training_example(
    tokenizer: WhisperTokenizer, cut: Cut, timestamps: bool = False, prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Return (decoder input ids, labels) of a cut, on request with its timestamps and previous text, if any."""
    text, language, task, _, segments, previous = supervision_of(cut)
    return training_ids(tokenizer, text, language, task, segments if timestamps else (), previous if prompt else "")


def encoder_input(inputs: dict) -> torch.Tensor:
    """Return the encoder's input (batch, mel bins, frames), or its stored output (batch, frames, d_model)."""
    return inputs["input_features"] if "input_features" in inputs else inputs["encoder_outputs"][0]


def make_loader(
    cuts: CutSet,
    tokenizer: WhisperTokenizer,
    options: BatchOptions,
    shuffle: bool,
    num_mel_bins: int = 80,
    augment: TrainingAugmentation | None = None,
    seed: int = 0,
    part: Part = Part(),  # noqa: B008
) -> DataLoader:
    """Return a DataLoader over batches of `cuts`; its `len()` is the number of batches per process and epoch."""
    cuts = CutSet(selected(cuts))
    sharded = cuts.data.is_sharded()
    if sharded and not shuffle:
        part = Part()  # a dev set has few shards, and each loading process needs its own
    sampler = (ShardSampler if sharded else BatchSampler)(cuts, options, shuffle, seed, part)
    return DataLoader(
        CutDataset(tokenizer, num_mel_bins, options, augment, seed),
        batch_sampler=sampler,
        collate_fn=_only,
        num_workers=options.num_workers,
        pin_memory=torch.cuda.is_available(),  # for asynchronous copies to the GPU
        persistent_workers=sharded and options.num_workers > 0,  # they hold shards that the next pass continues with
    )


def _only(items: list[dict]) -> dict:
    return items[0]


def trainable_cuts(cuts: CutSet, name: str, tokenizer: WhisperTokenizer, num_mel_bins: int, output_dir: Path) -> CutSet:
    """Return the cuts that a model can be trained on; list the others, with reasons, in dropped_<name>.tsv.

    Raises:
        RecipeError: the features don't match the model, or all cuts are dropped.
    """
    check_features(next(iter(cuts)), num_mel_bins, f"{name}_cuts")
    kept, dropped = drop_untrainable(cuts, tokenizer)
    listed = output_dir / f"dropped_{name}.tsv"
    if dropped:
        with atomic_write(listed) as aside:
            aside.write_text("".join(f"{cut}\t{why}\n" for cut, why in dropped.items()), encoding="utf-8")
        log_and_print(f"{len(dropped)} cuts were dropped; {listed} lists the reasons")
    if next(iter(kept), None) is None:
        raise RecipeError("all cuts were dropped", where=listed, cure="cut the audio into shorter pieces")
    return kept


def drop_untrainable(cuts: CutSet, tokenizer: WhisperTokenizer) -> tuple[CutSet, dict[str, str]]:
    """Return the cuts that the model accepts, and id -> reason for the others: over 30 s or over 448 tokens.

    Timestamps count as tokens; previous text does not, since it is truncated to fit.
    """
    known = set()  # languages and tasks

    def reason(cut: Cut | Outline) -> str | None:
        if (kind := _kind(cut)) not in known:
            training_example(tokenizer, cut)  # raises RecipeError if the tokenizer does not know them
            known.add(kind)
        if is_longer(cut.duration):
            return f"{cut.duration:.2f} s, over {MAX_SECONDS}"
        if (tokens := _tokens(cut, tokenizer)) > MAX_TOKENS:
            return f"{tokens} tokens, over {MAX_TOKENS}"
        return None

    kept = Selection(cuts, reason)
    return CutSet(kept), kept.dropped


def _tokens(cut: Cut | Outline, tokenizer: WhisperTokenizer) -> int:
    """Return the number of a cut's tokens, or a quick upper bound if that is within the model's limit."""
    most = _most_tokens(cut)
    return most if most <= MAX_TOKENS else len(training_example(tokenizer, cut, timestamps=True)[0])


def _kind(cut: Cut | Outline) -> tuple[str, str, bool]:
    supervision = supervision_of(cut)
    return supervision.language, supervision.task, bool(supervision.text)


def _most_tokens(cut: Cut | Outline) -> int:
    """Return an upper bound of a cut's number of tokens without tokenizing: each token has at least one byte."""
    supervision = supervision_of(cut)
    texts = [supervision.text, *(segment.text for segment in supervision.segments)]
    return SPECIAL_TOKENS + sum(len(text.encode()) + 3 for text in texts)  # a leading space, two timestamps
