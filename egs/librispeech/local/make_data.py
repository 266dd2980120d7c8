"""Prepare LibriSpeech or Mini LibriSpeech (downloaded, or your copy) as Kaldi data directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Container, Iterator
from pathlib import Path

from lhotse.recipes.librispeech import prepare_librispeech

from whisper_recipe.data.corpus import Dropped
from whisper_recipe.data.download import download, unpack
from whisper_recipe.data.lhotse_recipes import named, utterances, write_split
from whisper_recipe.errors import RecipeError

# Part -> (number of the resource on openslr.org, md5 of the archive from the resource's md5sum.txt).
PARTS = {
    "train-clean-5": (31, "5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": (31, "6d7ab67ac6a1d2c993d050e16d61080d"),
    "dev-clean": (12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": (12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (12, "d1a0fd59409feb2c614ce4d30c387708"),
}


def find_part(part: str, corpus: Path | None, url: str, downloads: Path) -> Path:
    """Return the folder that contains the part: in the corpus, or unpacked from its archive there or a download.

    Args:
        part: a name of PARTS.
        corpus: a folder with LibriSpeech/<part>, <part> or <part>.tar.gz; None to download.
        url: URL of openslr.org's resources or of a mirror.
        downloads: folder to download and unpack archives into.

    Raises:
        RecipeError: the corpus has no such part, or the archive can't be downloaded or unpacked.
    """
    unpacked = downloads / part
    archive = (corpus or downloads) / f"{part}.tar.gz"
    if corpus is not None:
        for folder in (corpus / "LibriSpeech", corpus):
            if (folder / part).is_dir():
                return folder
        if not archive.is_file():
            what = f"neither {part}/ nor LibriSpeech/{part}/ nor {part}.tar.gz is in it"
            raise RecipeError(what, where=corpus, cure="give another --corpus, or omit it to download")
    elif not unpacked.is_dir():
        resource, md5 = PARTS[part]
        download(f"{url}/{resource}/{archive.name}", archive, md5)
    return unpack(archive, unpacked) / "LibriSpeech"


def left_out(folder: Path, kept: Container[str]) -> Iterator[Dropped]:
    """Yield the recordings of a part without a transcript, and the transcripts without a recording."""
    for path in sorted(folder.rglob("*.flac")):
        if path.stem not in kept:
            yield Dropped(path.stem, str(path), "no transcript")
    for path in sorted(folder.rglob("*.trans.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            key = line.partition(" ")[0]
            if key not in kept:
                yield Dropped(key, f"{path}:{number}", "no recording")


def make_data(sets: list[str], out: Path, corpus: Path | None, url: str) -> None:
    """Write out/<part> for each part, with text in lower case because Whisper has few tokens for capitals."""
    for part in sets:
        if part not in PARTS:
            raise RecipeError(f"LibriSpeech has no part {part!r}", cure=f"its parts are {', '.join(PARTS)}")
    for part in sets:
        folder = find_part(part, corpus, url, Path("download"))
        with named(folder / part):
            prepared = prepare_librispeech(folder, dataset_parts=part, normalize_text="lower")[part]
        rows = list(utterances(**prepared))
        write_split(rows, out / part, left_out(folder / part, {row.id for row in rows}))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--sets", required=True, help="parts, in one argument")
    parser.add_argument("--corpus", default="", help="folder with the parts or their archives; default: download")
    parser.add_argument("--url", default="https://www.openslr.org/resources", help="download URL")
    options = parser.parse_args()
    try:
        corpus = Path(options.corpus) if options.corpus else None
        make_data(list(dict.fromkeys(options.sets.split())), options.out, corpus, options.url)
    except RecipeError as error:
        sys.exit(f"make_data.py: error: {error}")


if __name__ == "__main__":
    main()
