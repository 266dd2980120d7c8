"""Sets for seeing what a model forgets, of small trees in the repositories' layouts; the picture of the trade-off."""

import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.egs.helpers import table, write_noise

GERMAN = ["Guten Tag.", "Guten Tag.", "Wie geht es?", "Bis morgen.", "Danke."]


@pytest.fixture
def corpus(tmp_path):
    """Ten sentences of CMU Arctic, the third recorded twice; five German lines with one sentence twice; two Dutch."""
    root = tmp_path / "corpus"
    for number in range(10):
        for take in (1, 2) if number == 2 else (1,):
            stem = root / f"dataset-voice-kathleen/data/arctic_a{number:04d}_{take}"
            write_noise(stem.with_suffix(".wav"), 0.5, 48000)
            stem.with_suffix(".txt").write_text(f"sentence {number}\n")
    for repository, folder, suffix, texts in (
        ("kerstin", "verified", "flac", GERMAN),
        ("flemishguy", "wavs", "wav", ["Goedendag.", "Tot ziens."]),
    ):
        base = root / f"dataset-voice-{repository}"
        for number in range(len(texts)):
            write_noise(base / folder / f"x{number}.{suffix}", 0.5)
        where = base / "verified" if repository == "kerstin" else base
        (where / "metadata.csv").write_text("".join(f"x{n}|{text}\n" for n, text in enumerate(texts)))
    return root


def canaries(folder, *options):
    command = [sys.executable, ROOT / "tools/canaries.py", "--out", "data", *options]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_sentences_are_taken_once_and_at_equal_distances(corpus, tmp_path):
    done = canaries(tmp_path, "--corpus", corpus, "--utterances", "4")
    assert done.returncode == 0, done.stderr
    english = table(tmp_path / "data/canary_en", "text")
    assert list(english.values()) == ["sentence 0", "sentence 2", "sentence 5", "sentence 7"]  # 10 / 4 = 2.5
    assert "kathleen-arctic_a0002_1" in english
    assert list(table(tmp_path / "data/canary_de", "text").values()) == ["Guten Tag.", *GERMAN[2:]]
    assert set(table(tmp_path / "data/canary_nl", "utt2lang").values()) == {"nl"}
    assert len(table(tmp_path / "data/canary_nl", "wav.scp")) == 2
    shutil.rmtree(corpus / "dataset-voice-kerstin/verified")
    done = canaries(tmp_path, "--corpus", corpus)
    assert done.returncode == 1
    assert done.stderr.startswith("canaries.py: error:") and "no verified/*.flac in it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_clones_give_what_unpacked_repositories_give(corpus, tmp_path):
    author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for repository in corpus.iterdir():
        for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "x"]):
            subprocess.run(["git", "-C", repository, *command], check=True)
    assert canaries(tmp_path, "--corpus", corpus, "--utterances", "4").returncode == 0
    unpacked = {path.parent.name: path.read_text() for path in tmp_path.glob("data/canary_*/text")}
    (tmp_path / "other").mkdir()
    for _ in range(2):  # the second time all is there
        done = canaries(tmp_path / "other", "--url", f"file://{corpus}", "--utterances", "4")
        assert done.returncode == 0, done.stderr
    assert {path.parent.name: path.read_text() for path in tmp_path.glob("other/data/canary_*/text")} == unpacked
    done = canaries(tmp_path, "--url", f"file://{tmp_path}/none")
    assert done.returncode == 1
    assert "git clone" in done.stderr


def picture(folder, text):
    (folder / "table.csv").write_text(text)
    command = [sys.executable, str(ROOT / "tools/bench/forgetting.py"), "table.csv", "--out", "picture.svg"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_trade_off_is_drawn_and_bad_tables_are_one_line(tmp_path):
    good = "system,domain,en,de\nstock,55,4.1,22\nfull,26,106,60\n"
    assert picture(tmp_path, good).returncode == 0
    first = (tmp_path / "picture.svg").read_bytes()
    assert b"<svg" in first
    assert picture(tmp_path, good).returncode == 0
    assert (tmp_path / "picture.svg").read_bytes() == first
    for bad, message in (
        ("system,en\nx,1\n", "the columns must be"),
        (good + "replay,x,1,2\n", "table.csv:4: expected a name and numbers, got replay,x,1,2"),
        (good + "replay,1,2\n", "table.csv:4: expected 4 columns as in line 1, got 3"),
    ):
        done = picture(tmp_path, bad)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert message in line
