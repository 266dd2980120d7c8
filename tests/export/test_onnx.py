"""Export to ONNX: ONNX Runtime computes what transformers does, with and without the cache, at any length."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from whisper_recipe.data.features import collate_fbank, log_mel
from whisper_recipe.errors import RecipeError
from whisper_recipe.export import onnx, onnx_graph, sherpa_onnx, target
from whisper_recipe.export.export import export
from whisper_recipe.model.load import load_model, load_processor
from whisper_recipe.text.prompt import prompt_ids
from whisper_recipe.text.vocabulary import token_bytes

IDS = [3, 5, 9, 12, 7, 300]
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": 0.3}  # the logits' standard deviation is 1


@pytest.fixture(scope="module", autouse=True)
def package():
    return pytest.importorskip("onnx", reason="onnx is not installed: pip install '.[onnx]'")


@pytest.fixture(scope="module", params=TOLERANCES)
def exported(request, tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / request.param
    onnx.export(tiny_model, out, request.param)
    return request.param, out


@pytest.fixture(scope="module", params=[77, 400, 3000])
def expected(request, tiny_model):
    """Features of some frames, and transformers' logits after each of the ids."""
    features = torch.randn(1, 80, request.param, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = load_model(tiny_model).eval()(features, decoder_input_ids=torch.tensor([IDS])).logits[0]
    assert logits.std() > 0.5
    return features.numpy(), logits.numpy()


def test_logits_are_transformers_own_with_and_without_the_cache(exported, expected):
    kind, folder = exported
    features, logits = expected
    step = onnx.Sessions(folder).start(features)
    for begin, end in ((0, 3), (3, 4), (4, 6)):
        assert np.abs(step(IDS[begin:end]) - logits[end - 1]).max() < TOLERANCES[kind]


def test_names_and_files_are_those_of_optimum_and_transformers_js(exported, tiny_model):
    kind, folder = exported
    suffix = {"float32": "", "float16": "_fp16", "int8": "_quantized"}[kind]
    names = {f"encoder_model{suffix}.onnx", f"decoder_model_merged{suffix}.onnx"}
    assert {path.name for path in (folder / "onnx").iterdir()} == names
    for name in ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"):
        assert (folder / name).exists()
    sessions = onnx.Sessions(folder)
    assert [value.name for value in sessions.encoder.get_inputs()] == ["input_features"]
    assert [value.name for value in sessions.encoder.get_outputs()] == ["last_hidden_state"]
    cache = [
        f"{layer}.{side}.{part}" for layer in (0, 1) for side in ("decoder", "encoder") for part in ("key", "value")
    ]
    inputs = {"input_ids", "encoder_hidden_states", "use_cache_branch", *(f"past_key_values.{name}" for name in cache)}
    assert {value.name for value in sessions.decoder.get_inputs()} == inputs
    outputs = ["logits", *(f"present.{name}" for name in cache)]
    assert [value.name for value in sessions.decoder.get_outputs()] == outputs


def test_int8_is_about_a_quarter_of_float32(full_vocabulary_model, tmp_path):
    sizes = []
    for kind in ("float32", "int8"):
        onnx.export(full_vocabulary_model, tmp_path / kind, kind)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / kind / "onnx").iterdir()))
    assert sizes[1] < 0.36 * sizes[0]  # its rows have 32 columns and a scale: 9/32, and the convolutions


def test_weights_beyond_protobuf_s_limit_stand_beside_the_graph(tiny_model, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "MAX_PROTOBUF", 100_000)
    onnx.export(tiny_model, tmp_path / "out")
    large = {"encoder_model.onnx", "decoder_model_merged.onnx"}
    assert {path.name for path in (tmp_path / "out/onnx").iterdir()} == large | {f"{name}_data" for name in large}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": dict.fromkeys(sorted(large)[::-1], 1)}
    features, logits = expected
    assert np.abs(onnx.Sessions(tmp_path / "out").start(features)(IDS) - logits[-1]).max() < 1e-4


@pytest.mark.slow
def test_text_is_the_model_s(natural_model, corpus, tmp_path, capsys):
    export(natural_model, tmp_path / "out", "onnx", verify=corpus, verify_utterances=2)
    assert "2 of 2 hypotheses (100.0%) equal the model's" in capsys.readouterr().out


def test_sherpa_onnx_s_graphs_compute_the_same(tiny_model, expected, tmp_path):
    import onnxruntime

    features, logits = expected
    sherpa_onnx.export(tiny_model, tmp_path / "out")
    encoder, decoder = (onnxruntime.InferenceSession(path) for path in sherpa_onnx.files(tmp_path / "out", "float32"))
    cross = encoder.run(None, {"mel": features})
    # Names, shapes and metadata by sherpa-onnx's csrc/offline-whisper-model.cc.
    caches = [np.zeros((2, 1, 448, 32), np.float32)] * 2
    for begin, end in ((0, 3), (3, 4), (4, 6)):
        names = ("tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache", "n_layer_cross_k", "n_layer_cross_v")
        values = [np.array([IDS[begin:end]]), *caches, *cross]
        inputs = dict(zip(names, values, strict=True)) | {"offset": np.array([begin])}
        found, *caches = decoder.run(None, inputs)
        assert np.abs(found[0, -1] - logits[end - 1]).max() < 1e-4


def test_sherpa_onnx_finds_its_metadata_and_tokens(openai_model, tmp_path):
    import onnxruntime

    whisper = pytest.importorskip("whisper.tokenizer", reason="openai-whisper is not installed")
    theirs = whisper.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    sherpa_onnx.export(openai_model, tmp_path / "out")
    found = onnxruntime.InferenceSession(tmp_path / "out/encoder.onnx").get_modelmeta().custom_metadata_map
    expected = {
        "sot_sequence": ",".join(map(str, theirs.sot_sequence)),
        "sot": theirs.sot, "eot": theirs.eot, "blank_id": theirs.encode(" ")[0], "is_multilingual": 1,
        "no_speech": theirs.no_speech, "transcribe": theirs.transcribe, "translate": theirs.translate,
        "sot_prev": theirs.sot_prev, "sot_lm": theirs.sot_lm, "no_timestamps": theirs.no_timestamps,
        "n_mels": 80, "n_vocab": 51865, "n_text_ctx": 448, "n_text_layer": 3, "n_text_state": 32,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == {key: str(value) for key, value in expected.items()}
    codes, tokens = (found[f"all_language_{kind}"].split(",") for kind in ("codes", "tokens"))
    pairs = zip(theirs.all_language_codes, map(str, theirs.all_language_tokens), strict=True)
    assert dict(zip(codes, tokens, strict=True)) == dict(pairs)
    rows = (tmp_path / "out/tokens.txt").read_text().splitlines()
    assert len(rows) == 50257 and rows[50256] == "= 50256"  # the last of openai/whisper's multilingual.tiktoken


@pytest.mark.slow
def test_sherpa_onnx_itself_writes_the_model_s_text(natural_model, tmp_path):
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed: pip install '.[sherpa]'")
    folder = shutil.copytree(natural_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    tokenizer = load_processor(folder).tokenizer
    tokens = token_bytes(tokenizer)
    # sherpa-onnx suppresses no tokens, and leaves out bytes that are no text: only letters can be the best here.
    letters = [index for index, token in enumerate(tokens) if token.strip().isalpha()]
    others = np.setdiff1d(np.arange(len(weights["model.decoder.embed_tokens.weight"])), letters)
    weights["model.decoder.embed_tokens.weight"][others] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    export(folder, tmp_path / "out", "sherpa-onnx")
    transcribe, model = sherpa_onnx.load(tmp_path / "out", natural_length=True), load_model(folder).eval()
    texts = set()
    for seed in range(3):
        samples = (np.random.default_rng(seed).standard_normal(32000) * 0.1).astype(np.float32)
        features = collate_fbank([log_mel(samples, 80)])
        ids = prompt_ids(tokenizer, "zh", "translate")
        with torch.no_grad():
            for _ in range(12):  # the most that sherpa-onnx writes for 2 s
                ids.append(int(model(features, decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        text = b"".join(tokens[index] for index in ids[4:]).decode()
        assert transcribe(samples, "zh", "translate") == text
        texts.add(text)
    assert len(texts) > 1


def test_a_missing_package_is_a_line_with_the_command(tiny_model, tmp_path, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(target.importlib, "import_module", missing)
    for to, extra in (("onnx", "onnx"), ("sherpa-onnx", "sherpa")):
        with pytest.raises(RecipeError, match=rf"onnx: .*No module named.*pip install '\.\[{extra}\]'"):
            export(tiny_model, tmp_path / "out", to)
        assert not (tmp_path / "out").exists()
