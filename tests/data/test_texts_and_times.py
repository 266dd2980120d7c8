"""Segments' times, Whisper's own tokens and prompts of a corpus: reported by validate, corrected by fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import SupervisionSet

from whisper_recipe.cli import main
from whisper_recipe.data.corpus import read_corpus, scan_corpus
from whisper_recipe.data.fix import fix
from whisper_recipe.data.manifests import prepare
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl


def segments(*rows: tuple[float, float, str]) -> str:
    """Return a row of utt2segments for utterance b, which lasts 2 s."""
    return f"b {json.dumps([dict(zip(('start', 'end', 'text'), row, strict=True)) for row in rows])}\n"


def changed(path: Path) -> dict[str, str]:
    """id -> reason of a changed.tsv."""
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert header == ["id", "where", "reason"]
    return {key: reason for key, _, reason in rows}


WRONG_SEGMENTS = {
    "backwards": (
        segments((1.0, 0.5, "one two")),
        "malformed times: b: times must satisfy 0 <= start < end, got 1.0 to 0.5 s",
    ),
    "no times": ('b [{"text": "one two"}]\n', "malformed times: b: None is not a number"),
    "out of order": (segments((1.0, 1.5, "one"), (0.0, 0.5, "two")), "malformed times: b has segments that overlap"),
    "overlapping": (segments((0.0, 1.5, "one"), (1.0, 2.0, "two")), "malformed times: b has segments that overlap"),
    "outside": (segments((0.0, 1.0, "one"), (1.0, 2.6, "two")), "segments outside: b lasts 2.00 s"),
    "other text": (segments((0.0, 1.0, "one"), (1.0, 2.0, "three")), "other text in segments: b has segments whose"),
}


@pytest.mark.parametrize(("table", "reason"), WRONG_SEGMENTS.values(), ids=WRONG_SEGMENTS)
def test_wrong_segments_are_reported_and_fix_keeps_the_utterance_without_them(
    make_data_dir: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, reason: str
) -> None:
    folder = make_data_dir(text="a hello\nb One, two.\n", utt2lang="a en\nb en\n", utt2segments=table)
    assert main(["validate", str(folder)]) == 1
    assert reason in capsys.readouterr().out
    with pytest.raises(RecipeError, match="b"):
        prepare(folder, tmp_path / "manifests")
    fix(folder, tmp_path / "fixed")
    assert changed(tmp_path / "fixed/changed.tsv")["b"].startswith(reason)
    assert "2 utterances read = 2 kept + 0 dropped" in capsys.readouterr().out
    validate(tmp_path / "fixed")
    assert [row.segments for row in read_corpus(tmp_path / "fixed")] == [None, None]


def test_segments_that_touch_or_are_written_otherwise_are_valid(make_data_dir: Callable) -> None:
    table = segments((0.0, 0.1 + 0.2, "one"), (0.3, 2.0, "TWO"))
    validate(make_data_dir(text="a hello\nb One, two.\n", utt2lang="a en\nb en\n", utt2segments=table))


def test_times_that_count_from_the_recordings_start_are_named(
    make_data_dir: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data_dir(
        text="x one\n", wav="b wav/b.wav\n", segments="x b 1.0 2.0\n", utt2lang="x en\n", utt2spk=None,
        utt2segments='x [{"start": 1.2, "end": 1.9, "text": "one"}]\n',
    )  # fmt: skip
    assert main(["validate", str(folder)]) == 1
    assert "times must be relative to the utterance's start, not the recording's" in capsys.readouterr().out


def test_whispers_own_tokens_are_reported_and_removed_and_other_marks_are_text(
    make_data_dir: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_data_dir(
        text="a <|0.00|> hello<|1.00|><|1.20|>you <|endoftext|>\nb 你<|zh|>好\nc [BLANK_AUDIO] <|laughs|> a <| b\n"
        "d <|nospeech|>\n",
        wav="a wav/a.wav\nb wav/b.wav\nc wav/a.wav\nd wav/a.wav\n",
        utt2lang="a en\nb zh\nc en\nd en\n",
    )
    assert main(["validate", str(folder)]) == 1
    report = capsys.readouterr().out
    assert f"{folder}/text:1: special token: a has Whisper's own token <|0.00|>" in report
    fix(folder, tmp_path / "fixed")
    texts = {row.id: row.text for row in read_corpus(tmp_path / "fixed")}
    assert texts == {"a": "hello you", "b": "你好", "c": "[BLANK_AUDIO] <|laughs|> a <| b"}
    assert changed(tmp_path / "fixed/changed.tsv").keys() == {"a", "b"}
    assert "d\t" in (tmp_path / "fixed/dropped.tsv").read_text()
    validate(tmp_path / "fixed")


def test_an_empty_text_says_how_an_example_without_speech_is_written(make_data_dir: Callable, tmp_path: Path) -> None:
    folder = make_data_dir(text="a\nb 你好\n")
    with pytest.raises(RecipeError, match=r"write the line `a \[\]` into utt2segments"):
        read_corpus(folder)
    (folder / "utt2segments").write_text("a []\n")
    assert [row.text for row in read_corpus(folder)] == ["", "你好"]
    path = tmp_path / "list.jsonl"
    row = {"audio": str(folder / "wav/a.wav"), "sentence": "", "language": "en"}
    path.write_text(json.dumps(row))
    with pytest.raises(RecipeError, match=r'write "sentences": \[\] too'):
        read_corpus(path)
    path.write_text(json.dumps(row | {"sentences": []}))
    assert [row.text for row in read_corpus(path)] == [""]


def test_prompts_go_through_both_formats_and_prepare(make_data_dir: Callable, tmp_path: Path) -> None:
    folder = make_data_dir(utt2prompt="b 早上 好\n")
    assert main(["convert", str(folder), "--out", str(tmp_path / "list.jsonl")]) == 0
    assert [row.get("prompt") for _, row in read_jsonl(tmp_path / "list.jsonl")] == [None, "早上 好"]
    assert main(["convert", str(tmp_path / "list.jsonl"), "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back/utt2prompt").read_text(encoding="utf-8") == "b 早上 好\n"
    prepare(folder, tmp_path)
    supervisions = SupervisionSet.from_file(tmp_path / "supervisions_train.jsonl.gz")
    assert [row.custom.get("prompt") for row in supervisions] == [None, "早上 好"]


def test_prompts_that_are_of_no_utterance_or_too_long_are_reported(make_data_dir: Callable, tmp_path: Path) -> None:
    words = " ".join(map(str, range(300)))
    folder = make_data_dir(utt2prompt=f"a {words}\nz what\n")
    kinds = {problem.kind for problem in scan_corpus(folder).problems}
    assert kinds == {"id not in text", "prompt too long"}
    fix(folder, tmp_path / "fixed")
    validate(tmp_path / "fixed")
    assert read_corpus(tmp_path / "fixed")[0].prompt.split() == [str(number) for number in range(300 - 223, 300)]


def test_prompts_by_recording_are_the_text_before_in_the_same_language_and_task(
    make_data_dir: Callable, tmp_path: Path
) -> None:
    folder = make_data_dir(
        text="u1 one\nu2 two\nu3\nu4 four\nu5 fünf\nv1 other\n",
        wav="a wav/a.wav\nb wav/b.wav\n",
        segments="u1 b 0.0 0.3\nu2 b 0.3 0.6\nu3 b 0.6 0.9\nu4 b 0.9 1.2\nu5 b 1.2 1.5\nv1 a 0.0 1.0\n",
        utt2lang="u1 en\nu2 en\nu3 en\nu4 en\nu5 de\nv1 en\n",
        utt2segments="u3 []\n",
        utt2prompt="u2 zero\n",
        utt2spk=None,
    )
    prepare(folder, tmp_path, prompts="recording")
    supervisions = SupervisionSet.from_file(tmp_path / "supervisions_train.jsonl.gz")
    prompts = {row.id: row.custom.get("prompt") for row in supervisions}
    assert prompts == {"u1": None, "u2": "zero", "u3": "two", "u4": "two", "u5": None, "v1": None}
