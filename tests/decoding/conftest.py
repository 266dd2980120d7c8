"""What tests of decoding share: the tiny model as a CTranslate2 folder."""

import pytest

from whisper_recipe.export.ct2 import export


@pytest.fixture(scope="session")
def ct2_model(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "float32"
    export(tiny_model, out)
    return out
