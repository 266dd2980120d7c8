"""Training by the real command on tiny models: losses, gradients, files, and errors."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from lhotse import CutSet
from transformers import Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.cli import main
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.adapters import LoraOptions, add_lora
from whisper_recipe.model.load import load_model
from whisper_recipe.training.batches import BatchOptions, BatchSampler, drop_untrainable, load_cuts, make_loader
from whisper_recipe.training.train import WhisperTrainer, token_loss


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
    seen = [cut.id for _ in range(3) for cuts in sampler for cut in cuts]
    every = {cut.id for cut in load_cuts([corpus])}
    # Passes and epochs may differ in batches, so the third epoch need not be whole.
    first = seen[: len(every)]
    assert sorted(first) == sorted(every)
    assert sorted(seen[len(every) : 2 * len(every)]) == sorted(every)
    assert first != seen[len(every) : 2 * len(every)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_trainable_tensor_gets_a_gradient(batch, tiny_model, method, checkpointing):
    model = load_model(tiny_model)
    if method == "lora":
        model = add_lora(model, LoraOptions(rank=2))
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    outputs = model(input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"])
    token_loss(outputs, batch["labels"]).backward()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert not [name for name, parameter in trainable.items() if parameter.grad is None]


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
        trainer = WhisperTrainer(
            model, arguments, tokenizer, cuts, cuts, BatchOptions(max_cuts=max_cuts, num_workers=0)
        )
        trainer.train()
        return dict(model.named_parameters())

    together, apart = step(4, 1), step(1, 4)
    for name, parameter in together.items():
        torch.testing.assert_close(apart[name], parameter, atol=1e-5, rtol=0)


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
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_leaves_model_log_events_configuration_and_environment(corpus, tiny_model, tmp_path, method):
    assert train(corpus, tiny_model, tmp_path, "--method", method) == 0
    log = (tmp_path / "train.log").read_text()
    assert all(
        word in log for word in ("command:", "step 1/3", "loss", "learning_rate", "grad_norm", "epoch", "eval_loss")
    )
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert "learning_rate" in (tmp_path / "config.yaml").read_text()
    assert "transformers" in json.loads((tmp_path / "environment.json").read_text())["packages"]
    folder = tmp_path / ("model" if method == "full" else "adapter")
    facts = json.loads((folder / "whisper_recipe.json").read_text())
    assert (facts["natural_length"], facts["timestamps"], facts["method"], facts["steps"]) == (True, False, method, 3)
    assert sum(row["utterances"] for row in facts["data"]) == 12
    assert not list(tmp_path.glob(".*.partial.*"))


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


@pytest.mark.slow
def test_a_killed_run_leaves_no_model_and_the_next_one_makes_it(corpus, tiny_model, tmp_path):
    command = [sys.executable, "-m", "whisper_recipe", "train", "--method", "full", "--base_model", str(tiny_model)]
    command += ["--train_cuts", str(corpus), "--dev_cuts", str(corpus), "--output_dir", str(tmp_path / "exp")]
    command += ["--trainer.save_strategy", "no", "--trainer.logging_steps", "1", "--batches.num_workers", "0"]
    running = subprocess.Popen([*command, "--trainer.max_steps", "100000"], stderr=subprocess.DEVNULL)
    log = tmp_path / "exp/train.log"
    deadline = time.monotonic() + 120
    while not (log.exists() and "step 5/" in log.read_text()):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "exp/model").exists()
    subprocess.run([*command, "--trainer.max_steps", "2"], check=True, capture_output=True)
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
    for batch in BatchSampler(load_cuts([corpus]), BatchOptions(max_duration=6, num_buckets=2), shuffle=True, seed=0):
        assert sum(cut.duration for cut in batch) <= 6 or len(batch) == 1
