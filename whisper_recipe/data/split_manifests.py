"""`whisper-recipe split` and `combine` on Lhotse manifests: consecutive parts, and manifests concatenated in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, write_jsonl

SUFFIX = ".jsonl.gz"


def is_manifest(path: str | Path) -> bool:
    """Whether a path is a Lhotse manifest rather than a corpus."""
    return Path(path).name.endswith(SUFFIX)


def split_manifest(manifest: Path, out: Path, num_parts: int | None) -> None:
    """Write consecutive parts of equal length: out/<name>.1.jsonl.gz and so on.

    Raises:
        RecipeError: the manifest is missing, damaged, or has fewer lines than parts.
    """
    count = sum(1 for _ in read_jsonl(manifest))
    if num_parts is None or not 1 <= num_parts <= count:
        what = f"{count} lines can't be split into {f'{num_parts} parts' if num_parts else 'shares'}"
        raise RecipeError(what, where=manifest, cure=f"give --num_parts, from 1 to {count}")
    rows = (row for _, row in read_jsonl(manifest))
    name = Path(manifest).name.removesuffix(SUFFIX)
    for number in range(num_parts):
        size = count * (number + 1) // num_parts - count * number // num_parts
        path = Path(out) / f"{name}.{number + 1:0{len(str(num_parts))}d}{SUFFIX}"  # so *.jsonl.gz lists them in order
        write_jsonl(path, islice(rows, size))
        print(f"{path}: {size} lines")


def combine_manifests(manifests: list[Path], out: Path) -> None:
    """Write the lines of several manifests to one, in order.

    Raises:
        RecipeError: a file is missing, damaged or not a manifest, or an id occurs twice.
    """
    for path in (*manifests, out):
        if not is_manifest(path):
            cure = f"give files that end in {SUFFIX}, or only corpora"
            raise RecipeError("can't combine manifests with corpora", where=path, cure=cure)
    print(f"{out}: {write_jsonl(out, _together(manifests))} lines of {len(manifests)} manifests")


def _together(manifests: list[Path]) -> Iterator[dict]:
    seen: dict[str, Path] = {}
    for path in manifests:
        for number, row in read_jsonl(path):
            key = row.get("id")
            if key in seen:
                raise RecipeError(
                    f"id {key} is also in {seen[key]}", where=f"{path}:{number}", cure="remove one of them"
                )
            seen[key] = path
            yield row
