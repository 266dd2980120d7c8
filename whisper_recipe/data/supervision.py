"""What a cut's supervisions say: text, language, task, speaker, segments and prompt, whoever wrote the manifest.

Everything that needs one of these reads it with `supervision_of`, so a manifest of Lhotse's or icefall's means the same
in training, decoding, statistics and scoring.
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
    """A cut as far as looking through a manifest needs it: a fifth of the time that Lhotse takes for a whole one.

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
    """What is said in a cut.

    Args:
        text: what the model is to write; "" is an example without speech.
        language: Whisper's code of the spoken language; None only where `supervision_of` was told that it may be.
        task: transcribe or translate.
        speaker: None where it is unknown, or where a cut has several.
        segments: stretches of the cut with their texts, in order of time; empty where they are unknown.
        prompt: text that came before; "" where it is unknown.
    """

    text: str
    language: str | None
    task: str
    speaker: str | None
    segments: tuple[Segment, ...] = ()
    prompt: str = ""


NOTHING = Supervision("", None, "transcribe", None)


def supervision_of(cut: Cut | Outline, labelled: bool = True) -> Supervision:
    """Return what a cut's supervisions say.

    A supervision without a task is a transcription; its language may be a code or an English name. Several
    supervisions are one text, joined in order of time, and their times are the segments, unless they overlap: Whisper's
    time tokens can't go back.

    Args:
        cut: of Lhotse, or the outline of one.
        labelled: whether text and language must be there; what is to be decoded may have neither.

    Raises:
        RecipeError: the cut has no supervision, text or language; one that is unknown; several languages or tasks; or
            a malformed segment.
    """
    parts = cut.supervisions
    if len(parts) == 1:
        return _read(parts[0], cut, labelled)
    if not parts:
        if labelled:
            raise _fault(cut, "no supervision", "give it one with a text and a language, or remove the cut")
        return NOTHING
    try:
        return _joined(sorted(parts, key=lambda part: part.start), cut, labelled)
    except (AttributeError, TypeError):  # of rows alone: Lhotse's own have them
        raise _fault(cut, "a supervision without start and duration", "write them") from None


def read_cut_row(row: dict, where: str) -> tuple[Outline | Cut, Supervision]:
    """Return a row of a cut manifest and what its supervisions say.

    Args:
        row: of the manifest.
        where: its `file:line`, for errors.

    Raises:
        RecipeError: the row is not a cut, or see `supervision_of`.
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
    # Outlines lack what their row lacks; Lhotse's own supervisions have it as None. Training looks through a million
    # cuts several times: codes and tasks as `fbank` writes them pass without a call.
    custom = getattr(part, "custom", None)
    custom = custom if isinstance(custom, dict) else {}
    text, language = getattr(part, "text", None), getattr(part, "language", None)
    if labelled and not isinstance(text, str):
        raise _fault(cut, "no text", 'write "" where there is no speech')
    if language is None:
        if labelled:
            raise _fault(cut, "no language", "write its supervision's `language`")
    elif not isinstance(language, str) or language not in LANGUAGES:
        language = language_code(str(language), cut.id)
    task, prompt = custom.get("task") or "transcribe", custom.get("prompt") or ""
    if not isinstance(prompt, str):
        raise _fault(cut, f"the prompt {shortened(prompt)}, which is not a text", "correct custom.prompt")
    return Supervision(
        text or "",
        language,
        task if task in TASKS else check_task(task, cut.id),
        getattr(part, "speaker", None),
        _segments(custom["segments"], getattr(part, "start", 0.0), cut) if custom.get("segments") else (),
        prompt,
    )


def _segments(rows: object, offset: float, cut: Cut | Outline) -> tuple[Segment, ...]:
    """Return segments, whose times count from the start of their supervision, in the time of the cut."""
    try:
        segments = parse_segments(rows)
    except ValueError as error:
        raise _fault(cut, f"malformed segments: {error}", "correct custom.segments") from None
    if not offset:
        return segments
    return _within(cut, [Segment(offset + start, offset + end, text) for start, end, text in segments])


def _within(cut: Cut | Outline, segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Return the parts of segments that lie in the cut; Lhotse keeps supervisions that reach over its ends."""
    clipped = (Segment(max(0.0, start), min(cut.duration, end), text) for start, end, text in segments)
    return tuple(segment for segment in clipped if segment.text and segment.start < segment.end)


def _joined(parts: list[Any], cut: Cut | Outline, labelled: bool) -> Supervision:
    """Return several supervisions, in order of time, as one."""
    found = [_read(part, cut, labelled) for part in parts]
    for name in ("language", "task"):
        values = {getattr(one, name) for one in found}
        if len(values) > 1:
            what = f"supervisions of more than one {name} ({', '.join(sorted(map(str, values)))})"
            raise _fault(cut, what, "cut it with lhotse's trim_to_supervisions")
    language, task = found[0].language, found[0].task
    segments: list[Segment] = []
    for part, one in zip(parts, found, strict=True):
        segments += one.segments or _within(cut, [Segment(part.start, part.start + part.duration, one.text)])
    speakers = {one.speaker for one in found}
    between = "" if task == "transcribe" and language in CHARACTER_LANGUAGES else " "
    return Supervision(
        between.join(one.text for one in found if one.text),
        language,
        task,
        speakers.pop() if len(speakers) == 1 else None,
        tuple(segments) if are_in_order(segments) else (),
        found[0].prompt,
    )


def _fault(cut: Cut | Outline, what: str, cure: str) -> RecipeError:
    return RecipeError(f"cut {cut.id} has {what}", cure=cure)
