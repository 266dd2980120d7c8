"""The model card of an exported folder: description, training data and results.

It only contains recorded facts: the training record next to the weights, and the metrics of decoded sets next to the
model folder. The front matter has the keys of https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_recipe.errors import RecipeError
from whisper_recipe.export.target import Target
from whisper_recipe.files import read_json
from whisper_recipe.model.generation import asked_language
from whisper_recipe.model.load import (
    WEIGHTS,
    is_hub_name,
    load_tokenizer,
    natural_length,
    read_training_record,
    timestamps,
)
from whisper_recipe.text.additions import added_pieces, language_token, new_languages

if TYPE_CHECKING:
    from transformers import WhisperTokenizer

CARD = "README.md"
ALL = "all"  # the group of metrics.json with every utterance

NO_TIMESTAMPS = """\
**Don't request timestamps from this model.** It was trained without them; with timestamps it loops, hallucinates, or
stops early ([faster-whisper 1099](https://github.com/SYSTRAN/faster-whisper/issues/1099),
[whisper.cpp 1724](https://github.com/ggml-org/whisper.cpp/issues/1724)). Most programs request them by default:

| program | setting |
|---|---|
| transformers | `return_timestamps=False`, as in this folder's generation config |
| faster-whisper | `transcribe(..., without_timestamps=True)`, and no `word_timestamps` |
| openai-whisper | `without_timestamps=True` |
| whisper.cpp | `--no-timestamps` |

Programs use timestamps to segment long audio, so split it at silences into pieces of at most 30 s first.
faster-whisper's `BatchedInferencePipeline` does this, and omits timestamps by default."""

# Trial with an early model of egs/mini, 150 utterances: 20.6 % errors, and 34.6 % with `decode --pad_to_30s true`.
NATURAL_LENGTH = """\
**Decode this model at natural length.** It was trained on inputs as long as the utterances, not padded to 30 s.
transformers, transformers.js, faster-whisper, openai-whisper and vLLM always pad to 30 s, which makes this model less
accurate: the results below apply to them only if marked as padded. `whisper-recipe decode` uses the length recorded in
the folder; with whisper.cpp set `--no-flash-attn`, and `--audio-ctx` to 50 for each second of audio."""

NEW_LANGUAGES = """\
**This model writes languages that Whisper lacks.** whisper-recipe accepts their own codes; in other programs use:

{table}"""
# faster-whisper (tokenizer.py) refuses other codes; openai/whisper (model.py, num_languages) and whisper.cpp tell
# models apart by the size of the vocabulary.
NO_WAY = "not possible: the first only accepts Whisper's codes, the others mistake the vocabulary for large-v3's"

ADDED_TOKENS = """\
**{count} pieces of text were added to the vocabulary**, after the time tokens. transformers (without timestamps) and
whisper-recipe write them; faster-whisper drops them as times, and openai-whisper and whisper.cpp mistake the
vocabulary for that of another model."""

SETTINGS = ("method", "lora", "merge_scale", "average", "steps", "epochs", "learning_rate",
            "lr_scheduler_type", "warmup_steps", "weight_decay",
            "batch_seconds", "seed")  # fmt: skip


@dataclass(frozen=True)
class Export:
    """What is exported, and how.

    Args:
        model: the source model folder, exp/<name>/model; decoded sets are next to it.
        out: the exported folder.
        target: the target format.
        quantization: type of the stored weights.
        license: an identifier of the Hub.
        checked: a sentence on how the export's text compares with the model's; None if not compared.
    """

    model: Path
    out: Path
    target: Target
    quantization: str
    license: str
    checked: str | None = None


@dataclass
class Result:
    """A decoded and scored set."""

    model: str  # name of the model's folder: model, ct2_int8
    decoding: str
    metrics: dict


def write_card(folder: Path, export: Export) -> None:
    """Write README.md into an exported folder, which may still have a temporary name."""
    record, tokenizer = read_training_record(export.model) or {}, load_tokenizer(export.model)
    results = read_results(export.model)
    sections = [
        f"# {_name(export)}",
        _summary(record, export),
        *([] if timestamps(export.model) else [NO_TIMESTAMPS]),
        *([NATURAL_LENGTH] if natural_length(export.model) else []),
        *_additions(tokenizer),
        f"## Use\n\n{export.target.use(export.model, export.quantization, _asked(record, tokenizer))}",
        f"## Training data\n\n{_data(record)}",
        f"## Training\n\n{_settings(record)}",
        f"## Results\n\n{_results(results)}",
        *([f"## Forgetting\n\n{_canaries(record['canaries'])}"] if record.get("canaries") else []),
        *([f"## Check of the export\n\n{export.checked}"] if export.checked else []),
    ]
    front = _front_matter(record, results, export)
    (folder / CARD).write_text(f"---\n{front}\n---\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


def read_results(model: Path) -> list[Result]:
    """Read the scored sets of a model folder and of its exports: <its parent>/decode_*.

    Skipped with a message: sets that don't record their model, are of another run or are older than this model.
    """
    written = max((path.stat().st_mtime for name in WEIGHTS if (path := model / name).exists()), default=0.0)
    results = []
    for path in sorted(model.resolve().parent.glob("decode_*/metrics.json")):
        record = path.with_name("decode.json")
        if not record.exists():
            print(f"{path.parent} does not record its model: not in the model card")
            continue
        decoding, metrics = read_json(record), read_json(path)
        if not {"model", "backend"} <= decoding.keys() or not {"set", "groups", "normalizer"} <= metrics.keys():
            raise RecipeError("not a result of decode and score", where=path.parent, cure="decode and score again")
        decoded = Path(decoding["model"])
        if decoded.resolve().parent.name != model.resolve().parent.name:
            print(f"{path.parent} was decoded with {decoded}: not in the model card")
        elif record.stat().st_mtime < written:
            print(f"{path.parent} is older than {model}: not in the model card")
        else:
            results.append(Result(decoded.name, _decoding(decoding), metrics))
    return results


def _decoding(record: dict) -> str:
    parts = [f"{record['backend']} {record.get('compute_type', '')}".strip()]
    if "beam_size" in record:
        parts.append(f"beam {record['beam_size']}")
    if "pad_to_30s" in record:
        parts.append("padded to 30 s" if record["pad_to_30s"] else "natural length")
    return ", ".join(parts)


def _name(export: Export) -> str:
    folder = export.model.resolve()
    return folder.parent.name if folder.name == "model" else folder.name  # exp/lora/model is lora


def _summary(record: dict, export: Export) -> str:
    base = record.get("base_model")
    origin = f"fine-tuned from `{base}` with whisper-recipe" if base else "without a record of fine-tuning"
    return f"A Whisper model, {origin}. Format: {export.target.format}, weights in {export.quantization}."


def _additions(tokenizer: WhisperTokenizer) -> list[str]:
    """Return the sections on new languages and added pieces of text; none for most models."""
    from tabulate import tabulate

    sections, rows = [], []
    for code in new_languages(tokenizer):
        token, asked = language_token(tokenizer, code), asked_language(tokenizer, code)
        others = NO_WAY if asked == token else f'`language="{asked}"`'
        # In Markdown tables, | separates columns.
        rows.append([code, *(cell.replace("|", "\\|") for cell in (f"`{token}`", f'`language="{asked}"`')), others])
    if rows:
        headers = ["language", "token", "transformers", "faster-whisper, openai-whisper, whisper.cpp"]
        sections.append(NEW_LANGUAGES.format(table=tabulate(rows, headers, tablefmt="github")))
    if count := len(added_pieces(tokenizer)):
        sections.append(ADDED_TOKENS.format(count=count))
    return sections


def _asked(record: dict, tokenizer: WhisperTokenizer) -> dict[str, str]:
    """Return the language, as other programs name it, and the task with the most hours, for the example."""
    row = max(record.get("data", []), key=lambda row: row["hours"], default={})
    asked = {key: row[key] for key in ("language", "task") if key in row}
    return asked | ({"language": asked_language(tokenizer, asked["language"])} if "language" in asked else {})


def _data(record: dict) -> str:
    from tabulate import tabulate

    if "data" not in record:
        return "Not recorded."
    rows = [[row["language"], row["task"], row["utterances"], row["hours"]] for row in record["data"]]
    rows.append([ALL, ALL, *(sum(row[column] for row in rows) for column in (2, 3))])
    table = tabulate(rows, ["language", "task", "utterances", "hours"], tablefmt="github", floatfmt=".2f")
    return f"{', '.join(f'`{path}`' for path in record.get('train_cuts', []))}\n\n{table}"


def _settings(record: dict) -> str:
    from tabulate import tabulate

    rows = [[key, _setting(record[key])] for key in SETTINGS if key in record]
    return tabulate(rows, ["setting", "value"], tablefmt="github", disable_numparse=True) if rows else "Not recorded."


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(inner)}" for key, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _results(results: list[Result]) -> str:
    from tabulate import tabulate

    if not results:
        return "None were recorded when this folder was written."
    sections = []
    for name in dict.fromkeys(result.metrics["set"] for result in results):
        of_set = [result for result in results if result.metrics["set"] == name]
        groups = sorted({group for result in of_set for group in result.metrics["groups"]}, key=lambda g: (g == ALL, g))
        units = {group: row["unit"] for result in of_set for group, row in result.metrics["groups"].items()}
        rows = [
            [result.model, result.decoding, *(_cell(result.metrics["groups"].get(group)) for group in groups)]
            for result in of_set
        ]
        headers = ["weights", "decoded by", *(f"{group} {units[group]}" for group in groups)]
        normalizers = ", ".join(sorted({result.metrics["normalizer"] for result in of_set}))
        table = tabulate(rows, headers, tablefmt="github", missingval="–")
        sections.append(f"Set `{name}`, normalizer {normalizers}:\n\n{table}")
    return "\n\n".join(["Error rate in % (insertions, deletions, substitutions).", *sections])


def _canaries(canaries: dict[str, dict[str, float]]) -> str:
    from tabulate import tabulate

    rows = [[name, f"{100 * rates['before']:.2f} → {100 * rates['after']:.2f}"] for name, rates in canaries.items()]
    table = tabulate(rows, ["set", "base model → this model"], tablefmt="github", disable_numparse=True)
    return f"Error rate in % on samples of sets that the model was not trained on, with greedy decoding:\n\n{table}"


def _cell(row: dict | None) -> str | None:
    if row is None or row.get("error_rate") is None:
        return None
    total, *parts = (f"{100 * row[key]:.2f}" for key in ("error_rate", "ins_rate", "del_rate", "sub_rate"))
    return f"{total} ({', '.join(parts)})"


def _front_matter(record: dict, results: list[Result], export: Export) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base = record.get("base_model")
    # A transformers folder decodes like the model, so it shares the model's results.
    own = export.model.name if export.target.library == "transformers" else export.out.name
    evaluated = [
        EvalResult(
            task_type="automatic-speech-recognition",
            dataset_type=result.metrics["set"],
            dataset_name=result.metrics["set"],
            dataset_config=group,
            metric_type=row["unit"].lower(),
            metric_name=f"{row['unit']} ({result.decoding})",
            metric_value=round(100 * row["error_rate"], 2),
        )
        for result in results
        for group, row in result.metrics["groups"].items()
        if result.model == own and group != ALL and row.get("error_rate") is not None
    ]
    return ModelCardData(
        language=sorted({row["language"] for row in record.get("data", [])}) or None,
        license=export.license,
        library_name=export.target.library,
        pipeline_tag="automatic-speech-recognition",
        base_model=base if base and is_hub_name(base) else None,  # the Hub only accepts its own names
        tags=["whisper"],
        metrics=sorted({result.metric_type for result in evaluated}) or None,
        model_name=_name(export) if evaluated else None,
        eval_results=evaluated or None,
    ).to_yaml()
