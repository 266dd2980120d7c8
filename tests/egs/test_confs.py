"""Every configuration that a recipe has is one that `whisper-recipe train` takes."""

import pytest

from tests.egs.helpers import ROOT
from whisper_recipe.cli import parse
from whisper_recipe.training.train import train

CONFS = sorted((ROOT / "egs").glob("*/conf/**/*.yaml"))
INPUTS = ["--base_model", "model", "--train_cuts", "train", "--dev_cuts", "dev", "--output_dir", "exp"]


@pytest.mark.parametrize("conf", CONFS, ids=lambda path: str(path.relative_to(ROOT / "egs")))
def test_a_configuration_is_read_and_says_how_it_is_used(conf):
    _, config = parse("train", train, ["--config", str(conf), *INPUTS])
    assert config.method == ("lora" if "lora" in conf.name else "full")
    recipe = ROOT / "egs" / conf.relative_to(ROOT / "egs").parts[0]
    assert recipe / conf.read_text().partition("--config ")[2].split()[0] == conf
