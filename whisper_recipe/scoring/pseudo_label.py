"""`whisper-recipe pseudo-label`: turn a decoding into cuts to train on, without texts that look made up."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_recipe.data.supervision import supervision_of
from whisper_recipe.data.text_rules import count_characters
from whisper_recipe.errors import RecipeError
from whisper_recipe.files import list_dropped, read_jsonl, require, write_jsonl
from whisper_recipe.languages import language_code
from whisper_recipe.scoring.hallucinations import longest_loop
from whisper_recipe.scoring.references import hypotheses_file
from whisper_recipe.tasks import check_task
from whisper_recipe.text.error_rates import units_of
from whisper_recipe.text.normalize import get_normalizer, is_counted_in_characters, text_language

if TYPE_CHECKING:
    from lhotse.cut import Cut


def pseudo_label(
    decoding: Path, cuts: Path, out: Path, max_chars_per_second: float = 25.0, min_confidence: float = 0.0
) -> None:
    """Label cuts with the hypotheses of a model, for training on untranscribed audio.

    Mixed into a training set (`train --train_cuts new.jsonl.gz:0.5 labelled.jsonl.gz:0.5`), the base model's own texts
    keep it from forgetting. Drops cuts without a hypothesis, and hypotheses that are empty, loop, or have more text
    than can be spoken in the time; they are counted and listed in dropped_<name>.tsv next to OUT with the reasons.

    Args:
        decoding: the folder of `whisper-recipe decode`.
        cuts: the manifest that was decoded; its texts, segments and prompts are replaced.
        out: the manifest to write.
        max_chars_per_second: maximum letters and digits per second; cuts with more are dropped. English has about 15,
            Chinese about 5.
        min_confidence: drop texts whose words have a lower mean probability; requires `decode --confidence`.

    Raises:
        RecipeError: there is no decoding, it is not of these cuts, it has no probabilities although min_confidence is
            set, or all cuts are dropped.
    """
    from lhotse import CutSet

    require(cuts, "give the manifest that was decoded")
    hypotheses = _read_hypotheses(hypotheses_file(decoding), needs_words=min_confidence > 0)
    labelled, dropped = [], {}
    for cut in CutSet.from_jsonl_lazy(cuts):
        row = hypotheses.pop(cut.id, None)
        reason = "no hypothesis" if row is None else _fault(row, cut.duration, max_chars_per_second, min_confidence)
        if reason:
            dropped[cut.id] = reason
        else:
            labelled.append(_labelled(cut, row).to_dict())
    if hypotheses:
        cure = "give the manifest that was decoded"
        raise RecipeError(f"decoded cut {min(hypotheses)} is missing", where=cuts, cure=cure)
    if not labelled:
        key, reason = next(iter(dropped.items()), ("none", "no hypothesis"))
        what = f"all {len(dropped)} cuts are dropped, {key} first: {reason}"
        raise RecipeError(what, where=decoding, cure="listen to some")
    write_jsonl(out, labelled)
    name = out.name.removeprefix("cuts_").partition(".")[0]
    rows = [f"{key}\t{reason}" for key, reason in dropped.items()]
    print(f"{out}: {len(labelled) + len(dropped)} cuts = {len(labelled)} labelled + {len(dropped)} dropped")
    for kind, count in Counter(reason.partition(":")[0] for reason in dropped.values()).most_common():
        print(f"  {count} {kind}")
    list_dropped(out.parent / f"dropped_{name}.tsv", rows, "cuts are dropped, with the reasons")


def _read_hypotheses(path: Path, needs_words: bool) -> dict[str, dict]:
    rows = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        if not all(isinstance(row.get(key), str) for key in ("id", "text", "language", "task")):
            cure = "give the folder of whisper-recipe decode"
            raise RecipeError("no id, text, language and task in it", where=where, cure=cure)
        if needs_words and not isinstance(row.get("words"), list):
            cure = "decode with --confidence, or leave min_confidence out"
            raise RecipeError("no words with probabilities in it", where=where, cure=cure)
        rows[row["id"]] = row | {
            "language": language_code(row["language"], where),
            "task": check_task(row["task"], where),
        }
    return rows


def _fault(row: dict, seconds: float, max_chars_per_second: float, min_confidence: float) -> str | None:
    """Return why a hypothesis looks made up; None if it does not."""
    language, task = row["language"], row["task"]
    normalised = get_normalizer("whisper", text_language(language, task))(row["text"])
    if not normalised:
        return "no text"
    if loop := longest_loop(units_of(normalised, is_counted_in_characters(language, task))):
        return f"loop: {' '.join(loop.units)!r} {loop.repeats} times"
    density = count_characters(row["text"]) / seconds
    if density > max_chars_per_second:
        return f"too much text: {density:.1f} characters per second"
    if min_confidence:
        confidence = statistics.fmean(word["probability"] for word in row["words"]) if row["words"] else 0.0
        if confidence < min_confidence:
            return f"low confidence: {confidence:.2f}"
    return None


def _labelled(cut: Cut, row: dict) -> Cut:
    """Return a cut with one supervision: the hypothesis."""
    from lhotse import SupervisionSegment
    from lhotse.cut import MixedCut
    from lhotse.utils import fastcopy

    if isinstance(cut, MixedCut):
        raise RecipeError(f"cut {cut.id} is mixed from several cuts", cure="save its audio first (CutSet.save_audios)")
    supervision = SupervisionSegment(
        cut.id,
        cut.recording_id,
        start=0.0,
        duration=cut.duration,
        channel=cut.channel,
        text=row["text"],
        language=row["language"],
        speaker=supervision_of(cut, labelled=False).speaker,
        custom={"task": row["task"]} | ({"segments": row["segments"]} if row.get("segments") else {}),
    )
    return fastcopy(cut, supervisions=[supervision])
