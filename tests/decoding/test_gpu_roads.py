"""Decoding on a GPU, as far as a CPU can tell: what is loaded ahead, sizes of batches, out of memory, cuBLAS."""

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from whisper_recipe.cli import main
from whisper_recipe.decoding.backends import usual_batch_duration
from whisper_recipe.decoding.backends.ctranslate2 import load_cublas
from whisper_recipe.decoding.backends.transformers import TransformersBackend
from whisper_recipe.decoding.formats import Transcript
from whisper_recipe.decoding.long_audio import Recording, Transcriber
from whisper_recipe.decoding.search import SearchOptions, search_prompt
from whisper_recipe.errors import RecipeError


@pytest.fixture(scope="module")
def backend(tiny_model):
    return TransformersBackend(tiny_model, "default")


def test_the_next_item_is_loaded_while_one_is_worked_on(backend):
    loaded = {number: threading.Event() for number in range(4)}

    def load(number):
        loaded[number].set()
        return number

    def work(number):
        assert number == 3 or loaded[number + 1].wait(10)
        return 10 * number

    assert list(backend.each(work, range(4), load)) == [0, 10, 20, 30]


def test_features_of_long_audio_are_computed_while_the_model_decodes(backend, tiny_model, monkeypatch):
    loaded, decoded = [threading.Event() for _ in range(3)], []

    def log_mel(samples, bins):
        next(event for event in loaded if not event.is_set()).set()
        return torch.zeros(len(samples) // 160, bins)

    def decode(features, prompts, search):
        decoded.append(len(prompts))
        assert len(decoded) == 3 or loaded[len(decoded)].wait(10)
        return [[]]

    monkeypatch.setattr("whisper_recipe.decoding.long_audio.log_mel", log_mel)
    monkeypatch.setattr(backend, "decode", decode)
    transcriber = Transcriber(tiny_model, backend=backend, pad_to_30s=False, batch_duration=20)
    recordings = [Recording(name, np.zeros(16000 * 20, np.float32)) for name in "abc"]
    assert len(list(transcriber.transcribe(recordings, "en"))) == 3
    assert decoded == [1, 1, 1]


def test_the_next_files_are_read_while_the_model_decodes(tiny_model, tmp_path, monkeypatch):
    read = {name: threading.Event() for name in "abc"}
    for seconds, name in enumerate("cba", 1):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16000 * seconds, np.float32), 16000)

    def samples(audio):
        read[Path(audio).stem].set()
        return np.zeros(16000, np.float32)

    def decode(_, recordings, language, count):
        following = {"a": "b", "b": "c"}.get(recordings[0].name)
        assert following is None or read[following].wait(10)
        return [Transcript(recordings[0].name, language, "transcribe", 1.0, ())]

    monkeypatch.setattr("whisper_recipe.decoding.transcribe.POOL_SECONDS", 1)
    monkeypatch.setattr("whisper_recipe.decoding.transcribe._mono", samples)
    monkeypatch.setattr(Transcriber, "transcribe", decode)
    out = tmp_path / "out"
    assert main(["transcribe", str(tmp_path), "--model", str(tiny_model), "--out", str(out), "--language", "en"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_a_batch_that_does_not_fit_is_decoded_in_parts(backend, monkeypatch, fits):
    features = torch.randn(5, 80, 200, generator=torch.Generator().manual_seed(2)).clamp(-1, 1.5)
    search = SearchOptions(max_new_tokens=10)
    prompts = [search_prompt(backend.tokenizer, "en", "transcribe", search)] * 5
    expected, tried = backend.decode(features, prompts, search), []
    whole = TransformersBackend._search

    def limited(self, features, *args, **kwargs):
        tried.append(len(features))
        if len(features) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, features, *args, **kwargs)

    monkeypatch.setattr(TransformersBackend, "_search", limited)
    assert backend.decode(features, prompts, search) == expected
    assert tried[0] == 5 and sum(count for count in tried if count <= fits) == 5


def test_one_utterance_that_does_not_fit_is_one_line(backend, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("CUDA failed with error out of memory")  # CTranslate2's words

    monkeypatch.setattr(TransformersBackend, "_search", full)
    with pytest.raises(RecipeError, match="out of memory on a single utterance; lower search.beam_size"):
        backend.decode(torch.zeros(2, 80, 100), [[1], [1]], SearchOptions())


@pytest.mark.parametrize(("gigabytes", "seconds"), [(2, 120), (16, 960), (24, 1440), (80, 1920)])
def test_batches_follow_the_memory_of_the_card(monkeypatch, gigabytes, seconds):
    card = SimpleNamespace(total_memory=gigabytes * 1e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert usual_batch_duration() == seconds


def test_missing_cublas_names_the_package(monkeypatch):
    def missing(name, **_):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RecipeError, match="cuBLAS 12.*pip install --no-deps nvidia-cublas-cu12"):
        load_cublas()


def test_cublas_of_the_package_is_found(monkeypatch, tmp_path):
    folder, loaded = tmp_path / "nvidia" / "cublas" / "lib", []
    folder.mkdir(parents=True)

    def load(name, **_):
        if not name.startswith(str(folder)):
            raise OSError(name)
        loaded.append(name)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ctypes, "CDLL", load)
    load_cublas()
    assert loaded == [f"{folder}/libcublasLt.so.12", f"{folder}/libcublas.so.12"]
