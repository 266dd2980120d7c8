"""The programs that the exports are for recognise recorded speech with OpenAI's base model, as transformers does."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from whisper_recipe.export.export import TARGETS, export

PACKAGES = {"openai": "whisper", "ggml": "pywhispercpp", "onnx": "onnx", "sherpa-onnx": "sherpa_onnx"}
TRANSFORMERS_JS = "@huggingface/transformers"
SCRIPT = """
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, dtype, samples] = process.argv.slice(1);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const recognize = await pipeline("automatic-speech-recognition", basename(folder), { dtype, device: "cpu" });
const audio = new Float32Array(new Uint8Array(readFileSync(samples)).buffer);
process.stdout.write((await recognize(audio, { language: "zh", task: "transcribe" })).text);
"""


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


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "dtype"), [("float32", "fp32"), ("int8", "q8")])
def test_transformers_js_gives_transformers_text(whisper_base, speech, expected, tmp_path, quantization, dtype):
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    if not (Path(sys.prefix) / "node_modules" / TRANSFORMERS_JS).exists():  # 474 MB, too much for every test run
        pytest.skip(f"not installed: npm install --no-save --prefix {sys.prefix} {TRANSFORMERS_JS}@4")
    export(whisper_base, tmp_path / "out", "onnx", quantization)
    speech.tofile(tmp_path / "samples")
    command = ["node", "--input-type=module", "-e", SCRIPT, tmp_path / "out", dtype, tmp_path / "samples"]
    done = subprocess.run(command, cwd=sys.prefix, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected
