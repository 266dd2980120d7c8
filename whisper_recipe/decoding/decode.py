"""`whisper-recipe decode`: hypotheses and speed of a model on a set of cuts."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Literal

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from tqdm import tqdm

from whisper_recipe import __version__
from whisper_recipe.data.audio import MAX_SECONDS, is_longer
from whisper_recipe.data.features import check_features, load_fbank
from whisper_recipe.data.grouping import by_length
from whisper_recipe.data.input_length import InputLength, input_length
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.decoding.backends import Backend, load_backend, usual_batch_duration
from whisper_recipe.decoding.confidence import calibrated, read_temperature
from whisper_recipe.decoding.formats import Word
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.decoding.timestamps import split_at_timestamps
from whisper_recipe.decoding.words import word_times
from whisper_recipe.errors import PartialFailure, RecipeError, no_cuts
from whisper_recipe.files import require, write_json, write_jsonl
from whisper_recipe.languages import language_code
from whisper_recipe.model.load import timestamps as learned_timestamps
from whisper_recipe.processes import is_main_process, launched, parse_part
from whisper_recipe.resumable import ResumableWork
from whisper_recipe.text.additions import borrow_languages
from whisper_recipe.text.tokenizer import decode_text, text_only


def decode(
    model: str,
    cuts: Path,
    out: Path,
    batch_duration: float | None = None,
    compute_type: str = "default",
    pad_to_30s: bool | None = None,
    spare_frames: int | None = None,
    language: str = "given",
    task: Literal["given", "transcribe", "translate"] = "given",
    assistant_model: str | None = None,
    part: str | None = None,
    timestamps: bool = False,
    confidence: bool = False,
    calibration: Path | None = None,
    new_languages: dict[str, str] = {},  # noqa: B006
    search: SearchOptions = SearchOptions(),  # noqa: B008
) -> None:
    """Decode a set of cuts and write out/hyp.jsonl and out/decode.json.

    Run the same command again to resume an interrupted run after the last finished batch. `accelerate launch` (or
    torchrun) splits the set among several processes, and --part among several commands.

    Args:
        model: a Whisper folder, a CTranslate2 folder, or a name on the Hub.
        cuts: a cut manifest, from `whisper-recipe fbank`.
        out: the folder to write.
        batch_duration: maximum seconds of audio per batch. By default 120 per 2 GB of GPU memory, up to 1920, and 40 on
            a CPU, where CTranslate2 decodes one batch per core.
        compute_type: default, float32, float16, int8, int8_float16 and so on, if supported by backend and device.
        pad_to_30s: pad every utterance to 30 s, as stock models require. By default as recorded in the model folder.
        spare_frames: frames (10 ms) of silence after the longest utterance of a batch that is not padded to 30 s. By
            default as recorded in the model folder.
        language: given uses the cut's language, detect lets the model choose (which runs the encoder once more); or one
            language for all cuts, a Whisper code or an English name.
        task: given uses the cut's task; or one task for all cuts.
        assistant_model: a smaller Whisper with the same vocabulary for speculative decoding: the same hypotheses,
            faster if its guesses are often right. transformers only, one utterance at a time.
        part: 2/8 decodes the second eighth. Start all eight, at any time and on any machines that share OUT, with the
            same other options; the last to finish writes the hypotheses. Set --batch_duration if the machines differ.
        timestamps: let the model write timestamps, and write the segments between them to hyp.jsonl, where
            `pseudo-label` reads them.
        confidence: also write the probability and times of each word. This runs the hypotheses through the model once
            more to get the probability of each token given those before it.
        calibration: metrics.json of a dev set that was decoded with --confidence and scored; its temperature calibrates
            the probabilities.
        new_languages: languages that borrow the token of another, {mdw: ln}, for a model that was not trained on them.
        search: search options.

    Raises:
        RecipeError: an input is missing, the cuts' features don't fit the model, timestamps are requested
            from a model trained without them, or no cut can be read.
        PartialFailure: some cuts can't be read; the hypotheses of the others are written.
    """
    require(cuts, "run stage 2 (whisper-recipe fbank) first")
    length = input_length(model, pad_to_30s, spare_frames)
    batch_duration = batch_duration or usual_batch_duration()
    if language not in ("given", "detect"):
        language = language_code(language, "language")
    if calibration is not None and not confidence:
        raise RecipeError("no confidences to calibrate", where="--calibration", cure="give --confidence too")
    if timestamps and not learned_timestamps(model):
        raise RecipeError("was trained without timestamps", where=model, cure="leave --timestamps out")
    temperature = (read_temperature(calibration) if calibration else 1.0) if confidence else None
    settings = {
        "model": str(model),
        "cuts": str(cuts),
        "batch_duration": batch_duration,
        "compute_type": compute_type,
        "pad_to_30s": length.pad_to_30s,
        "spare_frames": length.spare_frames,
        "language": language,
        "task": task,
        "assistant_model": assistant_model,
        "timestamps": timestamps,
        "confidence_temperature": temperature,
        "new_languages": new_languages,
        **asdict(search),
        "versions": _versions(),
    }
    all_cuts = _read_cuts(cuts)
    ordered = sorted(all_cuts, key=lambda cut: cut.id)
    batches = list(by_length(ordered, attrgetter("duration"), batch_duration, length.seconds))
    inputs = {"input_files": _state(model, cuts, assistant_model)}
    work = ResumableWork(out / "hyp", settings | inputs, parse_part(part), launched())
    to_do = work.to_do(len(batches))
    if not (work.leads or to_do or (work.in_parts and work.is_complete(len(batches)))):
        return
    backend = load_backend(model, compute_type, assistant_model, parallel=len(batches))
    borrow_languages(backend.tokenizer, new_languages)
    check_features(all_cuts[0], backend.num_mel_bins, cuts)
    done = work.open()
    if done and is_main_process():
        print(f"{out}: resuming, {done} of {len(batches)} batches are done", flush=True)
    decoder = _CutDecoder(backend, search, language, task, length, temperature, timestamps)
    _decode_batches(decoder, batches, to_do, work, f"decode {cuts.stem}")
    if work.is_ours_to_finish(len(batches)):
        used = {"backend": backend.name, "compute_type": backend.compute_type, "device": backend.device}
        _finish(work, out, settings | used, all_cuts)
    elif part and is_main_process():
        print(f"{out}: part {part} is done; the part that finishes last merges them")


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "ctranslate2", "lhotse")
    return {"whisper_recipe": __version__, **{name: version(name) for name in packages}}


def _state(*inputs: str | Path | None) -> list[tuple]:
    """Return name, size and modification time of all input files, so that changed weights are noticed."""
    files = []
    for path in (Path(name) for name in inputs if name is not None):
        files += sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _read_cuts(path: Path) -> list[Cut]:
    cuts = list(CutSet.from_jsonl_lazy(path))
    if not cuts:
        raise no_cuts(path)
    seen = set()
    for cut in cuts:
        if cut.id in seen:
            raise RecipeError(f"cut {cut.id} occurs twice", where=path, cure="remove one")
        if is_longer(cut.duration):
            raise RecipeError(
                f"cut {cut.id} lasts {cut.duration:.2f} s, over {MAX_SECONDS}", where=path, cure="cut it into pieces"
            )
        seen.add(cut.id)
    return cuts


def _decode_batches(
    decoder: _CutDecoder, batches: list[list[Cut]], to_do: list[int], work: ResumableWork, title: str
) -> None:
    """Decode the batches with the numbers in `to_do`, each a piece of work; the bar counts seconds of audio."""
    total = sum(cut.duration for number in to_do for cut in batches[number])
    processing = audio = 0.0
    with tqdm(total=round(total), unit="s", desc=title, disable=not is_main_process()) as progress:
        start = time.perf_counter()
        decoded = decoder.backend.each(decoder.decode, (batches[number] for number in to_do), decoder.load)
        for number, (rows, skipped) in zip(to_do, decoded, strict=True):
            seconds = time.perf_counter() - start  # since the previous batch: batches may run in parallel
            start += seconds
            for key, reason in skipped.items():
                tqdm.write(f"{key} is skipped: {reason}", file=sys.stderr)
            work.write(number, [{"process": work.own.index, "seconds": seconds, "rows": rows, "skipped": skipped}])
            processing += seconds
            audio += sum(cut.duration for cut in batches[number])
            progress.update(round(audio) - progress.n)
            progress.set_postfix(RTF=f"{processing / audio:.4f}" if audio else "")


class _CutDecoder:
    """Decodes batches of cuts with the same settings."""

    def __init__(
        self,
        backend: Backend,
        search: SearchOptions,
        language: str,
        task: str,
        length: InputLength,
        temperature: float | None = None,
        timestamps: bool = False,
    ) -> None:
        self.backend, self.search, self.language, self.task = backend, search, language, task
        self.temperature = temperature  # of the word confidences; None if not requested
        self.length, self.timestamps = length, timestamps

    def load(self, cuts: list[Cut]) -> tuple[list[Cut], dict[str, torch.Tensor], dict[str, str]]:
        """Return the cuts, the features of those that are not empty, and cut id -> reason for unreadable ones."""
        features: dict[str, torch.Tensor] = {}
        skipped: dict[str, str] = {}
        for cut in cuts:
            try:
                if cut.duration:
                    check_features(cut, self.backend.num_mel_bins, cut.id)
                    features[cut.id] = load_fbank(cut, self.backend.num_mel_bins)
            except Exception as error:  # each audio and feature format raises its own errors
                skipped[cut.id] = " ".join(f"{error}".split()) or type(error).__name__
        return cuts, features, skipped

    def decode(
        self, loaded: tuple[list[Cut], dict[str, torch.Tensor], dict[str, str]]
    ) -> tuple[list[dict], dict[str, str]]:
        """Return the rows of hyp.jsonl for the loaded cuts, and cut id -> reason for the unreadable ones."""
        cuts, features, skipped = loaded
        spoken = [cut for cut in cuts if cut.id in features]
        rows = [self._row(cut, self.language, "") for cut in cuts if not cut.duration]
        return rows + (self._decode(spoken, list(features.values())) if spoken else []), skipped

    def _decode(self, cuts: list[Cut], features: list[torch.Tensor]) -> list[dict]:
        batch = self.length.collate(features)
        detected = self.language == "detect"
        languages = self.backend.detect_languages(batch) if detected else [self._language(cut) for cut in cuts]
        tokenizer = self.backend.tokenizer
        prompts = [
            search_prompt(tokenizer, language, self._task(cut), self.search, timestamps=self.timestamps)
            for cut, language in zip(cuts, languages, strict=True)
        ]
        hypotheses = self.backend.decode(batch, prompts, self.search)
        rows = [
            self._row(cut, language, decode_text(tokenizer, ids).strip())
            for cut, language, ids in zip(cuts, languages, hypotheses, strict=True)
        ]
        if self.timestamps:
            for row, ids in zip(rows, hypotheses, strict=True):
                row["segments"] = self._segments(ids, row["duration"])
        if self.temperature is not None:
            self._add_words(rows, batch, features, [text_only(tokenizer, ids) for ids in hypotheses])
        return rows

    def _add_words(
        self, rows: list[dict], batch: torch.Tensor, features: list[torch.Tensor], texts: list[list[int]]
    ) -> None:
        """Add the texts' (ids) words, times and probabilities to the rows, one language and task at a time."""
        kinds = defaultdict(list)
        for index, row in enumerate(rows):
            kinds[row["language"], row["task"]].append(index)
        for (language, task), members in kinds.items():
            frames = [len(features[index]) for index in members]
            spoken = [texts[index] for index in members]
            timed = word_times(self.backend, self.backend.tokenizer, batch[members], frames, spoken, language, task)
            for index, words in zip(members, timed, strict=True):
                rows[index]["words"] = [self._word(word) for word, _ in words]

    def _segments(self, ids: list[int], duration: float) -> list[dict]:
        """Return a hypothesis' segments in the format of a supervision's custom field; none if any has no duration."""
        tokenizer = self.backend.tokenizer
        segments = [
            {"start": round(start, 2), "end": round(end, 2), "text": tokenizer.decode(text).strip()}
            for start, end, text in split_at_timestamps(ids, tokenizer, duration)
        ]
        return segments if all(segment["start"] < segment["end"] for segment in segments) else []

    def _word(self, word: Word) -> dict:
        return {
            "word": word.word.strip(),
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "probability": float(f"{calibrated(word.probability, self.temperature):.4g}"),
        }

    def _language(self, cut: Cut) -> str:
        if self.language != "given":
            return self.language
        given = supervision_of(cut, labelled=False).language
        if given is None:
            raise RecipeError(f"cut {cut.id} has no language", cure="give --language CODE, or --language detect")
        return given

    def _task(self, cut: Cut) -> str:
        return supervision_of(cut, labelled=False).task if self.task == "given" else self.task

    def _row(self, cut: Cut, language: str, text: str) -> dict:
        return {"id": cut.id, "language": language, "task": self._task(cut), "duration": cut.duration, "text": text}


def _finish(work: ResumableWork, out: Path, settings: dict, cuts: list[Cut]) -> None:
    """Write the hypotheses in the manifest's order and the record of the decoding."""
    rows: dict[str, dict] = {}
    skipped: dict[str, str] = {}
    seconds: dict[int, float] = defaultdict(float)
    for batch in work.rows():
        rows |= {row["id"]: row for row in batch["rows"]}
        skipped |= batch["skipped"]
        seconds[batch["process"]] += batch["seconds"]
    if not rows:
        key, reason = next(iter(skipped.items()))
        raise RecipeError(f"none of the {len(cuts)} cuts can be read: {key}: {reason}", where=settings["cuts"])
    audio = sum(row["duration"] for row in rows.values())
    processing = max(seconds.values())  # of the slowest process
    rtf = processing / audio if audio else None
    write_jsonl(out / "hyp.jsonl", (rows[cut.id] for cut in cuts if cut.id in rows))
    record = {
        **settings,
        "processes": work.own.count,
        "utterances": len(rows),
        "skipped": skipped,
        "audio_seconds": round(audio, 3),
        "processing_seconds": round(processing, 3),
        "rtf": rtf and round(rtf, 6),
    }
    write_json(out / "decode.json", record)
    work.discard()
    speed = f"RTF {rtf:.4f} (processing time / audio time)" if rtf else "no audio"
    print(f"{out}: {len(rows)} utterances, {speed}")
    if skipped:
        raise PartialFailure(
            f"{len(skipped)} of {len(cuts)} cuts can't be read and have no hypothesis ({min(skipped)} first)",
            where=out / "decode.json",
            cure="find them with whisper-recipe validate",
        )
