"""The check of the GPU road, run small on the CPU, and what its figures rest on."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig, WhisperForConditionalGeneration

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_check_runs_small_on_a_cpu(tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment |= {f"LIMIT_{part}": "600" for part in ("TESTS", "TRAINING", "DECODING", "BENCH")}  # on a busy machine
    done = subprocess.run(
        ["bash", "tools/gpu_check.sh", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {
        name: json.loads((out / f"{name}.json").read_text()) for name in ("tests", "training", "decoding", "bench")
    }
    report = (out / "report.md").read_text()
    for part in parts.values():
        assert part["finished"] and part["rows"] and part["title"] in report
    assert all(row["outcome"] == "skipped" for row in parts["tests"]["rows"])
    trained = {row["what"]: row for row in parts["training"]["rows"]}
    assert trained["full, fp16"]["remark"] == "needs a GPU"
    assert all("differs by" in trained[name] for name in ("full, bf16", "LoRA, 4-bit base", "resumed in the middle"))
    assert trained["a NaN gradient"]["remark"] == "1 step skipped"
    assert all(
        row["texts as in the first row"] == "100 %" for row in parts["decoding"]["rows"] if "utterances/s" in row
    )


@pytest.mark.slow
def test_a_part_that_is_cut_off_keeps_its_rows(tmp_path):
    script = (
        "import os; from pathlib import Path; from gpu_measure import Results\n"
        f"results = Results(Path({str(tmp_path)!r}), 'training', 'Training')\n"
        "results.attempt('works', lambda: {'tokens/s': '7'})\n"
        "results.attempt('breaks', lambda: 1 / 0)\n"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT / "tools" / "bench", capture_output=True)
    found = json.loads((tmp_path / "training.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["works", "breaks"] and not found["finished"]
    report = (tmp_path / "report.md").read_text()
    assert "FAILED: ZeroDivisionError" in report and "Not finished: cut off after 2 rows." in report


@pytest.mark.slow
def test_each_part_has_its_own_limit(tmp_path):
    """A stand-in for Python hangs in the tests and ends at once in the other parts."""
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\n[[ $2 != tests ]] || exec sleep 60\n")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "LIMIT_TESTS": "1"}
    done = subprocess.run(
        ["bash", ROOT / "tools/gpu_check.sh", tmp_path / "out"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "tests was cut off after 1 s; its rows so far are kept" in done.stdout
    assert all(f"{part} exited with 0 after 0 s" in done.stdout for part in ("training", "decoding", "bench"))


@pytest.mark.parametrize(("batch", "frames", "tokens"), [(1, 3000, 5), (3, 3000, 40)])
def test_operations_are_those_that_pytorch_counts(monkeypatch, batch, frames, tokens):
    monkeypatch.syspath_prepend(ROOT / "tools" / "bench")
    from gpu_measure import forward_operations

    config = WhisperConfig(
        d_model=64, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=256, decoder_ffn_dim=256,
    )  # fmt: skip
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
        ids = torch.zeros(batch, tokens, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(batch, 80, frames), decoder_input_ids=ids)
    assert forward_operations(config, batch, frames, tokens) == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_what_fits_is_reckoned_from_bytes_that_are_linear(monkeypatch, lora):
    """Models of one and two layers with one and two cuts tell of one with two layers of each kind and three cuts."""
    monkeypatch.syspath_prepend(ROOT / "tools" / "bench")
    from fits import measured, needed

    fixed, each, _ = needed("micro", lora, checkpointing=False)
    assert fixed + 3 * each == pytest.approx(measured("micro", (2, 2), 3, lora, checkpointing=False), rel=0.01)
