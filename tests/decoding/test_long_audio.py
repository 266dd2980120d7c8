"""Long audio: all speech is in windows the model can take, and batches give what decoding one by one gives."""

import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.tokenizer import Tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.data.audio import read_audio
from whisper_recipe.data.features import log_mel
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.long_audio import (
    Recording,
    Transcriber,
)
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.decoding.timestamps import split_at_timestamps
from whisper_recipe.decoding.windows import Window
from whisper_recipe.export.ct2 import export
from whisper_recipe.text.prompt import prompt_ids

RATE = 16000
SHORT = SearchOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


@pytest.fixture(scope="module")
def our_model(tiny_model, tmp_path_factory):
    """As training leaves it: at natural length, without timestamps."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "ours")
    (folder / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    # Random weights yield timestamps unasked, as no trained model does.
    config = json.loads((folder / "generation_config.json").read_text())
    config["suppress_tokens"] += range(config["no_timestamps_token_id"], config["no_timestamps_token_id"] + 1502)
    (folder / "generation_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def whole_windows(monkeypatch):
    """Random weights never end a text by themselves: don't decode in halves what the limit of tokens cuts off."""
    monkeypatch.setattr("whisper_recipe.decoding.long_audio.SHORTEST_HALVED", 30.0)


@pytest.fixture(scope="module")
def our_ct2_model(our_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "ours"
    export(our_model, out)
    return out


@pytest.fixture(scope="module")
def speech(shared_data):
    """Two minutes: recorded utterances with 1.5 s of silence between them, and 32 s that are read without a stop."""
    silence = np.zeros(round(1.5 * RATE), dtype=np.float32)
    read = read_audio(shared_data / "english/libri-1088-134315-0000.wav")
    parts = [silence, read, read]
    for path in sorted((shared_data / "aishell_multitask/wav").glob("*.wav")):
        parts += [silence, read_audio(path)]
    return np.concatenate([*parts, np.zeros(40 * RATE, dtype=np.float32), read])


def noise(seconds, seed=0):
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * 0.1


@pytest.fixture
def vad(monkeypatch, whole_windows):
    """A voice activity detector that says what it is told, in seconds."""

    def tell(*stretches):
        found = [{"start": round(start * RATE), "end": round(end * RATE)} for start, end in stretches]
        monkeypatch.setattr("faster_whisper.vad.get_speech_timestamps", lambda samples, options: found)

    return tell


@pytest.mark.parametrize("merge", [False, True])
def test_all_speech_is_in_windows_of_at_most_30_seconds_that_do_not_overlap(speech, merge):
    windows = Recording("x", speech).windows(merge)
    assert windows[0].start >= 0
    assert windows[-1].end <= len(speech)
    assert all(0 < window.duration <= 30 for window in windows)
    assert all(first.end <= second.start for first, second in pairwise(windows))
    inside = np.zeros(len(speech), dtype=bool)
    for window in windows:
        inside[window.start : window.end] = True
    # What is left out is the noise of rooms; one utterance has a hundredth of the energy.
    assert (speech[~inside] ** 2).sum() < 1e-3 * (speech**2).sum()
    end_of_silence = len(speech) - 17 * RATE
    assert not inside[end_of_silence - 38 * RATE : end_of_silence].any()


def test_stretches_are_joined_as_far_as_they_fit(vad):
    samples = noise(120)
    vad((1, 10), (12, 20), (29, 31), (31.5, 40), (60, 90), (95, 96))
    joined = [Window(*(round(time * RATE) for time in times)) for times in [(1, 31), (31.5, 40), (60, 90), (95, 96)]]
    assert Recording("x", samples).windows(merge=True) == joined
    assert len(Recording("x", samples).windows(merge=False)) == 6


def test_what_fits_into_30_seconds_is_one_window():
    assert Recording("x", noise(30)).windows(merge=False) == [Window(0, 30 * RATE)]
    assert Recording("x", np.zeros(1, dtype=np.float32)).windows(merge=True) == [Window(0, 1)]
    assert Recording("x", np.zeros(0, dtype=np.float32)).windows(merge=True) == []
    assert Recording("x", np.zeros(31 * RATE, dtype=np.float32)).windows(merge=True) == []


def timed(tokenizer, *parts):
    first = tokenizer.convert_tokens_to_ids("<|0.00|>")
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
        (0.0, " turn on", 1.5, 1.5, " the light", 4.0),
        (0.5, " turn on", 1.5, 2.0, " the light", 4.0, 4.0),
        (0.0, " turn on", 3.0),
        (" turn on",),
    ],
)
def test_segments_are_those_of_faster_whisper(tokenizer, parts):
    ids = timed(tokenizer, *parts)
    first = tokenizer.convert_tokens_to_ids("<|0.00|>")
    theirs, _, _ = WhisperModel._split_segments_by_timestamps(
        SimpleNamespace(time_precision=0.02, input_stride=2),
        SimpleNamespace(timestamp_begin=first),
        ids,
        time_offset=0.0,
        segment_size=500,
        segment_duration=5.0,
        seek=0,
    )
    theirs = [(row["start"], row["end"], [token for token in row["tokens"] if token < first]) for row in theirs]
    ours = split_at_timestamps(ids, tokenizer, 5.0)
    assert [(pytest.approx(start), pytest.approx(end), text) for start, end, text in ours] == theirs


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0.0, " turn on", 1.5, 1.5, " the light"), [(0.0, 1.5, " turn on"), (1.5, 5.0, " the light")]),
        ((2.0, " turn on", 1.0, " the light", 9.0), [(2.0, 2.0, " turn on"), (2.0, 5.0, " the light")]),
        ((), []),
        ((0.0, 5.0), []),
    ],
)
def test_unfinished_and_impossible_timestamps_lose_no_text(tokenizer, parts, expected):
    found = split_at_timestamps([*timed(tokenizer, *parts), tokenizer.eos_token_id], tokenizer, 5.0)
    assert [(start, end, tokenizer.decode(ids)) for start, end, ids in found] == expected


@pytest.mark.parametrize("count", [0, 5, 223, 400])
def test_the_text_before_stands_as_in_faster_whisper(tokenizer, count):
    theirs = Tokenizer(tokenizer.backend_tokenizer, True, "transcribe", "en")
    expected = WhisperModel.get_prompt(SimpleNamespace(max_length=448), theirs, list(range(count)), True)
    search = SearchOptions(max_new_tokens=100)
    assert search_prompt(tokenizer, "en", "transcribe", search, range(count)) == expected


def test_the_text_before_leaves_room_for_the_hypothesis(tokenizer):
    search = SearchOptions(max_new_tokens=224, hotwords="cocina", prompt="the light")
    hotwords, prompt = (tokenizer(f" {text}", add_special_tokens=False).input_ids for text in ("cocina", "the light"))
    ids = search_prompt(tokenizer, "en", "transcribe", search, range(300))
    assert len(ids) == 448 - 224
    assert ids[1:-4] == [*hotwords, *prompt, *range(300)[len(hotwords) + len(prompt) - 219 :]]


def test_languages_are_those_of_transformers(tiny_model, tokenizer, tmp_path):
    export(tiny_model, tmp_path / "ct2")
    samples = [noise(30, seed) for seed in range(4)]
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_model)
    features = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt").input_features
    expected = [token[2:-2] for token in tokenizer.convert_ids_to_tokens(theirs.detect_language(features))]
    for folder in (tiny_model, tmp_path / "ct2"):
        assert load_backend(folder).detect_languages(features) == expected


def recordings():
    return [Recording(f"r{number}", noise(seconds, number)) for number, seconds in enumerate((2, 7, 0.3, 70, 4, 0))]


STRETCHES = [(0.5, 6.0), (7.0, 24.0), (30.0, 58.0), (60.0, 70.0)]


@pytest.mark.parametrize("backend", ["transformers", "ctranslate2"])
def test_batches_give_what_one_by_one_gives(our_model, our_ct2_model, vad, backend):
    vad(*STRETCHES)
    model = our_model if backend == "transformers" else our_ct2_model
    options = {"pad_to_30s": True, "search": SHORT}  # at natural length, batches are padded to their longest
    together = list(Transcriber(model, batch_duration=1e9, **options).transcribe(recordings(), "en"))
    alone = list(Transcriber(model, batch_duration=0.1, **options).transcribe(recordings(), "en"))
    assert together == alone
    assert [len(transcript.segments) for transcript in together] == [1, 1, 1, 4, 1, 0]


def test_texts_are_those_of_transformers_on_the_same_samples(our_model, tokenizer, vad):
    vad(*STRETCHES)
    found = list(Transcriber(our_model, pad_to_30s=True, search=SHORT).transcribe(recordings(), "zh"))
    theirs = WhisperForConditionalGeneration.from_pretrained(our_model)

    def text(samples):
        features = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt").input_features
        ids = theirs.generate(features, language="zh", task="transcribe", max_new_tokens=12)
        return tokenizer.decode(ids[0], skip_special_tokens=True).strip()

    samples = [recording.samples for recording in recordings()]
    expected = [[text(each)] if len(each) else [] for each in samples]
    expected[3] = [text(samples[3][round(start * RATE) : round(end * RATE)]) for start, end in STRETCHES]
    expected = [list(filter(None, texts)) for texts in expected]
    assert [[segment.text for segment in transcript.segments] for transcript in found] == expected
    assert len({text for texts in expected for text in texts}) > 1


def asked(decoder):
    """Note the prompts that a decoder gives to its model."""
    prompts, decode = [], decoder.backend.decode

    def noting(features, batch, search):
        prompts.extend(batch)
        return decode(features, batch, search)

    decoder.backend.decode = noting
    return prompts


def test_a_model_without_timestamps_is_not_asked_for_them_and_speech_gives_the_times(our_model, tokenizer, vad):
    vad(*STRETCHES)
    decoder = Transcriber(our_model, search=SHORT)
    prompts = asked(decoder)
    found = list(decoder.transcribe(recordings(), "en"))
    assert prompts == [prompt_ids(tokenizer, "en", "transcribe")] * 8
    assert [(segment.start, segment.end) for segment in found[3].segments] == STRETCHES
    assert [(segment.start, segment.end) for segment in found[0].segments] == [(0.0, 2.0)]


def test_a_stock_model_is_asked_for_timestamps_in_joined_windows(tiny_model, tokenizer, vad):
    vad(*STRETCHES)
    decoder = Transcriber(tiny_model, search=SHORT, task="translate")
    prompts = asked(decoder)
    found = list(decoder.transcribe(recordings(), "zh"))
    assert len(prompts) >= 7
    assert all(prompt == prompt_ids(tokenizer, "zh", "translate")[:-1] for prompt in prompts)
    for transcript in found:
        times = [time for segment in transcript.segments for time in (segment.start, segment.end)]
        assert times == sorted(times)
        assert all(0 <= time <= transcript.duration for time in times)


def test_sequential_decoding_shows_the_model_what_it_wrote_before(our_model, tokenizer, vad):
    vad(*STRETCHES)
    search = SearchOptions(max_new_tokens=12, compression_ratio_threshold=100)  # random weights write loops
    decoder = Transcriber(our_model, sequential=True, search=search)
    samples = recordings()[3].samples
    prompt = prompt_ids(tokenizer, "en", "transcribe")
    previous, expected = [], []
    for start, end in STRETCHES:
        features = log_mel(samples[round(start * RATE) : round(end * RATE)], 80).T[None]
        before = [tokenizer.convert_tokens_to_ids("<|startofprev|>"), *previous] if previous else []
        ids = decoder.backend.decode(features, [before + prompt], search)[0]
        previous += [token for token in ids if token not in tokenizer.all_special_ids]
        expected.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    prompts = asked(decoder)
    found = list(decoder.transcribe([recordings()[3], recordings()[1]], "en"))
    assert [segment.text for segment in found[0].segments] == list(filter(None, expected))
    assert [len(each) - len(prompt) for each in prompts] == [0, 3, 15, 19, 0]


def test_languages_are_detected_for_each_recording(our_model, vad):
    vad(*STRETCHES)
    decoder = Transcriber(our_model, search=SHORT)
    prompts = asked(decoder)
    found = {transcript.name: transcript.language for transcript in decoder.transcribe(recordings())}
    for number, recording in enumerate(recordings()[:5]):
        start, end = STRETCHES[0] if number == 3 else (0, recording.duration)
        features = log_mel(recording.samples[round(start * RATE) : round(end * RATE)], 80).T[None]
        assert found[recording.name] == decoder.backend.detect_languages(features)[0]
    assert found["r5"] is None
    assert len(prompts) == 8


@pytest.mark.slow
def test_segments_of_windows_are_those_of_faster_whispers_batches(full_vocabulary_model, vad, tmp_path, monkeypatch):
    """Windows of 30 s: they pad features with zeros, which is not silence."""
    # What the model passes over at the end of a window is dropped by faster-whisper.
    monkeypatch.setattr("whisper_recipe.decoding.long_audio.PASSED_OVER", 30 * RATE + 1)
    export(full_vocabulary_model, tmp_path / "ct2")
    stretches = [(0, 30), (31, 61), (65, 95)]
    vad(*stretches)
    samples = np.concatenate([noise(35, seed) * (1 + seed) for seed in range(3)])
    ours = next(Transcriber(tmp_path / "ct2", search=SHORT).transcribe([Recording("x", samples)], "en"))
    reader = BatchedInferencePipeline(WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32"))
    theirs, _ = reader.transcribe(
        samples,
        language="en",
        beam_size=1,
        temperature=0.0,
        suppress_tokens=None,
        without_timestamps=False,
        # CTranslate2 takes half of this and the prompt, see CTranslate2Backend.
        max_new_tokens=2 * SHORT.max_new_tokens - 3,
        clip_timestamps=[{"start": start, "end": end} for start, end in stretches],
    )
    theirs = [(pytest.approx(row.start), pytest.approx(row.end), row.text.strip()) for row in theirs]
    assert len(theirs) >= 3
    ends = {end for _, end in stretches}  # theirs leaves out what a window has after its last timestamp
    ours = [segment[:3] for segment in ours.segments if segment.end not in ends or segment[:3] in theirs]
    assert ours == [row for row in theirs if row[2]]


def test_all_seconds_are_counted_once(our_model, vad):
    vad()
    counted = []
    list(Transcriber(our_model, search=SHORT).transcribe(recordings(), "en", counted.append))
    assert sum(counted) == pytest.approx(83.3)
