"""Prepare AISHELL-1 (downloaded, or your copy) as Kaldi data directories train, dev and test."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from lhotse.recipes.aishell import prepare_aishell

from whisper_recipe.data.corpus import Dropped
from whisper_recipe.data.download import download, unpack
from whisper_recipe.data.lhotse_recipes import named, utterances, write_split
from whisper_recipe.errors import RecipeError

ARCHIVE = "data_aishell.tgz"
# From PaddleSpeech's recipe.
MD5 = "2f494334227864a8a8fec932999db9d8"
SPEAKERS = "data_aishell/wav/*.tar.gz"  # one archive per speaker, inside the main archive
TRANSCRIPT = "data_aishell/transcript/aishell_transcript_v0.8.txt"


def find_corpus(corpus: Path | None, url: str, downloads: Path) -> Path:
    """Return the folder that contains data_aishell/: in the corpus, or unpacked from its archive or a download.

    Args:
        corpus: data_aishell.tgz, data_aishell/ or the folder with it; None to download.
        url: URL of the archive's folder on openslr.org or a mirror.
        downloads: folder to download and unpack the archive into.

    Raises:
        RecipeError: the corpus is missing, or the archive can't be downloaded or unpacked.
    """
    unpacked = downloads / "aishell"
    if corpus is None:
        if not unpacked.is_dir():
            download(f"{url}/{ARCHIVE}", downloads / ARCHIVE, MD5)
        return unpack(downloads / ARCHIVE, unpacked, SPEAKERS)
    if corpus.is_file():
        return unpack(corpus, unpacked, SPEAKERS)
    for folder in (corpus, corpus.absolute().parent):
        if (folder / TRANSCRIPT).is_file():
            if not (folder / "data_aishell/wav/train").is_dir() and any(folder.glob(SPEAKERS)):
                cure = f"give {ARCHIVE} itself, or unpack them there: for f in *.tar.gz; do tar -xzf $f; done"
                raise RecipeError("the speakers' archives are not unpacked", where=folder / SPEAKERS, cure=cure)
            return folder
    cure = f"give {ARCHIVE} or the folder with data_aishell/, or omit --corpus to download it"
    raise RecipeError(f"{TRANSCRIPT} is not in it", where=corpus, cure=cure)


def left_out(folder: Path, kept: set[str]) -> Iterator[Dropped]:
    """Yield the recordings of a split that have no transcript."""
    for path in sorted(folder.rglob("*.wav")):
        if path.stem not in kept:
            yield Dropped(path.stem, str(path), "no transcript")


def make_data(out: Path, corpus: Path | None, url: str) -> None:
    """Write out/train, out/dev and out/test."""
    folder = find_corpus(corpus, url, Path("download"))
    with named(folder):
        prepared = prepare_aishell(folder)
    with_audio = set()
    for split, manifests in prepared.items():
        rows = list(utterances(**manifests))
        kept = {row.id for row in rows}
        write_split(rows, out / split, left_out(folder / "data_aishell/wav" / split, kept))
        with_audio |= kept
    without_audio = [line.split()[0] for line in (folder / TRANSCRIPT).read_text(encoding="utf-8").splitlines()]
    without_audio = [key for key in without_audio if key not in with_audio]
    if without_audio:
        first = ", ".join(without_audio[:3])
        print(f"{folder / TRANSCRIPT}: {len(without_audio)} lines have no recording ({first} ...)")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder for the data directories")
    parser.add_argument("--corpus", default="", help=f"{ARCHIVE} or the folder with data_aishell/; default: download")
    parser.add_argument("--url", default="https://www.openslr.org/resources/33", help="download URL")
    options = parser.parse_args()
    try:
        make_data(options.out, Path(options.corpus) if options.corpus else None, options.url)
    except RecipeError as error:
        sys.exit(f"make_data.py: error: {error}")


if __name__ == "__main__":
    main()
