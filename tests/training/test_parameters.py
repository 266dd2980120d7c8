"""What is frozen, and the learning rates of the parts."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model
from whisper_recipe.training.parameters import ParameterOptions, freeze, parameter_groups, set_dropout
from whisper_recipe.training.trainer import WhisperTrainer


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_frozen_encoder_leaves_the_decoder(tiny_model):
    model = load_model(tiny_model)
    before = trainable(model)
    freeze(model, ParameterOptions(freeze_encoder=True))
    assert trainable(model) == {name for name in before if ".decoder." in name}


def test_first_layers_are_frozen_with_what_stands_before_them(tiny_model):
    model = load_model(tiny_model)
    before = trainable(model)
    freeze(model, ParameterOptions(freeze_layers=1))
    frozen = before - trainable(model)
    assert {".".join(name.split(".")[:4]).removesuffix(".weight").removesuffix(".bias") for name in frozen} == {
        "model.encoder.conv1",
        "model.encoder.conv2",
        "model.encoder.layers.0",
    }
    with pytest.raises(RecipeError, match=r"must be between 0 and 2 \(the encoder's layers\), got 3"):
        freeze(model, ParameterOptions(freeze_layers=3))


def test_each_part_has_its_learning_rate_and_matrices_alone_decay(tiny_model, tmp_path):
    model = load_model(tiny_model)
    options = ParameterOptions(encoder_learning_rate=1e-5)
    args = Seq2SeqTrainingArguments(str(tmp_path), learning_rate=1e-3, weight_decay=0.1, report_to="none")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = WhisperTrainer.get_decay_parameter_names(WhisperTrainer.__new__(WhisperTrainer), model)
    groups = parameter_groups(model, options, decayed, args.weight_decay)
    assert sum(len(group["params"]) for group in groups) == len(trainable(model))
    for group in groups:
        for parameter in group["params"]:
            assert group.get("lr") == (1e-5 if ".encoder." in names[id(parameter)] else None)
            matrix = parameter.ndim > 1
            assert group["weight_decay"] == (0.1 if matrix else 0.0), names[id(parameter)]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5, 1e-3}


def test_dropout_is_where_transformers_has_it(tiny_model):
    model = load_model(tiny_model)
    set_dropout(model, 0.3)
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_model, dropout=0.3)

    def probabilities(model):
        found = {name: getattr(module, "dropout", None) for name, module in model.named_modules()}
        return {name: value for name, value in found.items() if isinstance(value, float)}

    assert probabilities(model) == probabilities(theirs)
    assert set(probabilities(model).values()) == {0.0, 0.3}  # attention weights are not dropped
    assert model.config.dropout == 0


def test_dropout_changes_training_alone(tiny_model):
    model = load_model(tiny_model)
    inputs = {"input_features": torch.randn(1, 80, 100), "decoder_input_ids": torch.tensor([[1, 2, 3]])}
    before = model.eval()(**inputs).logits
    set_dropout(model, 0.3)
    assert torch.equal(model(**inputs).logits, before)
    dropped = model.train()(**inputs).logits
    assert not torch.allclose(dropped, before)
    assert not torch.allclose(dropped, model(**inputs).logits)
    with pytest.raises(RecipeError, match=r"parameters.dropout: must be between 0 and 1, got 1.5"):
        ParameterOptions(dropout=1.5)
