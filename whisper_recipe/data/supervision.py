"""Text, language, task, speaker, segments and prompt of a cut, from its supervisions, whoever wrote the manifest.

They are always read with `supervision_of`, so a manifest of Lhotse's or icefall's means the same in training, decoding,
statistics and scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from whisper_recipe.data.utterance import Segment, are_in_order, parse_segments, shortened
from whisper_recipe.errors import RecipeError
from whisper_recipe.languages import CHARACTER_LANGUAGES, LANGUAGES, language_code
from whisper_recipe.tasks import TASKS, check_task

if TYPE_CHECKING:
    from lhotse.cut import Cut


class Outline:
    """The fields of a cut needed to scan a manifest, read in a fifth of the time that Lhotse takes for the whole cut.

    Args:
        row: a cut's row in a manifest.

    Raises:
        KeyError, TypeError: the row is not a cut.
    """

    __slots__ = ("custom", "duration", "id", "supervisions")

    def __init__(self, row: dict) -> None:
        self.id, self.duration, self.custom = row["id"], row.get("duration"), row.get("custom")
        self.supervisions = [SimpleNamespace(**part) for part in row["supervisions"]]


def outline_of(row: dict) -> Outline | Cut:
    """Return the outline of a cut's row in a manifest; a mixed cut is read whole.

    Raises:
        KeyError, TypeError: the row is not a cut.
    """
    if "tracks" not in row:
        return Outline(row)
    from lhotse.serialization import deserialize_item

    return deserialize_item(row)


class Supervision(NamedTuple):
    """The supervisions of a cut, as one.

    Args:
        text: the text that the model should write; "" for an example without speech.
        language: Whisper's code of the spoken language; None only if `supervision_of` does not require it.
        task: transcribe or translate.
        speaker: None if it is unknown or the cut has several.
        segments: stretches of the cut with their texts, in order of time; empty if unknown.
        prompt: the previous text; "" if unknown.
    """

    text: str
    language: str | None
    task: str
    speaker: str | None
    segments: tuple[Segment, ...] = ()
    prompt: str = ""


NOTHING = Supervision("", None, "transcribe", None)


def supervision_of(cut: Cut | Outline, labelled: bool = True) -> Supervision:
    """Return the supervisions of a cut as one.

    A supervision without a task is a transcription; its language may be a code or an English name. The texts of several
    supervisions are joined in order of time, and their times become the segments, unless they overlap: Whisper's time
    tokens can't go back.

    Args:
        cut: a cut of Lhotse's, or the outline of one.
        labelled: whether text and language are required; cuts to decode may have neither.

    Raises:
        RecipeError: the cut has no supervision, text or language; an unknown language or task; several languages or
            tasks; or a malformed segment.
    """
    parts = cut.supervisions
    if len(parts) == 1:
        return _read(parts[0], cut, labelled)
    if not parts:
        if labelled:
            raise _fault(cut, "no supervision", "add one with a text and a language, or remove the cut")
        return NOTHING
    try:
        return _joined(sorted(parts, key=lambda part: part.start), cut, labelled)
    except (AttributeError, TypeError):  # only in rows: Lhotse's own have them
        raise _fault(cut, "a supervision without start and duration", "add them") from None


def read_cut_row(row: dict, where: str) -> tuple[Outline | Cut, Supervision]:
    """Return the cut of a manifest's row, and its supervisions as one.

    Args:
        row: a row of a cut manifest.
        where: its `file:line`, for errors.

    Raises:
        RecipeError: the row is not a cut, or as in `supervision_of`.
    """
    try:
        cut = outline_of(row)
        return cut, supervision_of(cut)
    except (KeyError, TypeError) as error:
        cure = "give a cut manifest (cuts_*.jsonl.gz), not recordings or supervisions"
        raise RecipeError(f"not a cut ({type(error).__name__}: {error})", where=where, cure=cure) from None
    except RecipeError as error:
        raise RecipeError(error.what, where=where, cure=error.cure) from None


def _read(part: Any, cut: Cut | Outline, labelled: bool) -> Supervision:
    # Attributes missing from the row are missing in an outline's supervisions, None in Lhotse's own. Training scans a
    # million cuts several times: codes and tasks as written by `fbank` need no call.
    custom = getattr(part, "custom", None)
    custom = custom if isinstance(custom, dict) else {}
    text, language = getattr(part, "text", None), getattr(part, "language", None)
    if labelled and not isinstance(text, str):
        raise _fault(cut, "no text", 'write "" if there is no speech')
    if language is None:
        if labelled:
            raise _fault(cut, "no language", "add `language` to its supervision")
    elif not isinstance(language, str) or language not in LANGUAGES:
        language = language_code(str(language), cut.id)
    task, prompt = custom.get("task") or "transcribe", custom.get("prompt") or ""
    if not isinstance(prompt, str):
        raise _fault(cut, f"a prompt that is not a string ({shortened(prompt)})", "correct custom.prompt")
    return Supervision(
        text or "",
        language,
        task if task in TASKS else check_task(task, cut.id),
        getattr(part, "speaker", None),
        _segments(custom["segments"], getattr(part, "start", 0.0), cut) if custom.get("segments") else (),
        prompt,
    )


def _segments(rows: object, offset: float, cut: Cut | Outline) -> tuple[Segment, ...]:
    """Return segments with times relative to the cut instead of their supervision."""
    try:
        segments = parse_segments(rows)
    except ValueError as error:
        raise _fault(cut, f"malformed segments: {error}", "correct custom.segments") from None
    if not offset:
        return segments
    return _within(cut, [Segment(offset + start, offset + end, text) for start, end, text in segments])


def _within(cut: Cut | Outline, segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return segments clipped to the cut; Lhotse keeps supervisions that extend beyond it."""
    clipped = (Segment(max(0.0, start), min(cut.duration, end), text) for start, end, text in segments)
    return tuple(segment for segment in clipped if segment.text and segment.start < segment.end)


def _joined(parts: list[Any], cut: Cut | Outline, labelled: bool) -> Supervision:
    """Return several supervisions, in order of time, as one."""
    supervisions = [_read(part, cut, labelled) for part in parts]
    for name in ("language", "task"):
        values = {getattr(supervision, name) for supervision in supervisions}
        if len(values) > 1:
            what = f"supervisions with more than one {name} ({', '.join(sorted(map(str, values)))})"
            raise _fault(cut, what, "split it with lhotse's trim_to_supervisions")
    language, task = supervisions[0].language, supervisions[0].task
    segments: list[Segment] = []
    for part, supervision in zip(parts, supervisions, strict=True):
        whole = Segment(part.start, part.start + part.duration, supervision.text)
        segments += supervision.segments or _within(cut, [whole])
    speakers = {supervision.speaker for supervision in supervisions}
    between = "" if task == "transcribe" and language in CHARACTER_LANGUAGES else " "
    return Supervision(
        between.join(supervision.text for supervision in supervisions if supervision.text),
        language,
        task,
        speakers.pop() if len(speakers) == 1 else None,
        tuple(segments) if are_in_order(segments) else (),
        supervisions[0].prompt,
    )


def _fault(cut: Cut | Outline, what: str, cure: str) -> RecipeError:
    return RecipeError(f"cut {cut.id} has {what}", cure=cure)
