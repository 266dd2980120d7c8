"""Files that are complete or absent, and JSON lines with their line numbers."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_recipe.errors import RecipeError


def exists(path: str | Path) -> bool:
    """Return whether `path` exists; False for names that no file can have (Path.exists raises for them)."""
    return os.path.exists(path)  # noqa: PTH110


def require(path: str | Path, cure: str | None = None) -> Path:
    """Return `path` as a Path; raise RecipeError with the `cure` if it doesn't exist."""
    path = Path(path)
    if not exists(path):
        raise RecipeError("no such file or directory", where=path, cure=cure)
    return path


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's contents; raise RecipeError if there is no such file."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: str | Path, replace_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write a file or a folder to; rename it to `path` on success.

    The sibling keeps the suffixes of `path`, because libraries infer the format from them. On an exception it is
    removed and `path` is left unchanged.

    Args:
        path: the final name.
        replace_folder: replace a folder at `path` whatever it contains. By default, a folder that contains files other
            than those written is left alone: the user may have named the wrong one.

    Raises:
        RecipeError: the folder at `path` contains other files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    aside = path.with_name(own_name("partial", path.name))
    try:
        yield aside
        if aside.is_dir() and path.is_dir():
            others = {entry.name for entry in path.iterdir()} - {entry.name for entry in aside.iterdir()}
            if others and not replace_folder:
                raise RecipeError(
                    f"contains other files ({min(others)})", where=path, cure="remove it or give another folder"
                )
            # A folder can't be renamed over a folder that has files: move the old one out of the way first.
            old = path.with_name(own_name("old", path.name))
            path.rename(old)
            aside.rename(path)
            _remove(old)
        else:
            aside.replace(path)
    finally:
        _remove(aside)


def printable(text: str) -> str:
    r"""Return text that UTF-8 can encode: the byte E9 of a file name that is not UTF-8 becomes \udce9."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def list_dropped(path: Path, rows: list[str], what: str) -> None:
    """Write rows to `path` and print how many; if there are none, delete the list of an earlier run."""
    path.unlink(missing_ok=True)
    if rows:
        with atomic_write(path) as aside:
            aside.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        print(f"{len(rows)} {what}: {path}")


def own_name(kind: str, name: str) -> str:
    """Return a hidden name that no other process uses, on this machine or another: .<pid>@<machine>.<kind>.<name>."""
    return f".{os.getpid()}@{_machine()}.{kind}.{name}"


def _machine() -> str:
    return platform.node().partition(".")[0]


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files left next to `path` by processes of this machine that were killed while writing it."""
    for left in path.parent.glob(f".*.*.{glob.escape(path.name)}"):
        owner, _, kind = left.name[1:].removesuffix(f".{path.name}").partition(".")
        pid, _, machine = owner.partition("@")
        # Whether a process on another machine is running can't be checked from here.
        if pid.isdecimal() and machine == _machine() and kind in ("partial", "old") and not _is_running(int(pid)):
            _remove(left)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return pid != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) from a JSON lines file, gzipped if its name ends in `.gz`.

    Raises:
        RecipeError: the file is missing, not UTF-8, not readable as gzip, or a line is not a JSON object.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            what = f"not JSON ({error.msg})"
            raise RecipeError(what, where=f"{path}:{number}", cure="write one object per line") from None
        if not isinstance(row, dict):
            raise RecipeError("not a JSON object", where=f"{path}:{number}", cure="write one object per line")
        yield number, row


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) from a text file, gzipped if its name ends in `.gz`; skip blank lines.

    Raises:
        RecipeError: the file is missing, not UTF-8, or not readable as gzip.
    """
    path = require(path)
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 ({error.reason})", where=f"{path}:{number + 1}", cure="convert it") from None
    except (EOFError, OSError, zlib.error) as error:
        raise RecipeError(f"can't be read ({error})", where=f"{path}:{number + 1}", cure="regenerate it") from None


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write JSON lines (gzipped if the name ends in `.gz`), complete or not at all; return how many."""
    count = 0
    with atomic_write(path) as aside, _open_for_text(aside) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


@contextmanager
def _open_for_text(path: Path) -> Iterator[io.TextIOBase]:
    if path.suffix != ".gz":
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    # No name and no time in the gzip header: the same rows give the same bytes.
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as compressed,
        io.TextIOWrapper(compressed, encoding="utf-8") as file,
    ):
        yield file


def write_json(path: str | Path, value: object) -> None:
    """Write one JSON value, indented, complete or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path, cure: str | None = None) -> dict:
    """Read one JSON object; raise RecipeError if the file is missing (with the `cure`) or not a JSON object."""
    path = require(path, cure)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"not JSON ({error})", where=path, cure="regenerate it") from None
    if not isinstance(value, dict):
        raise RecipeError("not a JSON object", where=path, cure="regenerate it")
    return value
