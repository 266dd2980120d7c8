"""faster-whisper, the most used reader of CTranslate2 Whisper folders, takes our exports by their path."""

import numpy as np
import pytest
from faster_whisper import WhisperModel
from transformers import WhisperFeatureExtractor, WhisperProcessor

from whisper_recipe.decoding.backends.transformers import TransformersBackend
from whisper_recipe.decoding.search import SearchOptions
from whisper_recipe.errors import RecipeError
from whisper_recipe.export.ct2 import export
from whisper_recipe.text.prompt import prompt_ids


@pytest.mark.slow
def test_faster_whisper_gives_the_text_of_transformers(full_vocabulary_model, tmp_path):
    export(full_vocabulary_model, tmp_path / "ct2")
    # 30 s, so that nothing is padded: faster-whisper pads features with zeros.
    samples = np.random.default_rng(0).standard_normal(30 * 16000).astype(np.float32) * 0.1
    reader = WhisperModel(str(tmp_path / "ct2"), device="cpu", compute_type="float32")
    assert reader.model.is_multilingual
    options = {
        "temperature": 0.0,
        "beam_size": 1,
        "without_timestamps": True,
        "max_new_tokens": 12,  # with the prompt 16, of which CTranslate2 takes half
        "word_timestamps": False,
    }
    segments, info = reader.transcribe(
        samples,
        language="zh",
        task="translate",
        no_speech_threshold=None,
        log_prob_threshold=None,
        compression_ratio_threshold=None,
        **options,
    )
    assert info.language == "zh"
    theirs = "".join(segment.text for segment in segments)

    features = WhisperFeatureExtractor()(samples, sampling_rate=16000, return_tensors="pt").input_features
    tokenizer = WhisperProcessor.from_pretrained(full_vocabulary_model).tokenizer
    prompt = prompt_ids(tokenizer, "zh", "translate")
    ours = TransformersBackend(full_vocabulary_model, "default").decode(features, [prompt], SearchOptions(1, 8))
    assert tokenizer.decode(ours[0], skip_special_tokens=True).strip() == theirs.strip()


def test_a_missing_file_of_the_model_is_named_and_nothing_is_written(tiny_model, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(RecipeError, match=r"preprocessor_config.json is not there"):
        export(folder, tmp_path / "ct2")
    assert not (tmp_path / "ct2").exists()


def test_a_folder_with_something_else_in_it_is_not_overwritten(tiny_model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("precious")
    with pytest.raises(RecipeError, match=r"thesis: holds other files \(chapter1.tex\)"):
        export(tiny_model, tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter1.tex").read_text() == "precious"


def test_mel_bins_of_another_model_are_an_error_and_nothing_is_written(tiny_model, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"feature_size": 80', '"feature_size": 128'))
    with pytest.raises(RecipeError, match="feature_size is 128, and the weights take 80 mel bins"):
        export(folder, tmp_path / "ct2")
    assert not (tmp_path / "ct2").exists()
