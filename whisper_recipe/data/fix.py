"""`whisper-recipe fix`: a valid corpus, and lists of dropped and changed utterances."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from whisper_recipe.data.corpus import Dropped, write_corpus
from whisper_recipe.data.utterance import Scan
from whisper_recipe.data.validate import check_corpus
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl


def fix(
    corpus: Path,
    out: Path,
    decode: bool = True,
    tokenizer: str | None = None,
    allow_pipes: bool = False,
    language: str | None = None,
    num_jobs: int = 2,
    channel: int | Literal["mix", "auto"] = 0,
    corrections: Path | None = None,
) -> None:
    """Write the valid utterances of a corpus; list the dropped and changed ones (id, file:line, reason).

    Drops the rows that `whisper-recipe validate` reports as invalid and lists them in OUT/dropped.tsv. Removes
    Whisper's special tokens from texts, drops all segments of an utterance if their times are invalid or their text
    differs, and truncates prompts that are too long; OUT/changed.tsv lists these utterances. Corrects byte order marks,
    CRLF, the order of ids, stray ids, language names and durations. Does not change audio files.

    Args:
        corpus: a Kaldi data directory, or a list that ends in .json or .jsonl.
        out: the corpus to write; its name selects the format in the same way.
        decode: decode all audio, as `validate` does.
        tokenizer: a Whisper folder or a name on the Hub; texts over 448 of its tokens are dropped.
        allow_pipes: run the shell commands given in place of audio files.
        language: language of a list's utterances that have none.
        num_jobs: number of decoding threads.
        channel: the channel of multi-channel audio that `prepare` will use: recordings that are silent on it are
            dropped.
        corrections: JSON lines saved by report.html: {"id": ..., "text": ...} replaces the text of an utterance; a null
            text drops it.

    Raises:
        RecipeError: no utterance is valid, or a correction is malformed or for an unknown utterance.
    """
    from tabulate import tabulate

    scan, durations = check_corpus(corpus, decode, tokenizer, allow_pipes, language, num_jobs, channel)
    if corrections is not None:
        _correct(scan, _read_corrections(corrections, set(scan.rows.values())))
    kept = {utterance.row: replace(utterance, duration=durations[utterance.row]) for utterance in scan.sound()}
    dropped = [Dropped(key, row, "; ".join(scan.lost[row])) for row, key in scan.rows.items() if row not in kept]
    changed = [Dropped(kept[row].id, row, "; ".join(reasons)) for row, reasons in scan.changed.items() if row in kept]
    if not kept:
        what = f"none of its {len(scan.rows)} utterances is valid"
        raise RecipeError(what, where=corpus, cure="whisper-recipe validate reports why")
    write_corpus(kept.values(), out, dropped, changed)
    for title, rows in (("dropped for", dropped), ("changed for", changed)):
        if rows:
            counts = Counter(row.reason.partition(":")[0] for row in rows)
            print(tabulate(counts.most_common(), headers=[title, "utterances"]))
    print(f"{out}: {len(scan.rows)} utterances read = {len(kept)} kept + {len(dropped)} dropped (dropped.tsv)")


def _read_corrections(path: Path, known: set[str]) -> dict[str, str | None]:
    """Return id -> corrected text, or None to drop the utterance."""
    texts = {}
    for line, row in read_jsonl(path):
        key, text = row.get("id"), row.get("text", 0)
        if not isinstance(key, str) or not isinstance(text, str | None):
            cure = "save it with report.html, or write one {'id': ..., 'text': ...} per line"
            raise RecipeError("invalid correction", where=f"{path}:{line}", cure=cure)
        if key not in known:
            cure = "apply the corrections to the corpus that was decoded"
            raise RecipeError(f"{key} is not in the corpus", where=f"{path}:{line}", cure=cure)
        texts[key] = None if text is None else " ".join(text.split())
    return texts


def _correct(scan: Scan, texts: dict[str, str | None]) -> None:
    """Replace texts by their corrections, and drop segments with the old text; drop utterances without a text."""
    for utterance in scan.utterances:
        text = texts.get(utterance.id, utterance.text)
        if text is None:
            scan.lose(utterance.row, "correction: dropped")
        elif text != utterance.text:
            scan.change("correction", utterance.row, "text replaced", utterance.row, text=text, segments=None)
