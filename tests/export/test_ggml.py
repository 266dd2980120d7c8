"""Export to whisper.cpp: the file is read back here by its documented layout, and by whisper.cpp itself."""

import ctypes
import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from tests.conftest import make_model
from whisper_recipe.errors import RecipeError
from whisper_recipe.export import ggml
from whisper_recipe.export.export import TARGETS, export
from whisper_recipe.export.verify import draw_sample, recognize
from whisper_recipe.files import read_jsonl, write_jsonl

SIZES = {"state": 32, "head": 2, "layer": 2}
HEADER = ("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
          "n_text_head", "n_text_layer", "n_mels", "ftype")  # fmt: skip


def q8_0(data: bytes) -> np.ndarray:
    """Blocks of 32 values: a scale in float16, 32 signed bytes (ggml-common.h, block_q8_0)."""
    blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", 32)]))
    return blocks["d"][:, None].astype("f4") * blocks["q"]


def fives(blocks: np.ndarray) -> np.ndarray:
    """The 5-bit numbers of blocks: low halves of 16 bytes, their high halves, and a bit for each in `h`."""
    low = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1).astype("i4")
    high = (blocks["h"].view("<u4")[:, None] >> np.arange(32, dtype="u4")) & 1
    return low | (high << 4).astype("i4")


def q5_0(data: bytes) -> np.ndarray:
    blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("h", "<u4"), ("q", "u1", 16)]))
    return blocks["d"][:, None].astype("f4") * (fives(blocks) - 16)


def q5_1(data: bytes) -> np.ndarray:
    blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("m", "<f2"), ("h", "<u4"), ("q", "u1", 16)]))
    return blocks["d"][:, None].astype("f4") * fives(blocks) + blocks["m"][:, None].astype("f4")


# ggml_type -> bytes of 32 values, and what reads them.
READERS = {
    0: (128, lambda data: np.frombuffer(data, "<f4")),
    1: (64, lambda data: np.frombuffer(data, "<f2").astype("f4")),
    8: (34, q8_0),
    6: (22, q5_0),
    7: (24, q5_1),
}


def ints(file: BinaryIO, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", file.read(4 * count))


def read(path: Path) -> tuple[dict, np.ndarray, list[bytes], dict[str, tuple[int, np.ndarray]]]:
    """Return header, mel filters, vocabulary, and name -> (ggml_type, values) of whisper.cpp's file."""
    tensors = {}
    with open(path, "rb") as file:
        assert ints(file, 1) == (0x67676D6C,)
        header = dict(zip(HEADER, ints(file, 11), strict=True))
        shape = ints(file, 2)
        filters = np.frombuffer(file.read(4 * shape[0] * shape[1]), "<f4").reshape(shape)
        vocabulary = [file.read(ints(file, 1)[0]) for _ in range(ints(file, 1)[0])]
        while start := file.read(12):
            dimensions, length, kind = struct.unpack("<3i", start)
            shape = ints(file, dimensions)[::-1]
            name = file.read(length).decode()
            size, values = READERS[kind]
            tensors[name] = (kind, values(file.read(int(np.prod(shape)) * size // 32)).reshape(shape))
    return header, filters, vocabulary, tensors


@pytest.fixture(scope="module", params=["f32", "f16", "q8_0", "q5_0", "q5_1"])
def exported(request, full_vocabulary_model, tmp_path_factory):
    if request.param.startswith("q"):
        pytest.importorskip("gguf", reason="gguf is not installed: pip install '.[ggml]'")
    out = tmp_path_factory.mktemp("ggml") / "out"
    ggml.export(full_vocabulary_model, out, request.param)
    return request.param, read(out / f"ggml-model-{request.param}.bin")


def test_header_filters_and_vocabulary_are_the_model_s(exported, full_vocabulary_model):
    kind, (header, filters, vocabulary, _) = exported
    sizes = {"n_vocab": 51865, "n_audio_ctx": 1500, "n_text_ctx": 448, "n_mels": 80}
    sizes |= {f"n_{side}_{size}": count for side in ("audio", "text") for size, count in SIZES.items()}
    assert header == sizes | {"ftype": {"f32": 0, "f16": 1, "q8_0": 2007, "q5_0": 2008, "q5_1": 2009}[kind]}
    np.testing.assert_allclose(filters, WhisperFeatureExtractor().mel_filters.T, atol=1e-6)
    tokenizer = WhisperTokenizer.from_pretrained(full_vocabulary_model)
    assert len(vocabulary) == 50257 and vocabulary[50256] == b""
    for text in ("ahoj, světe", "你好 world"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert b"".join(vocabulary[index] for index in ids).decode() == text


def test_tensors_are_the_model_s_as_near_as_their_type_can_be(exported, full_vocabulary_model):
    kind, (_, _, _, tensors) = exported
    state = WhisperForConditionalGeneration.from_pretrained(full_vocabulary_model, dtype=torch.float32).state_dict()
    # Names by whisper.cpp's models/convert-h5-to-ggml.py.
    pairs = {
        "encoder.conv2.weight": "model.encoder.conv2.weight",
        "encoder.conv1.bias": "model.encoder.conv1.bias",
        "encoder.positional_embedding": "model.encoder.embed_positions.weight",
        "encoder.ln_post.weight": "model.encoder.layer_norm.weight",
        "encoder.blocks.1.attn.query.weight": "model.encoder.layers.1.self_attn.q_proj.weight",
        "encoder.blocks.0.mlp_ln.bias": "model.encoder.layers.0.final_layer_norm.bias",
        "decoder.token_embedding.weight": "model.decoder.embed_tokens.weight",
        "decoder.positional_embedding": "model.decoder.embed_positions.weight",
        "decoder.blocks.0.cross_attn.value.weight": "model.decoder.layers.0.encoder_attn.v_proj.weight",
        "decoder.blocks.1.cross_attn_ln.weight": "model.decoder.layers.1.encoder_attn_layer_norm.weight",
        "decoder.blocks.1.mlp.2.weight": "model.decoder.layers.1.fc2.weight",
        "decoder.ln.bias": "model.decoder.layer_norm.bias",
    }
    assert len(tensors) == len(state) - 1  # proj_out is the embedding
    bits = {"f32": 24, "f16": 11, "q8_0": 8, "q5_0": 5, "q5_1": 5}[kind]
    for name, source in pairs.items():
        stored, values = tensors[name]
        expected = state[source].numpy().reshape(values.shape)
        plain = values.ndim == 1 or "positional" in name or name == "encoder.conv1.bias"
        assert stored == (0 if plain else min(TYPES[kind], 1) if values.ndim == 3 else TYPES[kind])
        steps = 24 if plain else 11 if values.ndim == 3 and kind != "f32" else bits
        np.testing.assert_allclose(values, expected, rtol=0, atol=np.abs(expected).max() * 2.0 ** (2 - steps))


TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q5_0": 6, "q5_1": 7}


@pytest.mark.parametrize("kind", ["q8_0", "q5_0", "q5_1"])
def test_blocks_are_those_of_whisper_cpp_s_own_quantize(kind):
    """Its examples/common-ggml.cpp calls ggml_quantize_chunk, which pywhispercpp's wheel has, without weights."""
    pytest.importorskip("gguf", reason="gguf is not installed: pip install '.[ggml]'")
    package = pytest.importorskip("_pywhispercpp", reason="pywhispercpp is not installed: pip install '.[ggml]'")
    (library,) = Path(package.__file__).parent.glob("pywhispercpp.libs/libggml-base*")
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    quantize.restype = ctypes.c_size_t
    matrix = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    matrix[0, :32] = 0
    matrix[1] *= 1e-7  # scales below float16's normal numbers
    matrix[2] = np.tile([-3, 3, 1.5, 0.5], 24)  # ties
    matrix[3] = np.abs(matrix[3])
    expected = np.zeros(matrix.size * READERS[TYPES[kind]][0] // 32, np.uint8)
    size = quantize(TYPES[kind], matrix.ctypes.data, expected.ctypes.data, 0, *matrix.shape, None)
    assert size == len(expected)
    assert ggml._packer(kind)(matrix).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_whisper_cpp_writes_at_natural_length_what_the_model_does(full_vocabulary_model, corpus, tmp_path, capsys):
    pytest.importorskip("pywhispercpp", reason="pywhispercpp is not installed: pip install '.[ggml]'")
    natural = shutil.copytree(full_vocabulary_model, tmp_path / "exp/model")
    (natural / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    export(natural, tmp_path / "out", "ggml", "f16")
    assert "--audio-ctx 50 per second" in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert "--audio-ctx` to 50 for each second" in card and "--no-timestamps" in card
    cuts = tmp_path / "cuts.jsonl.gz"
    write_jsonl(cuts, draw_sample(corpus, 1))
    recognize(natural, None, cuts, tmp_path / "ours", pad_to_30s=False, one_by_one=True)
    recognize(tmp_path / "out", TARGETS["ggml"], cuts, tmp_path / "theirs", pad_to_30s=False)
    texts = [[row["text"] for _, row in read_jsonl(tmp_path / side / "hyp.jsonl")] for side in ("ours", "theirs")]
    # Random weights are as good as undecided at times, and from there on the texts are others.
    assert os.path.commonprefix([text for (text,) in texts]).count("<unused") >= 5


# whisper.cpp takes a model as English-only, or as large-v3's, by its number of tokens.
@pytest.mark.parametrize(("tokens", "text_tokens", "bins"), [(51864, 50256, 80), (51866, 50257, 128)])
def test_english_only_models_and_those_like_turbo(transcripts, tmp_path, tokens, text_tokens, bins):
    model = make_model(tmp_path / "model", transcripts, vocab_size=tokens, num_mel_bins=bins, decoder_layers=1)
    ggml.export(model, tmp_path / "out")
    header, filters, vocabulary, tensors = read(tmp_path / "out/ggml-model-f16.bin")
    assert (header["n_vocab"], header["n_mels"], len(vocabulary)) == (tokens, bins, text_tokens)
    assert (header["n_audio_layer"], header["n_text_layer"]) == (2, 1)
    assert (filters.shape, tensors["encoder.conv1.weight"][1].shape) == ((bins, 201), (32, bins, 3))


def test_a_small_vocabulary_is_refused_with_the_reason(tiny_model, tmp_path):
    with pytest.raises(RecipeError, match=r"whisper.cpp can't use this model.* must be OpenAI's \(51864, 51865, 51866"):
        export(tiny_model, tmp_path / "out", "ggml")
    assert not (tmp_path / "out").exists()
