"""Decoding on a GPU, as far as a CPU can tell: what is loaded ahead, sizes of batches, out of memory, cuBLAS."""

import ctypes
import threading
from types import SimpleNamespace

import pytest
import torch

from whisper_recipe.decoding.backends import usual_batch_duration
from whisper_recipe.decoding.backends.ctranslate2 import load_cublas
from whisper_recipe.decoding.backends.transformers import TransformersBackend
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
