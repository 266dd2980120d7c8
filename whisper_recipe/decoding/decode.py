"""`whisper-recipe decode`: hypotheses and speed of a model on a set of cuts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut
from tqdm import tqdm
from transformers import WhisperTokenizer

from whisper_recipe.data.features import MAX_FRAMES, check_mel_bins, collate_fbank, load_fbank
from whisper_recipe.decoding.backends import Backend, SearchOptions, load_backend
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import require, write_json, write_jsonl
from whisper_recipe.model.load import load_processor, natural_length
from whisper_recipe.text.prompt import MAX_SECONDS, prompt_ids


def decode(
    model: str,
    cuts: Path,
    out: Path,
    batch_duration: float = 120.0,
    compute_type: str = "default",
    pad_to_30s: bool | None = None,
    search: SearchOptions = SearchOptions(),  # noqa: B008
) -> None:
    """Decode a set of cuts and write out/hyp.jsonl and out/decode.json.

    Args:
        model: a Whisper folder, a CTranslate2 folder, or a name on the hub.
        cuts: a cut manifest, from `whisper-recipe fbank`.
        out: the folder to write.
        batch_duration: seconds of audio in a batch at most.
        compute_type: default, float32, float16, int8 and so on, as far as the backend has it.
        pad_to_30s: pad every utterance to 30 s, as stock models need it. By default as the model folder records.
        search: how hypotheses are searched for.

    Raises:
        RecipeError: an input is missing, or the cuts' features don't fit the model.
    """
    require(cuts, "run stage 2 (whisper-recipe fbank) first")
    tokenizer = load_processor(model).tokenizer
    backend = load_backend(model, compute_type)
    if pad_to_30s is None:
        pad_to_30s = not natural_length(model)
    hypotheses, processing, audio = [], 0.0, 0.0
    every = sorted(CutSet.from_jsonl_lazy(cuts), key=lambda cut: (-cut.duration, cut.id))
    _check(every, backend, cuts)
    with tqdm(total=round(sum(cut.duration for cut in every)), unit="s", desc=f"decode {cuts.stem}") as progress:
        for batch in _batches(every, batch_duration):
            start = time.perf_counter()
            texts = _decode_batch(backend, tokenizer, batch, search, pad_to_30s)
            processing += time.perf_counter() - start
            audio += sum(cut.duration for cut in batch)
            hypotheses += [_row(cut, text) for cut, text in zip(batch, texts, strict=True)]
            progress.update(round(audio) - progress.n)
            progress.set_postfix(RTF=f"{processing / audio:.4f}")
    write_jsonl(out / "hyp.jsonl", sorted(hypotheses, key=lambda row: row["id"]))
    write_json(
        out / "decode.json",
        {
            "model": str(model),
            "cuts": str(cuts),
            "backend": backend.name,
            "compute_type": backend.compute_type,
            "beam_size": search.beam_size,
            "pad_to_30s": pad_to_30s,
            "audio_seconds": round(audio, 3),
            "processing_seconds": round(processing, 3),
            "rtf": round(processing / audio, 6),
        },
    )
    print(f"{out}: {len(hypotheses)} utterances, RTF {processing / audio:.4f} (processing time / audio time)")


def _check(cuts: list[Cut], backend: Backend, path: Path) -> None:
    if not cuts:
        raise RecipeError("no cuts in it", where=path, cure="check the data directory it was made from")
    check_mel_bins(cuts[0], backend.num_mel_bins, path)
    if cuts[0].duration > MAX_SECONDS:
        raise RecipeError(
            f"cut {cuts[0].id} lasts {cuts[0].duration:.2f} s, over {MAX_SECONDS}",
            where=path,
            cure="cut it into pieces",
        )


def _batches(cuts: list[Cut], batch_duration: float) -> Iterator[list[Cut]]:
    """Cut a list sorted by falling duration into batches of at most `batch_duration` seconds, padding counted in."""
    batch: list[Cut] = []
    for cut in cuts:
        if batch and batch[0].duration * (len(batch) + 1) > batch_duration:
            yield batch
            batch = []
        batch.append(cut)
    if batch:
        yield batch


def _decode_batch(
    backend: Backend, tokenizer: WhisperTokenizer, batch: list[Cut], search: SearchOptions, pad_to_30s: bool
) -> list[str]:
    features = [load_fbank(cut, backend.num_mel_bins) for cut in batch]
    prompts = [prompt_ids(tokenizer, cut.supervisions[0].language, cut.supervisions[0].custom["task"]) for cut in batch]
    ids = backend.decode(collate_fbank(features, MAX_FRAMES if pad_to_30s else None), prompts, search)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _row(cut: Cut, text: str) -> dict:
    supervision = cut.supervisions[0]
    return {
        "id": cut.id,
        "language": supervision.language,
        "task": supervision.custom["task"],
        "duration": cut.duration,
        "text": text,
    }
