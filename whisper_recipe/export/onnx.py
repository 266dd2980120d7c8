"""Export to ONNX in the layout of optimum and transformers.js: an encoder for any length, a decoder with cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_recipe.export.hf import write_for_version_4
from whisper_recipe.export.target import Transcriber, needed
from whisper_recipe.files import atomic_write, require

if TYPE_CHECKING:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from whisper_recipe.export.onnx_graph import Graph

TYPES = {"float32": "", "float16": "_fp16", "int8": "_quantized"}  # -> transformers.js's file name suffix
DTYPES = {"float32": "fp32", "float16": "fp16", "int8": "q8"}  # -> transformers.js's name
PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")  # of a layer's cache

EXAMPLE = """\
With [transformers.js](https://huggingface.co/docs/transformers.js) (`npm install @huggingface/transformers`), in
Node or a browser:

```js
import {{ pipeline }} from "@huggingface/transformers";

const recognize = await pipeline("automatic-speech-recognition", "path/of/this/folder", {{ dtype: "{dtype}" }});
console.log((await recognize(audio{arguments})).text);  // audio: Float32Array at 16 kHz
```

With [optimum-onnx](https://huggingface.co/docs/optimum-onnx) (`pip install "optimum-onnx[onnxruntime]"`):

```python
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
from transformers import WhisperProcessor, pipeline

model = ORTModelForSpeechSeq2Seq.from_pretrained("path/of/this/folder", subfolder="onnx")
processor = WhisperProcessor.from_pretrained("path/of/this/folder")
parts = {{"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}}
recognize = pipeline("automatic-speech-recognition", model=model, **parts)
print(recognize("audio.wav"{keywords})["text"])
```

The files accept inputs of any length up to 30 s, but both programs pad to 30 s."""


def files(folder: Path, quantization: str) -> tuple[Path, Path]:
    """Return the encoder and decoder files of an export."""
    names = f"encoder_model{TYPES[quantization]}.onnx", f"decoder_model_merged{TYPES[quantization]}.onnx"
    return folder / "onnx" / names[0], folder / "onnx" / names[1]


def export(model: Path, out: Path, quantization: str = "float32") -> None:
    """Write a Whisper folder as ONNX files, with the tokenizer and configurations next to them.

    Args:
        model: a Hugging Face Whisper folder.
        out: the folder to write. File names differ by type, so several types can share a folder.
        quantization: type of the stored weights: float32, float16 (for GPUs and WebGPU), or int8 matrices.

    Raises:
        RecipeError: the folder is not a complete Whisper model, or the package onnx is missing.
    """
    from whisper_recipe.model.generation import complete_generation_config
    from whisper_recipe.model.load import load_model, load_processor

    needed("onnx", "onnx")
    require(model, "train or merge it first (stages 4 and 5)")
    loaded, processor = load_model(model), load_processor(model)
    complete_generation_config(loaded, processor.tokenizer)
    with atomic_write(out) as aside:
        encoder, decoder = files(aside, quantization)
        encoder.parent.mkdir(parents=True)
        for part in (processor, processor.feature_extractor, loaded.config, loaded.generation_config):
            part.save_pretrained(aside)
        write_for_version_4(aside, processor.tokenizer)
        _encoder(loaded, quantization).save(encoder)
        _decoder(loaded, quantization).save(decoder)
        # transformers.js must be told about external weight files and their number.
        if aside_files := {path.name: 1 for path in (encoder, decoder) if Path(f"{path}_data").exists()}:
            loaded.config.update({"transformers.js_config": {"use_external_data_format": aside_files}})
            loaded.config.save_pretrained(aside)


def _encoder(model: WhisperForConditionalGeneration, quantization: str) -> Graph:
    from whisper_recipe.export.onnx_graph import Graph

    config = model.config
    graph = Graph(model.model.state_dict(), quantization)
    features = graph.input("input_features", ["batch_size", config.num_mel_bins, "frames"])
    shape = ["batch_size", "encoder_sequence_length", config.d_model]
    graph.output(graph.encoder(features, config), "last_hidden_state", shape)
    return graph


def _decoder(model: WhisperForConditionalGeneration, quantization: str) -> Graph:
    """Return the decoder with two branches that share weights: without and with a cache.

    The names are optimum's. With a cache, the given cross-attention keys and values are used, and the outputs are
    empty: both programs keep the first ones.
    """
    from whisper_recipe.export.onnx_graph import Graph

    config = model.config
    graph, heads = Graph(model.model.state_dict(), quantization), config.decoder_attention_heads
    names = [f"{number}.{part}" for number in range(config.decoder_layers) for part in PARTS]
    ids = graph.input("input_ids", ["batch_size", "decoder_sequence_length"], np.int64)
    hidden = graph.input("encoder_hidden_states", ["batch_size", "encoder_sequence_length", config.d_model])
    past = {name: graph.input(f"past_key_values.{name}", _cache_shape(config, name, "past_")) for name in names}
    use_cache = graph.input("use_cache_branch", [1], np.bool_)

    def begin() -> list[str]:
        present: list[str] = []

        def cached(number: int, *new: str) -> tuple[str, ...]:
            name = f"decoder.layers.{number}.encoder_attn"
            cross = (graph.linear(hidden, f"{name}.{part}_proj") for part in ("k", "v"))
            present.extend(graph.split_heads(value, heads) for value in (*new, *cross))
            return tuple(present[-4:])

        return [graph.decoder(ids, graph.constant([0]), config, cached), *present]

    def resume() -> list[str]:
        present: list[str] = []

        def cached(number: int, *new: str) -> tuple[str, ...]:
            own = [past[f"{number}.{part}"] for part in PARTS[:2]]
            cross = [past[f"{number}.{part}"] for part in PARTS[2:]]
            own = [
                graph.op("Concat", before, graph.split_heads(value, heads), axis=2)
                for before, value in zip(own, new, strict=True)
            ]
            none = graph.constant([0])
            present.extend([*own, *(graph.slice(value, none, none, 2) for value in cross)])
            return (*own, *cross)

        return [graph.decoder(ids, graph.size(past[names[0]], 2), config, cached), *present]

    logits, *present = graph.branch(use_cache, resume, begin)
    graph.output(logits, "logits", ["batch_size", "decoder_sequence_length", config.vocab_size])
    for name, value in zip(names, present, strict=True):
        graph.output(value, f"present.{name}", _cache_shape(config, name, ""))
    return graph


def _cache_shape(config: WhisperConfig, name: str, when: str) -> list[int | str]:
    positions = f"{when}decoder_sequence_length_in_cache" if "decoder" in name else "encoder_sequence_length_out"
    heads = config.decoder_attention_heads
    return ["batch_size", heads, positions, config.d_model // heads]


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    arguments = ", ".join(f'{key}: "{value}"' for key, value in asked.items())
    return EXAMPLE.format(
        dtype=DTYPES[quantization],
        arguments=f", {{ {arguments} }}" if asked else "",
        keywords=f", generate_kwargs={asked}" if asked else "",
    )


def load(folder: Path, natural_length: bool) -> Transcriber:
    """Load an export with ONNX Runtime, which optimum and transformers.js use; see target.Target."""
    from whisper_recipe.data.features import log_mel
    from whisper_recipe.data.input_length import InputLength
    from whisper_recipe.decoding.search import SearchOptions
    from whisper_recipe.files import read_json
    from whisper_recipe.model.load import load_processor
    from whisper_recipe.text.prompt import prompt_ids
    from whisper_recipe.text.tokenizer import END_OF_TEXT, decode_text

    sessions = Sessions(folder)
    processor = load_processor(folder)
    tokenizer, bins = processor.tokenizer, processor.feature_extractor.feature_size
    generation = read_json(folder / "generation_config.json")
    suppressed, begin = generation["suppress_tokens"], generation["begin_suppress_tokens"]
    end, length = tokenizer.convert_tokens_to_ids(END_OF_TEXT), InputLength(pad_to_30s=not natural_length)

    def transcribe(samples: np.ndarray, language: str, task: str) -> str:
        features = length.collate([log_mel(samples, bins)]).numpy()
        step = sessions.start(features)
        logits = step(prompt_ids(tokenizer, language, task))
        logits[begin] = -np.inf
        ids: list[int] = []
        while len(ids) < SearchOptions.max_new_tokens:
            logits[suppressed] = -np.inf
            best = int(logits.argmax())
            if best == end:
                break
            ids.append(best)
            logits = step([best])
        return decode_text(tokenizer, ids)

    return transcribe


class Sessions:
    """ONNX Runtime's sessions of an exported folder.

    Args:
        folder: an exported folder with files of one type.
    """

    def __init__(self, folder: Path) -> None:
        import torch

        runtime = needed("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        chosen = next(paths for kind in TYPES if (paths := files(folder, kind))[0].exists())
        self.encoder, self.decoder = (
            runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in chosen
        )
        self.cache = {value.name: value.shape for value in self.decoder.get_inputs() if "past_" in value.name}

    def start(self, features: np.ndarray):
        """Encode features (1, mel bins, frames); return a function from ids to the logits after the last one."""
        (hidden,) = self.encoder.run(None, {"input_features": features})
        cache = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.cache.items()}
        used = False

        def step(ids: list[int]) -> np.ndarray:
            nonlocal used
            inputs = {
                "input_ids": np.array([ids]),
                "encoder_hidden_states": hidden,
                "use_cache_branch": np.array([used]),
            }
            kept = [name for name in cache if not used or "decoder" in name]
            outputs = ["logits", *(name.replace("past_key_values", "present") for name in kept)]
            logits, *values = self.decoder.run(outputs, inputs | cache | {"use_cache_branch": np.array([used])})
            cache.update(zip(kept, values, strict=True))
            used = True
            return logits[0, -1]

        return step
