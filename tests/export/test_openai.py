"""Export to openai/whisper: the program itself computes what the model does, and importing gives the same weights."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.export import export
from whisper_recipe.model.openai import import_checkpoint


@pytest.mark.slow
def test_importing_an_export_gives_the_same_weights_to_the_bit(openai_model, whisper_base, tmp_path):
    export(openai_model, tmp_path / "out", "openai", "float16")
    import_checkpoint(tmp_path / "out/model.pt", tmp_path / "again", str(whisper_base))
    weights, again = (load_file(folder / "model.safetensors") for folder in (openai_model, tmp_path / "again"))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_openai_s_own_code_reads_it_and_computes_the_same(openai_model, tmp_path):
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed: pip install '.[openai]'")
    export(openai_model, tmp_path / "out", "openai")
    theirs = whisper.load_model(str(tmp_path / "out/model.pt"), device="cpu")
    ours = WhisperForConditionalGeneration.from_pretrained(openai_model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    mel, tokens = torch.randn((1, 80, 3000), generator=generator), torch.randint(0, 51865, (1, 7), generator=generator)
    with torch.no_grad():
        logits = ours(mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(theirs(mel, tokens), logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.01


def test_a_vocabulary_of_its_own_is_refused(tiny_model, full_vocabulary_model, tmp_path):
    for folder, message in [
        (tiny_model, "openai-whisper can't use this model: it finds languages, tasks and times by the vocabulary size"),
        (full_vocabulary_model, "it only supports OpenAI's text tokens"),
    ]:
        with pytest.raises(RecipeError, match=message):
            export(folder, tmp_path / "out", "openai")
        assert not (tmp_path / "out").exists()
