"""Find or download the data of Fish Fillets NG, and read its dialogue."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from whisper_recipe.data.download import DAMAGED, download
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require

LANGUAGES = ("cs", "nl")  # of the acted dialogue
UPSTREAM = "fillets-ng-data-1.0.1.tar.gz"
# The same in Debian's source package and in nixpkgs.
SHA256 = "f0c979fb35ec550a43246fc209add8f45ca550a382c94d6383bb3f01b1073799"
GAME = "usr/share/games/fillets-ng"  # where Debian installs it
# Members to unpack: texts and sound, with names that can't escape the folder.
WANTED = re.compile(r"(?:.*/)?((?:script|sound)/(?:[\w-]+/)+[\w-]+\.(?:lua|ogg))", re.ASCII)
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # https://manpages.debian.org/deb.5

STRING = r'"((?:[^"\\]|\\.)*)"'
# One of the two calls, or a comment, which may contain calls to ignore.
CALL = re.compile(
    rf"dialogId\s*\(\s*{STRING}\s*,\s*{STRING}\s*,\s*{STRING}\s*\)|dialogStr\s*\(\s*{STRING}\s*\)|--[^\n]*", re.DOTALL
)
ESCAPE = re.compile(r"\\(\d{1,3}|.)", re.DOTALL)
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Line(NamedTuple):
    """A line of the dialogue.

    Args:
        speaker: the font of its subtitle without `font_`: `small` and `big` are the two fish.
        english: its English translation.
        text: its subtitle; "" if there is none.
        where: `file:line`.
    """

    speaker: str
    english: str
    text: str
    where: str


class Spoken(NamedTuple):
    """A recording and its line; None if the texts have no line with its name."""

    level: str
    name: str
    path: Path
    line: Line | None


def find_game(languages: list[str], corpus: Path | None, url: str, downloads: Path) -> list[Path]:
    """Return folders that together have script/ and sound/ of the languages, from the corpus or downloaded.

    Args:
        languages: any of LANGUAGES.
        corpus: a folder with script/ and sound/, with Debian's packages (.deb) or with the upstream archive; None to
            download.
        url: URL of the upstream archive's folder, used if apt-get can't download Debian's packages.
        downloads: folder to download and unpack archives into; unpacked archives are not downloaded again.

    Raises:
        RecipeError: the corpus has none of these, or nothing can be downloaded.
    """
    if corpus is not None:
        folders = [folder for folder in (corpus, corpus / GAME) if (folder / "sound").is_dir()]
        archives = sorted([*corpus.glob("fillets-ng-data*.deb"), *corpus.glob("fillets-ng-data*.tar.gz")])
        if not folders and not archives:
            what = f"neither script/ and sound/ nor fillets-ng-data*.deb nor {UPSTREAM} is in it"
            raise RecipeError(what, where=require(corpus), cure="give another --corpus, or omit it to download")
        return folders or [unpack(archive, downloads / "corpus" / archive.name) for archive in archives]
    if (downloads / "upstream").is_dir():
        return [downloads / "upstream"]
    packages = ["fillets-ng-data", *(f"fillets-ng-data-{language}" for language in languages)]
    missing = [package for package in packages if not (downloads / package).is_dir()]
    if not missing or _apt_get(missing, downloads):
        return [_unpacked(package, downloads) for package in packages]
    try:
        archive = download(f"{url}/{UPSTREAM}", downloads / UPSTREAM, SHA256)
    except RecipeError as error:
        cure = (
            f"get {UPSTREAM} from sourceforge.net/projects/fillets, or Debian's {' '.join(packages)} (.deb), and give"
        )
        raise RecipeError(f"no data: {error.what}", cure=f"{cure} the folder as --corpus") from None
    return [unpack(archive, downloads / "upstream")]


def _apt_get(packages: list[str], folder: Path) -> bool:
    """Download Debian's packages into a folder, which needs no root; return whether apt-get succeeded."""
    if not shutil.which("apt-get"):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    print(f"apt-get download {' '.join(packages)}", flush=True)
    return subprocess.run(["apt-get", "download", "-q", *packages], cwd=folder).returncode == 0


def _unpacked(package: str, downloads: Path) -> Path:
    if not (downloads / package).is_dir():
        newest = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        unpack(newest, downloads / package)
    return downloads / package


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack texts and sound of a .deb or .tar.gz to script/ and sound/ in a folder, complete or absent; return it.

    Raises:
        RecipeError: the archive is corrupt, or the folder can't be written.
    """
    if folder.is_dir():
        return folder
    print(f"unpacking {archive} to {folder}", flush=True)
    try:
        with atomic_write(folder) as aside, _tar(archive) as tar:
            aside.mkdir()
            for member in tar:
                wanted = WANTED.fullmatch(member.name)
                if wanted and member.isfile():
                    path = aside / wanted[1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())
    except DAMAGED as error:
        what = f"corrupt or partial archive ({error})"
        raise RecipeError(what, where=archive, cure="delete it and download it again") from None
    except OSError as error:
        raise RecipeError(f"can't be unpacked ({error})", where=archive, cure="free disk space") from None
    return folder


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, or the one in a Debian package."""
    with open(archive, "rb") as file:
        if archive.suffix == ".deb":
            _seek_data(file)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar


def _seek_data(file: IO[bytes]) -> None:
    """Seek to data.tar.*, the last member of a Debian package."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise tarfile.ReadError("not a Debian package")
    while len(header := file.read(AR_HEADER)) == AR_HEADER:
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58]) if header[48:58].strip().isdigit() else 0
        file.seek(size + size % 2, 1)
    raise tarfile.ReadError("no data.tar in it")


def read_dialogue(path: Path) -> dict[str, Line]:
    """Return id -> line of a dialogs_*.lua, from dialogId and dialogStr calls with literal strings; no code is run."""
    lines: dict[str, Line] = {}
    key = ""
    source = path.read_text(encoding="utf-8", errors="replace")
    for call in CALL.finditer(source):
        name, font, english, text = (None if value is None else _unescaped(value) for value in call.groups())
        if name is not None:
            key = name
            where = f"{path}:{source.count(chr(10), 0, call.start()) + 1}"
            lines[key] = Line(font.removeprefix("font_"), english, "", where)
        elif text is not None and key in lines:
            lines[key] = lines[key]._replace(text=text)
    return lines


def _unescaped(value: str) -> str:
    """Return the value of a Lua string literal (https://www.lua.org/manual/5.1/manual.html#2.1)."""

    def character(escape: re.Match) -> str:
        code = escape[1]
        return chr(int(code)) if code.isdigit() else ESCAPES.get(code, code)

    return " ".join(ESCAPE.sub(character, value).replace("’", "'").split())


def spoken_lines(folders: list[Path], language: str) -> Iterator[Spoken]:
    """Yield every recording of a language with its line, by level and name.

    A level's texts are in script/<level>/*dialogs_<language>.lua, its sound in sound/<level>/<language>/; the sound
    that all levels share (`share`) has further folders in between.
    """
    texts: dict[str, dict[str, Line]] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"script/*/*dialogs_{language}.lua")):
            texts.setdefault(path.parent.name, {}).update(read_dialogue(path))
    recordings = {}
    for folder in folders:
        for path in folder.glob(f"sound/**/{language}/*.ogg"):
            level = path.parent.parent.relative_to(folder / "sound").as_posix()
            recordings[level, path.stem] = path
    for (level, name), path in sorted(recordings.items()):
        yield Spoken(level, name, path, texts.get(level.partition("/")[0], {}).get(name))
