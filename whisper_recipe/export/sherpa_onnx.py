"""Export to sherpa-onnx's encoder, decoder and token files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.target import Transcriber, needed
from whisper_recipe.files import atomic_write, require

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

    from whisper_recipe.export.onnx_graph import Graph

TYPES = {"float32": "", "int8": ".int8"}  # -> sherpa-onnx's file name suffix
TOKENS = "tokens.txt"
# sherpa-onnx writes at most 6 tokens per second of audio, and cuts 0.5 s from 30 s
# (csrc/offline-whisper-greedy-search-decoder.cc, csrc/offline-recognizer-whisper-impl.h).
MOST_SECONDS = 29.4
NO_PADDING = 1  # frame after the end; 0 would mean its default of 1,000

EXAMPLE = """\
```python
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
    "path/of/this/folder/{encoder}", "path/of/this/folder/{decoder}", "path/of/this/folder/{tokens}"{arguments}
)
audio, rate = soundfile.read("audio.wav", dtype="float32")  # one channel, at most 30 s
stream = recognizer.create_stream()
stream.accept_waveform(rate, audio)
recognizer.decode_stream(stream)
print(stream.result.text)
```

{length}"""
PADDED = """\
This model was trained on inputs padded to 30 s with silence, but sherpa-onnx appends 10 s of a value that is not
silence: append zeros to `audio` up to {seconds} s, and set `tail_paddings={paddings}`."""
NATURAL = """\
This model was trained on inputs at natural length: set `tail_paddings={paddings}`. sherpa-onnx writes at most 6
tokens per second of audio; if that truncates fast speech, append zeros to `audio`."""


def files(folder: Path, quantization: str) -> tuple[Path, Path]:
    """Return the encoder and decoder files of an export."""
    return folder / f"encoder{TYPES[quantization]}.onnx", folder / f"decoder{TYPES[quantization]}.onnx"


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Write a Whisper folder for sherpa-onnx, with the inputs, outputs and metadata of its own exporter.

    See scripts/whisper/export-onnx.py of k2-fsa/sherpa-onnx. Any vocabulary works if its text tokens come before the
    others.

    Args:
        model: a Hugging Face Whisper folder.
        out: the folder to write.
        quantization: type of the stored matrices: float32 or int8.

    Raises:
        RecipeError: the folder is not a complete Whisper model, has added pieces of text, or the package onnx is
            missing.
    """
    from whisper_recipe.model.generation import complete_generation_config
    from whisper_recipe.model.load import load_model, load_processor
    from whisper_recipe.text.additions import added_pieces
    from whisper_recipe.text.vocabulary import token_bytes

    needed("onnx", "sherpa")
    require(model, "train or merge it first (stages 4 and 5)")
    loaded, tokenizer = load_model(model), load_processor(model).tokenizer
    if added_pieces(tokenizer):
        what = "sherpa-onnx can't use this model: pieces of text were added to its vocabulary after the time tokens"
        raise RecipeError(what, where=model, cure="export it --to ct2 or hf")
    complete_generation_config(loaded, tokenizer)
    with atomic_write(out) as aside:
        aside.mkdir()
        encoder, decoder = files(aside, quantization)
        _encoder(loaded, quantization).save(encoder, _metadata(loaded, tokenizer))
        _decoder(loaded, quantization).save(decoder)
        # A lone = is the empty token, as in OpenAI's own list.
        names = (base64.b64encode(token).decode() or "=" for token in token_bytes(tokenizer))
        (aside / TOKENS).write_text("".join(f"{name} {index}\n" for index, name in enumerate(names)))


def _metadata(model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer) -> dict[str, object]:
    from whisper_recipe.model.openai import openai_dims
    from whisper_recipe.text.prompt import no_speech_id
    from whisper_recipe.text.tokenizer import END_OF_TEXT, NO_TIMESTAMPS, START_OF_PREVIOUS, START_OF_TRANSCRIPT

    generation, ids = model.generation_config, tokenizer.convert_tokens_to_ids
    languages = getattr(generation, "lang_to_id", None) or {}
    start, transcribe = ids(START_OF_TRANSCRIPT), ids("<|transcribe|>")
    # The language in the middle is replaced by the requested one.
    prompt = [start, next(iter(languages.values())), transcribe] if languages else [start]
    return {
        "model_type": "whisper",
        "version": "1",
        **openai_dims(model, model.config.vocab_size),
        "sot_sequence": _listed(prompt),
        "all_language_tokens": _listed(languages.values()),
        "all_language_codes": _listed(token.strip("<|>") for token in languages),
        "sot": start,
        "sot_index": 0,
        "eot": ids(END_OF_TEXT),
        "blank_id": tokenizer(" ", add_special_tokens=False).input_ids[0],
        "is_multilingual": int(bool(languages)),
        "no_speech": no_speech_id(tokenizer),
        "non_speech_tokens": _listed(generation.suppress_tokens),
        "transcribe": transcribe,
        "translate": ids("<|translate|>"),
        "sot_prev": ids(START_OF_PREVIOUS),
        "sot_lm": ids("<|startoflm|>"),
        "no_timestamps": ids(NO_TIMESTAMPS),
    }


def _listed(values: object) -> str:
    return ",".join(map(str, values))


def _encoder(model: WhisperForConditionalGeneration, quantization: str) -> Graph:
    """Return the encoder, which outputs cross-attention keys and values, (layers, batch, positions, width)."""
    from whisper_recipe.export.onnx_graph import Graph

    config = model.config
    graph = Graph(model.model.state_dict(), quantization)
    hidden = graph.encoder(graph.input("mel", ["n_audio", config.num_mel_bins, "T"]), config)
    for part in ("k", "v"):
        layers = range(config.decoder_layers)
        values = [graph.linear(hidden, f"decoder.layers.{number}.encoder_attn.{part}_proj") for number in layers]
        shape = [config.decoder_layers, "n_audio", "T_out", config.d_model]
        graph.output(_stacked(graph, values), f"n_layer_cross_{part}", shape)
    return graph


def _decoder(model: WhisperForConditionalGeneration, quantization: str) -> Graph:
    """Return the decoder; its cache has room for all positions from the start, and `offset` of them are filled."""
    from whisper_recipe.export.onnx_graph import END, Graph

    config = model.config
    graph, heads = Graph(model.model.state_dict(), quantization), config.decoder_attention_heads
    shape = [config.decoder_layers, "n_audio", config.max_target_positions, config.d_model]
    cross_shape = [config.decoder_layers, "n_audio", "T", config.d_model]
    tokens = graph.input("tokens", ["n_audio", "n_tokens"], np.int64)
    caches = [graph.input(f"in_n_layer_self_{part}_cache", shape) for part in ("k", "v")]
    crosses = [graph.input(f"n_layer_cross_{part}", cross_shape) for part in ("k", "v")]
    offset = graph.input("offset", [1], np.int64)
    begin, end = graph.constant([0]), graph.op("Add", offset, graph.size(tokens, 1))
    filled: list[list[str]] = [[], []]  # keys and values of each layer, then the unused positions

    def cached(number: int, *new: str) -> tuple[str, ...]:
        own = []
        for part, (cache, value) in enumerate(zip(caches, new, strict=True)):
            layer = graph.op("Gather", cache, graph.constant(number), axis=0)
            values = graph.op("Concat", graph.slice(layer, begin, offset, 1), value, axis=1)
            rest = graph.slice(layer, end, graph.constant([END]), 1)
            filled[part].append(graph.op("Concat", values, rest, axis=1))
            own.append(graph.split_heads(values, heads))
        cross = (graph.op("Gather", values, graph.constant(number), axis=0) for values in crosses)
        return (*own, *(graph.split_heads(values, heads) for values in cross))

    logits = graph.decoder(tokens, offset, config, cached)
    graph.output(logits, "logits", ["n_audio", "n_tokens", config.vocab_size])
    for part, values in zip(("k", "v"), filled, strict=True):
        graph.output(_stacked(graph, values), f"out_n_layer_self_{part}_cache", shape)
    return graph


def _stacked(graph: Graph, values: list[str]) -> str:
    first = graph.constant([0])
    return graph.op("Concat", *(graph.op("Unsqueeze", value, first) for value in values), axis=0)


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    from whisper_recipe.model.load import natural_length

    length = NATURAL if natural_length(model) else PADDED
    encoder, decoder = files(Path(), quantization)
    return EXAMPLE.format(
        encoder=encoder,
        decoder=decoder,
        tokens=TOKENS,
        arguments="".join(f", {key}={value!r}" for key, value in asked.items()),
        length=length.format(paddings=NO_PADDING, seconds=MOST_SECONDS),
    )


def load(folder: Path, natural_length: bool) -> Transcriber:
    """Load an export with sherpa-onnx; see target.Target. A recognizer has one language and task."""
    import functools

    import torch

    from whisper_recipe.data.audio import SAMPLING_RATE

    sherpa_onnx = needed("sherpa_onnx", "sherpa")
    paths = next(paths for kind in TYPES if (paths := files(folder, kind))[0].exists())

    @functools.cache
    def recognizer(language: str, task: str):
        return sherpa_onnx.OfflineRecognizer.from_whisper(
            *map(str, paths),
            str(folder / TOKENS),
            language=language,
            task=task,
            num_threads=torch.get_num_threads(),
            tail_paddings=NO_PADDING,
        )

    def transcribe(samples: np.ndarray, language: str, task: str) -> str:
        if not natural_length:
            room = int(MOST_SECONDS * SAMPLING_RATE)
            samples = np.pad(samples, (0, max(room - len(samples), 0)))
        chosen = recognizer(language, task)
        stream = chosen.create_stream()
        stream.accept_waveform(SAMPLING_RATE, samples)
        chosen.decode_stream(stream)
        return stream.result.text

    return transcribe
