"""Export to whisper.cpp's file format, which includes the vocabulary and the mel filters."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.target import Transcriber, needed, openai_tokens
from whisper_recipe.files import atomic_write, require

if TYPE_CHECKING:
    import torch

MAGIC = 0x67676D6C  # "ggml"
QUANTIZATION_VERSION = 2000  # GGML_QNT_VERSION * GGML_QNT_VERSION_FACTOR of ggml.h
F32, F16 = 0, 1  # ggml_type
DTYPES = {F32: np.float32, F16: np.float16}
# OpenAI's ModelDimensions, in the order of whisper.cpp's header.
HEADER = ("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
          "n_text_head", "n_text_layer", "n_mels")  # fmt: skip
POSITIONS = ("encoder.positional_embedding", "decoder.positional_embedding")  # matrices that stay in float32
POSITIONS_PER_SECOND = 50  # of the encoder: one per two frames of 10 ms
# https://github.com/ggml-org/whisper.cpp/issues/2557; later sources accept float32 convolution kernels.
F32_ABORTS = "whisper.cpp's releases up to 1.8.5 abort on f32 files on a CPU; f16 files work everywhere"

EXAMPLE = """\
```bash
whisper-cli --model path/of/this/folder/{weights} --file audio.wav {arguments}
```"""
NATURAL = """

This model was trained on inputs at natural length: set `--audio-ctx` to {rate} for each second of audio, rounded up
(`{five}` for 5 s; the maximum is 1500 for 30 s), and decode one utterance at a time. Also set `--no-flash-attn`: with
flash attention, whisper.cpp 1.8.5 pads the audio's keys to a multiple of 256 and attends to the padding."""


class Type(NamedTuple):
    """How matrices are stored: the file's ggml_ftype and the matrices' ggml_type, of ggml.h."""

    file: int
    matrix: int


TYPES = {
    "f16": Type(1, F16),
    "f32": Type(0, F32),
    "q8_0": Type(QUANTIZATION_VERSION + 7, 8),
    "q5_0": Type(QUANTIZATION_VERSION + 8, 6),
    "q5_1": Type(QUANTIZATION_VERSION + 9, 7),
}


def weights_file(quantization: str) -> str:
    """Return the name of the file in an export."""
    return f"ggml-model-{quantization}.bin"


def export(model: Path, out: Path, quantization: str = "f16") -> None:
    """Write a Whisper folder as a whisper.cpp file.

    The format is that of whisper.cpp's models/convert-pt-to-ggml.py and examples/quantize.

    Args:
        model: a Hugging Face Whisper folder, of any size, multilingual or not.
        out: the folder to write; the file in it is ggml-model-<type>.bin.
        quantization: type of the stored matrices: f32, f16, q8_0, q5_0 or q5_1.

    Raises:
        RecipeError: the folder is not a complete Whisper model, whisper.cpp can't use its vocabulary, or the package
            gguf, which the quantised types need, is missing.
    """
    from whisper_recipe.data.features import mel_filters
    from whisper_recipe.model.load import load_model, load_processor, natural_length
    from whisper_recipe.model.openai import openai_dims, openai_weights
    from whisper_recipe.text.vocabulary import token_bytes

    require(model, "train or merge it first (stages 4 and 5)")
    tokenizer = load_processor(model).tokenizer
    tokens = openai_tokens(tokenizer, model, "whisper.cpp")
    pack = _packer(quantization)
    loaded = load_model(model)
    dims = openai_dims(loaded, tokens)
    with atomic_write(out) as aside:
        aside.mkdir()
        with open(aside / weights_file(quantization), "wb") as file:
            header = [dims[name] for name in HEADER]
            file.write(struct.pack("12i", MAGIC, *header, TYPES[quantization].file))
            filters = mel_filters(dims["n_mels"]).numpy()
            file.write(struct.pack("2i", *filters.shape) + filters.tobytes())
            text = token_bytes(tokenizer)  # whisper.cpp names the others itself
            file.write(struct.pack("i", len(text)))
            for token in text:
                file.write(struct.pack("i", len(token)) + token)
            for name, weight in openai_weights(loaded, tokens).items():
                _write_tensor(file, name, weight, pack, TYPES[quantization].matrix)
    if quantization == "f32":
        print(f"{out}: {F32_ABORTS}")
    if natural_length(model):
        print(f"{out}: natural length: set --no-flash-attn and --audio-ctx {POSITIONS_PER_SECOND} per second of audio")


def _packer(quantization: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that converts a float32 matrix to the stored type."""
    if TYPES[quantization].matrix in (F32, F16):
        return lambda matrix: matrix.astype(DTYPES[TYPES[quantization].matrix])
    gguf = needed("gguf", "ggml")
    kind = gguf.GGMLQuantizationType(TYPES[quantization].matrix)
    return lambda matrix: gguf.quants.quantize(matrix, kind)


def _write_tensor(
    file: BinaryIO, name: str, weight: torch.Tensor, pack: Callable[[np.ndarray], np.ndarray], kind: int
) -> None:
    """Write a tensor: number of dimensions, length of its name, type, dimensions from the innermost, name, data.

    Types are as whisper.cpp expects them: vectors and positions in float32, matrices as requested, convolution kernels
    in float16 unless the matrices are in float32.
    """
    values = weight.float().numpy()
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        values = values[:, None]
        kind, data = F32, values
    elif values.ndim == 1 or name in POSITIONS:
        kind, data = F32, values
    elif values.ndim == 3:
        kind = min(kind, F16)
        data = values.astype(DTYPES[kind])
    else:
        data = pack(values)
    encoded = name.encode()
    file.write(struct.pack("3i", values.ndim, len(encoded), kind))
    file.write(struct.pack(f"{values.ndim}i", *reversed(values.shape)) + encoded + data.tobytes())


def use(model: Path, quantization: str, asked: dict[str, str]) -> str:
    """Return the model card's example; see target.Target."""
    from whisper_recipe.model.load import natural_length, timestamps

    options = [f"--language {asked['language']}"] if "language" in asked else []
    options += ["--translate"] if asked.get("task") == "translate" else []
    options += [] if timestamps(model) else ["--no-timestamps"]
    example = EXAMPLE.format(weights=weights_file(quantization), arguments=" ".join(options))
    if not natural_length(model):
        return example
    return example + NATURAL.format(rate=POSITIONS_PER_SECOND, five=5 * POSITIONS_PER_SECOND)


def load(folder: Path, natural_length: bool) -> Transcriber:
    """Load an export with whisper.cpp, with greedy search like `whisper-recipe decode`; see target.Target.

    Raises:
        RecipeError: pywhispercpp is not installed, or would abort on the file.
    """
    import torch

    from whisper_recipe.data.features import num_frames

    needed("pywhispercpp", "ggml")
    from pywhispercpp.model import Model

    (weights,) = folder.glob(weights_file("*"))
    if weights.name == weights_file("f32"):
        raise RecipeError(F32_ABORTS, where=weights.name, cure="verify f16")
    model = Model(
        str(weights),
        redirect_whispercpp_logs_to=None,
        # It attends to the padding of the keys (src/whisper.cpp, n_audio_ctx_pad), which is small with 1500 keys.
        context_params={"flash_attn": not natural_length},
        n_threads=torch.get_num_threads(),
        print_progress=False,
        no_timestamps=True,
        single_segment=True,
        suppress_nst=True,
        temperature_inc=0.0,
        greedy={"best_of": 1},
    )

    def transcribe(samples: np.ndarray, language: str, task: str) -> str:
        context = -(-num_frames(len(samples)) // 2) if natural_length else 0
        segments = model.transcribe(samples, language=language, translate=task == "translate", audio_ctx=context)
        return "".join(segment.text for segment in segments)

    return transcribe
