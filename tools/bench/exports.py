"""The programs that `whisper-recipe export` writes for: size, error rate and RTF of each type of weights.

    python tools/bench/exports.py --model exp/full/model --cuts data/fbank_whisper80/cuts_test.jsonl.gz

Each decodes the same sample of the cuts greedily and without fallback, at natural length and padded to 30 s.
`whisper-recipe decode` (transformers, CTranslate2) decodes in batches, the others one utterance at a time. The RTF
excludes loading the model. Programs that are not installed are skipped with a message.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

from measure import report

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.export import TARGETS, megabytes
from whisper_recipe.export.target import Target
from whisper_recipe.export.verify import draw_sample, recognize
from whisper_recipe.files import read_json, write_jsonl
from whisper_recipe.scoring.score import ALL, score

EXPORTS = (
    "hf:float32 ct2:float32 ct2:int8 openai:float32 ggml:f16 ggml:q8_0 ggml:q5_1 ggml:q5_0 onnx:float32 onnx:int8 "
    "sherpa-onnx:float32 sherpa-onnx:int8"
)
LENGTHS = {"natural": "natural length", "padded": "padded to 30 s"}


def main() -> None:
    """Export, decode and score one after the other; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cuts", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=50)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--exports", default=EXPORTS, help="to:type, in quotes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sample = work / "cuts_sample.jsonl.gz"
        write_jsonl(sample, draw_sample(options.cuts, options.utterances))
        rows = []
        for export in options.exports.split():
            to, _, kind = export.partition(":")
            try:
                TARGETS[to].write(options.model, work / export, kind)
                rows.append(row(work / export, TARGETS[to], kind, sample, work, options.lengths))
            except RecipeError as error:
                print(f"{export} is skipped: {error}")
    report(f"{options.model}, {options.utterances} utterances of {options.cuts}", rows)


def row(folder: Path, target: Target, kind: str, sample: Path, work: Path, lengths: list[str]) -> dict[str, object]:
    """Decode the sample with an export and score it; return a row of the table."""
    cells: dict[str, object] = {
        "program": target.format,
        "weights": kind,
        "MB": round(megabytes(folder)),
    }
    for length in lengths:
        pad = length == "padded"
        if target.pads and not pad:
            continue
        out = work / f"decode_{folder.name}_{length}"
        with contextlib.redirect_stdout(io.StringIO()):
            recognize(folder, target, sample, out, pad)
            score(out, ref=sample)
        found = read_json(out / "metrics.json")["groups"][ALL]
        cells[f"{found['unit']} %, {LENGTHS[length]}"] = round(100 * found["error_rate"], 2)
        cells[f"RTF, {LENGTHS[length]}"] = round(read_json(out / "decode.json")["rtf"], 3)
    print(*cells.values(), sep=" | ", flush=True)
    return cells


if __name__ == "__main__":
    main()
