"""Verify an export: decode a sample with it and with its model, and compare texts and error rates."""

from __future__ import annotations

import contextlib
import io
import math
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from whisper_recipe.decoding.decode import decode
from whisper_recipe.errors import RecipeError, no_cuts
from whisper_recipe.export.target import Target, Transcriber
from whisper_recipe.files import read_json, read_jsonl, write_json, write_jsonl
from whisper_recipe.model.load import natural_length
from whisper_recipe.scoring.score import ALL, score

MAX_DIFFERENCE = 0.5  # share of the text; quantised weights change a few hundredths
SEED = 0  # of the sample; every export is verified on the same utterances


@dataclass(frozen=True)
class Verification:
    """How an export's text compares with its model's.

    Args:
        utterances: number of utterances, decoded with both.
        equal: number of identical hypotheses.
        model_error_rate: errors per unit of the references.
        export_error_rate: likewise.
        unit: WER, CER or, if the sample has both, WER/CER.
        total: units of the references.
        difference: units that differ between the two texts, as a share of the model's text.
        differing: utterance, the model's text and the export's, for each hypothesis that differs.
        model_rtf: processing time divided by audio time, with transformers.
        export_rtf: likewise, with the export's program.
    """

    utterances: int
    equal: int
    model_error_rate: float
    export_error_rate: float
    unit: str
    total: int
    difference: float
    differing: tuple[tuple[str, str, str], ...] = ()
    model_rtf: float = math.nan
    export_rtf: float = math.nan

    @property
    def points(self) -> float:
        """Absolute difference between the error rates, in points."""
        return 100 * abs(self.export_error_rate - self.model_error_rate)

    @property
    def chance(self) -> float:
        """Points that chance explains, if each hypothesis that differs has one error more or less.

        Quantised weights change a word here and there, for better or worse. The sum of n such steps is within twice the
        square root of n in 95 of 100 cases. In a sample of 100 short utterances, that is a point.
        """
        return 100 * 2 * math.sqrt(self.utterances - self.equal) / self.total

    def __str__(self) -> str:
        return (
            f"{self.equal} of {self.utterances} hypotheses ({self.equal / self.utterances:.1%}) equal the model's; "
            f"{self.unit} {100 * self.export_error_rate:.2f} %, the model's {100 * self.model_error_rate:.2f} %: "
            f"{self.points:.2f} points apart, of which chance explains {self.chance:.2f}; "
            f"{100 * self.difference:.2f} % of the text differs; "
            f"RTF {self.export_rtf:.3f}, the model's {self.model_rtf:.3f}"
        )


def compare_texts(
    model: Path, exported: Path, cuts: Path, utterances: int, target: Target | None = None
) -> Verification:
    """Decode a sample of a cut manifest with a model and its export, each with its program.

    Inputs have the length recorded in the model folder, or 30 s if the export's program always pads.

    Args:
        model: the model folder.
        exported: the exported folder.
        cuts: the manifest.
        utterances: maximum number of utterances in the sample.
        target: of the export; None if `whisper-recipe decode` reads it.

    Raises:
        RecipeError: no cuts, no reference text in the sample, or the export's program is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sample = work / "cuts_sample.jsonl.gz"
        write_jsonl(sample, draw_sample(cuts, utterances))
        pad = not natural_length(model) or bool(target and target.pads)
        foreign = bool(target and target.load)
        # The export first: its program may not be installed.
        recognize(exported, target, sample, work / "export", pad if foreign else None)
        # One by one, if the export's program does so: an utterance's text may depend on its batch.
        recognize(model, None, sample, work / "model", pad, one_by_one=foreign)
        outs = work / "model", work / "export"
        texts = [{row["id"]: row["text"] for _, row in read_jsonl(out / "hyp.jsonl")} for out in outs]
        groups = [_score(out, sample) for out in outs]
        rtfs = [read_json(out / "decode.json")["rtf"] or math.nan for out in outs]
        if groups[0]["error_rate"] is None:
            raise RecipeError("no reference text", where=cuts, cure="verify with cuts that have text")
        of_model = work / "cuts_model.jsonl.gz"
        write_jsonl(of_model, (_with_text(row, texts[0][row["id"]]) for _, row in read_jsonl(sample)))
        difference = _score(work / "export", of_model)["error_rate"]
    differing = tuple((key, text, texts[1][key]) for key, text in texts[0].items() if text != texts[1][key])
    return Verification(
        utterances=len(texts[0]),
        equal=len(texts[0]) - len(differing),
        model_error_rate=groups[0]["error_rate"],
        export_error_rate=groups[1]["error_rate"],
        unit=groups[0]["unit"],
        total=groups[0]["total"],
        difference=difference if difference is not None else float(bool(differing)),  # the model's text is empty
        differing=differing,
        model_rtf=rtfs[0],
        export_rtf=rtfs[1],
    )


def recognize(
    folder: Path, target: Target | None, cuts: Path, out: Path, pad_to_30s: bool | None, one_by_one: bool = False
) -> None:
    """Decode cuts with a folder's program; write out/hyp.jsonl, and out/decode.json with the RTF.

    Args:
        folder: a model folder or an export.
        target: of the export; None if `whisper-recipe decode` reads it.
        cuts: the manifest.
        out: the folder to write.
        pad_to_30s: pad inputs to 30 s; None for as recorded in the folder, if `decode` reads it.
        one_by_one: decode without batches, as other programs always do here.
    """
    if target and target.load:
        _transcribe(target.load(folder, not pad_to_30s), cuts, out)
        return
    with contextlib.redirect_stdout(io.StringIO()):  # its output is of no use here
        decode(str(folder), cuts, out, batch_duration=0.01 if one_by_one else None, pad_to_30s=pad_to_30s)


def _transcribe(transcribe: Transcriber, cuts: Path, out: Path) -> None:
    """Decode cuts one by one with another program; write the part of `decode`'s output that is needed here."""
    from lhotse import CutSet

    from whisper_recipe.data.augment import load_samples
    from whisper_recipe.data.supervision import supervision_of

    rows, seconds, audio = [], 0.0, 0.0
    for cut in CutSet.from_jsonl_lazy(cuts):
        supervision = supervision_of(cut)
        try:
            samples = load_samples(cut)
        except Exception as error:  # each audio format has its own errors
            reason = " ".join(f"{error}".split()) or type(error).__name__
            raise RecipeError(f"cut {cut.id} can't be read ({reason})", where=cuts) from error
        start = time.perf_counter()
        text = transcribe(samples, supervision.language, supervision.task).strip()
        seconds, audio = seconds + time.perf_counter() - start, audio + cut.duration
        rows.append(
            {
                "id": cut.id,
                "language": supervision.language,
                "task": supervision.task,
                "duration": cut.duration,
                "text": text,
            }
        )
    write_jsonl(out / "hyp.jsonl", rows)
    write_json(out / "decode.json", {"rtf": seconds / audio})


def require_same(verification: Verification, tolerance: float, out: Path) -> None:
    """Raise RecipeError if error rates differ by more than `tolerance` points plus chance, or the texts by too much."""
    # If the model is wrong everywhere, any other text has the same error rate: then only the text tells them apart.
    if verification.points > tolerance + verification.chance or verification.difference > MAX_DIFFERENCE:
        raise RecipeError(
            f"the exported model's output differs from the original's: {verification}; {tolerance} points are allowed",
            where=out,
            cure="use another --quantization, or give a larger --verify_tolerance",
        )


def _score(hyp_dir: Path, ref: Path) -> dict:
    with contextlib.redirect_stdout(io.StringIO()):
        score(hyp_dir, ref=ref)
    return read_json(hyp_dir / "metrics.json")["groups"][ALL]


def _with_text(cut: dict, text: str) -> dict:
    return cut | {"supervisions": [cut["supervisions"][0] | {"text": text}]}


def draw_sample(cuts: Path, utterances: int) -> list[dict]:
    """Draw a random sample of cuts, always the same; in two passes, to not hold a long manifest in memory."""
    if utterances < 1:
        raise RecipeError(f"must be 1 or more, got {utterances}", where="verify_utterances")
    count = sum(1 for _ in read_jsonl(cuts))
    if not count:
        raise no_cuts(cuts)
    drawn = set(random.Random(SEED).sample(range(count), min(utterances, count)))
    return [row for number, (_, row) in enumerate(read_jsonl(cuts)) if number in drawn]
