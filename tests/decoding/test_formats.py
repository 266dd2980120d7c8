"""Transcripts as files: exactly the bytes written by hand here, and read back by programs of others."""

import csv
import json

import pytest

from whisper_recipe.decoding.formats import (
    FORMATS,
    Segment,
    Transcript,
    Word,
    utterance_id,
    write_together,
    write_transcript,
)

WORDS = (Word(0.02, 0.5, " Hello,", 0.98765), Word(0.5, 1.1, " me.", 0.5))
SEGMENTS = (
    Segment(0.0, 2.4996, " Hello, <b>you</b>\n & me.", WORDS),
    Segment(3.0, 3.2, "  "),
    Segment(3661.007, 3725.5, " a --> b\tc"),
)
TALK = Transcript("day one/talk", "en", "transcribe", 3725.5, SEGMENTS)
CHINESE = Transcript("w1", "zh", "transcribe", 2.0, (Segment(0.0, 1.0, "你好"), Segment(1.0, 2.0, "世界")))
SILENCE = Transcript("empty", "en", "transcribe", 0.0)

WRITTEN = {
    "txt": "Hello, <b>you</b> & me.\na --> b c\n",
    "json": """{
  "language": "en",
  "duration": 3725.5,
  "results": [
    {
      "start": 0.0,
      "end": 2.5,
      "text": "Hello, <b>you</b> & me.",
      "words": [
        {
          "start": 0.02,
          "end": 0.5,
          "word": "Hello,",
          "probability": 0.9877
        },
        {
          "start": 0.5,
          "end": 1.1,
          "word": "me.",
          "probability": 0.5
        }
      ]
    },
    {
      "start": 3.0,
      "end": 3.2,
      "text": ""
    },
    {
      "start": 3661.007,
      "end": 3725.5,
      "text": "a --> b c"
    }
  ],
  "text": "Hello, <b>you</b> & me. a --> b c"
}
""",
    "srt": """1
00:00:00,000 --> 00:00:02,500
Hello, <b>you</b> & me.

2
01:01:01,007 --> 01:02:05,500
a -> b c
""",
    "vtt": """WEBVTT

00:00:00.000 --> 00:00:02.500
Hello, &lt;b&gt;you&lt;/b&gt; &amp; me.

01:01:01.007 --> 01:02:05.500
a --&gt; b c
""",
    "tsv": "start\tend\ttext\n0\t2500\tHello, <b>you</b> & me.\n3000\t3200\t\n3661007\t3725500\ta --> b c\n",
    "kaldi": "day_one/talk Hello, <b>you</b> & me. a --> b c\n",
    "trn": "Hello, <b>you</b> & me. a --> b c (day_one/talk)\n",
    "ctm": "day_one/talk 1 0.02 0.48 Hello, 0.99\nday_one/talk 1 0.50 0.60 me. 0.50\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_what_is_written_here_by_hand(name):
    assert FORMATS[name].render(TALK) == WRITTEN[name]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("txt", ""),
        ("json", '{\n  "language": "en",\n  "duration": 0.0,\n  "results": [],\n  "text": ""\n}\n'),
        ("srt", ""),
        ("vtt", "WEBVTT\n"),
        ("tsv", "start\tend\ttext\n"),
        ("kaldi", "empty\n"),
        ("trn", "(empty)\n"),
        ("ctm", ""),
    ],
)
def test_silence_has_empty_files(name, written):
    assert FORMATS[name].render(SILENCE) == written


def test_texts_join_as_the_language_of_the_text_joins_words():
    assert CHINESE.text == "你好世界"
    segments = (Segment(0.0, 1.0, "hello"), Segment(1.0, 2.0, "world"))
    assert Transcript("w1", "zh", "translate", 2.0, segments).text == "hello world"


@pytest.mark.parametrize(
    ("seconds", "clock"), [(59.9994, "00:00:59,999"), (59.9996, "00:01:00,000"), (3599.9999, "01:00:00,000")]
)
def test_times_are_rounded_and_carried(seconds, clock):
    rendered = FORMATS["srt"].render(Transcript("w1", "en", "transcribe", 4000.0, (Segment(0.0, seconds, "x"),)))
    assert rendered.splitlines()[1] == f"00:00:00,000 --> {clock}"


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("srt", ["Hello, <b>you</b> & me.", "a -> b c"]),
        ("vtt", ["Hello, &lt;b&gt;you&lt;/b&gt; &amp; me.", "a --&gt; b c"]),
    ],
)
def test_ffmpeg_reads_the_subtitles_with_their_times(name, texts, tmp_path):
    av = pytest.importorskip("av")
    write_transcript(TALK, tmp_path, [name])
    with av.open(str(tmp_path / f"day one/talk.{name}")) as file:
        packets = [packet for packet in file.demux() if packet.size]
        times = [(float(p.pts * p.time_base), float((p.pts + p.duration) * p.time_base)) for p in packets]
    assert times == [(0.0, 2.5), (3661.007, 3725.5)]
    assert [bytes(packet).decode() for packet in packets] == texts


def test_lhotse_reads_the_ctm(tmp_path):
    from lhotse import SupervisionSegment, SupervisionSet

    write_together([TALK], tmp_path, ["ctm"])
    whole = SupervisionSegment("s", "day_one/talk", 0.0, 3725.5, channel=1)
    read = SupervisionSet.from_segments([whole]).with_alignment_from_ctm(tmp_path / "hyp.ctm")
    items = next(iter(read)).alignment["word"]
    assert [(item.symbol, item.start, item.duration, item.score) for item in items] == [
        ("Hello,", 0.02, 0.48, 0.99),
        ("me.", 0.5, 0.6, 0.5),
    ]


def test_tables_and_json_are_read_back(tmp_path):
    write_transcript(TALK, tmp_path, ["tsv", "json"])
    with open(tmp_path / "day one/talk.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [int(row["end"]) - int(row["start"]) for row in rows] == [2500, 200, 64493]
    assert json.loads((tmp_path / "day one/talk.json").read_text())["text"] == TALK.text


def test_files_of_all_inputs_are_in_kaldis_order(tmp_path):
    names = ["b", "a/x", "Z"]
    write_together([Transcript(name, "en", "transcribe", 1.0) for name in names], tmp_path, ["kaldi", "trn", "json"])
    assert (tmp_path / "text").read_text() == "Z\na/x\nb\n"
    assert (tmp_path / "hyp.trn").read_text() == "(Z)\n(a/x)\n(b)\n"
    assert {path.name for path in tmp_path.iterdir()} == {"text", "hyp.trn"}


def test_ids_have_no_white_space():
    assert utterance_id("my talk\t1") == "my_talk_1"
