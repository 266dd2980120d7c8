"""Checkpoints in OpenAI's own form become folders that compute what OpenAI's own code does with them."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoProcessor, WhisperForConditionalGeneration, pipeline

from tests.conftest import make_model
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.openai import import_checkpoint

DIMS = {"n_mels": 80, "n_vocab": 51865, "n_audio_ctx": 1500, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 2}
DIMS |= {"n_text_ctx": 448, "n_text_state": 32, "n_text_head": 4, "n_text_layer": 3}


def random_weights(dims: dict[str, int]) -> dict[str, torch.Tensor]:
    """The names and shapes of the weights in openai/whisper (whisper/model.py), with random values."""
    width = dims["n_audio_state"]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (width, dims["n_mels"], 3),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, 3),
        "encoder.conv2.bias": (width,),
        "encoder.positional_embedding": (dims["n_audio_ctx"], width),
        "decoder.token_embedding.weight": (dims["n_vocab"], width),
        "decoder.positional_embedding": (dims["n_text_ctx"], width),
    }
    for name in ("encoder.ln_post", "decoder.ln"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    blocks = [(f"encoder.blocks.{number}", ("attn",)) for number in range(dims["n_audio_layer"])]
    blocks += [(f"decoder.blocks.{number}", ("attn", "cross_attn")) for number in range(dims["n_text_layer"])]
    for block, attentions in blocks:
        for attention in attentions:
            for part in ("query", "key", "value", "out"):
                shapes[f"{block}.{attention}.{part}.weight"] = (width, width)
                if part != "key":
                    shapes[f"{block}.{attention}.{part}.bias"] = (width,)
        for norm in (*(f"{attention}_ln" for attention in attentions), "mlp_ln"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        shapes |= {f"{block}.mlp.0.weight": (4 * width, width), f"{block}.mlp.0.bias": (4 * width,)}
        shapes |= {f"{block}.mlp.2.weight": (width, 4 * width), f"{block}.mlp.2.bias": (width,)}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


class Reference:
    """The arithmetic of openai/whisper's model.py, on the weights under their names there."""

    def __init__(self, dims: dict[str, int], weights: dict[str, torch.Tensor]) -> None:
        self.dims, self.weights = dims, weights

    def logits(self, mel: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (batch, tokens, vocabulary) of mel (batch, bins, frames) and tokens (batch, tokens)."""
        get = self.weights.get
        x = F.gelu(F.conv1d(mel, get("encoder.conv1.weight"), get("encoder.conv1.bias"), padding=1))
        x = F.gelu(F.conv1d(x, get("encoder.conv2.weight"), get("encoder.conv2.bias"), stride=2, padding=1))
        x = x.permute(0, 2, 1) + get("encoder.positional_embedding")
        for number in range(self.dims["n_audio_layer"]):
            x = self.block(f"encoder.blocks.{number}", x, self.dims["n_audio_head"])
        audio = self.norm("encoder.ln_post", x)
        embedding = get("decoder.token_embedding.weight")
        x = embedding[tokens] + get("decoder.positional_embedding")[: tokens.shape[1]]
        for number in range(self.dims["n_text_layer"]):
            x = self.block(f"decoder.blocks.{number}", x, self.dims["n_text_head"], audio)
        return self.norm("decoder.ln", x) @ embedding.T

    def block(self, name: str, x: torch.Tensor, heads: int, audio: torch.Tensor | None = None) -> torch.Tensor:
        own = self.norm(f"{name}.attn_ln", x)
        x = x + self.attention(f"{name}.attn", own, own, heads, causal=audio is not None)
        if audio is not None:
            x = x + self.attention(f"{name}.cross_attn", self.norm(f"{name}.cross_attn_ln", x), audio, heads)
        hidden = F.gelu(self.linear(f"{name}.mlp.0", self.norm(f"{name}.mlp_ln", x)))
        return x + self.linear(f"{name}.mlp.2", hidden)

    def attention(self, name: str, x: torch.Tensor, source: torch.Tensor, heads: int, causal: bool = False):
        q, k, v = (
            self.linear(f"{name}.{part}", tensor).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, tensor in (("query", x), ("key", source), ("value", source))
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
        return self.linear(f"{name}.out", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


@pytest.fixture
def weights():
    return random_weights(DIMS)


@pytest.fixture
def checkpoint(tmp_path, weights):
    torch.save({"dims": DIMS, "model_state_dict": weights}, tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_the_folder_computes_what_openai_s_code_does(checkpoint, weights, full_vocabulary_model, tmp_path):
    import_checkpoint(checkpoint, tmp_path / "model", str(full_vocabulary_model))
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    generator = torch.Generator().manual_seed(2)
    mel = torch.randn((2, 80, 3000), generator=generator)
    tokens = torch.randint(0, 51865, (2, 7), generator=generator)
    with torch.no_grad():
        ours = model(mel, decoder_input_ids=tokens).logits
        theirs = Reference(DIMS, weights).logits(mel, tokens)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_folder_is_whole_and_has_the_checkpoint_s_precision(weights, full_vocabulary_model, tmp_path):
    half = {name: weight.half() for name, weight in weights.items()}
    torch.save({"dims": DIMS, "model_state_dict": half}, tmp_path / "small.pt")
    import_checkpoint(tmp_path / "small.pt", tmp_path / "model", str(full_vocabulary_model))
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float16}
    assert AutoProcessor.from_pretrained(tmp_path / "model").feature_extractor.feature_size == 80
    generation = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert generation["lang_to_id"]["<|zh|>"] == 50260
    assert generation["task_to_id"] == {"transcribe": 50359, "translate": 50358}  # whisper/tokenizer.py


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"more": Evil()}, r"small\.pt: can't be read"),
        (lambda content: {"model": content["model_state_dict"]}, "no dims and model_state_dict"),
        (lambda content: content | {"dims": {"n_mels": 80}}, "its dims have no n_vocab"),
        (
            lambda content: content | {"dims": DIMS | {"n_vocab": 51864}},
            "ids differ from those of OpenAI's vocabulary of 51864",
        ),
        (
            lambda content: content | {"dims": DIMS | {"n_vocab": 51866}},
            "ids differ from those of OpenAI's vocabulary of 51866",
        ),
        (lambda content: content | {"dims": DIMS | {"n_text_layer": 4}}, "don't fit its dims.*decoder.layers.3"),
    ],
)
def test_other_files_are_one_error_and_leave_nothing(
    change, message, weights, full_vocabulary_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.save(change({"dims": DIMS, "model_state_dict": weights}), "small.pt")
    with pytest.raises(RecipeError, match=message):
        import_checkpoint("small.pt", tmp_path / "model", str(full_vocabulary_model))
    assert [path.name for path in tmp_path.iterdir()] == ["small.pt"]


def test_a_truncated_file_is_an_error_that_names_it(checkpoint, full_vocabulary_model, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(RecipeError, match=r"small\.pt: can't be read"):
        import_checkpoint(checkpoint, tmp_path / "model", str(full_vocabulary_model))


def test_an_unknown_vocabulary_asks_for_its_tokenizer(weights, tmp_path):
    torch.save({"dims": DIMS | {"n_vocab": 500}, "model_state_dict": weights}, tmp_path / "small.pt")
    with pytest.raises(RecipeError, match="give its --tokenizer"):
        import_checkpoint(tmp_path / "small.pt", tmp_path / "model")


def test_an_english_only_checkpoint_has_no_languages_and_tasks(transcripts, tmp_path):
    english = make_model(tmp_path / "english", transcripts, vocab_size=51864)
    dims = DIMS | {"n_vocab": 51864}
    torch.save({"dims": dims, "model_state_dict": random_weights(dims)}, tmp_path / "tiny.en.pt")
    import_checkpoint(tmp_path / "tiny.en.pt", tmp_path / "model", str(english))
    generation = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert generation["is_multilingual"] is False
    assert not {"lang_to_id", "task_to_id", "language", "task"} & generation.keys()
    # whisper/tokenizer.py with get_encoding("gpt2"): one less than in multilingual models
    assert (generation["eos_token_id"], generation["decoder_start_token_id"]) == (50256, 50257)
    assert generation["no_timestamps_token_id"] == 50362
    recognize = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"))
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
    assert isinstance(recognize(noise, generate_kwargs={"max_new_tokens": 5})["text"], str)
