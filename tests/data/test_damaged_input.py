"""Whatever stands in a data directory or a list: no traceback, one line of error, nothing lost without a word."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whisper_recipe.cli import main
from whisper_recipe.data.corpus import scan_corpus

TABLES = ("wav.scp", "text", "segments", "utt2lang", "utt2spk", "utt2task", "utt2dur", "utt2segments")
IDS = [
    "a",
    "b",
    "c",
    "a|zh|translate",
    "a|en|transcribe",
    "b|klingon|sing",
    "é",
    "x" * 300,
    "a\x00",
    "\u2028",
    "a|b",
    "|",
]
VALUES = [
    "",
    " ",
    "wav/a.wav",
    "wav/b.wav",
    "wav/none.wav",
    "wav",
    "/",
    "wav/a.wav:7",
    "x.ark:5",
    "/dev/null",
    "a\x00.wav",
]
VALUES += [
    "y" * 5000,
    "touch pwned |",
    "|",
    "hello there",
    "你好",
    "\u3000",
    "en",
    "Chinese",
    "xx",
    "transcribe",
    "sing",
]
VALUES += ["0.5", "-1", "nan", "1e9", "a 0 0.5", "b 0.2 -1", "a 5 6", "a 0 inf", "none 0 1", "a 1 0", "[]", "[1]", "{"]
VALUES += ['[{"start": 0, "end": 1, "text": "x"}]', "w " * 500]
LINES = st.lists(
    st.one_of(
        st.builds("{} {}".format, st.sampled_from(IDS), st.sampled_from(VALUES)).map(str.encode),
        st.builds("{}\t{}\r".format, st.sampled_from(IDS[:3]), st.sampled_from(VALUES)).map(str.encode),
        st.binary(max_size=12),
    ),
    max_size=5,
)
# Most of a table stays as it is, so that the damage of one table does not hide that of the others.
SOUND = {
    "wav.scp": [b"a wav/a.wav", b"b wav/b.wav"],
    "text": [b"a hello there", "b 你好".encode()],
    "utt2lang": [b"a en", b"b zh"],
}
DIRECTORIES = st.fixed_dictionaries(
    {}, optional={name: st.tuples(st.booleans(), LINES, st.sampled_from([b"", b"\xef\xbb\xbf"])) for name in TABLES}
)
STRINGS = st.one_of(st.sampled_from(VALUES), st.text(max_size=5), st.just("\ud800"))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["path", "start_time", "end_time", "recording", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)
KEYS = ["id", "audio", "audio_path", "sentence", "text", "language", "duration", "sentences", "speaker", "task"]
ROWS = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6),
    st.builds(
        lambda more: {"audio": "wav/a.wav", "sentence": "hello", "language": "en", **more},
        st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2),
    ),
    JSON,
)
THOROUGH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """A folder of audio, sound and damaged."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        soundfile.write(folder / f"{name}.wav", rng.standard_normal(round(8000 * seconds)) / 10, 8000)
    return folder


def call(*arguments):
    """Run a command; return its exit status and what it printed. Anything but RecipeErrors comes through as it is."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    errors = [line for line in err.getvalue().splitlines() if line.startswith("whisper-recipe ")]
    assert status in (0, 1)
    assert len(errors) == status, err.getvalue()
    return status, out.getvalue()


def check(corpus: Path, folder: Path, suffix: str) -> None:
    """Validate, fix, convert and prepare a corpus; count what came of its rows."""
    scan = scan_corpus(corpus)
    out = folder / f"fixed{suffix}"
    valid, _ = call("validate", corpus)
    fixed, printed = call("fix", corpus, "--out", out)
    converted, _ = call("convert", corpus, "--out", folder / ("other" if suffix else "other.json"))
    prepared, _ = call("prepare", corpus, "--out", folder / "manifests")
    assert not list(folder.rglob("pwned"))
    assert not list(folder.rglob(".*partial*"))
    if valid == 0:
        assert (fixed, converted, prepared) == (0, 0, 0)
    if fixed == 0:
        table = out / "dropped.tsv" if not suffix else Path(f"{out}.dropped.tsv")
        dropped = [line.split("\t")[1] for line in table.read_text(encoding="utf-8").split("\n")[1:-1]]
        kept = len(scan_corpus(out).sound())
        assert f"{len(scan.rows)} utterances read = {kept} kept + {len(dropped)} dropped" in printed
        assert kept + len(dropped) == len(scan.rows)
        assert set(dropped) <= scan.rows.keys()
        assert call("validate", out)[0] == 0, call("validate", out)
    else:
        assert not out.exists()


@THOROUGH
@given(tables=DIRECTORIES)
def test_damaged_kaldi_directories(audio, tables):
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        (corpus / "wav").symlink_to(audio)
        for table, (keep, lines, mark) in ({name: (True, [], b"") for name in SOUND} | tables).items():
            sound = SOUND.get(table, []) if keep else []
            (corpus / table).write_bytes(mark + b"\n".join([*sound, *lines]))
        check(corpus, Path(name), "")


@THOROUGH
@given(rows=st.lists(ROWS, max_size=5), array=st.booleans(), cut=st.integers(0, 30), junk=st.binary(max_size=8))
def test_damaged_lists(audio, rows, array, cut, junk):
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus.json"
        (Path(name) / "wav").symlink_to(audio)
        text = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
        content = text.encode()
        corpus.write_bytes(content[: len(content) - cut] + junk if cut > 20 else content)
        check(corpus, Path(name), ".json")
