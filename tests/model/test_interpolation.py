"""Models between a base model and a tuned one: the arithmetic by hand, and what does not fit together."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_model
from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.average import shares_of
from whisper_recipe.model.load import load_model, load_processor, save_model
from whisper_recipe.model.mean import mean_state


def stored(folder):
    return load_file(folder / "model.safetensors")


def test_a_weighted_mean_is_that_by_hand():
    states = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, -2.0])}]
    assert mean_state(states, shares_of([], 2))["a"].tolist() == [2.0, 0.0]
    assert mean_state(states, shares_of([3, 1], 2))["a"].tolist() == [1.5, 1.0]  # 3/4 + 3/4 and 6/4 - 2/4
    assert mean_state(states, [1.0, 0.0])["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("weights", [[0.5], [0.5, -0.1], [0, 0], [float("nan"), 1]])
def test_weights_are_a_number_for_each_model(weights):
    with pytest.raises(RecipeError, match="weights"):
        shares_of(weights, 2)


@pytest.fixture
def tuned(tiny_model, tmp_path):
    """A tuned model: every weight a little off."""
    torch.manual_seed(0)
    model = load_model(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    facts = {"natural_length": True, "base_model": str(tiny_model), "canaries": {"en": {"before": 0.1, "after": 0.9}}}
    save_model(tmp_path / "tuned", model, load_processor(tiny_model), facts)
    return tmp_path / "tuned"


def test_a_base_and_a_tuned_model_are_averaged(tiny_model, tuned, tmp_path):
    out = tmp_path / "half"
    assert main(["average", str(tiny_model), str(tuned), "--weights", "0.75", "0.25", "--out", str(out)]) == 0
    base, changed, found = stored(tiny_model), stored(tuned), stored(out)
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (3 * base[name] + changed[name]) / 4)
    facts = json.loads((out / "whisper_recipe.json").read_text())
    assert facts["natural_length"] is True
    assert facts["average"] == {str(tiny_model): 0.75, str(tuned): 0.25}
    assert "canaries" not in facts  # they were measured of other weights


def test_what_does_not_fit_together_is_one_line(tiny_model, tuned, transcripts, tmp_path, capsys):
    wider = make_model(tmp_path / "wider", transcripts, d_model=48)
    others = shutil.copytree(transcripts.parent, tmp_path / "text") / "text"
    others.write_text("".join(f"utt{n} wholly different words {n}\n" for n in range(4)))
    foreign = make_model(tmp_path / "foreign", others)
    out = ["--out", str(tmp_path / "out")]
    for models, message in (
        ([tiny_model, wider], "wider: model.decoder.embed_positions.weight is 448x48, but 448x32 in"),
        ([tiny_model, foreign], "foreign: its tokenizer differs from that of"),
        ([tiny_model, tmp_path / "none"], "none: no such model folder"),
        ([tiny_model, tuned, "--weights", "0.5"], "weights: 1 weights for 2 models"),
    ):
        assert main(["average", *map(str, models), *out]) == 1
        [line] = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()
    assert main(["average", str(tiny_model), str(tuned)]) == 1
    assert "give --out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_a_part_of_an_adapter_is_merged(tiny_model, tmp_path, variant, capsys):
    torch.manual_seed(0)
    options = LoraOptions(variant=variant, rank=2, alpha=6, target_modules=["fc1"])
    model = add_lora(load_model(tiny_model), options)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/whisper_recipe.json").write_text('{"natural_length": true}')
    found = {}
    for scale in ("0", "0.5", "1"):
        out = tmp_path / scale
        assert main(["merge", str(tmp_path), "--scale", scale, "--out", str(out)]) == 0
        found[scale] = stored(out)
    assert main(["merge", str(tmp_path)]) == 0
    whole, base = stored(tmp_path / "model"), stored(tiny_model)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found["1"].items())
    assert all(torch.equal(tensor, base[name]) for name, tensor in found["0"].items())
    name = "model.encoder.layers.0.fc1.weight"
    assert not torch.equal(whole[name], base[name])
    if variant == "lora":  # W + scale * alpha / rank * B A
        factors = load_file(tmp_path / "adapter/adapter_model.safetensors")
        a, b = (factors[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(found["0.5"][name], base[name] + 0.5 * 6 / 2 * b @ a)
    else:
        torch.testing.assert_close(found["0.5"][name], (base[name] + whole[name]) / 2)
    assert main(["merge", str(tmp_path), "--scale", "1.5"]) == 1
    assert "scale: must be between 0 and 1, got 1.5" in capsys.readouterr().err
