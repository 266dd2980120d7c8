"""faster-whisper, the most used reader of CTranslate2 Whisper folders, takes our exports by their path."""

import shutil
import struct

import numpy as np
import pytest
from faster_whisper import WhisperModel
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from tests.conftest import make_model
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


def test_features_that_a_folder_does_not_describe_are_described_in_the_export(transcripts, tmp_path):
    model = make_model(tmp_path / "model", transcripts, num_mel_bins=128)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (model / name).unlink()
    export(model, tmp_path / "ct2")
    reader = WhisperModel(str(tmp_path / "ct2"), device="cpu")
    assert reader.feature_extractor.mel_filters.shape[0] == reader.model.n_mels == 128


def test_a_folder_with_something_else_in_it_is_not_overwritten(tiny_model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("precious")
    with pytest.raises(RecipeError, match=r"thesis: contains other files \(chapter1.tex\)"):
        export(tiny_model, tmp_path / "thesis")
    assert (tmp_path / "thesis/chapter1.tex").read_text() == "precious"


def test_mel_bins_of_another_model_are_an_error_and_nothing_is_written(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    for name in ("preprocessor_config.json", "processor_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"feature_size": 80', '"feature_size": 128'))
    with pytest.raises(RecipeError, match="128 mel bins, but the weights expect 80"):
        export(folder, tmp_path / "ct2")
    assert not (tmp_path / "ct2").exists()


def stored_types(folder):
    """Return the types of the variables of model.bin, named by what is quantised and what is not.

    CTranslate2's file is read here by its documented layout (ctranslate2/specs/model_spec.py, ModelSpec._serialize).
    """
    types = ["float32", "int8", "int16", "int32", "float16", "bfloat16"]
    found = set()
    with open(folder / "model.bin", "rb") as file:

        def unpack(code):
            return struct.unpack(code, file.read(struct.calcsize(code)))[0]

        unpack("I"), file.read(unpack("H")), unpack("I")
        for _ in range(unpack("I")):
            file.read(unpack("H"))
            dims = [unpack("I") for _ in range(unpack("B"))]
            kind = types[unpack("B")]
            file.seek(unpack("I"), 1)
            if dims:  # not a number
                found.add(kind)
    return found


@pytest.mark.parametrize(
    ("quantization", "stored"),
    [
        ("float32", {"float32"}),
        ("float16", {"float16"}),
        ("int8", {"int8", "float32"}),
        ("int8_float16", {"int8", "float16", "float32"}),  # the scales are always float32
    ],
)
def test_weights_are_stored_as_asked_whatever_the_model_s_own_type_is(tiny_model, tmp_path, quantization, stored):
    half = shutil.copytree(tiny_model, tmp_path / "half")
    WhisperForConditionalGeneration.from_pretrained(half, dtype="float16").save_pretrained(half)
    export(half, tmp_path / "ct2", quantization)
    assert stored_types(tmp_path / "ct2") == stored
