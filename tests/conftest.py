"""What many tests share: tiny models that the tests make themselves, and the folder of recorded speech."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples for everybody; `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# No test may reach for the network; set before any library reads it.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent
SENTENCES = ["turn on the light in the kitchen", "三月五号星期一", "enciende la luz de la cocina", "set 29 degrees"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the mini recipe's test asks for."""
    parser.addoption("--whole", action="store_true", help="run the mini recipe on all of its corpus, not half")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no core waits in the end: mini, recipes, those with slow tests."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def last(item: pytest.Item) -> tuple[bool, bool, bool]:
        return item.path.name != "test_mini.py", item.path.parent.name != "egs", item.path not in slow

    items.sort(key=last)


def pytest_collection_finish() -> None:
    """Exempt what the tests import from garbage collection: walking it takes half a second, and each training does."""
    gc.freeze()


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Wait until a condition holds; fail if it takes longer than `seconds`, or the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.01)


@pytest.fixture(scope="session", autouse=True)
def _compiled_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what DeepSpeed compiles out of the user's cache, where the lock of a killed process would stop the tests.

    pytest's processes share it: compiling takes a minute.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "extensions"
    folder.mkdir(exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded speech, where the machine has it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the recorded speech of {folder} is not on this machine")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of audio that went wrong, where the machine has it."""
    folder = ROOT.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip(f"the files of {folder} are not on this machine")
    return folder


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    """OpenAI's Whisper base as a transformers folder in float16, where the machine has it."""
    folder = ROOT.parent / "shared" / "models" / "whisper-base"
    if not folder.is_dir():
        pytest.skip(f"the weights of {folder} are not on this machine")
    return folder


@pytest.fixture(scope="module")
def launch_chromium() -> Iterator[Callable]:
    """Start Debian's Chromium with some options, under the one Playwright that a process can have.

    It ends with the module: processes that other tests fork would keep its driver alive.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        yield lambda *options: driver.chromium.launch(executable_path=program, args=[*options, *sandbox])


@pytest.fixture
def open_page() -> Iterator[Callable]:
    """Open an address in a window of its own; the test fails where the page reports an error or asks for anything else.

    Other requests than to what begins as `own` are complaints, and so are errors and warnings but those with a text
    that is `expected`.
    """
    contexts, complaints = [], []

    def open_page(browser, address: str, own: tuple[str, ...], expected: tuple[str, ...] = (), **window):
        context = browser.new_context(**window)
        contexts.append(context)
        page = context.new_page()

        def complain(line):
            if line.type in ("error", "warning") and not any(one in line.text for one in expected):
                complaints.append(line.text)

        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", complain)
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda one: None if one.url.startswith(own) else complaints.append(one.url))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Kaldi `text` file for the tokenizers of tiny models."""
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(f"utt{n} {line}\n" for n, line in enumerate(SENTENCES)), encoding="utf-8")
    return path


def make_model(folder: Path, transcripts: Path, **options) -> Path:
    """Create a Whisper of some ten thousand parameters with random weights."""
    from whisper_recipe.model.create import init_model

    sizes = {"bpe_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 2}
    init_model(folder, [transcripts], **{**sizes, **options})
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, transcripts: Path) -> Path:
    """A Whisper folder with the smallest vocabulary."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny", transcripts)


@pytest.fixture(scope="session")
def full_vocabulary_model(tmp_path_factory: pytest.TempPathFactory, transcripts: Path) -> Path:
    """A Whisper folder with Whisper's 51,865 ids."""
    return make_model(tmp_path_factory.mktemp("models") / "full_vocabulary", transcripts, vocab_size=51865)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut manifest with features of twelve utterances of noise, 0.6 to 3 s, in two languages and tasks."""
    import numpy as np
    import soundfile

    from whisper_recipe.data.fbank import fbank
    from whisper_recipe.data.manifests import prepare

    folder = tmp_path_factory.mktemp("corpus")
    data = folder / "noise"
    data.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        key = f"utt{number:02d}"
        noise = rng.standard_normal(int(16000 * (0.6 + 0.2 * number))) * 0.1
        soundfile.write(data / f"{key}.wav", noise, 16000, subtype="PCM_16")
        rows.append((key, SENTENCES[number % 4], "zh" if number % 4 == 1 else "en"))
    (data / "wav.scp").write_text("".join(f"{key} {key}.wav\n" for key, _, _ in rows))
    (data / "text").write_text("".join(f"{key} {text}\n" for key, text, _ in rows), encoding="utf-8")
    (data / "utt2lang").write_text("".join(f"{key} {language}\n" for key, _, language in rows))
    prepare(data, folder / "manifests")
    fbank("noise", folder / "manifests", folder / "fbank", num_jobs=1)
    return folder / "fbank" / "cuts_noise.jsonl.gz"
