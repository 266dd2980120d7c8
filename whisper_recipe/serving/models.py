"""A server's models by name, loaded on first use, unloaded when others need the memory; LoRA adapters share a base."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from whisper_recipe.data.input_length import InputLength, input_length
from whisper_recipe.decoding.backends import Backend, load_backend
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_json, require
from whisper_recipe.model.ctranslate2_folder import is_ctranslate2
from whisper_recipe.model.load import is_hub_name, timestamps

FIRST = "whisper-1"  # OpenAI's name, which clients request by default: the first model
ADAPTER = "adapter_config.json"
WEIGHTS = (".bin", ".safetensors")


class UnknownModel(RecipeError):
    """The server has no model of this name."""


@dataclass(frozen=True)
class Served:
    """A model that clients can request.

    Args:
        name: the name that requests use.
        folder: the model's or the adapter's folder, which records what it was trained for.
        weights: the folder or hub name to load: the adapter's base, or the model itself.
        timestamps: whether timestamps may be requested.
        length: the length of its inputs.
    """

    name: str
    folder: str
    weights: str
    timestamps: bool
    length: InputLength

    @property
    def is_adapter(self) -> bool:
        """Whether it is a LoRA adapter on shared weights."""
        return self.folder != self.weights


class Loaded:
    """Weights in memory, and the number of their users."""

    def __init__(self, size: int) -> None:
        self.size = size  # bytes
        self.users = 0
        self.lock = threading.Lock()  # held while loading
        self.backend: Backend | None = None
        self.slots = threading.Semaphore()
        self.peft = None

    def load(self, weights: str, compute_type: str, threads: int) -> None:
        """Load the weights with their backend, unless another thread has done so."""
        with self.lock:
            if self.backend is None:
                torch.set_num_threads(threads)  # the backend divides them among its workers
                self.backend = load_backend(weights, compute_type, parallel=threads)
                self.slots = threading.Semaphore(self.backend.workers)
                if not self.size:  # a name on the Hub
                    self.size = sum(weight.nbytes for weight in self.backend.model.parameters())

    @contextmanager
    def with_adapter(self, folder: str | None) -> Iterator[None]:
        """Decode with an adapter, loaded on first use, or with the weights alone if there is none."""
        with ExitStack() as stack:
            if folder is None:
                if self.peft is not None:
                    stack.enter_context(self.peft.disable_adapter())
            else:
                self._choose(folder)
            yield

    def _choose(self, folder: str) -> None:
        from peft import PeftModel

        name = folder.replace(".", "_")  # peft uses it as a key, which can't contain dots
        try:
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self.backend.model, folder, adapter_name=name)
            elif name not in self.peft.peft_config:
                self.peft.load_adapter(folder, adapter_name=name)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"the adapter can't be loaded ({reason})", where=folder, cure="train it again") from error
        self.peft.set_adapter(name)
        self.peft.eval()


class Models:
    """All models of a server.

    Args:
        given: `folder` or `name=folder`: Whisper folders, CTranslate2 folders, names on the hub, LoRA adapters. The
            first is the default.
        compute_type: for all of them, as in `transcribe`.
        pad_to_30s: for all of them; None for as recorded in each folder.
        limit: maximum bytes of weights in memory; the least recently used ones are unloaded when others need the
            memory.

    Raises:
        RecipeError: a folder is missing, a name is given twice, or an adapter's base is a CTranslate2 folder.
    """

    def __init__(self, given: list[str], compute_type: str, pad_to_30s: bool | None, limit: float) -> None:
        self.compute_type, self.limit, self.threads = compute_type, limit, torch.get_num_threads()
        self.served: dict[str, Served] = {}
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()
        for model in (_described(text, pad_to_30s) for text in given):
            if model.name in self.served:
                raise RecipeError(f"two models are called {model.name}", where="models", cure="give NAME=FOLDER")
            self.served[model.name] = model
        if not self.served:
            raise RecipeError("no model given", where="models", cure="give a model folder")

    def __getitem__(self, name: str) -> Served:
        if name in ("", FIRST) and name not in self.served:
            return next(iter(self.served.values()))
        if name not in self.served:
            raise UnknownModel(f"unknown model {name!r}", cure=f"use one of: {', '.join(self.served)}")
        return self.served[name]

    @property
    def in_memory(self) -> list[str]:
        """Folders whose weights are loaded."""
        with self._lock:
            return [weights for weights, loaded in self._loaded.items() if loaded.backend is not None]

    @contextmanager
    def loaded(self, model: Served) -> Iterator[Backend]:
        """Yield a model's backend, loaded if it isn't yet, to as many users at a time as it has workers."""
        with self._lock:
            loaded = self._loaded.get(model.weights)
            if loaded is None:
                loaded = self._loaded[model.weights] = Loaded(_size(model.weights))
            self._loaded.move_to_end(model.weights)
            loaded.users += 1
            self._make_room()
        try:
            loaded.load(model.weights, self.compute_type, self.threads)
            with loaded.slots:
                torch.set_num_threads(max(1, self.threads // loaded.backend.workers))
                with loaded.with_adapter(model.folder if model.is_adapter else None):
                    yield loaded.backend
        finally:
            with self._lock:
                loaded.users -= 1
                if loaded.backend is None:
                    self._loaded.pop(model.weights, None)

    def _make_room(self) -> None:
        """Unload unused weights, the least recently used first, until the rest is within the limit."""
        total = sum(loaded.size for loaded in self._loaded.values())
        for weights, loaded in list(self._loaded.items()):
            if total <= self.limit:
                break
            if not loaded.users:
                total -= loaded.size
                del self._loaded[weights]


def _described(text: str, pad_to_30s: bool | None) -> Served:
    """Parse `folder` or `name=folder`."""
    name, equals, folder = text.partition("=")
    if not equals or "/" in name:
        name, folder = "", text
    path = Path(folder)
    if not is_hub_name(folder):
        require(path, "give a model folder, an adapter folder, or a name on the Hub")
    if not (path / "config.json").exists() and (path / "adapter" / ADAPTER).exists():
        path = path / "adapter"  # the folder of a run
        name = name or path.parent.name
    weights = folder = str(path) if path.exists() else folder
    if (path / ADAPTER).exists():
        weights = str(read_json(path / ADAPTER).get("base_model_name_or_path"))
        if is_ctranslate2(weights):
            cure = "serve its transformers base, or merge and export the adapter"
            raise RecipeError("CTranslate2 has no adapters", where=path, cure=cure)
    elif path.exists():
        require(path / "config.json", "a model folder has config.json, weights and a tokenizer")
    name = name or (path.resolve().name if path.exists() else folder)
    return Served(name, folder, weights, timestamps(folder), input_length(folder, pad_to_30s))


def _size(weights: str) -> int:
    """Return the size of the weight files in bytes, 0 for a name on the Hub."""
    folder = Path(weights)
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS) if folder.is_dir() else 0
