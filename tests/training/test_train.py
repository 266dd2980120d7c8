"""Training by the real command on tiny models: losses, gradients, files, and errors."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from lhotse import CutSet
from safetensors.torch import load_file
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor
from transformers.trainer_pt_utils import LabelSmoother

from tests import preloaded
from tests.conftest import wait_until
from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.adapters import LoraOptions, adapter_regularisation, add_lora, load_adapter
from whisper_recipe.model.encoder import AnyLengthEncoder
from whisper_recipe.model.load import load_model, save_model
from whisper_recipe.processes import Part
from whisper_recipe.training.batches import (
    BatchOptions,
    BatchSampler,
    CutDataset,
    drop_untrainable,
    load_cuts,
    make_loader,
)
from whisper_recipe.training.parameters import ParameterOptions
from whisper_recipe.training.sampler import Batch
from whisper_recipe.training.trainer import WhisperTrainer, make_loaders, token_loss

PROGRAM = [sys.executable, "-m", "whisper_recipe"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperProcessor.from_pretrained(tiny_model).tokenizer


@pytest.fixture
def batch(corpus, tokenizer):
    return next(iter(make_loader(load_cuts([corpus]), tokenizer, BatchOptions(max_duration=20, num_workers=0), False)))


def test_first_batch_decoded_back_has_one_start_and_one_end_token(batch, tokenizer):
    for inputs, labels in zip(batch["decoder_input_ids"], batch["labels"], strict=True):
        written = tokenizer.decode(labels[labels != -100])
        read = tokenizer.decode(inputs)
        assert read.startswith("<|startoftranscript|><|")
        assert read.count("<|startoftranscript|>") == 1
        assert "<|startoftranscript|>" not in written
        assert written.endswith("<|endoftext|>")
        assert written.count("<|endoftext|>") == 1


def test_short_utterances_are_padded_with_their_silence(batch):
    features = batch["input_features"]
    padded = [row for row in features if (row[:, -1] == row[0, -1]).all()]
    assert padded, "the batch should hold utterances of unlike lengths"
    for row in padded:
        assert row[0, -1] == pytest.approx(row.max().item() - 2.0)


def test_loss_equals_that_of_transformers(batch, tiny_model):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval()
    features = torch.nn.functional.pad(batch["input_features"], (0, 3000 - batch["input_features"].shape[-1]))
    with torch.no_grad():
        theirs = model(input_features=features, labels=batch["labels"]).loss
        outputs = model(input_features=features, decoder_input_ids=batch["decoder_input_ids"])
    torch.testing.assert_close(token_loss(outputs, batch["labels"]), theirs)


def test_every_cut_is_seen_once_an_epoch(corpus):
    sampler = BatchSampler(load_cuts([corpus]), BatchOptions(max_duration=5, num_buckets=2), shuffle=True, seed=3)
    assert len(sampler) > 2
    seen = [cut.id for _ in range(3) for [batch] in sampler for cut in batch.cuts]
    every = {cut.id for cut in load_cuts([corpus])}
    # Passes and epochs may differ in batches, so the third epoch need not be whole.
    first = seen[: len(every)]
    assert sorted(first) == sorted(every)
    assert sorted(seen[len(every) : 2 * len(every)]) == sorted(every)
    assert first != seen[len(every) : 2 * len(every)]


def test_label_smoothing_is_that_of_transformers(batch, tiny_model):
    model = WhisperForConditionalGeneration.from_pretrained(tiny_model).eval()
    features = torch.nn.functional.pad(batch["input_features"], (0, 3000 - batch["input_features"].shape[-1]))
    with torch.no_grad():
        outputs = model(input_features=features, decoder_input_ids=batch["decoder_input_ids"])
    theirs = LabelSmoother(epsilon=0.1)({"logits": outputs.logits}, batch["labels"])
    torch.testing.assert_close(token_loss(outputs, batch["labels"], label_smoothing=0.1), theirs)


def test_batches_of_a_share_are_padded_to_30_s(corpus, tokenizer):
    options = BatchOptions(pad_to_30s=0.3, num_workers=0)
    loader = make_loader(load_cuts([corpus]), tokenizer, options, shuffle=True)
    lengths = {key: batch["input_features"].shape[-1] for batch in loader for key in batch["cuts"]}
    assert len(lengths) == 12
    assert 0 < sum(length == 3000 for length in lengths.values()) < 12


def test_times_and_previous_text_are_in_a_share_of_the_labels(corpus, tokenizer):
    cut = next(iter(load_cuts([corpus])))
    cut.supervisions[0].custom |= {"segments": [{"start": 0.0, "end": 0.5, "text": "turn on"}], "prompt": "the light"}
    for share, times, previous in ((0.0, "<|notimestamps|>", False), (1.0, "<|0.00|> turn on<|0.50|>", True)):
        dataset = CutDataset(tokenizer, 80, BatchOptions(timestamps=share, prompts=share))
        inputs = tokenizer.decode(dataset[Batch(0, [cut])]["decoder_input_ids"][0], decode_with_timestamps=True)
        assert times in inputs
        assert inputs.startswith("<|startofprev|> the light<|startoftranscript|>") is previous


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora", "rslora", "dora", "adalora"])
def test_every_trainable_tensor_gets_a_gradient(batch, tiny_model, method, checkpointing):
    model = load_model(tiny_model)
    if method != "full":
        model = add_lora(model, LoraOptions(variant=method, rank=2), steps=10)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    outputs = model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"])
    token_loss(outputs, batch["labels"]).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert not [name for name, parameter in trainable.items() if parameter.grad is None]


@pytest.mark.slow
def test_one_step_equals_the_same_batch_split_by_accumulation(corpus, tiny_model, tokenizer, tmp_path):
    def step(max_cuts: int, accumulation: int) -> dict[str, torch.Tensor]:
        model = load_model(tiny_model)
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            gradient_accumulation_steps=accumulation,
            learning_rate=1.0,
            optim="sgd",
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        # No shuffling, so that both ways take the same cuts; the silence after an utterance must not differ either.
        cuts = CutSet.from_cuts(cut.truncate(duration=0.5) for cut in list(load_cuts([corpus]))[:4])
        options = BatchOptions(max_cuts=max_cuts, num_workers=0)
        loaders = make_loaders(cuts, cuts, tokenizer, options, 80, arguments)
        trainer = WhisperTrainer(model, arguments, *loaders, ParameterOptions())
        trainer.train()
        return dict(model.named_parameters())

    together, apart = step(4, 1), step(1, 4)
    for name, parameter in together.items():
        torch.testing.assert_close(apart[name], parameter, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("share", "frames"), [(0.5, None), (1.0, 3000)])
def test_eval_loss_is_at_the_input_length_of_decoding(corpus, tiny_model, tokenizer, tmp_path, share, frames):
    cuts = load_cuts([corpus])
    args = Seq2SeqTrainingArguments(output_dir=str(tmp_path), max_steps=1)
    _, dev = make_loaders(cuts, cuts, tokenizer, BatchOptions(pad_to_30s=share, num_workers=0), 80, args)
    lengths = {batch["input_features"].shape[-1] for batch in dev}
    assert lengths == {frames} if frames else max(lengths) < 3000


def test_long_cuts_and_long_texts_are_dropped_and_named(corpus, tokenizer):
    cuts = list(load_cuts([corpus]))[:3]
    cuts[0].duration = 30.5
    cuts[1].supervisions[0].text = "turn " * 448
    kept, dropped = drop_untrainable(CutSet.from_cuts(cuts), tokenizer)
    assert [cut.id for cut in kept] == [cuts[2].id]
    assert dropped[cuts[0].id] == "30.50 s, over 30"
    assert "tokens, over 448" in dropped[cuts[1].id]


def train(corpus, model, folder, *options):
    return main(
        f"train --base_model {model} --train_cuts {corpus} --dev_cuts {corpus} --output_dir {folder} "
        "--trainer.report_to tensorboard --trainer.logging_steps 1 --trainer.save_strategy no "
        "--batches.num_workers 0 --batches.max_duration 10 --trainer.max_steps 3 --trainer.eval_strategy steps "
        "--trainer.eval_steps 3".split()
        + list(options)
    )


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_makes_no_step_more(corpus, tiny_model, tmp_path):
    options = ["--method", "full", "--trainer.save_strategy", "steps", "--trainer.save_steps", "3"]
    options += ["--batches.max_cuts", "1"]  # an epoch is longer than the run
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    weights = load_file(tmp_path / "model/model.safetensors")
    shutil.rmtree(tmp_path / "model")  # which the killed run had not written yet
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    again = load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_leaves_model_log_events_configuration_and_environment(corpus, tiny_model, tmp_path, method):
    assert train(corpus, tiny_model, tmp_path, "--method", method) == 0
    log = (tmp_path / "train.log").read_text()
    assert (tmp_path / "curves.csv").read_text().splitlines()[0] == "step,loss,eval_loss,learning_rate,grad_norm,epoch"
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 1 + 3
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(
        word in log for word in ("command:", "step 1/3", "loss", "learning_rate", "grad_norm", "epoch", "eval_loss")
    )
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert "learning_rate" in (tmp_path / "config.yaml").read_text()
    assert "transformers" in json.loads((tmp_path / "environment.json").read_text())["packages"]
    folder = tmp_path / ("model" if method == "full" else "adapter")
    record = json.loads((folder / "whisper_recipe.json").read_text())
    assert (record["natural_length"], record["timestamps"], record["method"], record["steps"]) == (
        True,
        False,
        method,
        3,
    )
    assert sum(row["utterances"] for row in record["data"]) == 12
    assert not list(tmp_path.glob(".*.partial.*"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["rslora", "dora", "adalora"])
def test_relatives_of_lora_train_and_merge(corpus, tiny_model, tmp_path, variant):
    options = ["--lora.variant", variant, "--lora.rank", "2", "--trainer.learning_rate", "0.01"]
    assert train(corpus, tiny_model, tmp_path, *options, "--trainer.max_steps", "12") == 0
    adapted = load_adapter(tmp_path / "adapter")[0]
    assert main(["merge", str(tmp_path)]) == 0
    merged = load_model(tmp_path / "model").eval()
    inputs = {"input_features": torch.randn(1, 80, 90), "decoder_input_ids": torch.tensor([[1, 2, 3]])}
    with torch.no_grad():
        plain, ours, theirs = (model(**inputs).logits for model in (load_model(tiny_model).eval(), merged, adapted))
    assert (ours - theirs).abs().max() < 1e-3
    assert (ours - plain).abs().max() > 1e-3


def make_run(corpus, tiny_model, folder, model, max_cuts=None):
    args = Seq2SeqTrainingArguments(str(folder), report_to="none", use_cpu=True, max_steps=1, disable_tqdm=True)
    cuts, tokenizer = load_cuts([corpus]), WhisperProcessor.from_pretrained(tiny_model).tokenizer
    loaders = make_loaders(cuts, cuts, tokenizer, BatchOptions(num_workers=0, max_cuts=max_cuts), 80, args)
    return WhisperTrainer(model, args, *loaders, ParameterOptions())


def test_adalora_s_term_is_the_same_for_any_number_of_processes(corpus, tiny_model, tmp_path, monkeypatch):
    model = add_lora(load_model(tiny_model), LoraOptions(variant="adalora", rank=2), steps=10).train()
    run = make_run(corpus, tiny_model, tmp_path, model)
    run.current_gradient_accumulation_steps = 1
    batch = next(iter(run.train_loader))
    tokens = (batch["labels"] != -100).sum()
    term, losses = adapter_regularisation(model).item(), {}
    for processes in (1, 2):
        monkeypatch.setattr(type(run.accelerator), "num_processes", processes)
        # The mean over processes that have the same batch each, of twice as many tokens.
        losses[processes] = run.compute_loss(model, dict(batch), num_items_in_batch=processes * tokens).item()
    assert term > 0.1
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)


@pytest.mark.parametrize("max_cuts", [1, 5])
def test_eval_loss_is_that_of_all_tokens(corpus, tiny_model, tmp_path, max_cuts):
    run = make_run(corpus, tiny_model, tmp_path, load_model(tiny_model), max_cuts)
    total = tokens = 0
    for batch in run.dev_loader:
        inputs = {key: batch[key] for key in ("input_features", "decoder_input_ids")}
        with torch.no_grad():
            logits = run.model.eval()(**inputs).logits.flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum").item()
        tokens += (batch["labels"] != -100).sum().item()
    assert run.evaluate()["eval_loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 5])
def test_eval_loss_is_shared_by_processes(corpus, tiny_model, tokenizer, tmp_path, monkeypatch, processes):
    """Each measures a part; some have a batch less and repeat one."""
    run = make_run(corpus, tiny_model, tmp_path, load_model(tiny_model), 2)
    expected, measured = run.evaluate()["eval_loss"], []
    monkeypatch.setattr("whisper_recipe.training.trainer.gather_object", lambda rows: measured.extend(rows) or measured)
    for rank in range(processes):
        options = BatchOptions(num_workers=0, max_cuts=2)
        run.dev_loader = make_loader(load_cuts([corpus]), tokenizer, options, False, part=Part(rank, processes))
        found = run.evaluate()["eval_loss"]
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(measured) == processes and max(tokens for _, tokens in measured) < sum(tokens for _, tokens in measured)


def test_adalora_keeps_its_matrices_orthogonal(tiny_model):
    model = add_lora(load_model(tiny_model), LoraOptions(variant="adalora", rank=2), steps=10)
    # peft's own, which it adds to a loss that the model computes.
    batch = {"input_features": torch.randn(1, 80, 3000), "labels": torch.tensor([[1, 2]])}
    model.eval()
    with torch.no_grad():
        theirs = model.base_model(**batch).loss - model.base_model.model(**batch).loss
        torch.testing.assert_close(adapter_regularisation(model), theirs, atol=1e-5, rtol=1e-4)
    assert adapter_regularisation(load_model(tiny_model)) == 0


@pytest.mark.slow
def test_steps_without_a_finite_loss_are_skipped_and_too_many_stop_the_run(corpus, tiny_model, tmp_path, capsys):
    model = load_model(tiny_model)
    with torch.no_grad():
        model.model.decoder.layer_norm.weight[0] = float("nan")
    broken = tmp_path / "broken"
    save_model(broken, model, WhisperProcessor.from_pretrained(tiny_model), {})
    assert train(corpus, broken, tmp_path / "exp", "--method", "full", "--trainer.max_steps", "30") == 1
    expected = "the loss or a gradient was not finite in 10 steps in a row, the last with cuts utt"
    assert expected in capsys.readouterr().err
    assert (tmp_path / "exp/train.log").read_text().count("is skipped: the loss or a gradient is not finite") == 10
    assert not (tmp_path / "exp/model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_averaged_checkpoints_are_the_mean_of_their_weights(corpus, tiny_model, tmp_path, method):
    saving = ["--trainer.save_strategy", "steps", "--trainer.save_steps", "1", "--trainer.eval_steps", "1"]
    options = ["--method", method, "--lora.rank", "2", "--trainer.learning_rate", "0.01", *saving]
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    assert main(["average", str(tmp_path), "--checkpoints", "2"]) == 0
    folders = [tmp_path / f"checkpoint-{step}" for step in (2, 3)]
    if method == "full":
        models = [WhisperForConditionalGeneration.from_pretrained(folder) for folder in folders]
    else:
        models = [load_adapter(folder)[0].merge_and_unload() for folder in folders]
    first, second = (model.state_dict() for model in models)
    average = WhisperForConditionalGeneration.from_pretrained(tmp_path / "average").state_dict()
    for name, tensor in average.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    assert not torch.equal(first["model.decoder.layers.0.fc1.weight"], second["model.decoder.layers.0.fc1.weight"])
    assert main(["average", str(tmp_path), "--checkpoints", "2", "--choose", "best"]) == 0
    assert main(["average", str(tmp_path), "--checkpoints", "4"]) == 1


@pytest.mark.slow
def test_training_changes_what_it_should_and_nothing_else(corpus, tiny_model, tmp_path):
    assert train(corpus, tiny_model, tmp_path, "--method", "full") == 0
    before = WhisperForConditionalGeneration.from_pretrained(tiny_model).state_dict()
    after = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model").state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"model.encoder.embed_positions.weight"}  # Whisper's sinusoids are fixed


@pytest.mark.slow
def test_a_saved_configuration_repeats_the_run(corpus, tiny_model, tmp_path):
    assert train(corpus, tiny_model, tmp_path / "a", "--method", "full") == 0
    assert main(["train", "--config", str(tmp_path / "a/config.yaml"), "--output_dir", str(tmp_path / "b")]) == 0
    states = [WhisperForConditionalGeneration.from_pretrained(tmp_path / run / "model").state_dict() for run in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def wait_for(log, text, process, seconds=120):
    wait_until(lambda: log.exists() and text in log.read_text(), process, seconds)


@pytest.mark.slow
def test_a_killed_run_leaves_no_model_and_the_next_one_makes_it(corpus, tiny_model, tmp_path):
    command = ["train", "--method", "full", "--base_model", str(tiny_model)]
    command += ["--train_cuts", str(corpus), "--dev_cuts", str(corpus), "--output_dir", str(tmp_path / "exp")]
    command += ["--trainer.save_strategy", "no", "--trainer.logging_steps", "1", "--batches.num_workers", "0"]
    running = subprocess.Popen([*PROGRAM, *command, "--trainer.max_steps", "100000"], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "exp/train.log", "step 5/", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "exp/model").exists()
    preloaded.call(*command, "--trainer.max_steps", "2")
    assert (tmp_path / "exp/model/model.safetensors").exists()


def test_an_unknown_lora_target_is_named(tiny_model):
    with pytest.raises(RecipeError, match="no layer 'q_project'"):
        add_lora(load_model(tiny_model), LoraOptions(target_modules=["q_project"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_cuts", "/nowhere.jsonl.gz"], "/nowhere.jsonl.gz: no such file"),
        (["--base_model", "/nowhere"], "/nowhere: no such model folder"),
        (["--trainer.max_step", "3"], "--trainer.max_step"),
    ],
)
def test_wrong_calls_are_one_line_and_leave_no_model(corpus, tiny_model, tmp_path, capsys, options, message):
    assert train(corpus, tiny_model, tmp_path, *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "adapter").exists()


def test_a_wrong_key_in_the_configuration_is_named_with_file_and_line(corpus, tiny_model, tmp_path, capsys):
    config = tmp_path / "train.yaml"
    config.write_text("method: full\ntrainer:\n  learnin_rate: 1e-3\n")
    assert train(corpus, tiny_model, tmp_path / "exp", "--config", str(config)) == 1
    assert f"{config}:3:" in capsys.readouterr().err


def test_a_batch_is_as_long_as_asked(corpus):
    options = BatchOptions(max_duration=6, num_buckets=2)
    for [(_, cuts, *_)] in BatchSampler(load_cuts([corpus]), options, shuffle=True, seed=0):
        assert sum(cut.duration for cut in cuts) <= 6 or len(cuts) == 1


def weights(folder):
    return WhisperForConditionalGeneration.from_pretrained(folder / "model").state_dict()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(corpus, tiny_model, tmp_path, monkeypatch):
    """Killed in the middle of a pass and after one; accumulation and random padding go on too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as those that are preloaded: the order of sums depends on it
    command = ["train", "--method", "full", "--base_model", str(tiny_model)]
    command += ["--train_cuts", str(corpus), "--dev_cuts", str(corpus), "--batches.num_workers", "1"]
    command += ["--batches.max_duration", "4", "--batches.pad_to_30s", "0.3", "--trainer.max_steps", "11"]
    command += ["--trainer.save_strategy", "steps", "--trainer.save_steps", "2", "--trainer.save_total_limit", "2"]
    command += ["--trainer.gradient_accumulation_steps", "2", "--trainer.logging_steps", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    preloaded.call(*command, "--output_dir", str(whole))
    killed = 0
    for after in (3, 7):
        running = subprocess.Popen([*PROGRAM, *command, "--output_dir", str(broken)], stderr=subprocess.DEVNULL)
        wait_for(broken / "train.log", f"step {after}/", running)
        running.kill()
        running.wait()
        killed += not (broken / "model").exists()
    done = preloaded.call(*command, "--output_dir", str(broken))
    assert killed == 2
    assert "resuming from" in done.stdout
    assert all(torch.equal(weights(whole)[name], tensor) for name, tensor in weights(broken).items())
    assert sorted(path.name for path in broken.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-11"]


@pytest.mark.slow
def test_checkpoints_of_another_run_are_not_gone_on_from(corpus, tiny_model, tmp_path, capsys):
    saving = ["--method", "full", "--trainer.save_strategy", "steps", "--trainer.save_steps", "2"]
    assert train(corpus, tiny_model, tmp_path, *saving) == 0
    shutil.rmtree(tmp_path / "model")  # as if it had been killed before its end
    assert train(corpus, tiny_model, tmp_path, *saving, "--trainer.learning_rate", "0.5") == 1
    assert "a run with a different trainer.learning_rate" in capsys.readouterr().err
    assert train(corpus, tiny_model, tmp_path, *saving, "--trainer.logging_steps", "2") == 0
    assert "resuming from" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "lion_32bit", "adafactor", "adamw_bnb_8bit"])
def test_optimisers_are_chosen_by_name_and_lower_the_loss(corpus, tiny_model, tmp_path, monkeypatch, optim):
    chosen = []
    plain = WhisperTrainer.create_optimizer
    monkeypatch.setattr(WhisperTrainer, "create_optimizer", lambda self, *_: chosen.append(plain(self)) or chosen[-1])
    options = ["--method", "full", "--trainer.optim", optim, "--trainer.learning_rate", "0.002"]
    assert train(corpus, tiny_model, tmp_path, *options, "--trainer.max_steps", "15") == 0
    name = {"adamw_torch_fused": "AdamW", "lion_32bit": "Lion", "adafactor": "Adafactor", "adamw_bnb_8bit": "AdamW"}
    optimizer = getattr(chosen[0], "optimizer", chosen[0])
    assert type(optimizer).__name__ == name[optim]
    if optim == "adamw_bnb_8bit":
        assert optimizer.args.optim_bits == 8
    rows = (tmp_path / "curves.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows if row.split(",")[1]]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_are_trained_on_a_quantised_base_and_merged_into_the_whole_one(corpus, transcripts, tmp_path, bits):
    from tests.conftest import make_model

    base = make_model(tmp_path / "base", transcripts, d_model=64)
    options = ["--lora.quantize_base", bits, "--lora.rank", "4", "--trainer.learning_rate", "0.005"]
    options += ["--trainer.gradient_checkpointing", "true", "--trainer.max_steps", "15"]
    assert train(corpus, base, tmp_path / "exp", *options) == 0
    rows = (tmp_path / "exp/curves.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows if row.split(",")[1]]
    assert losses[-1] < losses[0]
    kinds = {type(module).__name__ for module in load_model(base, bits).modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[bits] in kinds
    assert {parameter.dtype for parameter in load_adapter(tmp_path / "exp/adapter")[0].parameters()} == {torch.float32}
    assert main(["merge", str(tmp_path / "exp")]) == 0
    assert load_model(tmp_path / "exp/model").config.d_model == 64


def test_without_bitsandbytes_a_quantised_base_is_one_clear_line(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match="lora.quantize_base: bitsandbytes can't be used here .*; install it, or set"):
        load_model(tiny_model, "4bit")


@pytest.mark.slow
def test_weights_and_biases_offline_needs_no_account(corpus, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    command = ["train", "--method", "full", "--base_model", str(tiny_model)]
    command += ["--train_cuts", str(corpus), "--dev_cuts", str(corpus), "--output_dir", str(tmp_path / "exp")]
    command += ["--trainer.report_to", "wandb", "--trainer.max_steps", "2", "--trainer.logging_steps", "1"]
    preloaded.call(*command, cwd=tmp_path)
    assert list((tmp_path / "exp/wandb").glob("offline-run-*/*.wandb"))
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_in_bf16_the_trained_weights_stay_float32(corpus, tiny_model, tmp_path, method, monkeypatch):
    mixed = []
    plain = AnyLengthEncoder.forward

    def forward(self, *args, **kwargs):
        mixed.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(AnyLengthEncoder, "forward", forward)
    options = ["--method", method, "--trainer.bf16", "true", "--trainer.use_cpu", "true"]
    assert train(corpus, tiny_model, tmp_path, *options) == 0
    folder = tmp_path / ("model" if method == "full" else "adapter")
    weights = load_file(next(folder.glob("*.safetensors")))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert set(mixed) == {torch.bfloat16}


def without_features(corpus, folder, ids):
    """The manifest with features that are nowhere, for some of the cuts."""
    cuts = list(load_cuts([corpus]))
    for cut in cuts:
        if cut.id in ids:
            cut.features.storage_path = str(folder / "nowhere")
    CutSet.from_cuts(cuts).to_file(folder / "cuts_damaged.jsonl.gz")
    return folder / "cuts_damaged.jsonl.gz"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_cut_that_can_not_be_read_is_logged_and_left_out(corpus, tiny_model, tmp_path, capsys, workers):
    damaged = without_features(corpus, tmp_path, {"utt03", "utt07"})
    options = ["--method", "full", "--train_cuts", str(damaged), "--batches.num_workers", workers]
    assert train(corpus, tiny_model, tmp_path / "exp", *options, "--trainer.max_steps", "8") == 0
    log = (tmp_path / "exp/train.log").read_text()
    for key in ("utt03", "utt07"):
        assert log.count(f"cut {key} can't be read and is dropped: ") == 1
    assert "2 cuts could not be read and were dropped" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_batch_without_a_readable_cut_ends_the_run_in_one_line(corpus, tiny_model, tmp_path, capsys, workers):
    damaged = without_features(corpus, tmp_path, {f"utt{number:02d}" for number in range(12)})
    options = ["--method", "full", "--train_cuts", str(damaged), "--batches.num_workers", workers]
    assert train(corpus, tiny_model, tmp_path / "exp", *options) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("whisper-recipe train: error: utt")
    assert "of a batch can be read: " in line and "nowhere" in line and "Traceback" not in line
