"""What many tests share: tiny models that the tests make themselves, and the folder of recorded speech."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test may reach for the network; set before any library reads it.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent
SENTENCES = ["turn on the light in the kitchen", "三月五号星期一", "enciende la luz de la cocina", "set 29 degrees"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded speech, where the machine has it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the recorded speech of {folder} is not on this machine")
    return folder


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
