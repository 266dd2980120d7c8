"""Downloads from a server on this machine that breaks off and lies; archives as an attacker would make them."""

import gzip
import hashlib
import http.server
import io
import os
import random
import tarfile
import threading
from pathlib import Path

import pytest

from whisper_recipe.data import download as module
from whisper_recipe.data.download import download, unpack
from whisper_recipe.errors import RecipeError

CONTENT = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path; what it does wrong is set by the attributes."""

    breaks_after: int | None = None  # bytes of a response, after which it hangs up
    ranges = True  # whether it knows them
    status = 200  # of every response, where it is an error
    content = CONTENT

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/corpus.tgz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        total = len(server.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        self.wfile.write(server.content[start:][: server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_has_the_bytes_and_nothing_else_is_left(server, tmp_path):
    path = download(server.url, tmp_path / "new" / "corpus.tgz", MD5)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["corpus.tgz"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks_after = 100_000
    assert download(server.url, tmp_path / "corpus.tgz", MD5).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_call_goes_on_from_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "corpus.tgz.part").write_bytes(CONTENT[:123_456])
    assert download(server.url, tmp_path / "corpus.tgz", MD5).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_part_that_is_whole_already_is_not_read_again(server, tmp_path):
    (tmp_path / "corpus.tgz.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "corpus.tgz", MD5).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_begun_again(server, tmp_path):
    (tmp_path / "corpus.tgz.part").write_bytes(CONTENT + b"more")
    assert download(server.url, tmp_path / "corpus.tgz", MD5).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_server_without_ranges_sends_it_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "corpus.tgz.part").write_bytes(b"x" * 1000)
    assert download(server.url, tmp_path / "corpus.tgz", MD5).read_bytes() == CONTENT


def test_a_server_that_sends_nothing_more_ends_in_an_error_that_keeps_the_part(server, tmp_path):
    (tmp_path / "corpus.tgz.part").write_bytes(CONTENT[:1000])
    server.breaks_after = 0
    with pytest.raises(RecipeError, match=r"corpus.tgz.part: http.*1000 of 300000 bytes.*run again to resume"):
        download(server.url, tmp_path / "corpus.tgz", MD5)
    assert (tmp_path / "corpus.tgz.part").read_bytes() == CONTENT[:1000]
    assert len(server.asked) == module.ATTEMPTS


def test_a_file_that_is_not_there_is_an_error_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(RecipeError, match="404"):
        download(server.url, tmp_path / "corpus.tgz", MD5)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = 503
    with pytest.raises(RecipeError, match="503"):
        download(server.url, tmp_path / "corpus.tgz", MD5)
    assert len(server.asked) == module.ATTEMPTS


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_wrong_checksum_names_the_file_and_leaves_nothing(server, tmp_path, name):
    server.content = CONTENT[:-1] + b"\0"
    right = hashlib.new(name, CONTENT).hexdigest()
    with pytest.raises(RecipeError, match=rf"corpus.tgz.part: corrupt: its {name} is .*, expected {right}"):
        download(server.url, tmp_path / "corpus.tgz", right)
    assert not list(tmp_path.iterdir())


def test_a_file_that_stands_is_checked_and_not_downloaded(server, tmp_path):
    path = tmp_path / "corpus.tgz"
    path.write_bytes(CONTENT)
    assert download(server.url, path, MD5) == path
    path.write_bytes(CONTENT[:-5])
    with pytest.raises(RecipeError, match="corpus.tgz: corrupt"):
        download(server.url, path, MD5)
    assert path.exists()  # it may be the user's own
    assert not server.asked


def make_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    """Write an archive: name -> content, or the whole member."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_is_unpacked_into_a_new_folder(tmp_path, mode):
    archive = make_tar(tmp_path / "a.tar", {"x/one": b"1", "x/y/two": CONTENT}, mode)
    folder = unpack(archive, tmp_path / "out")
    assert (folder / "x/one").read_bytes() == b"1"
    assert (folder / "x/y/two").read_bytes() == CONTENT
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "out"]


def test_archives_in_the_archive_are_unpacked_where_they_lie(tmp_path):
    inner = make_tar(tmp_path / "S1.tar.gz", {"train/S1/a.wav": b"a"}).read_bytes()
    archive = make_tar(tmp_path / "a.tgz", {"corpus/wav/S1.tar.gz": inner, "corpus/other.tar.gz": b"left alone"})
    folder = unpack(archive, tmp_path / "out", "corpus/wav/*.tar.gz")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["corpus/other.tar.gz", "corpus/wav/train/S1/a.wav"]


@pytest.mark.parametrize(
    "members",
    [
        {"../outside": b"x"},
        {"a/../../outside": b"x"},
        {"link": special("link", tarfile.SYMTYPE, "/etc")},
        {"link": special("link", tarfile.SYMTYPE, ".."), "link/outside": b"x"},
        {"link": special("link", tarfile.LNKTYPE, "../outside")},
        {"link": special("link", tarfile.SYMTYPE, "fine")},
        {"pipe": special("pipe", tarfile.FIFOTYPE)},
        {"/outside": b"x"},
    ],
    ids=["parent", "hidden parent", "link out", "write through a link", "hard link", "link inside", "pipe", "root"],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("old_python", [False, True])
def test_what_leads_outside_is_refused_and_nothing_is_left(tmp_path, monkeypatch, members, nested, old_python):
    if old_python:  # before 3.11.4, as in Debian 12, tarfile has no filters
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = make_tar(tmp_path / "bad.tar.gz", {"fine": b"1"} | members)
    if nested:
        archive = make_tar(tmp_path / "outer.tgz", {"wav/bad.tar.gz": archive.read_bytes()})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecipeError, match=r"bad.tar.gz: unsafe") as error:
        unpack(archive, tmp_path / "out", "wav/*.tar.gz")
    assert str(archive) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_members_are_the_users_own_without_special_rights(tmp_path):
    program = tarfile.TarInfo("program")
    program.mode, program.uid = 0o4777, 12345
    file = unpack(make_tar(tmp_path / "a.tgz", {"program": program}), tmp_path / "out") / "program"
    assert file.stat().st_mode & 0o7777 == 0o644
    assert file.stat().st_uid == os.getuid()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.98])
def test_a_partial_archive_is_an_error_that_names_it(tmp_path, mode, share):
    archive = make_tar(tmp_path / "a.tar", {"one": CONTENT, "two": CONTENT}, mode)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RecipeError, match=r"a.tar: corrupt or partial archive"):
        unpack(archive, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]


def test_an_archive_cut_between_two_members_is_partial(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {"one": b"1" * 512, "two": b"2" * 512}, "w")
    archive.write_bytes(archive.read_bytes()[:1024])  # header and content of the first
    with pytest.raises(RecipeError, match="end marker"):
        unpack(archive, tmp_path / "out")


def test_damage_that_only_the_checksum_of_gzip_shows_is_an_error(tmp_path):
    archive = make_tar(tmp_path / "a.tar", {"one": b"1" * 100}, "w")
    packed = bytearray(gzip.compress(archive.read_bytes()))
    packed[-8] ^= 1  # of the checksum itself: every byte of the content is right
    archive.write_bytes(packed)
    with pytest.raises(RecipeError, match=r"a.tar: corrupt"):
        unpack(archive, tmp_path / "out")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "page.tgz").write_text("<html>not found</html>")
    with pytest.raises(RecipeError, match=r"page.tgz: corrupt"):
        unpack(tmp_path / "page.tgz", tmp_path / "out")
    with pytest.raises(RecipeError, match=r"none.tgz: no such file"):
        unpack(tmp_path / "none.tgz", tmp_path / "out")


def test_a_folder_that_stands_is_taken_as_it_is(tmp_path, capsys):
    archive = make_tar(tmp_path / "a.tgz", {"one": b"1"})
    folder = unpack(archive, tmp_path / "out")
    (folder / "mine").write_text("kept")
    unpack(archive, folder)
    assert (folder / "mine").exists()
    assert "already exists" in capsys.readouterr().out
