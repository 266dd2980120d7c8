"""Options of the Trainer that would have no effect, and machines with several GPUs."""

import pytest
import torch
from transformers import Seq2SeqTrainingArguments

from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.training.batches import BatchOptions, load_cuts
from whisper_recipe.training.options import check_trainer_options, set_precision, spare_time, use_one_gpu
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 4}, "trainer.per_device_train_batch_size: .*use batches.max_duration"),
        ({"per_device_eval_batch_size": 4}, "trainer.per_device_eval_batch_size: .*use batches.max_duration"),
        ({"dataloader_num_workers": 2}, "trainer.dataloader_num_workers: .*use batches.num_workers"),
        ({"dataloader_drop_last": True}, "trainer.dataloader_drop_last: this option has no effect"),
    ],
)
def test_options_without_effect_are_refused_by_name(tmp_path, options, message):
    check_trainer_options(Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(RecipeError, match=message):
        check_trainer_options(Seq2SeqTrainingArguments(str(tmp_path), **options))


def test_fsdp_is_refused(tmp_path, monkeypatch):
    args = Seq2SeqTrainingArguments(str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="FSDP is not supported; .*deepspeed"):
        check_trainer_options(args)


def test_one_process_uses_one_gpu_and_says_how_to_use_the_others(corpus, tiny_model, tmp_path, monkeypatch, capsys):
    """transformers takes four GPUs for a reason to wrap the model in DataParallel; here they are only counted."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    args = Seq2SeqTrainingArguments(str(tmp_path), report_to="none", max_steps=1)
    assert args.n_gpu == 4
    use_one_gpu(args)
    assert args.n_gpu == 1
    assert "using 1 of 4 GPUs" in (said := capsys.readouterr().out) and "--num_processes 4" in said
    cuts, model = load_cuts([corpus]), load_model(tiny_model)
    loaders = make_loaders(cuts, cuts, load_tokenizer(tiny_model), BatchOptions(num_workers=0), 80, args)
    run = WhisperTrainer(model, args, *loaders, ParameterOptions())
    assert not isinstance(run._wrap_model(run.model), torch.nn.DataParallel)


@pytest.mark.parametrize(
    ("given", "card", "expected"),
    [
        ({}, torch.bfloat16, ("bf16", True)),
        ({}, torch.float32, ("no", False)),
        ({"bf16": True}, torch.float32, ("bf16", True)),
    ],
)
def test_the_precision_is_the_card_s_unless_one_is_given(tmp_path, monkeypatch, given, card, expected):
    monkeypatch.setattr("whisper_recipe.training.options.pick_precision", lambda device: card)
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, **given)
    set_precision(args)
    assert (args.mixed_precision, args.bf16) == expected


def test_what_costs_time_in_each_step_is_off_unless_asked_for(tmp_path):
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True)
    assert args.ddp_find_unused_parameters is None and args.logging_nan_inf_filter  # transformers decides: True
    spare_time(args)
    assert args.ddp_find_unused_parameters is False and not args.logging_nan_inf_filter
    args = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True, ddp_find_unused_parameters=True)
    spare_time(args)
    assert args.ddp_find_unused_parameters
