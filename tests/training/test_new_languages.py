"""A language that Whisper lacks, from the training to every program that reads the model."""

import json

import pytest
import torch
from faster_whisper import WhisperModel
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from tests.training.test_train import train
from whisper_recipe.cli import main
from whisper_recipe.data.audio import read_audio
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.errors import RecipeError
from whisper_recipe.export import ct2
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.model.adapters import load_adapter
from whisper_recipe.model.embeddings import add_rows
from whisper_recipe.model.load import load_model, load_tokenizer
from whisper_recipe.text.additions import add_languages, add_pieces

pytestmark = pytest.mark.slow
OWN = 51865  # the first id after Whisper's


@pytest.fixture(scope="module")
def mboshi(corpus):
    """The manifest of noise, in which a quarter of the cuts are in Mboshi."""
    path = corpus.with_name("cuts_mboshi.jsonl.gz")
    rows = [row for _, row in read_jsonl(corpus)]
    for row in rows:
        for part in row["supervisions"]:
            part["language"] = "mdw" if part["language"] == "zh" else part["language"]
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def lora(mboshi, full_vocabulary_model, tmp_path_factory):
    """A LoRA run whose adapter holds the row of a token for Mboshi, merged, with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("lora")
    options = ["--method", "lora", "--lora.rank", "2", "--new_languages.mdw", "like ln", "--trainer.max_steps", "2"]
    options += ["--trainer.save_strategy", "steps", "--trainer.save_steps", "1", "--trainer.learning_rate", "0.1"]
    assert train(mboshi, full_vocabulary_model, folder, *options) == 0
    assert main(["merge", str(folder)]) == 0
    return folder


def test_new_rows_are_the_mean_of_what_they_come_from_and_old_logits_stay(full_vocabulary_model):
    before, after = load_model(full_vocabulary_model).eval(), load_model(full_vocabulary_model).eval()
    tokenizer = load_tokenizer(full_vocabulary_model)
    sources = add_languages(tokenizer, {"mdw": "new"}) | add_pieces(tokenizer, [" wa ámitúúngá obia itsωώ"] * 2, 5)
    add_rows(after, sources)
    inputs = {"input_features": torch.randn(1, 80, 200), "decoder_input_ids": torch.randint(0, OWN, (1, 9))}
    with torch.no_grad():
        old, new = before(**inputs).logits, after(**inputs).logits
    assert new.shape[-1] == OWN + len(sources)
    torch.testing.assert_close(new[..., :OWN], old, atol=1e-6, rtol=0)
    # A dot product is linear, so a row that is a mean gives the mean of the logits.
    for index, ids in sources.items():
        torch.testing.assert_close(new[..., index], old[..., ids].mean(-1), atol=1e-5, rtol=0)


def test_the_adapter_holds_the_new_row_alone(lora, full_vocabulary_model):
    for folder in (lora / "adapter", lora / "checkpoint-1"):
        tensors = load_file(folder / "adapter_model.safetensors")
        others = {name: tensor.shape for name, tensor in tensors.items() if "lora_" not in name}
        assert list(others.values()) == [(1, 32)]
    rows = load_file(lora / "model/model.safetensors")["model.decoder.embed_tokens.weight"]
    base = load_file(full_vocabulary_model / "model.safetensors")["model.decoder.embed_tokens.weight"]
    assert rows.shape == (OWN + 1, 32)
    assert torch.equal(rows[:OWN], base)
    assert not torch.allclose(rows[OWN], base[50353], atol=1e-3)  # it began as Lingala's and was trained


def test_merged_and_averaged_models_are_plain_folders(lora):
    assert main(["average", str(lora), "--checkpoints", "2"]) == 0
    inputs = {"input_features": torch.randn(1, 80, 3000), "decoder_input_ids": torch.tensor([[50258, OWN, 50359]])}
    with torch.no_grad():
        merged = WhisperForConditionalGeneration.from_pretrained(lora / "model").eval()
        adapted = load_adapter(lora / "adapter")[0]
        torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, atol=1e-4, rtol=0)
    for name in ("model", "average"):
        model = WhisperForConditionalGeneration.from_pretrained(lora / name)
        processor = WhisperProcessor.from_pretrained(lora / name)
        assert processor.tokenizer.convert_tokens_to_ids("<|mdw|>") == OWN
        ids = model.generate(inputs["input_features"], language="<|mdw|>", task="transcribe", max_new_tokens=3)
        assert "mdw" not in processor.batch_decode(ids, skip_special_tokens=True)[0]


def test_ctranslate2_and_faster_whisper_load_it_and_the_card_says_what_they_can_do(lora, mboshi):
    assert main(["export", str(lora / "model"), "--out", str(lora / "ct2")]) == 0
    reader = WhisperModel(str(lora / "ct2"), device="cpu", compute_type="float32")
    assert reader.model.is_multilingual
    # Where CTranslate2 looks for languages; <|startoflm|>, which nothing uses, is in the place that it leaves.
    assert reader.hf_tokenizer.token_to_id("<|mdw|>") == 50360
    assert reader.hf_tokenizer.token_to_id("<|startoflm|>") == OWN
    card = (lora / "ct2/README.md").read_text()
    assert r"`<\|mdw\|>`" in card
    assert "not possible: the first only accepts Whisper's codes" in card
    hypotheses = []
    for model in ("model", "ct2"):
        out = lora / f"decode_{model}"
        command = [
            "decode",
            str(lora / model),
            "--cuts",
            str(mboshi),
            "--out",
            str(out),
            "--search.max_new_tokens",
            "4",
        ]
        assert main([*command, "--search.max_new_tokens", "4"]) == 0
        hypotheses.append([row for _, row in read_jsonl(out / "hyp.jsonl")])
    assert hypotheses[0] == hypotheses[1]
    assert {row["language"] for row in hypotheses[0]} == {"en", "mdw"}
    assert main(["score", str(lora / "decode_ct2"), "--ref", str(mboshi), "--bleu", "mdw"]) == 0
    groups = json.loads((lora / "decode_ct2/metrics.json").read_text())["groups"]
    assert {group for group, values in groups.items() if "bleu" in values} == {"mdw transcribe"}


def test_ctranslate2_reaches_one_new_token_and_a_second_export_leaves_it(full_vocabulary_model):
    tokenizer, model = load_tokenizer(full_vocabulary_model), load_model(full_vocabulary_model)
    add_rows(model, add_languages(tokenizer, {"mdw": "like ln"}))
    rows = model.get_input_embeddings().weight.detach().clone()
    for _ in range(2):
        tokenizer = ct2.within_reach(model, tokenizer)
        assert tokenizer.convert_tokens_to_ids(["<|mdw|>", "<|startoflm|>"]) == [50360, OWN]
        assert torch.equal(model.get_input_embeddings().weight[[OWN, 50360]], rows[[50360, OWN]])
    several = load_tokenizer(full_vocabulary_model)
    add_languages(several, {"mdw": "new", "lua": "new"})
    with pytest.raises(RecipeError, match="CTranslate2 supports one new language token, but mdw, lua have tokens"):
        ct2.within_reach(model, several)


def test_a_borrowed_token_works_in_every_program_by_its_own_name(mboshi, tiny_model, tmp_path, capsys):
    alone = tmp_path / "cuts_alone.jsonl.gz"
    write_jsonl(alone, [row for _, row in read_jsonl(mboshi) if row["supervisions"][0]["language"] == "mdw"])
    command = ["--method", "full", "--new_languages.mdw", "ln", "--trainer.max_steps", "1"]
    assert train(alone, tiny_model, tmp_path / "run", *command) == 0
    model = tmp_path / "run/model"
    assert json.loads((model / "generation_config.json").read_text())["language"] == "ln"
    tokenizer, base = load_tokenizer(model), load_tokenizer(tiny_model)
    assert tokenizer.get_vocab() == base.get_vocab()
    features = torch.randn(2, 80, 3000)
    theirs = load_backend(tiny_model).detect_languages(features)
    backend = load_backend(model)
    backend._detect_languages = lambda features: [f"<|{language}|>" for language in ("ln", *theirs)]
    assert backend.detect_languages(features) == ["mdw", *theirs]
    assert main(["export", str(model), "--out", str(tmp_path / "hf"), "--to", "hf"]) == 0
    card = (tmp_path / "hf/README.md").read_text()
    assert "| mdw        | <\\|ln\\|>" in card or "| mdw" in card
    assert "'language': 'ln'" in card
    assert "- mdw" in card.split("---")[1]  # the front matter has the user's code
    capsys.readouterr()


def test_a_language_that_is_not_declared_stops_the_training_in_one_line(mboshi, tiny_model, tmp_path, capsys):
    assert train(mboshi, tiny_model, tmp_path / "run", "--method", "full") == 1
    assert "mdw: the model's tokenizer has no <|mdw|>; --new_languages.mdw CODE" in capsys.readouterr().err


def test_the_stock_model_is_asked_for_the_language_to_borrow_from(mboshi, tiny_model, tmp_path):
    command = ["decode", str(tiny_model), "--cuts", str(mboshi), "--out", str(tmp_path), "--search.max_new_tokens", "2"]
    assert main(command) == 1
    assert main([*command, "--new_languages.mdw", "ln"]) == 0
    assert {row["language"] for _, row in read_jsonl(tmp_path / "hyp.jsonl")} == {"en", "mdw"}


def test_pieces_of_the_training_text_are_added(mboshi, full_vocabulary_model, tmp_path):
    options = ["--method", "full", "--new_languages.mdw", "ln", "--add_tokens", "7", "--trainer.max_steps", "1"]
    assert train(mboshi, full_vocabulary_model, tmp_path / "run", *options) == 0
    tokenizer = load_tokenizer(tmp_path / "run/model")
    assert OWN < len(tokenizer) <= OWN + 7
    card = tmp_path / "hf/README.md"
    assert main(["export", str(tmp_path / "run/model"), "--out", str(card.parent), "--to", "hf"]) == 0
    assert f"**{len(tokenizer) - OWN} pieces of text were added" in card.read_text()


@pytest.mark.slow
def test_whisper_knows_what_it_knew_when_pieces_are_added(whisper_base, shared_data):
    """The text of a recording, by transformers' own generate, before and after."""
    model, processor = load_model(whisper_base).eval(), WhisperProcessor.from_pretrained(whisper_base)
    samples = read_audio(str(shared_data / "english/libri-1088-134315-0000.wav"))
    features = processor.feature_extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
    tokenizer = load_tokenizer(whisper_base)

    def text() -> str:
        ids = model.generate(features, language="en", task="transcribe", max_new_tokens=40)
        return tokenizer.decode(ids[0], skip_special_tokens=True)

    before = text()
    lines = [" wa ámitúúngá obia itsωώ s éléngé", " wó twεrε ya poo yá bísí", " bána bo báatúsá ambángé"] * 2
    sources = add_languages(tokenizer, {"mdw": "new"}) | add_pieces(tokenizer, lines, 50)
    add_rows(model, sources)
    assert len(sources) > 20
    assert len(before.split()) > 5
    assert text() == before
