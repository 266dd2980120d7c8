"""Timestamps: Whisper's rules for them hold in both backends, and what lies after the last of them is decoded too."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from faster_whisper import WhisperModel
from transformers import pipeline

from whisper_recipe.cli import main
from whisper_recipe.data.audio import read_audio
from whisper_recipe.data.fbank import fbank
from whisper_recipe.data.manifests import prepare
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.decode import decode
from whisper_recipe.decoding.long_audio import Piece, Transcriber
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.decoding.timestamps import finished_part
from whisper_recipe.decoding.windows import Recording, Window, halves, rest_of
from whisper_recipe.export.ct2 import export
from whisper_recipe.files import read_jsonl
from whisper_recipe.model.load import load_tokenizer
from whisper_recipe.text.tokenizer import first_timestamp

RATE = 16000


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def timed(tokenizer, *parts):
    """Return ids: numbers are times, strings are text."""
    first = first_timestamp(tokenizer)
    return [
        token
        for part in parts
        for token in (
            tokenizer(part, add_special_tokens=False).input_ids if isinstance(part, str) else [first + round(part * 50)]
        )
    ]


@pytest.mark.parametrize(
    "parts",
    [
        (0.0, " turn on", 20.0, 20.0),
        (0.0, " turn on", 20.0, 20.0, " the light"),
        (0.0, " turn on", 5.0, 6.0, " the light", 9.0, 9.0),
        (0.0, " turn on", 5.0, 5.0, " the light", 9.0),
        (0.0, " turn on", 5.0),
        (0.0, " turn on"),
        (" turn on",),
        (0.0, 5.0),
        (0.5,),
    ],
)
def test_a_window_is_left_where_faster_whisper_leaves_it(tokenizer, parts):
    ids = timed(tokenizer, *parts)
    segments, seek, _ = WhisperModel._split_segments_by_timestamps(
        SimpleNamespace(time_precision=0.02, input_stride=2),
        SimpleNamespace(timestamp_begin=first_timestamp(tokenizer)),
        ids,
        time_offset=0.0,
        segment_size=2800,
        segment_duration=28.0,
        seek=0,
    )
    finished, rest = finished_part(ids, tokenizer)
    assert (28.0 if rest is None else rest) == pytest.approx(seek / 100)
    if parts != (0.0, 5.0):  # theirs takes a pair without text as a segment; there is nothing to keep of it
        assert finished == [token for segment in segments for token in segment["tokens"]]


def test_the_rest_of_a_window_is_what_has_speech():
    speech = [Window(0, 5 * RATE), Window(8 * RATE, 12 * RATE), Window(20 * RATE, 25 * RATE)]
    window = Window(0, 24 * RATE)
    assert rest_of(window, 3.0, speech) == [Window(3 * RATE, 24 * RATE)]
    assert rest_of(window, 4.5, speech) == [Window(8 * RATE, 24 * RATE)]
    assert rest_of(Window(0, 14 * RATE), 9.0, speech) == [Window(9 * RATE, 12 * RATE)]
    assert rest_of(Window(0, 14 * RATE), 11.5, speech) == []
    assert rest_of(Window(0, 14 * RATE), 13.0, speech) == []


def test_halves_meet_in_the_quietest_place_of_the_middle():
    samples = np.ones(24 * RATE, dtype=np.float32)
    samples[: 2 * RATE] = 0
    samples[13 * RATE : round(13.2 * RATE)] = 0
    first, second = halves(Window(2 * RATE, 22 * RATE), samples)
    assert (first.start, second.end) == (2 * RATE, 22 * RATE)
    assert first.end == second.start
    assert 13.0 * RATE <= first.end <= 13.2 * RATE


@pytest.fixture
def scripted(tiny_model, tokenizer, monkeypatch):
    """A transcriber whose model writes what it is told of a window, by its seconds; it notes the batches."""

    def make(write, **options):
        transcriber = Transcriber(tiny_model, pad_to_30s=False, search=SearchOptions(max_new_tokens=20), **options)
        batches = []

        def decode(features, prompts, search):
            batches.append([prompt[:-3] for prompt in prompts])
            seconds = [features.shape[2] / 100] * len(features)
            return [timed(tokenizer, *write(each)) for each in seconds]

        monkeypatch.setattr(transcriber.backend, "decode", decode)
        return transcriber, batches

    return make


@pytest.fixture
def vad(monkeypatch):
    def tell(*stretches):
        found = [{"start": round(start * RATE), "end": round(end * RATE)} for start, end in stretches]
        monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", lambda samples, options: found)

    return tell


def recording(name, seconds):
    return Recording(name, np.zeros(round(seconds * RATE), dtype=np.float32))


@pytest.mark.parametrize("sequential", [False, True])
def test_rests_are_decoded_in_batches_until_nothing_is_left(scripted, vad, sequential):
    vad((0, 28), (40, 68))

    def write(seconds):
        return (0.0, " turn on", 20.0, 20.0) if seconds > 20 else (0.0, " the light", seconds, seconds)

    transcriber, batches = scripted(write, sequential=sequential, batch_duration=1000)
    found = list(transcriber.transcribe([recording("long", 70), recording("short", 28)], "en"))
    expected = [(0.0, 20.0, "turn on"), (20.0, 28.0, "the light")]
    later = [(40.0, 60.0, "turn on"), (60.0, 68.0, "the light")]
    assert [tuple(segment[:3]) for segment in found[0].segments] == [*expected, *later]
    assert [tuple(segment[:3]) for segment in found[1].segments] == expected
    assert [len(batch) for batch in batches] == ([1] * 6 if sequential else [3, 3])
    if sequential:  # the text before is that of the recording, the windows' rests included
        assert [len(batch[0]) > 0 for batch in batches] == [False, True, True, True, False, True]


def test_a_loop_makes_sequential_decoding_forget_the_text_before(scripted, vad, tokenizer, monkeypatch):
    vad((0, 28))
    transcriber, batches = scripted(lambda seconds: (0.0, " turn on", 20.0, 20.0), sequential=True)
    plain = transcriber.backend.decode

    def decode(features, prompts, search):
        loops = len(prompts[0]) > 3
        found = plain(features, prompts, search)
        return [timed(tokenizer, 0.0, " the light" * 40)] if loops else found

    monkeypatch.setattr(transcriber.backend, "decode", decode)
    monkeypatch.setattr("whisper_recipe.decoding.long_audio.finished_part", lambda ids, tokenizer: (ids, None))
    pieces = [Piece(recording("a", 5), Window(0, 5 * RATE)) for _ in range(1)]
    pieces[0].recording.language = "en"
    previous = [1, 2, 3]
    transcriber._decode(transcriber._load(pieces), previous)
    assert previous == []
    assert [segment.text for segment in pieces[0].segments] == ["turn on"]


def test_speech_after_the_end_of_a_hypothesis_is_decoded_too(scripted, vad):
    """The model ends the text at 20 s. Of the speech after that, 1.5 s may be due to inexact times, 6 s are not."""
    vad((0, 19), (21.5, 23), (24, 30), (40, 61.5))
    transcriber, _ = scripted(lambda seconds: (0.0, " turn on", min(seconds, 20.0)))
    found = list(transcriber.transcribe([recording("long", 70)], "en"))
    times = [(segment.start, segment.end) for segment in found[0].segments]
    assert times == [(0.0, 20.0), (24.0, 30.0), (40.0, 60.0)]


def test_a_time_without_text_leaves_no_rest(scripted, vad):
    """It would be decoded again and again, each time after a moment."""
    vad((0, 28))
    transcriber, batches = scripted(lambda seconds: (0.5,))
    [found] = transcriber.transcribe([recording("short", 28)], "en")
    assert (len(batches), found.segments) == (1, ())


def test_a_rest_without_speech_is_left_out(scripted, vad):
    vad((1, 18))
    transcriber, batches = scripted(lambda seconds: (0.0, " turn on", 20.0, 20.0))
    found = list(transcriber.transcribe([recording("short", 28)], "en"))
    assert len(batches) == 1
    assert [segment.text for segment in found[0].segments] == ["turn on"]


def test_a_model_that_hardly_gets_on_comes_to_an_end(scripted, vad):
    vad((0, 3))
    transcriber, batches = scripted(lambda seconds: (0.0, " a", 0.02, 0.02))
    found = list(transcriber.transcribe([recording("short", 3)], "en"))
    times = [segment.start for segment in found[0].segments]
    assert len(batches) == len(times) == 101  # from 0 to 2 s; the last second is too short for a window of its own
    assert times == sorted(times)


def test_a_text_that_is_cut_off_is_decoded_in_halves(scripted, vad):
    """Nothing tells how far it came. Halves are halved again, down to ten seconds."""
    vad((0, 28))
    long = (0.0, *[" the light"] * 20)

    def write(seconds):
        return long if seconds > 20 else (0.0, " turn on", seconds)

    transcriber, batches = scripted(write)
    found = list(transcriber.transcribe([recording("short", 28)], "en"))
    assert [segment.text for segment in found[0].segments] == ["turn on"] * 2
    assert [segment.end for segment in found[0].segments][-1] == 28.0
    transcriber, batches = scripted(lambda seconds: long)
    found = list(transcriber.transcribe([recording("short", 28)], "en"))
    assert 4 <= len(found[0].segments) <= 8
    assert all(segment.end - segment.start <= 10 for segment in found[0].segments)


@pytest.mark.parametrize(("beam_size", "frames"), [(1, 3000), (3, 300)])
def test_both_backends_follow_the_rules_for_timestamps(tiny_model, ct2_model, tokenizer, beam_size, frames):
    """Of openai/whisper's ApplyTimestampRules (whisper/decoding.py); CTranslate2 has them in C++."""
    features = torch.randn(6, 80, frames, generator=torch.Generator().manual_seed(5)).clamp(-1, 1.5)
    first, end = first_timestamp(tokenizer), tokenizer.eos_token_id
    # Random weights write the tokens of languages, to which the rules say nothing.
    search = SearchOptions(max_new_tokens=40, beam_size=beam_size, suppress_tokens=[*range(end + 1, first - 1)])
    prompt = search_prompt(tokenizer, "en", "transcribe", search, timestamps=True)
    found = [load_backend(folder).decode(features, [prompt] * 6, search) for folder in (tiny_model, ct2_model)]
    assert found[0] == found[1]
    assert any(token >= first for row in found[0] for token in row[1:])
    for row in found[0]:
        times = [token for token in row if token >= first]
        assert first <= row[0] <= first + 50
        assert times == sorted(times)
        assert first - 1 not in row
        inner = [token >= first for token in row]
        assert not any(all(inner[index : index + 3]) for index in range(len(inner) - 2))
        # Between the first and the last, timestamps stand in pairs.
        runs = "".join("t" if timestamp else " " for timestamp in inner).split()
        assert all(run == "tt" for run in runs[1:-1])


@pytest.fixture(scope="module")
def whisper_base_ct2(whisper_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "int8"
    export(whisper_base, out, "int8")
    return out


@pytest.fixture(scope="module")
def talk(shared_data):
    """62 s of eight clips; a rest that openai/whisper decodes begins at 20 s."""
    return read_audio(shared_data.parent / "cases" / "talk.wav")


SAID = [
    "ask what you can do for your country",
    "as you know and as i have given you proof",
    "i hope that we shall both forget this unhappy morning",
    "rendering to you in person",
]


def said(model, samples, **options):
    transcript = next(Transcriber(model, **options).transcribe([Recording("talk", samples)], "en"))
    return "".join(letter for letter in transcript.text.lower() if letter.isalpha() or letter == " ")


@pytest.mark.slow
def test_nothing_said_is_missing(whisper_base_ct2, talk):
    text = said(whisper_base_ct2, talk)
    assert [text.count(phrase) for phrase in SAID] == [2] * 4
    assert "every purchase is a vote" in text


@pytest.mark.slow
def test_nothing_said_is_missing_one_window_after_the_other(whisper_base_ct2, talk):
    text = said(whisper_base_ct2, talk[: 28 * RATE], sequential=True)
    assert [text.count(phrase) for phrase in SAID] == [1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("sequential", [False, True])
def test_transformers_says_the_same_without_the_list_of_special_tokens(whisper_base, talk, tmp_path, sequential):
    samples = talk[: 28 * RATE]
    text = said(whisper_base, samples, sequential=sequential)
    assert [text.count(phrase) for phrase in SAID] == [1] * 4
    if sequential:
        return
    folder = shutil.copytree(whisper_base, tmp_path / "plain")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config.pop("additional_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert said(folder, samples, sequential=sequential) == text


@pytest.mark.slow
def test_decode_writes_the_segments_that_transformers_pipeline_finds(whisper_base, shared_data, talk, tmp_path, capsys):
    data = tmp_path / "talk"
    data.mkdir()
    soundfile.write(data / "talk.wav", talk[: 20 * RATE], RATE)
    for name, value in (("wav.scp", "talk.wav"), ("text", "unknown"), ("utt2lang", "en")):
        (data / name).write_text(f"talk {value}\n")
    prepare(data, tmp_path / "manifests")
    fbank("talk", tmp_path / "manifests", tmp_path / "fbank", num_jobs=1)
    decode(str(whisper_base), tmp_path / "fbank/cuts_talk.jsonl.gz", tmp_path / "out", timestamps=True)
    [(_, row)] = read_jsonl(tmp_path / "out/hyp.jsonl")
    samples, _ = soundfile.read(data / "talk.wav", dtype="float32")
    theirs = pipeline("automatic-speech-recognition", str(whisper_base), dtype="float32")(
        samples, return_timestamps=True, generate_kwargs={"language": "en"}
    )["chunks"]
    assert len(theirs) > 1
    assert [(one["start"], one["end"], one["text"]) for one in row["segments"]] == [
        (*chunk["timestamp"], chunk["text"].strip()) for chunk in theirs
    ]
    assert row["text"] == " ".join(one["text"] for one in row["segments"])
    (tmp_path / "untimed").mkdir()
    (tmp_path / "untimed/whisper_recipe.json").write_text('{"natural_length": true, "timestamps": 0}')
    call = ["decode", str(tmp_path / "untimed"), "--cuts", str(tmp_path / "fbank/cuts_talk.jsonl.gz")]
    assert main([*call, "--out", str(tmp_path / "none"), "--timestamps", "true"]) == 1
    assert "untimed: was trained without timestamps" in capsys.readouterr().err
