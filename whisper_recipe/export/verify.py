"""Whether an export recognises what its model does: both decode a sample, and their texts and errors are compared."""

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
from whisper_recipe.errors import RecipeError
from whisper_recipe.export.target import Target, Transcriber
from whisper_recipe.files import read_json, read_jsonl, write_json, write_jsonl
from whisper_recipe.model.load import natural_length
from whisper_recipe.scoring.score import ALL, score

MAX_DIFFERENCE = 0.5  # of the text; rounded weights change some hundredths of it
SEED = 0  # of the sample; every export is verified on the same utterances


@dataclass(frozen=True)
class Verification:
    """How the text of an export compares with the text of the model that it was made from.

    Args:
        utterances: that both have decoded.
        equal: of these, how many hypotheses are the same to the letter.
        model_error_rate: share of the reference's units.
        export_error_rate: likewise.
        unit: WER, CER or, where words and characters meet, WER/CER.
        total: units of the references.
        difference: units that differ between the two texts, as a share of the model's text.
        differing: of the hypotheses that differ, the utterance, the model's text and the export's.
        model_rtf: processing time divided by audio time, of transformers in float32.
        export_rtf: likewise, of the program that the export is for.
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
        """How many points of error rate lie between the two, in either direction."""
        return 100 * abs(self.export_error_rate - self.model_error_rate)

    @property
    def chance(self) -> float:
        """How many points chance explains: each hypothesis that differs has one error more or one less.

        Rounded weights turn a word here and there, for better or worse. The sum of n such steps stays within twice the
        square root of n in 95 of 100 cases. In a sample of 100 short utterances that is a point.
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
    """Decode a sample of a cut manifest with a model and its export, each by its program.

    Inputs have the length that the model records, or 30 s where the export's program always pads to that.

    Args:
        model: the model folder.
        exported: the exported folder.
        cuts: the manifest.
        utterances: in the sample at most.
        target: of the export; None for one that `whisper-recipe decode` reads.

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
        # One by one, where the export's program does so: an utterance's text may depend on its batch.
        recognize(model, None, sample, work / "model", pad, one_by_one=foreign)
        outs = work / "model", work / "export"
        texts = [{row["id"]: row["text"] for _, row in read_jsonl(out / "hyp.jsonl")} for out in outs]
        groups = [_score(out, sample) for out in outs]
        rtfs = [read_json(out / "decode.json")["rtf"] or math.nan for out in outs]
        if groups[0]["error_rate"] is None:
            raise RecipeError("no reference text in it", where=cuts, cure="verify with cuts that have text")
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
        difference=difference if difference is not None else float(bool(differing)),  # the model's is empty
        differing=differing,
        model_rtf=rtfs[0],
        export_rtf=rtfs[1],
    )


def recognize(
    folder: Path, target: Target | None, cuts: Path, out: Path, pad_to_30s: bool | None, one_by_one: bool = False
) -> None:
    """Decode cuts with the program that a folder is for; write out/hyp.jsonl, and out/decode.json with the RTF.

    Args:
        folder: a model folder or an export.
        target: of the export; None for what `whisper-recipe decode` reads.
        cuts: the manifest.
        out: the folder to write.
        pad_to_30s: whether inputs are padded to 30 s; None for as the folder records, which `decode` reads.
        one_by_one: decode in no batches, as programs of others' do it here anyway.
    """
    if target and target.load:
        _transcribe(target.load(folder, not pad_to_30s), cuts, out)
        return
    with contextlib.redirect_stdout(io.StringIO()):  # its line is of no use here
        decode(str(folder), cuts, out, batch_duration=0.01 if one_by_one else None, pad_to_30s=pad_to_30s)


def _transcribe(transcribe: Transcriber, cuts: Path, out: Path) -> None:
    """Decode cuts one by one with a program of others'; write of what `decode` does as much as is needed here."""
    from lhotse import CutSet

    from whisper_recipe.data.augment import load_samples
    from whisper_recipe.data.supervision import supervision_of

    rows, seconds, audio = [], 0.0, 0.0
    for cut in CutSet.from_jsonl_lazy(cuts):
        said = supervision_of(cut)
        try:
            samples = load_samples(cut)
        except Exception as error:  # each format of audio has errors of its own
            reason = " ".join(f"{error}".split()) or type(error).__name__
            raise RecipeError(f"cut {cut.id} can't be read ({reason})", where=cuts) from error
        start = time.perf_counter()
        text = transcribe(samples, said.language, said.task).strip()
        seconds, audio = seconds + time.perf_counter() - start, audio + cut.duration
        rows.append(
            {"id": cut.id, "language": said.language, "task": said.task, "duration": cut.duration, "text": text}
        )
    write_jsonl(out / "hyp.jsonl", rows)
    write_json(out / "decode.json", {"rtf": seconds / audio})


def require_same(verification: Verification, tolerance: float, out: Path) -> None:
    """Raise RecipeError where two error rates differ by more than `tolerance` points and chance, or the texts do."""
    # Where the model itself is wrong everywhere, so is any other text, at the same error rate: then the text tells.
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
    """Draw cuts at random, always the same ones; two passes, so that a long manifest needs no memory."""
    if utterances < 1:
        raise RecipeError(f"{utterances} utterances", where="verify_utterances", cure="use 1 or more")
    count = sum(1 for _ in read_jsonl(cuts))
    if not count:
        raise RecipeError("no cuts in it", where=cuts, cure="check the data directory it was made from")
    drawn = set(random.Random(SEED).sample(range(count), min(utterances, count)))
    return [row for number, (_, row) in enumerate(read_jsonl(cuts)) if number in drawn]
