"""Download corpora: resumable, verified downloads, and safe unpacking of archives.

With lhotse.utils (1.33), `resumable_download` appends the whole file to a partial one if the server has no ranges, and
accepts a file that is cut off; `safe_extract` writes outside the folder through a link in the archive.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import os
import re
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import atomic_write, require

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60  # seconds without data after which a connection counts as broken
ATTEMPTS = 5  # consecutive connections without new data after which a download fails
PAUSE = 2.0  # seconds before the next connection; doubled after each one without new data
DIGESTS = {32: "md5", 40: "sha1", 64: "sha256"}  # by the length of the hexadecimal form
# Errors of a broken connection; a server's 404 is an HTTPError too, see _may_pass.
BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


def download(url: str, path: str | Path, checksum: str | None = None) -> Path:
    """Download a file, resuming where an earlier call or a broken connection stopped; return its path.

    A partial download is kept as PATH.part and renamed once it has the size that the server reports and the right
    checksum. An existing file is verified and not downloaded again. Proxies are taken from the environment.

    Args:
        url: http or https.
        path: the file to write.
        checksum: md5, sha1 or sha256 in hexadecimal, as published with the corpus; None if there is none.

    Raises:
        RecipeError: the server refuses or can't be reached, the file can't be written, or its checksum is wrong.
    """
    path = Path(path)
    if path.exists():
        _verify(path, checksum, "delete it and run again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        size = _size(part)
        try:
            _fetch(url, part)
            break
        except BROKEN as error:
            failures = 0 if _size(part) > size else failures + 1
            if failures == ATTEMPTS or not _may_pass(error):
                what = f"{url} can't be downloaded ({error})"
                raise RecipeError(what, where=part, cure="run again to resume") from None
        except OSError as error:
            raise RecipeError(f"can't be written ({error.strerror})", where=part, cure="free disk space") from None
        time.sleep(PAUSE * 2**failures)
    try:
        _verify(part, checksum, "it has been deleted; run again")
    except RecipeError:
        part.unlink()  # a corrupt file can't be resumed
        raise
    return part.rename(path)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _may_pass(error: Exception) -> bool:
    """Return whether a retry may succeed: not if the server refuses the file."""
    return not isinstance(error, urllib.error.HTTPError) or error.code in (408, 416, 429) or error.code >= 500


def _fetch(url: str, part: Path) -> None:
    """Download the rest of a file, or raise one of BROKEN."""
    size = _size(part)
    headers = {"User-Agent": "whisper-recipe"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{size}":
            return  # already complete
        if error.code == 416:  # larger than the file: part of another one
            part.unlink()
        raise
    total = _total(response, size)
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        with tqdm(total=total, initial=file.tell(), desc=part.stem, unit="B", unit_scale=True) as progress:
            while block := response.read(BLOCK):
                file.write(block)
                progress.update(len(block))
        if total is not None and file.tell() != total:
            raise ConnectionError(f"{file.tell()} of {total} bytes")


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return the size of the whole file, None if unknown; the response holds all of it or the rest from `start`."""
    if response.status == 206:
        found = re.fullmatch(rf"bytes {start}-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found:
            raise ConnectionError(f"the server's response does not start at byte {start}")
        return int(found[1])
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _verify(path: Path, checksum: str | None, cure: str) -> None:
    if checksum is None:
        return
    name = DIGESTS[len(checksum)]
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
    if found != checksum.lower():
        raise RecipeError(f"corrupt: its {name} is {found}, expected {checksum}", where=path, cure=cure)


def unpack(archive: str | Path, folder: str | Path, inner: str | None = None) -> Path:
    """Unpack a tar archive into a folder, completely or not at all, and return it; an existing folder is left as it is.

    Members that would land outside the folder, links and devices are errors: no corpus needs them.

    Args:
        archive: compressed or not.
        folder: a new folder for the archive's contents.
        inner: pattern of nested archives (`wav/*.tar.gz`); each is unpacked in place and deleted.

    Raises:
        RecipeError: the archive is corrupt, partial or unsafe, or the folder can't be written.
    """
    folder = Path(folder)
    if folder.is_dir():
        print(f"{folder} already exists: {archive} is not unpacked again")
        return folder
    print(f"unpacking {archive} to {folder}", flush=True)
    with atomic_write(folder) as aside:
        aside.mkdir()
        _extract(require(archive), aside, str(archive))
        nested = sorted(aside.glob(inner)) if inner else []
        for path in tqdm(nested, desc=f"unpacking {inner}", unit="archive", disable=not nested):
            _extract(path, path.parent, f"{archive}: {path.relative_to(aside)}")
            path.unlink()
    return folder


def _extract(archive: Path, folder: Path, where: str) -> None:
    try:
        with tarfile.open(archive) as tar:
            # Python 3.11.4 and newer have a built-in filter; _checked refuses everything that it refuses.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(folder, _checked(tar, where))
            # tarfile stops at the end marker, and mistakes the end of an uncompressed file for one.
            if tar.fileobj.tell() == tar.offset:
                raise tarfile.ReadError("no end marker")
            while tar.fileobj.read(BLOCK):  # to the end, where gzip has its checksum
                pass
    except DAMAGED as error:
        what = f"corrupt or partial archive ({error})"
        raise RecipeError(what, where=where, cure="delete it and download it again") from None
    except OSError as error:
        raise RecipeError(f"can't be unpacked ({error})", where=where, cure="free disk space") from None


def _checked(tar: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members, owned by the user and without special permissions; refuse links, wherever they lead."""
    for member in tar:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
            what = f"unsafe: {member.name} is not a file or folder inside it"
            raise RecipeError(what, where=where, cure="get the archive from its publisher")
        member.mode = 0o755 if member.isdir() else 0o644
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        yield member
