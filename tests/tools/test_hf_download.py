"""The download of base models, with the real `hf` and a hub on this machine."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "tools/hf_download.sh"
SMALL = ["config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt"]
WEIGHTS = bytes(range(256)) * 4000


class Hub(ThreadingHTTPServer):
    """A hub with one model; `requests` are (method, path, range), `cut` breaks a file's next answers off half-way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict.fromkeys([*SMALL, "README.md", "tf_model.h5", "flax_model.msgpack"], b"{}")
        self.files |= dict.fromkeys(["model.safetensors", "pytorch_model.bin"], WEIGHTS)
        self.files["model.fp32-00001-of-00002.safetensors"] = WEIGHTS
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: dict[str, int] = {}
        self.commit = "0" * 40

    def got(self) -> set[str]:
        """Names of the files that were asked for."""
        return {path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "resolve" in path}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers["Range"]))
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/openai/whisper-small/tree"):
            rows = [
                {"type": "file", "path": key, "size": len(value), "oid": "1"}
                for key, value in self.server.files.items()
            ]
            self.answer(json.dumps(rows).encode(), "application/json")
        elif path.startswith("/api/models/openai/whisper-small"):
            siblings = [{"rfilename": key} for key in self.server.files]
            info = {"id": "openai/whisper-small", "sha": self.server.commit, "siblings": siblings}
            self.answer(json.dumps(info).encode(), "application/json")
        elif path.startswith("/openai/whisper-small/resolve/") and name in self.server.files:
            self.answer(self.server.files[name], "application/octet-stream", name)
        else:
            self.send_error(404)

    def answer(self, body: bytes, kind: str, name: str = "") -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", f'"{name or "info"}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut.get(name, 0):
            self.server.cut[name] -= 1
            self.wfile.write(body[start : len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def download(cache: Path, hub: Hub | None, *arguments: str) -> subprocess.CompletedProcess:
    """Run the script with an empty cache of its own; without a hub, with HF_HUB_OFFLINE=1."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(cache), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    command = ["bash", str(SCRIPT), *(arguments or ("openai/whisper-small",))]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def folder(done: subprocess.CompletedProcess) -> Path:
    """The folder that the script names."""
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().rpartition(" ")[2])


def test_what_is_needed_comes_from_the_mirror_once_and_then_without_network(hub, tmp_path):
    found = folder(download(tmp_path, hub))
    assert hub.got() == {*SMALL, "model.safetensors"}
    assert (found / "model.safetensors").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert folder(download(tmp_path, hub)) == found
    assert folder(download(tmp_path, None)) == found
    assert hub.requests == []


def test_pytorch_s_weights_are_taken_where_there_are_no_others(hub, tmp_path):
    del hub.files["model.safetensors"]
    found = folder(download(tmp_path, hub))
    assert hub.got() == {*SMALL, "pytorch_model.bin"}
    assert (found / "pytorch_model.bin").read_bytes() == WEIGHTS


def test_a_broken_connection_is_taken_up_where_it_ended(hub, tmp_path):
    large = WEIGHTS * 24  # huggingface_hub keeps whole pieces of 10 MB
    hub.files["model.safetensors"] = large
    hub.cut["model.safetensors"] = 1
    assert (folder(download(tmp_path, hub)) / "model.safetensors").read_bytes() == large
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=10485760-"]


def test_a_download_that_failed_is_not_taken_for_whole_and_keeps_what_is(hub, tmp_path):
    hub.cut["model.safetensors"] = 100
    done = download(tmp_path, hub)
    assert done.returncode == 1
    assert "can't be downloaded from http://127.0.0.1" in done.stderr.splitlines()[-1]
    assert download(tmp_path, None).returncode == 1
    hub.cut.clear()
    hub.requests.clear()
    assert (folder(download(tmp_path, hub)) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.got() == {"model.safetensors"}


def test_a_shard_that_is_missing_makes_it_no_whole_model(hub, tmp_path):
    del hub.files["model.safetensors"], hub.files["pytorch_model.bin"]
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    hub.files[shards[0]] = WEIGHTS
    done = download(tmp_path, hub)
    assert done.returncode == 1
    assert "not a complete Whisper model" in done.stderr
    hub.files[shards[1]], hub.commit = WEIGHTS, "1" * 40
    assert (folder(download(tmp_path, hub)) / shards[1]).exists()


def test_offline_without_the_model_is_one_line(tmp_path):
    done = download(tmp_path, None)
    assert done.returncode == 1
    what = "openai/whisper-small is not complete in the cache, and HF_HUB_OFFLINE=1 forbids the network"
    assert done.stderr == f"hf_download.sh: error: {what}\n"


@pytest.mark.parametrize("name", ["/nowhere/model", "../model", "--help/x", "model", "a/b/c", "a/$(touch evil)"])
def test_what_is_no_name_on_the_hub_is_refused(name, tmp_path):
    done = download(tmp_path, None, name)
    assert done.returncode == 1
    assert "nor a name on the Hub" in done.stderr
    assert len(done.stderr.splitlines()) == 1
