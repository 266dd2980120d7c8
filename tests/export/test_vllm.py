"""vLLM reads folders and adapters as they are: what it can't serve is said, and the card has the commands."""

import json
import shutil

import pytest

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.export import export

# As peft writes it.
ADAPTER = {"peft_type": "LORA", "r": 24, "lora_alpha": 48, "target_modules": ["q_proj"], "bias": "none",
           "base_model_name_or_path": "openai/whisper-small", "modules_to_save": None, "use_dora": False,
           "trainable_token_indices": None}  # fmt: skip


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "exp/lora/model")


def card(model, **adapter):
    (model.parent / "adapter").mkdir(exist_ok=True)
    (model.parent / "adapter/adapter_config.json").write_text(json.dumps(ADAPTER | adapter))
    export(model, model.parent / "vllm", "vllm")
    assert [path.name for path in (model.parent / "vllm").iterdir()] == ["README.md"]
    return (model.parent / "vllm/README.md").read_text()


def test_the_card_serves_the_folder_and_the_adapter_with_a_rank_that_vllm_takes(model):
    text = card(model)
    assert f"vllm serve {model}" in text
    assert "vllm serve openai/whisper-small --enable-lora --max-lora-rank 32 --lora-modules lora=" in text


# The conditions of vLLM's vllm/lora/peft_helper.py.
@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "ADALORA"}, "it is ADALORA"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "it trains embeddings"),
        ({"bias": "all"}, "it trains biases"),
        ({"r": 1024}, "its rank is over 512"),
    ],
)
def test_an_adapter_that_vllm_refuses_is_said_and_left_out(model, capsys, adapter, reason):
    assert "--enable-lora" not in card(model, **adapter)
    assert f"vLLM can't serve this adapter ({reason}" in capsys.readouterr().out


def test_what_it_can_t_read_or_verify_is_an_error(model, corpus):
    (model / "whisper_recipe.json").write_text(
        json.dumps({"data": [{"language": "xx", "task": "transcribe", "utterances": 1, "hours": 1.0}]})
    )
    with pytest.raises(RecipeError, match="the model was trained on xx"):
        export(model, model.parent / "vllm", "vllm")
    with pytest.raises(RecipeError, match="vLLM needs a GPU"):
        export(model, model.parent / "vllm", "vllm", verify=corpus)
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match="export it --to hf, which completes the folder"):
        export(model, model.parent / "vllm", "vllm")
