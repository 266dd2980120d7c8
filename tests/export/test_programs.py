"""The programs that the exports are for recognise recorded speech with OpenAI's base model, as transformers does."""

import pytest
import soundfile
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.export.export import TARGETS, export

PACKAGES = {"openai": "whisper", "ggml": "pywhispercpp", "onnx": "onnx", "sherpa-onnx": "sherpa_onnx"}


@pytest.fixture(scope="module")
def speech(shared_data):
    """The first recording of the Chinese sample, (samples,) at 16 kHz."""
    rows = (shared_data / "aishell_multitask/wav.scp").read_text().splitlines()
    return soundfile.read(shared_data / "aishell_multitask" / rows[0].split()[1], dtype="float32")[0]


@pytest.fixture(scope="module")
def expected(whisper_base, speech):
    """What transformers itself writes."""
    processor = WhisperProcessor.from_pretrained(whisper_base)
    model = WhisperForConditionalGeneration.from_pretrained(whisper_base, dtype="float32")
    features = processor(speech, sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(features, language="zh", task="transcribe")
    return processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "quantization"),
    [("openai", "float16"), ("ggml", "f16"), ("ggml", "q8_0"), ("onnx", "float32"), ("onnx", "int8"),
     ("sherpa-onnx", "float32")],
)  # fmt: skip
def test_recorded_speech_gives_transformers_text(whisper_base, speech, expected, tmp_path, to, quantization):
    pytest.importorskip(PACKAGES[to], reason=f"{PACKAGES[to]} is not installed")
    export(whisper_base, tmp_path / "out", to, quantization)
    text = TARGETS[to].load(tmp_path / "out", False)(speech, "zh", "transcribe")
    assert len(expected) >= 5
    assert text.strip() == expected
