"""Streaming over a WebSocket: turns by voice activity, and the events that OpenAI's client reads."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from types import SimpleNamespace

import jiwer
import numpy as np
import openai
import pytest
from faster_whisper.vad import VadOptions, get_speech_timestamps

from tests.serving.conftest import running
from whisper_recipe.data.audio import read_audio
from whisper_recipe.decoding.formats import Segment, Transcript
from whisper_recipe.decoding.long_audio import Recording, Transcriber
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.serving.realtime import Session
from whisper_recipe.serving.turns import TurnDetector

RATE = 16000
SHORT = SearchOptions(max_new_tokens=12)


def blocks(samples, size=1600):
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@pytest.fixture(scope="module")
def sentences(shared_data):
    """Two pieces of speech with pauses of 1.5 s around them, float32 at 16 kHz."""
    pause = np.zeros(RATE * 3 // 2, dtype=np.float32)
    first = read_audio(shared_data / "english/libri-1088-134315-0000.wav", duration=4.8)
    second = read_audio(shared_data / "english/LJ002-0020.wav")
    return np.concatenate([pause, first, pause, second, pause])


def test_turns_are_where_the_whole_recording_has_speech(sentences):
    """Where all of the audio is judged at once, by the same detector and options."""
    detector = TurnDetector(prefix=0.3, silence=1.0)
    turns = [turn for block in blocks(sentences) for turn in detector.feed(block)]
    begun, ended = ([turn for turn in turns if (turn.end is None) == kind] for kind in (True, False))
    options = VadOptions(min_silence_duration_ms=1000, speech_pad_ms=0)
    expected = get_speech_timestamps(sentences, options)
    assert [turn.start for turn in begun] == [turn.start for turn in ended]
    assert len(ended) == len(expected)
    for turn, speech in zip(ended, expected, strict=True):
        assert -0.1 * RATE < speech["start"] - turn.start < 0.6 * RATE
        assert 0.8 * RATE < turn.end - speech["end"] < 1.2 * RATE
        assert np.array_equal(turn.samples, sentences[turn.start : turn.end])


def test_turns_without_a_pause_are_cut_and_nothing_is_lost():
    detector, noise = TurnDetector(threshold=0.0), np.random.default_rng(0).standard_normal(35 * RATE)
    noise = noise.astype(np.float32)
    turns = [turn for block in blocks(noise) for turn in detector.feed(block)] + detector.flush()
    pieces = [turn.samples for turn in turns if turn.end is not None]
    assert all(20 * RATE - 1 <= len(piece) <= 30 * RATE for piece in pieces[:-1])
    joined = np.concatenate(pieces)
    assert np.array_equal(joined, noise[: len(joined)])
    assert len(noise) - len(joined) < 512


def test_a_turn_cut_at_its_last_frame_can_be_committed_at_once(monkeypatch):
    frames = 30 * RATE // 512  # of the longest turn
    speech = np.ones(frames, dtype=np.float32)
    speech[-1] = 0.1  # the quietest
    monkeypatch.setattr("faster_whisper.vad.get_vad_model", lambda: lambda audio: speech)
    detector = TurnDetector(threshold=0.05)
    audio = np.random.default_rng(0).standard_normal(frames * 512).astype(np.float32)
    turns = detector.feed(audio) + detector.flush()
    assert np.array_equal(np.concatenate([turn.samples for turn in turns if turn.end is not None]), audio)


async def conversation(url, samples, rate, model, session, until, pace=0.0):
    """Send samples in blocks of 0.1 s, and return all events up to the one of a kind that comes `until` times."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret")
    events = []
    async with client.realtime.connect(model=model) as connection:
        await connection.session.update(session=session)

        async def send():
            for block in blocks((samples * 32767).astype("<i2"), rate // 10):
                await connection.input_audio_buffer.append(audio=base64.b64encode(block.tobytes()).decode())
                await asyncio.sleep(pace)
            await connection.input_audio_buffer.commit()

        sending = asyncio.create_task(send())
        async for event in connection:
            events.append(event)
            if [one.type for one in events].count(until[0]) == until[1]:
                break
        await sending
    return events


def test_the_committed_text_is_that_of_the_same_audio(tiny_model):
    samples = (np.random.default_rng(1).standard_normal(3 * RATE) * 3276).round().clip(-32768, 32767) / 32767
    heard = ((samples * 32767).astype("<i2") / np.float32(1 << 15)).astype(np.float32)
    audio = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {"model": "tiny", "language": "en"}}
    session = {"type": "transcription", "audio": {"input": {**audio, "turn_detection": None}}}
    completed = "conversation.item.input_audio_transcription.completed"
    with running([f"tiny={tiny_model}"], search=SHORT, api_key="secret") as url:
        events = asyncio.run(conversation(url, samples, RATE, "tiny", session, (completed, 1)))
    count = len(heard) // 512 * 512
    (expected,) = Transcriber(tiny_model, search=SHORT).transcribe([Recording("", heard[:count])], "en")
    assert events[-1].transcript == expected.text
    assert events[-1].usage.seconds == count / RATE
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]


@pytest.mark.parametrize(
    ("language", "hypotheses", "deltas"),
    [
        (
            "en",
            ["turn on the", "turn on the light in", "turn on the light now", "turn off"],
            ["turn on ", "the light "],
        ),
        ("zh", ["打开", "打开厨", "打开厨房的", "打"], ["打开", "厨"]),
    ],
)
def test_partial_text_is_what_two_hypotheses_agree_on_and_stays(language, hypotheses, deltas, monkeypatch):
    sent, waiting = [], iter(hypotheses)

    async def keep(text):
        sent.append(json.loads(text)["delta"])

    async def transcript(_self, _samples):
        return Transcript("", language, "transcribe", 1.0, (Segment(0.0, 1.0, next(waiting)),))

    async def guess():
        for _ in hypotheses:
            await session._guess("item_1", np.zeros(RATE))

    monkeypatch.setattr(Session, "_transcript", transcript)
    session = Session(SimpleNamespace(send_text=keep), SimpleNamespace(search=SHORT, models={"": None}), "")
    asyncio.run(guess())
    assert sent == deltas


def test_what_is_wrong_with_an_event_is_said_and_the_session_continues(tiny_model):
    async def talk(url):
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        async with client.realtime.connect(model="tiny") as connection:
            await connection.recv()
            found = []
            for event in (
                {"type": "input_audio_buffer.append", "audio": "?"},
                {"type": "unheard of"},
                {"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 7}}}}},
                {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "gone"}}}}},
                {"type": "input_audio_buffer.clear"},
            ):
                await connection.send(event)
                found.append(await connection.recv())
            return found

    with running([f"tiny={tiny_model}"], search=SHORT) as url:
        *wrong, last = asyncio.run(talk(url))
        assert [event.type for event in wrong] == ["error"] * 4
        assert [event.error.param for event in wrong[:3]] == ["audio", "type", "audio.input.format.rate"]
        assert wrong[3].error.code == "model_not_found"
        assert last.type == "input_audio_buffer.cleared"


def test_a_wrong_key_and_a_full_queue_close_the_connection(tiny_model):
    async def connect(url, key):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key).realtime.connect(model="tiny") as connection:
            await connection.recv()

    with running([f"tiny={tiny_model}"], {"max_queue": 0}, api_key="secret") as url:
        for key, status in (("wrong", 401), ("secret", 429)):
            with pytest.raises(Exception, match=f"HTTP {status}"):  # of the websockets package
                asyncio.run(connect(url, key))


@pytest.mark.slow
def test_speech_is_heard_turn_by_turn(base_int8, sentences):
    """At twice the speed of speech, with stock whisper-base."""
    samples, rate = np.repeat(sentences, 3)[::2], 24000
    kind = "conversation.item.input_audio_transcription"
    session = {"type": "transcription", "audio": {"input": {"transcription": {"model": "base", "language": "en"}}}}
    with running([f"base={base_int8}"]) as url:
        events = asyncio.run(conversation(url, samples, rate, "base", session, (f"{kind}.completed", 2), pace=0.05))
    text = " ".join(event.transcript for event in events if event.type == f"{kind}.completed")
    said = "as you know and as i have given you proof i have the greatest admiration in the world"
    assert jiwer.wer(said, re.sub(r"[^a-z ]", "", text.lower())[: len(said)]) < 0.2
