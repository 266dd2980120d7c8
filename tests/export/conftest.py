"""Models for the exports."""

import shutil

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from tests.conftest import make_model

SIZES = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
SIZES |= {"encoder_attention_heads": 2, "decoder_attention_heads": 4}


@pytest.fixture(scope="module")
def openai_model(whisper_base, tmp_path_factory):
    """A tiny random model with the vocabulary of OpenAI's, stored in float16."""
    folder = tmp_path_factory.mktemp("openai") / "model"
    shutil.copytree(whisper_base, folder, ignore=shutil.ignore_patterns("*.safetensors", "generation_config.json"))
    (folder / "config.json").chmod(0o644)
    torch.manual_seed(1)
    config = WhisperConfig.from_pretrained(whisper_base, **SIZES)
    WhisperForConditionalGeneration(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def natural_model(transcripts, tmp_path_factory):
    """A tiny model whose random weights write words, at natural length, which is quicker than 30 s."""
    folder = make_model(tmp_path_factory.mktemp("exp") / "tiny/model", transcripts, seed=4)
    (folder / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    return folder
