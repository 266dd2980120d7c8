"""CTranslate2 folders become Whisper folders, compared with what CTranslate2's own converter was given."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperTokenizer

from tests.conftest import make_model
from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import export
from whisper_recipe.model.import_weights import import_weights

TEXTS = [
    "Dobrý den, jak se máte? Příliš žluťoučký kůň",
    " it's 25 o'clock  and\n\nhe'll go\t!!",
    "三月五号星期一 😀 naïve",
]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def logits(folder):
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(3)
    mel = torch.randn((1, model.config.num_mel_bins, 3000), generator=generator)
    tokens = torch.randint(0, model.config.vocab_size, (1, 9), generator=generator)
    with torch.no_grad():
        return model(mel, decoder_input_ids=tokens).logits


@pytest.fixture(scope="module")
def model(tmp_path_factory, transcripts):
    """A Whisper with 128 bins and a decoder of one layer, with its biases and norms drawn at random too."""
    options = {"num_mel_bins": 128, "decoder_layers": 1, "attention_heads": 4}
    folder = make_model(tmp_path_factory.mktemp("import") / "model", transcripts, **options)
    whisper = WhisperForConditionalGeneration.from_pretrained(folder)
    torch.manual_seed(5)
    for name, parameter in whisper.named_parameters():
        if "embed_positions" not in name:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    whisper.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_what_was_exported_comes_back_bit_for_bit(kind, model, tmp_path):
    export(model, tmp_path / "ct2", kind)
    import_weights(tmp_path / "ct2", tmp_path / "back")
    kept = {name: weight.to(getattr(torch, kind)) for name, weight in weights_of(model).items()}
    found = weights_of(tmp_path / "back")
    assert found.keys() == kept.keys()
    for name, weight in kept.items():
        assert found[name].dtype == weight.dtype
        assert torch.equal(found[name], weight), name
    for name in ("num_mel_bins", "decoder_layers", "encoder_layers", "decoder_attention_heads", "encoder_ffn_dim"):
        configs = [json.loads((folder / "config.json").read_text()) for folder in (model, tmp_path / "back")]
        assert configs[0][name] == configs[1][name]
    if kind == "float32":
        torch.testing.assert_close(logits(tmp_path / "back"), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["int8", "int8_float16", "int8_bfloat16"])
def test_integers_come_back_within_half_a_step(kind, model, tmp_path, capsys):
    export(model, tmp_path / "ct2", kind)
    import_weights(tmp_path / "ct2", tmp_path / "back")
    assert "float32 (dequantised" in capsys.readouterr().out
    found = weights_of(tmp_path / "back")
    for name, weight in weights_of(model).items():
        assert found[name].dtype == torch.float32
        step = weight.flatten(1).abs().amax(1) / 127 if weight.dim() > 1 else weight.abs().max() / 127
        step = step.reshape(-1, *[1] * (weight.dim() - 1))
        assert ((found[name] - weight).abs() <= 0.51 * step + 1e-2 * weight.abs()).all(), name


def test_int16_is_read_too(model, tmp_path):
    from ctranslate2.converters import TransformersConverter

    copied = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
    TransformersConverter(str(model), copy_files=copied).convert(str(tmp_path / "ct2"), quantization="int16")
    import_weights(tmp_path / "ct2", tmp_path / "back")
    found, kept = weights_of(tmp_path / "back"), weights_of(model)
    step = max(weight.abs().max().item() for weight in kept.values()) / 1024  # a matrix has one scale
    for name, weight in kept.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0.51 * step)


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_the_tokenizer_is_built_from_the_vocabulary_alone(kind, tiny_model, tmp_path):
    export(tiny_model, tmp_path / "ct2", "float16")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / "ct2" / name).unlink()
    if kind == "txt":
        tokens = json.loads((tmp_path / "ct2/vocabulary.json").read_text())
        (tmp_path / "ct2/vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        (tmp_path / "ct2/vocabulary.json").unlink()
    import_weights(tmp_path / "ct2", tmp_path / "back")
    theirs, ours = (WhisperTokenizer.from_pretrained(folder) for folder in (tiny_model, tmp_path / "back"))
    assert ours.get_vocab() == theirs.get_vocab()
    for text in [*TEXTS, "turn on the light in the kitchen", "<|startoftranscript|><|cs|><|0.52|> light<|1.00|>"]:
        assert ours(text).input_ids == theirs(text).input_ids
        ids = theirs(text).input_ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    configs = [
        json.loads((folder / "generation_config.json").read_text()) for folder in (tiny_model, tmp_path / "back")
    ]
    assert configs[0] == configs[1]


def test_config_json_of_ctranslate2_gives_suppression_languages_and_heads(tiny_model, tmp_path):
    export(tiny_model, tmp_path / "ct2", "float16")
    (tmp_path / "ct2/generation_config.json").unlink()
    english, chinese, other, end = WhisperTokenizer.from_pretrained(tiny_model).convert_tokens_to_ids(
        ["<|en|>", "<|zh|>", "<|nospeech|>", "<|endoftext|>"]
    )
    listed = {"suppress_ids": [1, other], "suppress_ids_begin": [220, end], "alignment_heads": [[1, 0]]}
    # CTranslate2 lists every special token that it doesn't know by name, <|nospeech|> among them.
    (tmp_path / "ct2/config.json").write_text(json.dumps(listed | {"lang_ids": [english, chinese, other]}))
    import_weights(tmp_path / "ct2", tmp_path / "back")
    config = json.loads((tmp_path / "back/generation_config.json").read_text())
    assert config["suppress_tokens"] == [1, other]
    assert config["begin_suppress_tokens"] == [220, end]
    assert config["alignment_heads"] == [[1, 0]]
    assert (config["lang_to_id"]["<|en|>"], config["lang_to_id"]["<|zh|>"]) == (english, chinese)
    assert other not in config["lang_to_id"].values()


def test_what_the_model_was_trained_for_is_kept(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/whisper_recipe.json").write_text('{"natural_length": true}')
    export(tmp_path / "model", tmp_path / "ct2")
    import_weights(tmp_path / "ct2", tmp_path / "back")
    assert json.loads((tmp_path / "back/whisper_recipe.json").read_text()) == {"natural_length": True}


def cut_short(folder):
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content[: len(content) // 2])


def replaced(old, new):
    def change(folder):
        content = (folder / "model.bin").read_bytes()
        (folder / "model.bin").write_bytes(content.replace(old, new, 1))

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_short, "model.bin: it is damaged or truncated"),
        (lambda folder: (folder / "model.bin").write_bytes(b"PK\x03\x04" * 100), "model.bin: it is"),
        (replaced(b"\x06\0\0\0", b"\x09\0\0\0"), "version 9 of CTranslate2's format"),
        (replaced(b"WhisperSpec", b"WhisperSpek"), "'WhisperSpek', revision 3"),
        (replaced(b"decoder/num_heads", b"decoder/num_hands"), "decoder/num_heads' is missing"),
        (
            replaced(b"encoder/layer_1/ffn/linear_0/bias", b"encoder/layer_1/ffn/linear_0/bios"),
            "not Whisper's.*fc1.bias",
        ),
        (lambda folder: (folder / "vocabulary.json").unlink(), "neither vocabulary.json nor vocabulary.txt"),
        (lambda folder: (folder / "vocabulary.json").write_text('["a"'), "vocabulary.json: can't be read"),
        (lambda folder: (folder / "model.bin").rename(folder / "modell.bin"), "no weights in a known format"),
    ],
)
def test_damaged_folders_are_one_error_and_leave_nothing(change, message, model, tmp_path):
    export(model, tmp_path / "ct2", "float16")
    change(tmp_path / "ct2")
    with pytest.raises(RecipeError, match=message):
        import_weights(tmp_path / "ct2", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["ct2"]


@pytest.mark.slow
def test_whisper_base_comes_back_as_it_is(whisper_base, tmp_path):
    export(whisper_base, tmp_path / "ct2", "float16")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / "ct2" / name).unlink()
    import_weights(tmp_path / "ct2", tmp_path / "back")
    theirs, ours = weights_of(whisper_base), weights_of(tmp_path / "back")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    models = [
        json.loads((folder / "tokenizer.json").read_text())["model"] for folder in (whisper_base, tmp_path / "back")
    ]
    assert models[0]["merges"] == models[1]["merges"]  # 50,000, of openai/whisper's ranks
    assert models[0]["vocab"] == models[1]["vocab"]
    configs = [
        json.loads((folder / "generation_config.json").read_text()) for folder in (whisper_base, tmp_path / "back")
    ]
    for key in ("suppress_tokens", "begin_suppress_tokens", "lang_to_id", "task_to_id", "alignment_heads"):
        assert configs[0][key] == configs[1][key]
    tokenizers = [WhisperTokenizer.from_pretrained(folder) for folder in (whisper_base, tmp_path / "back")]
    for text in TEXTS:
        assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids
