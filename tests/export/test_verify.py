"""`export`: an export that recognises something else than its model never stands under its name."""

import json
import random
import re
import shutil
import typing

import pytest
from safetensors.torch import load_file, save_file

from whisper_recipe.errors import RecipeError
from whisper_recipe.export import ct2, hf
from whisper_recipe.export.export import TARGETS, export
from whisper_recipe.export.verify import Verification, compare_texts, draw_sample, require_same
from whisper_recipe.files import read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def model(natural_model):
    return natural_model


@pytest.fixture(scope="module")
def perturbed(model, tmp_path_factory):
    """The model with one matrix of its decoder turned upside down."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("exp") / "perturbed/model")
    weights = load_file(folder / "model.safetensors")
    name = "model.decoder.layers.1.fc2.weight"
    weights[name] = -3 * weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("to", ["ct2", "hf"])
def test_a_faithful_export_has_equal_hypotheses(model, corpus, tmp_path, capsys, to):
    export(model, tmp_path / "out", to, license="mit", verify=corpus, verify_utterances=5)
    printed = capsys.readouterr().out
    assert "5 of 5 hypotheses (100.0%) equal the model's" in printed
    assert ": 0.00 points apart" in printed
    card = (tmp_path / "out/README.md").read_text()
    assert "license: mit" in card
    assert "5 of 5 hypotheses (100.0%)" in card


@pytest.mark.slow
def test_perturbed_weights_are_an_error_and_no_folder_is_left(model, perturbed, corpus, tmp_path, monkeypatch):
    target = TARGETS["ct2"]._replace(write=lambda _, out, quantization: ct2.export(perturbed, out, quantization))
    monkeypatch.setitem(TARGETS, "ct2", target)
    with pytest.raises(
        RecipeError, match=r"out: the exported model's output differs.*the model's.* points apart.*0.5 points"
    ):
        export(model, tmp_path / "out", verify=corpus)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_both_error_rates_are_those_of_decode_and_score(model, perturbed, corpus, tmp_path, capsys):
    from whisper_recipe.decoding.decode import decode
    from whisper_recipe.scoring.score import score

    found = compare_texts(model, perturbed, corpus, 12)
    rates, texts = [], []
    for name, folder in (("a", model), ("b", perturbed)):
        decode(str(folder), corpus, tmp_path / name)
        score(tmp_path / name, corpus)
        rates.append(json.loads((tmp_path / name / "metrics.json").read_text())["groups"]["all"]["error_rate"])
        texts.append([row["text"] for _, row in read_jsonl(tmp_path / name / "hyp.jsonl")])
    assert [found.model_error_rate, found.export_error_rate] == rates
    assert found.equal == sum(a == b for a, b in zip(*texts, strict=True))
    assert found.utterances == 12
    characters = [row["language"] == "zh" for _, row in read_jsonl(tmp_path / "a/hyp.jsonl")]
    assert found.difference == pytest.approx(_difference(*texts, characters))


def _difference(references, hypotheses, characters):
    """Errors by jiwer itself over units of the references, of texts normalised by transformers."""
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    from whisper_recipe.text.normalize import get_normalizer

    errors = units = 0
    for reference, hypothesis, is_zh in zip(references, hypotheses, characters, strict=True):
        normalize = get_normalizer("whisper", "zh") if is_zh else EnglishTextNormalizer({})
        pair = [("" if is_zh else " ").join(normalize(text).split()) for text in (reference, hypothesis)]
        units += len(pair[0] if is_zh else pair[0].split())
        if not pair[0]:
            errors += len(pair[1] if is_zh else pair[1].split())
            continue
        out = (jiwer.process_characters if is_zh else jiwer.process_words)(*pair)
        errors += out.substitutions + out.deletions + out.insertions
    assert units > 20  # or the model writes too little to compare
    return errors / units


@pytest.mark.parametrize(
    ("equal", "rates", "accepted"),
    [
        (100, (0.10, 0.10), True),
        (92, (0.20, 0.211), True),  # 8 hypotheses differ: up to 2 * sqrt(8) = 5.7 errors of 500 are chance, 1.13 points
        (92, (0.20, 0.217), False),
        (92, (0.217, 0.20), False),  # fewer errors than the model are not the model's text either
        (10, (0.20, 0.60), False),
    ],
)
def test_what_chance_explains_is_no_mismatch(equal, rates, accepted, tmp_path):
    verification = Verification(100, equal, *rates, unit="WER", total=500, difference=0.03)
    if accepted:
        require_same(verification, 0.5, tmp_path)
    else:
        with pytest.raises(RecipeError, match=rf"{100 * rates[1]:.2f} %.*{100 * rates[0]:.2f} %"):
            require_same(verification, 0.5, tmp_path)


def test_the_text_tells_where_the_model_is_wrong_everywhere(tmp_path):
    useless = Verification(100, 30, 1.0, 1.0, unit="WER", total=500, difference=0.6)
    with pytest.raises(RecipeError, match="60.00 % of the text differs"):
        require_same(useless, 0.5, tmp_path)


def test_the_sample_is_drawn_from_the_whole_manifest_and_always_the_same(tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    write_jsonl(path, [{"id": number} for number in range(1000)])
    sample = [row["id"] for row in draw_sample(path, 50)]
    random.seed(7)
    assert [row["id"] for row in draw_sample(path, 50)] == sample == sorted(set(sample))
    assert len(sample) == 50 and sample[0] < 100 and sample[-1] > 900
    assert len(draw_sample(path, 2000)) == 1000


def test_wrong_calls_are_one_line(model, corpus, tmp_path):
    empty = tmp_path / "empty.jsonl.gz"
    write_jsonl(empty, [])
    for options, message in [
        ({"verify": tmp_path / "nowhere.jsonl.gz"}, "nowhere.jsonl.gz: no such file"),
        ({"verify": empty}, "contains no cuts"),
        ({"verify": corpus, "verify_utterances": 0}, "verify_utterances: must be 1 or more, got 0"),
        ({"to": "hf", "quantization": "int8"}, "does not support int8"),
    ]:
        with pytest.raises(RecipeError, match=message):
            export(model, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_an_export_is_written_anew_over_the_last_one(model, tmp_path):
    for _ in range(2):
        export(model, tmp_path / "out", quantization="int8")
    assert {"model.bin", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_every_target_can_be_asked_for_and_names_its_types(model, tmp_path):
    assert typing.get_args(typing.get_type_hints(export)["to"]) == tuple(TARGETS)
    for to, target in TARGETS.items():
        with pytest.raises(RecipeError, match=f"--to {to} does not support q9; use {', '.join(target.types)}"):
            export(model, tmp_path / "out", to, "q9")


@pytest.mark.slow
def test_what_differs_is_printed_with_speed_and_size(model, perturbed, corpus, tmp_path, capsys, monkeypatch):
    target = TARGETS["hf"]._replace(write=lambda _, out, quantization: hf.export(perturbed, out))
    monkeypatch.setitem(TARGETS, "hf", target)
    with pytest.raises(RecipeError):
        export(model, tmp_path / "out", "hf", verify=corpus, verify_utterances=2)
    printed = capsys.readouterr().out
    assert printed.count("\n  model:  ") == printed.count("\n  export: ") == 2
    assert re.search(r"RTF \d+\.\d+, the model's \d+\.\d+; \d+\.\d MB, the model \d+\.\d$", printed.strip())
