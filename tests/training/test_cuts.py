"""Cuts of a training: looked through by outlines, mixed by weights and languages."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.dataset.sampling import DynamicBucketingSampler
from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.text.prompt import MAX_TOKENS
from whisper_recipe.training import batches as module
from whisper_recipe.training.batches import BatchOptions, BatchSampler, drop_untrainable, load_cuts, training_example
from whisper_recipe.training.cuts import Lengths, mixed, outlines, parse_weight


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def make_manifest(corpus, tmp_path):
    """A function (name, seconds of each cut, language) -> manifest; ids begin with the name."""
    (_, first), *_ = read_jsonl(corpus)

    def make(name, durations, language="en", text="one"):
        def row(number, seconds):
            key = f"{name}{number:05d}"
            supervision = {**first["supervisions"][0], "id": key, "duration": seconds, "text": text}
            supervision |= {"language": language}
            return {**first, "id": key, "duration": seconds, "supervisions": [supervision]}

        path = tmp_path / f"{name}.jsonl.gz"
        write_jsonl(path, (row(number, seconds) for number, seconds in enumerate(durations)))
        return path

    return make


def lengths(count, shortest=1.0):
    return [shortest + number % 13 / 4 for number in range(count)]


def seconds_of(cuts):
    """Return the share of the seconds of each first letter of the ids."""
    total = Counter()
    for cut in cuts:
        total[cut.id[0]] += cut.duration
    return {key: value / total.total() for key, value in total.items()}


def test_outlines_have_what_the_cuts_have(corpus):
    cuts = load_cuts([corpus, corpus])
    assert isinstance(cuts, CutSet)
    for cut, outline in zip(cuts, outlines(cuts), strict=True):
        assert (cut.id, cut.duration) == (outline.id, outline.duration)
        one, other = cut.supervisions[0], outline.supervisions[0]
        assert (one.text, one.language, one.custom) == (other.text, other.language, other.custom)


def test_batches_are_counted_as_lhotse_makes_them(make_manifest, tokenizer):
    paths = [make_manifest("a", lengths(900)), make_manifest("b", lengths(300))]
    options = BatchOptions(max_duration=40, num_buckets=5)
    kept, _ = drop_untrainable(load_cuts(paths), tokenizer)
    sampler = BatchSampler(kept, options, shuffle=True, seed=4)
    theirs = DynamicBucketingSampler(
        CutSet.from_files(paths, shuffle_iters=False), max_duration=40, num_buckets=5, shuffle=True, seed=4
    )
    expected = [[cut.id for cut in batch] for batch in theirs]
    assert len(sampler) == len(expected)
    assert [[cut.id for cut in batch] for [(_, batch)] in sampler] == expected
    assert [cut.duration for cut in Lengths(kept)] == [cut.duration for cut in Lengths(load_cuts(paths))]


def test_weights_are_shares_of_the_seconds(make_manifest):
    paths = [make_manifest("a", lengths(400)), make_manifest("b", lengths(3000))]
    cuts = mixed(load_cuts([f"{paths[0]}:0.75", f"{paths[1]}:0.25"]), None, seed=1)
    assert cuts.data.rates[str(paths[0])] == pytest.approx(0.75 * 3400 / 400, rel=0.01)
    taken = list(cuts)
    assert [cut.id for cut in taken] == [cut.id for cut in outlines(cuts)]
    assert seconds_of(taken) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.02)
    assert sum(cut.duration for cut in taken) == pytest.approx(sum(lengths(400) + lengths(3000)), rel=0.05)
    # Not one corpus after the other: every tenth of the epoch has the same mixture.
    tenth = len(taken) // 10
    for start in range(0, len(taken) - tenth, tenth):
        assert seconds_of(taken[start : start + tenth])["a"] == pytest.approx(0.75, abs=0.08)


def test_all_cuts_have_their_turn_over_the_epochs(make_manifest):
    paths = [make_manifest("a", lengths(100)), make_manifest("b", lengths(300))]
    data = mixed(load_cuts([f"{paths[0]}:0.75", f"{paths[1]}:0.25"]), None, seed=1).data
    often = Counter()
    for data.epoch in range(30):
        often.update(cut.id for cut in data.outlines())
    # Taken three times in each epoch, and once in three.
    assert {often[f"a{number:05d}"] for number in range(100)} <= set(range(85, 96))
    assert min(often[f"b{number:05d}"] for number in range(300)) > 0
    assert sum(often[f"b{number:05d}"] for number in range(300)) == pytest.approx(300 * 10, rel=0.05)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.9), (2.0, 0.75), (1e6, 0.5)])
def test_temperature_brings_languages_nearer(make_manifest, temperature, expected):
    # 0.9 ** 0.5 is three times 0.1 ** 0.5.
    paths = [make_manifest("e", lengths(1800), "en"), make_manifest("z", lengths(200), "zh")]
    shares = seconds_of(mixed(load_cuts(paths), temperature, seed=0))
    assert shares == pytest.approx({"e": expected, "z": 1 - expected}, abs=0.02)


def test_a_sampler_that_goes_on_has_the_same_mixture(make_manifest):
    paths = [make_manifest("a", lengths(200)), make_manifest("b", lengths(600))]
    cuts = load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"])
    options = BatchOptions(max_duration=30, num_buckets=4)
    whole = BatchSampler(cuts, options, shuffle=True, seed=2)
    passes = [[(number, [cut.id for cut in batch]) for [(number, batch)] in whole] for _ in range(4)]
    assert passes[0] != passes[1]
    again = BatchSampler(load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"]), options, shuffle=True, seed=2)
    again.pass_over(2 * len(whole))
    assert [[(number, [cut.id for cut in batch]) for [(number, batch)] in again] for _ in range(2)] == passes[2:]


def test_a_mixture_is_not_held_in_memory(make_manifest, monkeypatch):
    path = make_manifest("a", lengths(50))
    read = []
    monkeypatch.setattr("whisper_recipe.training.cuts.deserialize_item", lambda row: read.append(row["id"]))
    assert next(iter(load_cuts([f"{path}:1", f"{path}:2"]))) is None
    assert len(read) == 1


def test_dropped_cuts_do_not_count_for_the_shares(make_manifest, tokenizer):
    paths = [make_manifest("a", [*lengths(200), *[31.0] * 50]), make_manifest("b", lengths(200))]
    kept, dropped = drop_untrainable(load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"]), tokenizer)
    assert len(dropped) == 50
    rates = mixed(kept, None, 0).data.rates
    assert list(rates.values()) == pytest.approx([1.0, 1.0])
    assert sum(1 for _ in kept) == sum(1 for _ in outlines(kept)) == 400


def test_eval_loss_is_of_the_cuts_as_they_are(make_manifest):
    paths = [make_manifest("a", lengths(20)), make_manifest("b", lengths(60))]
    options = BatchOptions(language_temperature=5.0, max_duration=10)
    sampler = BatchSampler(load_cuts([f"{paths[0]}:0.9", f"{paths[1]}:0.1"]), options, shuffle=False, seed=0)
    assert sum(len(batch) for [(_, batch)] in sampler) == 80


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.jsonl.gz:0.7", ("a.jsonl.gz", 0.7)),
        ("a.jsonl.gz", ("a.jsonl.gz", None)),
        ("b:c/a.jsonl:2", ("b:c/a.jsonl", 2)),
        ("b.jsonl:c/a.jsonl", ("b.jsonl:c/a.jsonl", None)),
    ],
)
def test_weights_stand_after_the_name(given, expected):
    path, weight = parse_weight(given)
    assert (str(path), weight) == expected


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan", "x", ""])
def test_what_is_no_weight_is_one_line(weight):
    with pytest.raises(RecipeError, match="is no weight; give a number over 0"):
        parse_weight(f"a.jsonl.gz:{weight}")


def test_some_weights_or_two_kinds_are_one_line(make_manifest):
    a, b = make_manifest("a", [1.0]), make_manifest("b", [1.0])
    with pytest.raises(RecipeError, match="b.jsonl.gz: it has no weight, and others have"):
        load_cuts([f"{a}:0.5", b])
    with pytest.raises(RecipeError, match="language_temperature: the manifests have weights too"):
        mixed(load_cuts([f"{a}:0.5", f"{b}:1"]), 2.0, 0)
    with pytest.raises(RecipeError, match="language_temperature: 0.0 is no temperature"):
        BatchOptions(language_temperature=0.0)


def test_few_texts_are_tokenized_and_the_same_are_dropped(make_manifest, tokenizer, monkeypatch):
    cuts = [
        make_manifest(name, [1.0] * 5, text=text)
        for name, text in [("a", "short"), ("b", "w " * 223), ("c", "word " * 600), ("d", "字" * 160)]
    ]
    every = load_cuts(cuts)
    by_hand = {cut.id for cut in every if len(training_example(tokenizer, cut)[0]) > MAX_TOKENS}
    assert by_hand
    calls = []
    plain = training_example
    monkeypatch.setattr(module, "training_example", lambda *args, **more: calls.append(1) or plain(*args, **more))
    assert drop_untrainable(every, tokenizer)[1].keys() == by_hand
    assert len(calls) < 20


def test_a_language_the_tokenizer_lacks_is_found_before_the_training(make_manifest, tokenizer):
    with pytest.raises(RecipeError, match="tokenizer has no <.yue.>"):
        drop_untrainable(load_cuts([make_manifest("a", [1.0, 1.0], "yue")]), tokenizer)


@given(text=st.text(max_size=60))
def test_no_text_has_more_tokens_than_counted_for_it(tokenizer, text):
    supervision = {"text": text, "language": "en", "custom": {"task": "transcribe"}}
    cut = module.Outline({"id": "x", "duration": 1.0, "supervisions": [supervision]})
    assert len(training_example(tokenizer, cut)[0]) <= module._most_tokens(cut)
    cut.supervisions[0].custom["segments"] = [{"start": 0.0, "end": 1.0, "text": text}] * 2
    assert len(training_example(tokenizer, cut, timestamps=True)[0]) <= module._most_tokens(cut)
