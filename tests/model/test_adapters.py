"""LoRA through peft: a merged model is the unmerged one, and a plain Whisper folder."""

import shutil

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import WhisperForConditionalGeneration

from tests.model.test_memory_efficient import Made
from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.adapters import LoraOptions, add_lora, load_adapter, merge
from whisper_recipe.model.embeddings import make_room
from whisper_recipe.model.load import load_model


@pytest.fixture(params=[False, True], ids=["", "embeddings"])
def run(tiny_model, tmp_path, request):
    """A LoRA run whose adapter does something: new ones start from zero."""
    model = add_lora(load_model(tiny_model), LoraOptions(rank=4, train_embeddings=request.param))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "adapter/whisper_recipe.json").write_text('{"natural_length": true}')
    return tmp_path


def test_merged_logits_equal_the_adapters(run, tiny_model):
    merge(run)
    inputs = {"input_features": torch.randn(2, 80, 3000), "decoder_input_ids": torch.randint(0, 256, (2, 7))}
    with torch.no_grad():
        merged = WhisperForConditionalGeneration.from_pretrained(run / "model").eval()(**inputs).logits
        adapted = load_adapter(run / "adapter")[0](**inputs).logits
        base = load_model(tiny_model).eval()(**inputs).logits
    assert (merged - adapted).abs().max() < 1e-3
    assert (merged - base).abs().max() > 1e-2
    assert (run / "model/preprocessor_config.json").exists()
    assert (run / "model/whisper_recipe.json").exists()


def test_the_folder_of_the_adapter_itself_may_be_given(run, tmp_path):
    merge(run, out=tmp_path / "of_run")
    merge(run / "adapter")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "of_run", run / "model")]
    assert weights[0] == weights[1]


def test_all_embeddings_are_trained_without_copies_of_them(tiny_model, tmp_path):
    """Rows for new tokens among them; the output layer stays tied."""
    model = load_model(tiny_model)
    rows = model.config.vocab_size + 8
    make_room(model, rows)
    adapted = add_lora(model, LoraOptions(rank=2, train_embeddings=True), new_ids=[rows - 1])
    [embeddings] = [tensor for name, tensor in _trained(adapted) if "lora_" not in name]
    assert embeddings.shape == (rows, model.config.d_model)
    torch.nn.init.normal_(embeddings, std=0.05)
    inputs = {"input_features": torch.randn(1, 80, 100), "decoder_input_ids": torch.tensor([[rows - 1, 0]])}
    with Made() as made:
        logits = adapted.eval()(**inputs).logits
    own = StorageWeakRef(embeddings.untyped_storage())
    assert not [size for storage, size in made.storages.items() if size == embeddings.nbytes and storage != own]
    adapted.save_pretrained(tmp_path)
    assert torch.equal(load_adapter(tmp_path)[0](**inputs).logits, logits)
    merged = adapted.merge_and_unload()
    assert torch.equal(merged.proj_out.weight, embeddings) and torch.equal(
        merged.model.decoder.embed_tokens.weight, embeddings
    )


@pytest.mark.parametrize(
    ("file", "message"), [("adapter_config.json", "stage 4"), ("adapter_model.safetensors", "weights are missing")]
)
def test_an_adapter_that_is_not_whole_is_one_clear_line(run, capsys, file, message):
    (run / "adapter" / file).unlink()
    assert main(["merge", str(run)]) == 1
    assert message in capsys.readouterr().err
    assert not (run / "model").exists()


def test_a_base_model_that_is_gone_is_named(transcripts, tmp_path):
    from tests.conftest import make_model

    base = make_model(tmp_path / "base", transcripts)
    add_lora(load_model(base), LoraOptions(rank=2)).save_pretrained(tmp_path / "run/adapter")
    shutil.rmtree(base)
    with pytest.raises(RecipeError, match="base: no such model folder"):
        merge(tmp_path / "run")


def test_presets_cover_the_layers_of_their_name(tiny_model):
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in _lora(tiny_model, ["all-linear"])}
    assert adapted == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in _lora(tiny_model, ["attention"])}
    assert adapted == {"q_proj", "k_proj", "v_proj", "out_proj"}


def _lora(folder, targets):
    return _trained(add_lora(load_model(folder), LoraOptions(rank=2, target_modules=targets)))


def _trained(model):
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
