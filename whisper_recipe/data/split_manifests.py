"""`whisper-recipe split` and `combine` on Lhotse manifests: in parts and together again, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, write_jsonl

SUFFIX = ".jsonl.gz"


def is_manifest(path: str | Path) -> bool:
    """Whether a path means a Lhotse manifest, and no corpus."""
    return Path(path).name.endswith(SUFFIX)


def split_manifest(manifest: Path, out: Path, num_parts: int | None) -> None:
    """Write out/<name>.1.jsonl.gz and so on, as long as each other, the first ones of the manifest in the first part.

    Raises:
        RecipeError: the manifest is missing, damaged, or has fewer lines than there are to be parts.
    """
    count = sum(1 for _ in read_jsonl(manifest))
    if num_parts is None or not 1 <= num_parts <= count:
        what = f"{count} lines can't be split into {num_parts or 'shares'}"
        raise RecipeError(what, where=manifest, cure=f"give --num_parts, from 1 to {count}")
    rows = (row for _, row in read_jsonl(manifest))
    name = Path(manifest).name.removesuffix(SUFFIX)
    for number in range(num_parts):
        size = count * (number + 1) // num_parts - count * number // num_parts
        path = Path(out) / f"{name}.{number + 1:0{len(str(num_parts))}d}{SUFFIX}"  # so that *.jsonl.gz is their order
        write_jsonl(path, islice(rows, size))
        print(f"{path}: {size} lines")


def combine_manifests(manifests: list[Path], out: Path) -> None:
    """Write the lines of several manifests to one, in their order.

    Raises:
        RecipeError: one is missing or damaged, is not a manifest, or two have the same id.
    """
    for path in (*manifests, out):
        if not is_manifest(path):
            cure = f"give files that end in {SUFFIX}, or corpora alone"
            raise RecipeError("manifests and corpora don't combine", where=path, cure=cure)
    print(f"{out}: {write_jsonl(out, _together(manifests))} lines of {len(manifests)} manifests")


def _together(manifests: list[Path]) -> Iterator[dict]:
    seen: dict[str, Path] = {}
    for path in manifests:
        for number, row in read_jsonl(path):
            key = row.get("id")
            if key in seen:
                raise RecipeError(
                    f"id {key} is in {seen[key]} too", where=f"{path}:{number}", cure="give each cut once"
                )
            seen[key] = path
            yield row
