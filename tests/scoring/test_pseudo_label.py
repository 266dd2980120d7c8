"""A decoding becomes cuts with its texts; what looks made up is left out, counted and listed."""

import gzip
import json

import pytest
from lhotse import CutSet
from transformers import WhisperProcessor

from whisper_recipe.cli import main
from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.training.batches import drop_untrainable, load_cuts

# Of the corpus's utterances of 0.6, 0.8, ... 2.8 s.
TEXTS = {
    "utt00": "",
    "utt01": "好 好 好 好 好",
    "utt02": "Thank you. Thank you. Thank you. Thank you.",
    "utt03": "Thank you. Thank you. Thank you.",  # three times is no loop
    "utt04": "a sentence which nobody on earth can say in one second",  # 44 letters in 1.4 s
    "utt05": "三月五号",
    "utt06": "Good evening.",
}


@pytest.fixture
def decoding(tmp_path):
    words = [{"word": "Good", "probability": 0.9}, {"word": "evening.", "probability": 0.3}]
    rows = [
        {"id": key, "language": "zh" if key in ("utt01", "utt05") else "de", "task": "transcribe", "duration": 1.0,
         "text": text, "words": words} for key, text in TEXTS.items()
    ]  # fmt: skip
    write_jsonl(tmp_path / "decode/hyp.jsonl", rows)
    return tmp_path / "decode"


def test_texts_and_languages_are_the_decodings(corpus, tiny_model, decoding, tmp_path, capsys):
    out = tmp_path / "cuts_replay.jsonl.gz"
    assert main(["pseudo-label", str(decoding), "--cuts", str(corpus), "--out", str(out)]) == 0
    kept = {cut.id: cut for cut in CutSet.from_file(out)}
    assert {key: supervision_of(cut).text for key, cut in kept.items()} == {
        key: TEXTS[key] for key in ("utt03", "utt05", "utt06")
    }
    assert [supervision_of(cut).language for cut in kept.values()] == ["de", "zh", "de"]
    before = {cut.id: cut for cut in CutSet.from_file(corpus)}
    for key, cut in kept.items():
        assert (cut.recording, cut.features, cut.duration) == (
            before[key].recording, before[key].features, before[key].duration)  # fmt: skip
        assert (cut.load_features() == before[key].load_features()).all()
    printed = capsys.readouterr().out
    assert "12 cuts = 3 labelled + 9 dropped" in printed
    assert "5 no hypothesis" in printed  # utt07 to utt11
    listed = dict(line.split("\t") for line in (tmp_path / "dropped_replay.tsv").read_text().splitlines())
    assert listed["utt00"] == "no text"
    assert listed["utt01"] == "loop: '好' 5 times"
    assert listed["utt02"] == "loop: 'thank you' 4 times"
    assert listed["utt04"] == "too much text: 31.4 characters per second"  # 44 / 1.4
    assert len(listed) == 9
    # Training takes them.
    tokenizer = WhisperProcessor.from_pretrained(tiny_model).tokenizer
    trainable, dropped = drop_untrainable(load_cuts([out]), tokenizer)
    assert (len(list(trainable)), dropped) == (3, {})


def test_segments_and_prompts_of_the_former_text_are_not_kept(corpus, decoding, tmp_path):
    rows = [json.loads(line) for line in gzip.decompress(corpus.read_bytes()).splitlines()]
    for row in rows:
        row["supervisions"][0]["custom"] |= {"prompt": "before", "segments": [{"start": 0, "end": 0.5, "text": "x"}]}
    bare = tmp_path / "cuts_bare.jsonl"
    rows[6]["supervisions"] = []  # audio that nobody has labelled
    write_jsonl(bare, rows)
    out = tmp_path / "cuts_out.jsonl"
    assert main(["pseudo-label", str(decoding), "--cuts", str(bare), "--out", str(out)]) == 0
    found = [supervision_of(cut) for cut in CutSet.from_file(out)]
    assert [(said.text, said.segments, said.prompt) for said in found] == [
        (TEXTS[key], (), "") for key in ("utt03", "utt05", "utt06")
    ]


def test_segments_of_the_decoding_are_kept(corpus, decoding, tmp_path):
    rows = [row for _, row in read_jsonl(decoding / "hyp.jsonl")]
    for row in rows:
        row["segments"] = [{"start": 0.0, "end": 0.4, "text": row["text"]}] if row["id"] == "utt06" else []
    write_jsonl(decoding / "hyp.jsonl", rows)
    out = tmp_path / "cuts_out.jsonl"
    assert main(["pseudo-label", str(decoding), "--cuts", str(corpus), "--out", str(out)]) == 0
    found = {cut.id: supervision_of(cut).segments for cut in CutSet.from_file(out)}
    assert found == {"utt03": (), "utt05": (), "utt06": ((0.0, 0.4, "Good evening."),)}


def test_what_cant_be_is_one_line(corpus, decoding, tmp_path, capsys):
    out = ["--out", str(tmp_path / "cuts_out.jsonl")]
    call = ["pseudo-label", str(decoding), "--cuts", str(corpus), *out]
    fewer = tmp_path / "cuts_fewer.jsonl"
    write_jsonl(fewer, [json.loads(line) for line in gzip.decompress(corpus.read_bytes()).splitlines()][1:])
    for argv, message in (
        ([*call, "--min_confidence", "0.61"], "cuts are dropped"),  # (0.9 + 0.3) / 2
        ([*call, "--max_chars_per_second", "1"], "cuts are dropped"),
        (["pseudo-label", str(tmp_path), "--cuts", str(corpus), *out], "decode first"),
        (["pseudo-label", str(decoding), "--cuts", str(fewer), *out], "decoded cut utt00 is missing"),
    ):
        assert main(argv) == 1
        [line] = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert main([*call, "--min_confidence", "0.6"]) == 0
