"""decode --confidence: words with times and probabilities, of both backends and of transformers called directly."""

import json
import math

import pytest
import torch
from lhotse import CutSet
from transformers import WhisperForConditionalGeneration

from whisper_recipe.cli import main
from whisper_recipe.data.features import collate_fbank, load_fbank
from whisper_recipe.decoding.backends import Backend
from whisper_recipe.decoding.confidence import LEAST
from whisper_recipe.files import read_jsonl, write_json
from whisper_recipe.model.load import load_tokenizer
from whisper_recipe.text.prompt import prompt_ids

TEXT = " turn on the light"


@pytest.fixture(autouse=True)
def _finds_a_text(monkeypatch):
    """Models with random weights do not write text."""

    def decode(self, features, prompts, search):
        ids = self.tokenizer(TEXT, add_special_tokens=False).input_ids
        return [[] if index % 4 == 3 else [*ids, self.tokenizer.eos_token_id] for index, _ in enumerate(prompts)]

    monkeypatch.setattr(Backend, "decode", decode)


def decoded(model, corpus, out, *options):
    """Return the rows by id, decoded in a single batch."""
    options = ["--confidence", "--batch_duration", "400", *options]
    assert main(["decode", str(model), "--cuts", str(corpus), "--out", str(out), *options]) == 0
    return {row["id"]: row for _, row in read_jsonl(out / "hyp.jsonl")}


@pytest.fixture
def words(tiny_model, corpus, tmp_path):
    return decoded(tiny_model, corpus, tmp_path / "words")


def test_words_make_the_text_and_lie_in_the_utterance(words):
    assert {row["text"] for row in words.values()} == {"", TEXT.strip()}
    for row in words.values():
        words_of_row = [word["word"] for word in row["words"]]
        assert "".join(words_of_row) == row["text"].replace(" ", "")
        assert words_of_row == row["text"].split() or row["language"] == "zh"  # not parted by spaces
        assert all(0 <= word["start"] <= word["end"] <= row["duration"] + 0.04 for word in row["words"])


@pytest.mark.slow
def test_ctranslate2_gives_the_same(ct2_model, corpus, words, tmp_path):
    for key, row in decoded(ct2_model, corpus, tmp_path / "ct2").items():
        assert [word["word"] for word in row["words"]] == [word["word"] for word in words[key]["words"]]
        found = [word["probability"] for word in row["words"]]
        assert found == pytest.approx([word["probability"] for word in words[key]["words"]], rel=0.01)


@pytest.mark.slow
def test_probabilities_are_those_of_a_teacher_forced_pass(tiny_model, corpus, tmp_path):
    """The product over the word's tokens, of text tokens alone as openai/whisper has it."""
    model, tokenizer = WhisperForConditionalGeneration.from_pretrained(tiny_model), load_tokenizer(tiny_model)
    pieces = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in TEXT.split()]
    text = sum(pieces, [])
    rows = decoded(tiny_model, corpus, tmp_path / "padded", "--pad_to_30s", "true")
    for cut in CutSet.from_file(corpus):
        row = rows[cut.id]
        if row["language"] == "zh":
            continue
        start = prompt_ids(tokenizer, row["language"], row["task"])
        features = collate_fbank([load_fbank(cut)], 3000)
        with torch.inference_mode():
            logits = model(features, decoder_input_ids=torch.tensor([start + text])).logits[0]
        shares = logits[len(start) - 1 : -1, : tokenizer.eos_token_id].softmax(-1)[range(len(text)), text]
        products = [max(LEAST, float(part.prod())) for part in shares.split(list(map(len, pieces)))]
        assert [word["probability"] for word in row["words"]] == pytest.approx(
            products if row["text"] else [], rel=0.01
        )


@pytest.mark.slow
def test_the_temperature_of_a_dev_set_is_applied(tiny_model, corpus, words, tmp_path):
    write_json(tmp_path / "metrics.json", {"confidence": {"temperature": 2.0}})
    options = ["--calibration", str(tmp_path / "metrics.json")]
    for key, row in decoded(tiny_model, corpus, tmp_path / "out", *options).items():
        for word, raw in zip(row["words"], words[key]["words"], strict=True):
            odds = raw["probability"] / (1 - raw["probability"])
            assert word["probability"] == pytest.approx(math.sqrt(odds) / (1 + math.sqrt(odds)), rel=0.01)
    assert json.loads((tmp_path / "out/decode.json").read_text())["confidence_temperature"] == 2.0


def test_a_calibration_without_confidence_is_refused(tiny_model, corpus, tmp_path, capsys):
    options = ["--cuts", str(corpus), "--out", str(tmp_path), "--calibration", str(tmp_path / "metrics.json")]
    assert main(["decode", str(tiny_model), *options]) == 1
    assert "give --confidence too" in capsys.readouterr().err
