"""References and hypotheses in every form that they come in."""

import pytest

from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import write_jsonl
from whisper_recipe.scoring.references import Reference, read_hypotheses, read_references


def test_references_of_a_data_directory_are_those_of_its_cuts(corpus):
    from_cuts = read_references(corpus)
    from_directory = read_references(corpus.parent.parent / "noise")
    assert len(from_cuts) == 12
    without_times = {key: row._replace(duration=None) for key, row in from_cuts.items()}
    assert from_directory == without_times  # it has no utt2dur
    assert from_cuts["utt05"].duration == pytest.approx(1.6)


def test_a_data_directory_tells_speakers_and_durations(tmp_path):
    tables = {
        "wav.scp": "rec cat rec.wav |\n",
        "text": "a one\nb two\n",
        "segments": "a rec 0.5 2.5\nb rec 3 4\n",
        "utt2lang": "a english\nb en\n",
        "utt2spk": "a mary\nb b\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    assert read_references(tmp_path) == {
        "a": Reference("one", "en", "transcribe", "mary", 2.0),
        "b": Reference("two", "en", "transcribe", None, 1.0),  # its own speaker: nobody knows who
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hyp.trn", "打开 灯 (a|zh|transcribe)\n(b)\n\nsay (yes) now (c)\n"),
        ("text", "a|zh|transcribe 打开 灯\nb\n\nc\tsay (yes) now\r\n"),
    ],
)
def test_hypotheses_as_trn_and_as_kaldi_text(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    references = {key: Reference("", "zh", "transcribe") for key in ("a|zh|transcribe", "b", "c")}
    found = read_hypotheses(tmp_path / name, references)
    assert found == {"a|zh|transcribe": "打开 灯", "b": "", "c": "say (yes) now"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hyp.trn", "one (a)\ntwo\n", r"hyp.trn:2: no id in it; expected `text \(id\)`"),
        ("hyp.trn", "one (a)\ntwo (a)\n", "hyp.trn:2: a occurs twice"),
        ("text", "a one\n\nb two\n", "text:3: b has no reference"),
        ("text", b"a \xff\n", "text: not UTF-8"),
    ],
)
def test_wrong_lines_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError, match=message):
        read_hypotheses(tmp_path / name, {"a": Reference("one", "en", "transcribe")})


def test_an_utterance_that_is_its_own_speaker_has_none(tmp_path):
    supervision = {"text": "x", "language": "zh", "custom": {"task": "translate"}}
    speakers = {"a|zh|translate": "a", "b": "b", "c": "", "d": None, "e": "mary"}
    rows = [{"id": key, "supervisions": [supervision | {"speaker": name}]} for key, name in speakers.items()]
    write_jsonl(tmp_path / "cuts.jsonl", rows)
    found = [row.speaker for row in read_references(tmp_path / "cuts.jsonl").values()]
    assert found == [None, None, None, None, "mary"]


def test_a_cut_that_is_there_twice_is_an_error(tmp_path):
    cut = {"id": "a", "supervisions": [{"text": "x", "language": "en", "custom": {"task": "transcribe"}}]}
    write_jsonl(tmp_path / "cuts.jsonl", [cut, cut])
    with pytest.raises(RecipeError, match="cuts.jsonl:2: a occurs twice"):
        read_references(tmp_path / "cuts.jsonl")


def test_a_trn_file_is_scored_beside_itself(tmp_path, corpus):
    lines = [f"{row.text} ({key})\n" for key, row in read_references(corpus).items()]
    (tmp_path / "hyp.trn").write_text("".join(lines), encoding="utf-8")
    assert main(["score", str(tmp_path / "hyp.trn"), "--ref", str(corpus)]) == 0
    assert "%WER 0.00 [ 0 / " in (tmp_path / "wer").read_text()


def test_a_data_directory_without_audio_is_scored(tmp_path, capsys):
    data = tmp_path / "test"
    data.mkdir()
    (data / "text").write_text("a hello there\nb guten tag\n")
    (data / "utt2lang").write_text("a en\nb German\n")
    (tmp_path / "hyp.txt").write_text("a hello\nb guten tag\n")
    assert main(["score", str(tmp_path / "hyp.txt"), "--ref", str(data)]) == 0
    assert "%WER 50.00 [ 1 / 2, 0 ins, 1 del, 0 sub ] en transcribe" in (tmp_path / "wer").read_text()
    assert "%WER 0.00 [ 0 / 2, 0 ins, 0 del, 0 sub ] de transcribe" in (tmp_path / "wer").read_text()


@pytest.mark.parametrize(("name", "lines"), [("text", "a hello there\nb\n"), ("ref.trn", "hello there (a)\n(b)\n")])
def test_a_text_alone_is_scored_in_the_language_that_is_given(tmp_path, name, lines):
    (tmp_path / name).write_text(lines)
    (tmp_path / "hyp.txt").write_text("a hello\nb oh\n")
    assert main(["score", str(tmp_path / "hyp.txt"), "--ref", str(tmp_path / name), "--language", "English"]) == 0
    assert "%WER 100.00 [ 2 / 2, 1 ins, 1 del, 0 sub ] en transcribe" in (tmp_path / "wer").read_text()


def test_a_text_alone_needs_a_language_or_multi_task_ids(tmp_path, capsys):
    (tmp_path / "text").write_text("a|zh|transcribe 你好\na|zh|translate hello\n", encoding="utf-8")
    found = read_references(tmp_path / "text")
    assert {key: (row.language, row.task) for key, row in found.items()} == {
        "a|zh|transcribe": ("zh", "transcribe"),
        "a|zh|translate": ("zh", "translate"),
    }
    (tmp_path / "text").write_text("a hello\n")
    with pytest.raises(RecipeError, match="text:1: a has no language; give --language"):
        read_references(tmp_path / "text")
