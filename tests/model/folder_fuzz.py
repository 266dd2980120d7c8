"""Damages model folders at random and uses them: each either works or ends in a RecipeError.

    .venv/bin/python -m tests.model.folder_fuzz FIRST COUNT

prints a JSON line for each number from FIRST: the damage, and what came of it. A number always means the same damage.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

HF_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
            "tokenizer_config.json", "tokenizer.json", "whisper_recipe.json", "model.safetensors")  # fmt: skip
CT2_FILES = ("config.json", "vocabulary.json", "tokenizer_config.json", "tokenizer.json", "whisper_recipe.json",
             "preprocessor_config.json", "model.bin")  # fmt: skip
VALUES = [None, True, "x", "", -1, 0, 1, 3, 7, 1000, 1.5, [], {}, [1], [-1], ["x"], [[0, 0]], [[9, 9]], [[1]], {"x": 1}]
RECORD = {
    "natural_length": True, "pad_to_30s": 0.0, "timestamps": False, "base_model": "openai/whisper-tiny",
    "train_cuts": ["cuts.jsonl.gz"], "method": "lora", "steps": 10, "lora": {"rank": 4},
    "data": [{"language": "en", "task": "transcribe", "utterances": 3, "hours": 1.0}],
}  # fmt: skip


def damage(folder: Path, files: tuple[str, ...], others: list[Path], chance: random.Random) -> str:
    """Change one file of a folder; return what was done."""
    path = folder / chance.choice([name for name in files if (folder / name).exists()])
    way = chance.random()
    if way < 0.04:
        path.unlink()
        return f"{path.name}: removed"
    if way < 0.10 or path.suffix in (".safetensors", ".bin"):
        size = chance.randrange(path.stat().st_size)
        path.write_bytes(path.read_bytes()[:size])
        return f"{path.name}: truncated to {size} bytes"
    if way < 0.15 and path.name.startswith("tokenizer"):
        other = chance.choice(others)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(other / name, folder / name)
        return f"tokenizer of {other.name}"
    content = json.loads(path.read_text(encoding="utf-8"))
    where, keys = content, []
    while True:
        keys.append(chance.choice(list(where) if isinstance(where, dict) else range(len(where))))
        inner = where[keys[-1]]
        if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.4:
            break
        where = inner
    if chance.random() < 0.4:
        del where[keys[-1]]
        done = "removed"
    else:
        where[keys[-1]] = chance.choice(VALUES)
        done = f"= {where[keys[-1]]!r}"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return f"{path.name}: {'.'.join(map(str, keys))} {done}"


def outcome(work, *arguments, **options) -> tuple[str, object]:
    """Return (ok, result), (refused, message) or (FAULT, traceback)."""
    from whisper_recipe.errors import RecipeError

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return "ok", work(*arguments, **options)
    except RecipeError as error:
        return "refused", str(error)
    except BaseException:
        return "FAULT", traceback.format_exc()


def words(folder: Path) -> list[str]:
    """Decode a second of random features with the folder's backend; return the words, which all have times."""
    import torch

    from whisper_recipe.decoding.backends import load_backend
    from whisper_recipe.decoding.search import SearchOptions, search_prompt
    from whisper_recipe.decoding.words import word_times
    from whisper_recipe.model.load import natural_length, timestamps
    from whisper_recipe.text.tokenizer import text_only

    natural_length(folder), timestamps(folder)
    backend, search = load_backend(folder), SearchOptions(max_new_tokens=12)
    features = torch.randn((1, backend.num_mel_bins, 100), generator=torch.Generator().manual_seed(1)).clamp(-1, 1.5)
    prompt = search_prompt(backend.tokenizer, "en", "transcribe", search)
    ids = [text_only(backend.tokenizer, row) for row in backend.decode(features, [prompt], search)]
    [timed] = word_times(backend, backend.tokenizer, features, [100], ids, "en", "transcribe")
    if not all(0 <= word.start <= word.end <= 1 for word, _ in timed):
        raise AssertionError(f"impossible times: {timed}")
    return [word.word for word, _ in timed]


def one(number: int, models: dict[str, Path], work: Path) -> dict:
    """Damage a copy of a folder by a number's chance, decode and export it; return what came of it."""
    from whisper_recipe.export.export import export

    chance = random.Random(number)
    kind = chance.choice(["hf", "hf", "ct2"])
    folder = shutil.copytree(models[kind], work / "model")
    others = [models["english"], models["full"]]
    row = {
        "number": number,
        "kind": kind,
        "damage": damage(folder, CT2_FILES if kind == "ct2" else HF_FILES, others, chance),
    }
    row["decode"] = outcome(words, folder)
    if kind == "hf":
        row["export"] = outcome(export, folder, work / "exported", chance.choice(["ct2", "ct2", "hf"]))
        if row["export"][0] == "ok":
            row["exported"] = outcome(words, work / "exported")
    return row


def make_models(work: Path) -> dict[str, Path]:
    """Make a tiny model in both forms, and models of other vocabularies."""
    from tests.conftest import SENTENCES, make_model
    from whisper_recipe.export import ct2

    text = work / "text"
    text.write_text("".join(f"utt{n} {line}\n" for n, line in enumerate(SENTENCES)), encoding="utf-8")
    models = {"hf": make_model(work / "hf", text)}
    make_talkative(models["hf"])
    (models["hf"] / "whisper_recipe.json").write_text(json.dumps(RECORD))
    ct2.export(models["hf"], work / "ct2")
    models |= {"ct2": work / "ct2", "english": make_model(work / "english", text, vocab_size=51864)}
    return models | {"full": make_model(work / "full", text, vocab_size=51865)}


def make_talkative(folder: Path) -> None:
    """Let a model with random weights write words: its last layer leans towards their embeddings."""
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

    model = WhisperForConditionalGeneration.from_pretrained(folder)
    ids = WhisperTokenizer.from_pretrained(folder)(" turn on the light", add_special_tokens=False).input_ids
    with torch.no_grad():
        towards = model.model.decoder.embed_tokens.weight[ids].sum(0)
        model.model.decoder.layer_norm.bias.copy_(2 * towards / towards.std())
    model.save_pretrained(folder)


def main(first: int, count: int) -> None:
    """Print a line before and after each number, so that a crash can be told from an error."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        work, printed = Path(name), sys.stdout
        with contextlib.redirect_stdout(io.StringIO()):
            models = make_models(work)
        for number in range(first, first + count):
            print(json.dumps({"number": number}), file=printed, flush=True)
            own = work / str(number)
            own.mkdir()
            print(json.dumps(one(number, models, own), ensure_ascii=False), file=printed, flush=True)
            shutil.rmtree(own)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
