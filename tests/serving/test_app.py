"""OpenAI's HTTP interface, as its official client sees it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import jiwer
import numpy as np
import openai
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from tests.conftest import wait_until
from tests.serving.conftest import running
from whisper_recipe.cli import main
from whisper_recipe.decoding.long_audio import Recording, Transcriber
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.decoding.windows import Window
from whisper_recipe.export.ct2 import export
from whisper_recipe.model.adapters import LoraOptions, add_lora, merge
from whisper_recipe.model.load import load_model
from whisper_recipe.serving.uploads import read_upload

SHORT = SearchOptions(max_new_tokens=12)


def client(url, key="none"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def ask(url, path, model="tiny", **options):
    with open(path, "rb") as file:
        return client(url).audio.transcriptions.create(file=file, model=model, **{"language": "en"} | options)


def metric(url, name):
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return float(re.search(rf"^whisper_recipe_{name} (\S+)$", text, re.M)[1])


@pytest.fixture(scope="module")
def ct2(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "float32"
    export(tiny_model, out)
    return out


@pytest.fixture(scope="module")
def natural(full_vocabulary_model, tmp_path_factory):
    """As training leaves it: at natural length, without timestamps."""
    folder = shutil.copytree(full_vocabulary_model, tmp_path_factory.mktemp("models") / "ours")
    (folder / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    out = tmp_path_factory.mktemp("ct2") / "natural"
    export(folder, out)
    return out


@pytest.fixture(scope="module")
def url(ct2):
    with running([f"tiny={ct2}"], {"max_bytes": 3_000_000, "max_seconds": 60.0}, search=SHORT) as address:
        yield address


@pytest.fixture(scope="module")
def alone(ct2):
    """What the model says to each of some files when it hears nothing else."""
    transcriber = Transcriber(ct2, search=SHORT)

    def alone(*paths):
        recordings = [Recording(str(path), soundfile.read(path, dtype="float32")[0]) for path in paths]
        return [next(iter(transcriber.transcribe([recording], "en"))) for recording in recordings]

    return alone


def test_every_format_holds_the_same_text(url, noise, alone):
    path = noise(2.0)
    (expected,) = alone(path)
    assert expected.text
    assert ask(url, path).text == expected.text
    assert ask(url, path, response_format="text") == expected.text + "\n"
    verbose = ask(url, path, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert verbose.duration == 2.0
    assert verbose.language == "english"
    assert [(row.start, row.end, row.text) for row in verbose.segments] == [
        (round(row.start, 3), round(row.end, 3), row.text) for row in expected.segments
    ]
    assert "".join(word.word for word in verbose.words) == "".join(expected.text.split())
    assert ask(url, path, response_format="verbose_json", timestamp_granularities=["word"]).segments is None
    srt, vtt = (ask(url, path, response_format=form) for form in ("srt", "vtt"))
    times = re.findall(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> ", srt)
    assert [int(time[2]) + int(time[3]) / 1000 for time in times] == [
        pytest.approx(row.start, abs=1e-3) for row in expected.segments
    ]
    assert vtt.startswith("WEBVTT\n")


def test_segments_have_their_ids_and_scores(tiny_model, url, noise):
    """The ids are those of the text; the probability of no speech is transformers', after the start token."""
    found = ask(url, noise(2.0), response_format="verbose_json").segments
    processor = WhisperProcessor.from_pretrained(tiny_model)
    samples = soundfile.read(noise(2.0), dtype="float32")[0]
    features = processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
    start, no_speech = processor.tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|nospeech|>"])
    with torch.no_grad():
        model = WhisperForConditionalGeneration.from_pretrained(tiny_model)
        logits = model(input_features=features, decoder_input_ids=torch.tensor([[start]])).logits
    assert found[0].no_speech_prob == pytest.approx(logits[0, 0].softmax(-1)[no_speech].item(), abs=1e-4)
    assert [processor.tokenizer.decode(row.tokens).strip() for row in found] == [row.text for row in found]
    assert all(row.avg_logprob < 0 for row in found)
    raw = found[0].text.encode()
    assert found[0].compression_ratio == pytest.approx(len(raw) / len(zlib.compress(raw)), abs=1e-3)


def test_translations_and_models(url, noise):
    with open(noise(1.0), "rb") as file:
        assert client(url).audio.translations.create(file=file, model="whisper-1").text is not None
    assert [model.id for model in client(url).models.list()] == ["tiny"]
    assert client(url).models.retrieve("tiny").id == "tiny"


def test_events_add_up_to_the_text(url, noise, alone):
    (expected,) = alone(noise(2.0))
    events = list(ask(url, noise(2.0), stream=True))
    assert [event.type for event in events[-1:]] == ["transcript.text.done"]
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert deltas == events[-1].text == expected.text
    events = list(ask(url, noise(2.0), stream=True, response_format="verbose_json"))
    assert sum(event.type == "transcript.text.segment" for event in events) == len(expected.segments)


def test_the_text_of_long_audio_comes_as_its_windows_are_done(url, noise, monkeypatch):
    decode, first_is_here = Transcriber.decode_windows, threading.Event()

    def slow(self, windows):
        if windows[0][1].start:
            assert first_is_here.wait(20)
        return decode(self, windows)

    monkeypatch.setattr(Recording, "windows", lambda self, merge: [Window(0, 16000), Window(16000, 32000)])
    monkeypatch.setattr(Transcriber, "decode_windows", slow)
    events = iter(ask(url, noise(2.0), language=openai.omit, stream=True))
    deltas = [next(events).delta]
    first_is_here.set()
    *others, done = events
    deltas += [event.delta for event in others]
    assert len(deltas) > 1
    assert done.text == "".join(deltas)


@pytest.fixture
def held(monkeypatch):
    """Decoding waits for `go`; `reached` counts the batches that wait, `decoded` lists the durations in each batch."""
    decode = Transcriber.decode_windows
    state = SimpleNamespace(reached=threading.Semaphore(0), go=threading.Event(), decoded=[])

    def slow(self, windows):
        state.reached.release()
        assert state.go.wait(20)
        state.decoded.append([recording.duration for recording, _ in windows])
        return decode(self, windows)

    monkeypatch.setattr(Transcriber, "decode_windows", slow)
    yield state
    state.go.set()


@pytest.mark.slow
def test_requests_that_wait_share_batches_and_each_gets_its_own_text(natural, tmp_path, held):
    """Of one length: what an utterance is padded to may change its text."""
    paths, seconds = [tmp_path / f"{number}.wav" for number in range(14)], np.arange(24000) / 16000
    for number, path in enumerate(paths):
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * 60 * 1.5**number * seconds), 16000)
    search = replace(SHORT, repetition_penalty=2.0)
    with running([f"tiny={natural}"], search=search) as url, ThreadPoolExecutor(14) as pool:
        answers = [pool.submit(ask, url, path) for path in paths]
        for _ in range(torch.get_num_threads()):
            held.reached.acquire(timeout=20)
        wait_until(lambda: metric(url, "requests_in_queue") == 14, seconds=10)
        time.sleep(0.2)  # until the last ones are read
        held.go.set()
        texts = [answer.result().text for answer in answers]
        assert metric(url, "requests_in_queue") == 0
    transcriber = Transcriber(natural, search=search)
    for path, text in zip(paths, texts, strict=True):
        (alone,) = transcriber.transcribe([Recording("", soundfile.read(path, dtype="float32")[0])], "en")
        assert text == alone.text
    assert len(set(texts)) > 3
    assert max(map(len, held.decoded)) >= 5


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"model": "other"}, openai.NotFoundError, "use one of: tiny"),
        ({"language": "klingon"}, openai.BadRequestError, "unknown language"),
        ({"language": "yue"}, openai.BadRequestError, "no <|yue|>"),
        ({"response_format": "xml"}, openai.BadRequestError, "response_format"),
        ({"temperature": 7.0}, openai.BadRequestError, "temperature"),
        ({"prompt": "word " * 400}, openai.BadRequestError, "there is room for"),
        ({"stream": True, "response_format": "srt"}, openai.BadRequestError, "can't be streamed"),
    ],
)
def test_what_is_not_possible_is_an_error_that_says_why(url, noise, options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        ask(url, noise(1.0), **options)


def test_damaged_and_empty_files_are_errors_and_truncated_ones_are_transcribed(url, noise, tmp_path):
    whole = noise(2.0).read_bytes()
    for name, content in {"text.wav": b"no audio", "empty.mp3": b"", "header.wav": whole[:44]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(openai.BadRequestError):
            ask(url, tmp_path / name)
    (tmp_path / "cut.wav").write_bytes(whole[:32000])
    assert 0.9 < ask(url, tmp_path / "cut.wav", response_format="verbose_json").duration < 1.1


@pytest.mark.parametrize("suffix", [".ogg", ".flac"])
def test_size_and_length_are_limited_before_anything_is_decoded(url, noise, suffix, monkeypatch):
    monkeypatch.setattr("whisper_recipe.serving.uploads.read_mono", pytest.fail)
    with pytest.raises(openai.APIStatusError, match="longer than the 1 minutes") as long:
        ask(url, noise(61.0, suffix))
    with pytest.raises(openai.APIStatusError, match="larger than the 3 MB") as large:
        ask(url, noise(100.0))
    assert long.value.status_code == large.value.status_code == 413


def test_length_of_audio_without_a_header_is_counted_in_packets(noise, tmp_path):
    """As browsers record: Matroska that was written to a pipe, without a duration."""
    import av

    from whisper_recipe.serving.uploads import TooLong, check_seconds

    path = tmp_path / "recorded.webm"
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as out:
        stream = out.add_stream("libopus", rate=48000)
        for start in range(0, 48000 * 5, 960):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype=np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = 48000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.duration is None
    check_seconds(str(path), 5.1)
    with pytest.raises(TooLong):
        check_seconds(str(path), 4.9)


def test_audio_is_in_no_folder_while_it_is_read_nor_afterwards(url, noise, tmp_path, monkeypatch):
    found = []

    def watched(*arguments):
        found.append(list(tmp_path.iterdir()))
        return read_upload(*arguments)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("whisper_recipe.serving.service.read_upload", watched)
    ask(url, noise(50.0))  # larger than what a form keeps in memory
    assert found == [[]]
    assert list(tmp_path.iterdir()) == []


def test_a_full_queue_a_wrong_key_and_another_sites_page_are_refused(ct2, noise):
    with running([f"tiny={ct2}"], {"max_queue": 0}, api_key="secret") as url:
        with open(noise(60.0), "rb") as file:  # larger than the buffers of the connection
            with pytest.raises(openai.AuthenticationError):
                client(url, "wrong").audio.transcriptions.create(file=file, model="tiny")
            file.seek(0)
            with pytest.raises(openai.RateLimitError, match="try again"):
                client(url, "secret").audio.transcriptions.create(file=file, model="tiny")
        foreign = urllib.request.Request(f"{url}/v1/models", headers={"Origin": "https://elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign)
        assert json.load(urllib.request.urlopen(f"{url}/health"))["status"] == "ok"


def test_nothing_is_decoded_for_a_client_that_has_hung_up(url, noise, held):
    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(ask, url, noise(1.0)) for _ in range(torch.get_num_threads())]
        for _ in busy:
            held.reached.acquire(timeout=20)
        impatient = client(url).with_options(timeout=0.5)
        with open(noise(3.0), "rb") as file, pytest.raises(openai.APITimeoutError):
            impatient.audio.transcriptions.create(file=file, model="tiny", language="en")
        patient = pool.submit(ask, url, noise(2.0))
        wait_until(lambda: metric(url, "requests_in_queue") == len(busy) + 1, seconds=10)
        held.go.set()
        assert patient.result().text
    assert [3.0] not in held.decoded
    assert metric(url, "requests_in_queue") == 0


@pytest.mark.slow
def test_an_adapter_shares_its_base_and_says_what_the_merged_model_says(tiny_model, noise, tmp_path):
    model = add_lora(load_model(tiny_model), LoraOptions(rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "run/adapter", save_embedding_layers=False)
    (tmp_path / "run/adapter/whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    merge(tmp_path / "run")
    given = [f"tiny={tiny_model}", f"lora={tmp_path / 'run'}", f"merged={tmp_path / 'run/model'}"]
    names = ["tiny", "lora", "merged"]
    with running(given, search=SearchOptions(max_new_tokens=5)) as url, ThreadPoolExecutor(6) as pool:
        once = [ask(url, noise(2.0), model=name).text for name in names]
        assert once[0] != once[1] == once[2]
        assert [
            answer.text for answer in pool.map(lambda name: ask(url, noise(2.0), model=name), names * 2)
        ] == once * 2
        assert json.load(urllib.request.urlopen(f"{url}/health"))["models_in_memory"] == 2


def test_models_are_loaded_on_first_use_and_unloaded_by_size(ct2, tiny_model, noise):
    size = (ct2 / "model.bin").stat().st_size
    with running([f"one={ct2}", f"two={tiny_model}"], search=SHORT, memory=1.5 * size) as url:
        loaded = []
        for name in ("one", "two", "one"):
            assert ask(url, noise(1.0), model=name).text
            loaded.append(json.load(urllib.request.urlopen(f"{url}/health"))["models_in_memory"])
    assert loaded == [1, 1, 1]


def test_logs_hold_no_text_unless_asked_for(ct2, noise, alone, caplog):
    (expected,) = alone(noise(2.0))
    for log_text in (False, True):
        with caplog.at_level("INFO", "uvicorn"), running([f"tiny={ct2}"], search=SHORT, log_text=log_text) as url:
            ask(url, noise(2.0))
            ask(url, noise(1.0), prompt="confidential")
        assert (expected.text in caplog.text) == log_text
        assert "confidential" not in caplog.text


def test_listening_beyond_this_machine_says_what_that_means():
    from whisper_recipe.serving.serve import exposure, is_loopback

    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.2")
    assert "everyone (no --api_key is set)" in exposure("0.0.0.0", None)


def test_missing_packages_and_models_are_one_line(monkeypatch, capsys):
    assert main(["serve", "/no/such/folder"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("whisper_recipe.serving.serve.PACKAGES", ("fastapi", "no_such_package"))
    assert main(["serve", "/no/such/folder"]) == 1
    assert "serve: needs no_such_package; pip install '.[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_answers_what_it_has_begun_before_it_ends(ct2, noise):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "whisper_recipe", "serve", f"tiny={ct2}", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            while "Application startup complete" not in (line := server.stdout.readline()):
                assert line, "the server has ended"
            with ThreadPoolExecutor(8) as pool:
                answers = [pool.submit(ask, f"http://127.0.0.1:{port}", noise(20.0)) for _ in range(8)]
                wait_until(lambda: metric(f"http://127.0.0.1:{port}", "requests_in_queue") > 0, seconds=10)
                server.terminate()
                ends = [answer.exception() for answer in answers]
            assert ends.count(None) > 0
            assert {type(end) for end in ends} <= {type(None), openai.APIConnectionError}
        finally:
            server.kill()


@pytest.mark.slow
def test_whisper_base_transcribes_speech_through_the_client(base_int8, shared_data):
    path = shared_data / "english/libri-1088-134315-0000.wav"
    with running([f"base={base_int8}"]) as url:
        events = list(ask(url, path, model="base", language=openai.omit, stream=True))
    said = "as you know and as i have given you proof i have the greatest admiration in the world for one whose work"
    text = re.sub(r"[^a-z ]", "", events[-1].text.lower())
    assert jiwer.wer(said, text[: len(said)]) < 0.1
