"""Text, language, task, segments and prompt of cuts as other programs write them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, Fbank, FbankConfig, LilcomChunkyWriter, MonoCut, SupervisionSegment
from lhotse.testing.dummies import dummy_recording
from transformers import WhisperTokenizer

from whisper_recipe.cli import main
from whisper_recipe.data.features import load_fbank
from whisper_recipe.data.supervision import outline_of, read_cut_row, supervision_of
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import LANGUAGES
from whisper_recipe.tasks import TASKS
from whisper_recipe.training.batches import training_example


def cut_of(*supervisions: dict, duration: float = 10.0) -> MonoCut:
    """Return a cut as Lhotse makes it, whose supervisions have these fields."""
    parts = [
        SupervisionSegment(
            **{"id": f"s{n}", "recording_id": "r", "start": 0.0, "duration": duration, "language": "en", **fields}
        )
        for n, fields in enumerate(supervisions)
    ]
    recording = dummy_recording(0, duration=duration)
    return MonoCut("c", start=0, duration=duration, channel=0, supervisions=parts, recording=recording)


def both(cut: MonoCut) -> list:
    """Return a cut, and the outline of its row as a manifest has it."""
    return [cut, outline_of(cut.to_dict())]


def test_a_cut_without_task_is_a_transcription_and_its_language_may_be_a_name() -> None:
    for cut in both(cut_of({"text": "你好", "language": "Chinese", "speaker": "ann"})):
        assert supervision_of(cut) == ("你好", "zh", "transcribe", "ann", (), "")


def test_task_segments_and_prompt_are_custom_fields() -> None:
    custom = {"task": "translate", "segments": [{"start": 0.5, "end": 2.0, "text": "hi"}], "prompt": "before"}
    for cut in both(cut_of({"text": "hi", "start": 1.0, "duration": 8.0, "custom": custom})):
        said = supervision_of(cut)
        assert (said.task, said.prompt) == ("translate", "before")
        assert said.segments == ((1.5, 3.0, "hi"),)  # their times count from the supervision's start


def test_segments_before_the_start_of_a_cut_are_clipped() -> None:
    segments = [{"start": 0.0, "end": 0.4, "text": "a"}, {"start": 0.4, "end": 2.0, "text": "b"}]
    cut = cut_of({"text": "a b", "start": -0.5, "duration": 3.0, "custom": {"segments": segments}})
    assert supervision_of(cut).segments == ((0.0, 1.5, "b"),)


def test_several_supervisions_are_one_text_with_their_times_in_order() -> None:
    parts = (
        {"text": "and you", "start": 5.0, "duration": 7.0, "speaker": "bob"},  # beyond the end of the cut
        {"text": "", "start": 3.0, "duration": 1.0},
        {"text": "how are you", "start": -0.5, "duration": 3.0, "speaker": "ann"},
    )
    for cut in both(cut_of(*parts)):
        said = supervision_of(cut)
        assert (said.text, said.speaker) == ("how are you and you", None)
        assert said.segments == ((0.0, 2.5, "how are you"), (5.0, 10.0, "and you"))


def test_several_supervisions_are_trained_with_their_times(tiny_model: Path) -> None:
    parts = [{"text": "and you", "start": 2.0, "duration": 1.0}, {"text": "hello", "start": 0.5, "duration": 1.0}]
    tokenizer = WhisperTokenizer.from_pretrained(tiny_model)
    inputs, _ = training_example(tokenizer, cut_of(*parts), timestamps=True)
    written = "<|startoftranscript|><|en|><|transcribe|><|0.50|> hello<|1.50|><|2.00|> and you<|3.00|>"
    assert inputs == tokenizer(written, add_special_tokens=False).input_ids


def test_chinese_supervisions_are_joined_without_spaces_and_their_translations_with() -> None:
    times = {"duration": 1.0, "language": "zh"}
    parts = [{"text": "你好", "start": 0.0, **times}, {"text": "再见", "start": 2.0, **times}]
    assert supervision_of(cut_of(*parts)).text == "你好再见"
    parts = [part | {"custom": {"task": "translate"}} for part in parts]
    assert supervision_of(cut_of(*parts)).text == "你好 再见"


def test_overlapping_supervisions_have_no_times() -> None:
    parts = [{"text": "yes", "start": 0.0, "duration": 3.0}, {"text": "no", "start": 2.0, "duration": 3.0}]
    said = supervision_of(cut_of(*parts))
    assert (said.text, said.segments) == ("yes no", ())


@pytest.mark.parametrize(
    ("supervisions", "what"),
    [
        ([], "no supervision"),
        ([{"text": "a", "language": None}], "no language"),
        ([{"text": None}], "no text"),
        ([{"text": "a", "language": "klingon"}], "unknown language 'klingon'"),
        ([{"text": "a", "custom": {"task": "sing"}}], "unknown task 'sing'"),
        (
            [{"text": "a", "custom": {"segments": [{"begin": 0}]}}],
            "malformed segments: expected {start, end, text}, got {'begin': 0}",
        ),
        ([{"text": "a"}, {"text": "b", "language": "de"}], "more than one language (de, en)"),
        ([{"text": "a"}, {"text": "b", "custom": {"task": "translate"}}], "more than one task"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_the_cut(supervisions: list[dict], what: str) -> None:
    for cut in both(cut_of(*supervisions)):
        with pytest.raises(RecipeError) as caught:
            supervision_of(cut)
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "c" in str(caught.value).partition(";")[0]


def test_what_is_decoded_needs_neither_supervision_nor_text_nor_language() -> None:
    assert supervision_of(cut_of(), labelled=False) == ("", None, "transcribe", None, (), "")
    assert supervision_of(cut_of({"text": None, "language": None}), labelled=False).language is None


def test_a_mixed_cut_is_read_as_lhotse_reads_it() -> None:
    cut = cut_of({"text": "hello", "start": 0.0, "duration": 10.0}).append(cut_of({"text": "there"}))
    said = supervision_of(outline_of(cut.to_dict()))
    assert said.text == "hello there"
    assert said.segments == ((0.0, 10.0, "hello"), (10.0, 20.0, "there"))


def test_mixed_cuts_with_stored_features_are_refused_in_one_line(corpus: Path) -> None:
    first, second, *_ = CutSet.from_file(corpus)
    for cut in (first.append(second), first.pad(duration=5.0)):
        with pytest.raises(RecipeError, match="lhotse's MixedCut is not supported"):
            load_fbank(cut)


def test_score_and_stats_read_what_lhotse_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [{"text": "你好", "language": "Chinese", "start": 0.0, "duration": 2.0}]
    parts.append({"text": "再见", "language": "Chinese", "start": 4.0, "duration": 2.0})
    cuts, hyp = tmp_path / "cuts.jsonl.gz", tmp_path / "hyp.jsonl"
    CutSet.from_cuts([cut_of(*parts)]).to_file(cuts)
    hyp.write_text('{"id": "c", "text": "你好再"}\n', encoding="utf-8")
    assert main(["score", str(hyp), "--ref", str(cuts)]) == 0
    assert "%CER 25.00 [ 1 / 4, 0 ins, 1 del, 0 sub ] zh transcribe" in (tmp_path / "cer").read_text()
    assert main(["stats", str(cuts)]) == 0
    assert "00:00:10" in capsys.readouterr().out


KEYS = ("id", "start", "duration", "text", "language", "speaker", "custom", "supervisions")
PLAIN = st.one_of(st.none(), st.booleans(), st.floats(), st.sampled_from(["", "en", "Chinese", "translate", "x"]))
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(st.sampled_from(KEYS), PLAIN, max_size=2))
SEGMENTS = st.lists(st.dictionaries(st.sampled_from(["start", "end", "text"]), VALUES), max_size=2)
CUSTOM = st.fixed_dictionaries({}, optional={"task": VALUES, "prompt": VALUES, "segments": SEGMENTS | VALUES})
PARTS = st.builds(
    lambda more, custom: {"text": "a", "language": "en", "start": 0.0, "duration": 1.0, "custom": custom, **more},
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=1),
    CUSTOM,
)


@settings(max_examples=300)
@given(
    row=st.one_of(
        st.builds(lambda parts: {"id": "c", "duration": 2.0, "supervisions": parts}, st.lists(PARTS, max_size=3)),
        st.dictionaries(st.sampled_from(KEYS), VALUES),
    )
)
def test_any_row_is_read_or_refused_in_one_line(row: dict) -> None:
    try:
        _, said = read_cut_row(row, "cuts.jsonl:1")
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("cuts.jsonl:1: ")
        return
    assert isinstance(said.text, str)
    assert isinstance(said.prompt, str)
    assert (said.language in LANGUAGES, said.task in TASKS) == (True, True)
    assert all(isinstance(s.text, str) and 0 <= s.start <= s.end < math.inf for s in said.segments)


def test_features_of_another_kind_are_refused_and_not_decoded(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = cut_of({"text": "hello"}, duration=1.0)
    cut.recording = dummy_recording(0, duration=1.0, with_data=True)
    with LilcomChunkyWriter(tmp_path / "feats") as storage:
        # Lhotse's own, as icefall stores them: 80 bins too.
        cut = cut.compute_and_store_features(Fbank(FbankConfig(num_mel_bins=80)), storage)
    cuts = tmp_path / "cuts_dev.jsonl.gz"
    CutSet.from_cuts([cut.drop_recording()]).to_file(cuts)
    commands = [["decode", str(tiny_model), "--cuts", str(cuts), "--out", str(tmp_path / "out")]]
    train = [
        "train",
        "--method",
        "full",
        "--base_model",
        str(tiny_model),
        "--train_cuts",
        str(cuts),
        "--dev_cuts",
        str(cuts),
    ]
    commands.append([*train, "--output_dir", str(tmp_path / "exp"), "--trainer.max_steps", "1"])
    commands.append(["shar", str(cuts), "--out", str(tmp_path / "shar")])
    for command in commands:
        assert main(command) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "the features of cut c are kaldi-fbank, not Whisper's log-mel" in error
