"""Every configuration that a recipe has is one that `whisper-recipe train` takes."""

import re

import pytest

from tests.egs.helpers import ROOT
from whisper_recipe.cli import parse
from whisper_recipe.training.train import train

DOCS = ROOT / "docs/training.md"
CONFS = sorted((ROOT / "egs").glob("*/conf/**/*.yaml"))
INPUTS = ["--base_model", "model", "--train_cuts", "train", "--dev_cuts", "dev", "--output_dir", "exp"]


FOR_GPUS = [conf for conf in CONFS if re.search(r"GPU of \d\d GB", conf.read_text())]  # the table begins with 16 GB


def fitting(model, method, gigabytes):
    """The seconds that docs/training.md says fit on a card; those of the next smaller card in its table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in DOCS.read_text().splitlines()]
    [header] = [row for row in rows if row[:2] == ["whisper", "method"]]
    [row] = [row for row in rows if row[:2] == [model, method]]
    cards = {
        int(card.removesuffix(" GB")): int(found)
        for card, found in zip(header[2:], row[2:], strict=True)
        if found != "-"
    }
    return cards[max(card for card in cards if card <= gigabytes)]


def test_recipes_for_gpus_say_for_which():
    assert {conf.relative_to(ROOT / "egs").parts[0] for conf in FOR_GPUS} == {
        "aishell", "librispeech", "multitask_sample", "template", "wenetspeech",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("conf", FOR_GPUS, ids=lambda path: str(path.relative_to(ROOT / "egs")))
def test_batches_fit_on_the_card_that_a_configuration_is_for(conf):
    text = conf.read_text()
    _, config = parse("train", train, ["--config", str(conf), *INPUTS])
    model = re.search(r"--base_model openai/whisper-(\S+)", text)[1]
    method = {"lora": "LoRA", "full": "full"}[config.method]
    method += ", checkpointing" if config.trainer.gradient_checkpointing else ""
    assert config.batches.max_duration <= fitting(model, method, int(re.search(r"GPU of (\d+) GB", text)[1]))
    assert config.batches.num_workers == 4


@pytest.mark.parametrize("conf", CONFS, ids=lambda path: str(path.relative_to(ROOT / "egs")))
def test_a_configuration_is_read_and_says_how_it_is_used(conf):
    _, config = parse("train", train, ["--config", str(conf), *INPUTS])
    assert config.method == ("lora" if "lora" in conf.name else "full")
    recipe = ROOT / "egs" / conf.relative_to(ROOT / "egs").parts[0]
    assert recipe / conf.read_text().partition("--config ")[2].split()[0] == conf
