"""Whatever stands in a data directory or a list: no traceback, one line of error, nothing lost without a word."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whisper_recipe.cli import main
from whisper_recipe.data.corpus import scan_corpus

pytestmark = pytest.mark.slow

IDS = ["a", "b", "r", "a|en|transcribe", "a|zh|translate", "b|klingon|sing", "a|", "a|b", "|", "é", "x" * 300, "a\x00"]
IDS += ["\u2028", "a\u2028b", "\u3000", "a\x85", "\ufeff", "../../x", "-"]
VALUES = ["", "wav/a.wav", "wav/none.wav", "wav/silent.wav", "wav/nan.wav", "wav/cut.wav", "wav/empty.wav", "wav", "/"]
VALUES += ["wav/a.wav:7", "wav/x.ark:2", "wav/x.ark:0", "wav/x.ark:99999", f"wav/x.ark:{9**30}", "x.ark:5", "wav/x.ark"]
VALUES += [
    "/dev/null",
    "a\x00.wav",
    "y" * 5000,
    "touch pwned |",
    "|",
    "hello there",
    "你好",
    "\u3000",
    "a\u2028b",
    "x\x0b",
]
VALUES += ["en", "Chinese", "xx", "transcribe", "sing", "w " * 500]
VALUES += [
    "0",
    "0.5",
    "-1",
    "nan",
    "1e9",
    "9" * 5000,
    "a 0 0.5",
    "r 0.2 -1",
    "r 1.95 2.05",
    "r 5 6",
    "r 0 inf",
    "r 0 nan",
]
VALUES += [
    "r 1 0",
    "r 0 0.00001",
    "none 0 1",
    "r 0",
    "[]",
    "[1]",
    "{",
    "[" * 5000,
    '[{"start": 0, "end": NaN, "text": "x"}]',
]
VALUES += ["<|endoftext|>", "x<|0.00|>y", "w " * 300]
VALUES += ['[{"start": 1, "end": 2, "text": "x"}, {"start": 0, "end": 9, "text": "<|en|>"}]']
VALUES += ['[{"start": 0, "end": 1, "text": "x"}]', '[{"start": 0, "end": 1, "text": "\\ud800"}]']
TABLES = ("wav.scp", "text", "segments", "utt2lang", "utt2spk", "utt2task", "utt2dur", "utt2segments", "utt2prompt")
SOUND = [
    {
        "wav.scp": "a wav/a.wav\nb wav/b.wav\n",
        "text": "a hello there\nb 你好\n",
        "utt2lang": "a en\nb zh\n",
        "utt2spk": "a anna\nb bai\n",
        "utt2dur": "a 1.0\nb 2.0\n",
    },
    {
        "wav.scp": "r wav/b.wav\ns wav/x.ark:2\n",
        "segments": "a r 0 1\nb r 1 2\nc s 0 -1\n",
        "text": "a hello\nb \nc x\n",
        "utt2lang": "a en\nb zh\nc en\n",
        "utt2segments": "b []\n",
        "utt2prompt": "a so\n",
    },
    {
        "wav.scp": "a|en|transcribe wav/a.wav\na|zh|translate wav/a.wav\nb|zh|translate wav/b.wav\n",
        "text": "a|en|transcribe hello\na|zh|translate hi\nb|zh|translate hm\n",
    },
]


def with_key(line: bytes, key: bytes) -> bytes:
    return b" ".join([key, *line.split(b" ", 1)[1:]])


def with_value(line: bytes, value: bytes) -> bytes:
    return line.split(b" ", 1)[0] + b" " + value


# What befalls a table: from its lines, the number of one of them, and an id, a value and bytes of any kind.
DAMAGES = {
    "a line more": lambda rows, at, key, value, junk: [*rows[:at], key + b" " + value, *rows[at:]],
    "a line of bytes": lambda rows, at, key, value, junk: [*rows[:at], junk, *rows[at:]],
    "a line less": lambda rows, at, key, value, junk: rows[:at] + rows[at + 1 :],
    "a line twice": lambda rows, at, key, value, junk: [*rows, rows[at]],
    "another order": lambda rows, at, key, value, junk: rows[at:] + rows[:at],
    "cut off": lambda rows, at, key, value, junk: [*rows[:at], rows[at][: len(junk)]],
    "another id": lambda rows, at, key, value, junk: [*rows[:at], with_key(rows[at], key), *rows[at + 1 :]],
    "another value": lambda rows, at, key, value, junk: [*rows[:at], with_value(rows[at], value), *rows[at + 1 :]],
    "byte order mark": lambda rows, at, key, value, junk: [b"\xef\xbb\xbf" + rows[0], *rows[1:]],
    "CRLF": lambda rows, at, key, value, junk: [row + b"\r" for row in rows],
    "wide spaces": lambda rows, at, key, value, junk: [row.replace(b" ", "\u3000".encode()) for row in rows],
}
EDITS = st.lists(
    st.tuples(
        st.sampled_from(TABLES),
        st.sampled_from(list(DAMAGES) + 3 * ["another value"]),
        st.integers(0, 3),
        st.sampled_from(IDS).map(str.encode),
        st.sampled_from(VALUES).map(str.encode),
        st.binary(max_size=12),
    ),
    max_size=3,
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
KEYS = [
    "id",
    "audio",
    "audio_path",
    "sentence",
    "text",
    "language",
    "duration",
    "sentences",
    "speaker",
    "task",
    "prompt",
]
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
    noise = np.random.default_rng(0).standard_normal(16000) / 10
    for name, samples in {"a": noise[:8000], "b": noise, "silent": 0 * noise, "nan": noise * np.nan}.items():
        soundfile.write(folder / f"{name}.wav", samples, 8000, subtype="FLOAT")
    (folder / "cut.wav").write_bytes((folder / "a.wav").read_bytes()[:9000])
    (folder / "empty.wav").touch()
    kaldiio.save_ark(str(folder / "x.ark"), {"k": (8000, (noise * 9000).astype(np.int16))})
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
    """Validate, fix, convert, prepare, filter, split, draw from and double a corpus; count what came of its rows."""
    scan = scan_corpus(corpus)
    out, other = folder / f"fixed{suffix}", folder / ("other" if suffix else "other.json")
    valid, _ = call("validate", corpus)
    fixed, printed = call("fix", corpus, "--out", out)
    converted, _ = call("convert", corpus, "--out", other)
    prepared, _ = call("prepare", corpus, "--out", folder / "manifests")
    for source in (corpus, out):
        for command, *options in COMMANDS:
            call(
                command,
                source,
                "--out",
                folder / f"{source.stem}_{command}{suffix if command != 'split' else ''}",
                *options,
            )
    assert not list(folder.rglob("pwned"))
    assert not list(folder.rglob(".*partial*"))
    if valid == 0:
        assert (fixed, converted, prepared) == (0, 0, 0)
    if converted == 0:
        assert sorted(map(content, scan_corpus(other).sound())) == sorted(map(content, scan.sound()))
    if fixed == 0:
        table = out / "dropped.tsv" if not suffix else Path(f"{out}.dropped.tsv")
        dropped = [line.split("\t")[1] for line in table.read_text(encoding="utf-8").split("\n")[1:-1]]
        kept = len(scan_corpus(out).sound())
        assert f"{len(scan.rows)} utterances read = {kept} kept + {len(dropped)} dropped" in printed
        assert kept + len(dropped) == len(scan.rows)
        assert set(dropped) <= scan.rows.keys()
        assert len(set(dropped)) == len(dropped)
        parts = [path for path in (folder / "fixed_split").glob("*") if path.suffix != ".tsv"]
        assert not parts or sum(len(scan_corpus(part).sound()) for part in parts) == kept
        for written in (out, *parts, *folder.glob("fixed_[cs]*")):
            if written.name != "fixed_split":
                assert call("validate", written)[0] == 0, call("validate", written)
    else:
        assert not out.exists()


COMMANDS = [
    ("split", "--num_parts", "2", "--by", "utterance"),
    ("subset", "--utterances", "1"),
    ("combine", "--prefix"),
    ("filter", "--rules.max_duration", "1.5", "--rules.machine_text", "true", "--rules.min_script_share", "0.5"),
]


def content(row):
    """What another form of the same corpus has to say of an utterance."""
    spoken = row.text.split(), row.language, row.task, row.speaker, row.segments, row.prompt.split()
    return row.id, row.audio, *map(str, spoken), row.start, str(row.end)


@THOROUGH
@given(tables=st.sampled_from(SOUND), edits=EDITS)
def test_damaged_kaldi_directories(audio, tables, edits):
    tables = {name: table.encode().split(b"\n") for name, table in tables.items()}
    for name, damage, at, key, value, junk in edits:
        rows = tables.get(name, [b"a 1", b""])
        tables[name] = DAMAGES[damage](rows, min(at, len(rows) - 1), key, value, junk) or [b""]
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        (corpus / "wav").symlink_to(audio)
        for table, rows in tables.items():
            (corpus / table).write_bytes(b"\n".join(rows))
        check(corpus, Path(name), "")


@THOROUGH
@given(
    rows=st.lists(ROWS, max_size=5),
    array=st.booleans(),
    ascii=st.booleans(),
    ends=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
    cut=st.integers(0, 30),
    junk=st.binary(max_size=8),
)
def test_damaged_lists(audio, rows, array, ascii, ends, mark, cut, junk):
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus.json"
        (Path(name) / "wav").symlink_to(audio)
        text = json.dumps(rows) if array else ends.join(json.dumps(row, ensure_ascii=ascii) for row in rows)
        content = mark + text.encode("utf-8", "surrogatepass")
        corpus.write_bytes(content[: len(content) - cut] + junk if cut > 20 else content)
        check(corpus, Path(name), ".json")
