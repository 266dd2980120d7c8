"""Cuts of a training: looked through by outlines, in random order, mixed by weights and languages."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.serialization import deserialize_item
from transformers import WhisperTokenizer

from whisper_recipe.errors import RecipeError
from whisper_recipe.files import read_jsonl, write_jsonl
from whisper_recipe.processes import Part
from whisper_recipe.text.prompt import MAX_TOKENS
from whisper_recipe.training import batches as module
from whisper_recipe.training.batches import BatchOptions, BatchSampler, drop_untrainable, load_cuts, training_example
from whisper_recipe.training.cuts import draw_epoch, draw_rates, outlines, parse_weight, selected


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


def drawn(cuts, temperature=None, epochs=1):
    """Return the cuts that epochs take, in their order."""
    chosen = selected(cuts)
    rates, durations = draw_rates(chosen, temperature), list(outlines(cuts))
    draw = np.random.default_rng(0)
    return [durations[place] for _ in range(epochs) for place in draw_epoch(len(chosen), rates, draw)]


def epoch_of(sampler):
    """Return the ids of a pass over a sampler, batch by batch."""
    return [[cut.id for cut in batch.cuts] for [batch] in sampler]


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


def test_any_cut_is_at_hand_by_its_number(make_manifest):
    paths = [make_manifest("a", lengths(50)), make_manifest("b", lengths(37))]
    theirs = [cut for path in paths for cut in CutSet.from_jsonl(path)]
    ours = load_cuts(paths).data
    assert len(ours) == len(theirs)
    for number in random.Random(0).sample(range(87), 87):
        assert ours[number] == theirs[number]


def test_a_broken_line_is_named(make_manifest, tmp_path):
    whole = make_manifest("a", lengths(20))
    lines = [row for _, row in read_jsonl(whole)]
    broken = tmp_path / "broken.jsonl"
    write_jsonl(broken, lines)
    text = broken.read_text().splitlines()
    broken.write_text("\n".join(["", *text[:9], text[9][:-5], *text[10:]]))
    with pytest.raises(RecipeError, match="broken.jsonl:11: not JSON"):
        list(outlines(load_cuts([whole, broken])))


def test_batches_are_those_of_lhotse_s_sampler(make_manifest, tokenizer):
    paths = [make_manifest("a", lengths(900)), make_manifest("b", lengths(300))]
    options = BatchOptions(max_duration=40, num_buckets=5)
    kept, _ = drop_untrainable(load_cuts(paths), tokenizer)
    sampler = BatchSampler(kept, options, shuffle=False, seed=4)
    theirs = DynamicBucketingSampler(
        CutSet.from_files(paths, shuffle_iters=False), max_duration=40, num_buckets=5, shuffle=False, seed=4
    )
    assert epoch_of(sampler) == [[cut.id for cut in batch] for batch in theirs]
    shuffled = BatchSampler(kept, options, shuffle=True, seed=4)
    assert len(shuffled) == pytest.approx(len(sampler), rel=0.05)
    assert all(len(batch.cuts) * max(cut.duration for cut in batch.cuts) <= 40 for [batch] in shuffled)


@pytest.mark.slow
def test_corpora_are_shuffled_over_the_whole_epoch(make_manifest):
    """Lhotse's own buffer holds 20,000 cuts: of these manifests the second would begin after half of the epoch."""
    paths = [make_manifest("a", lengths(30_000)), make_manifest("b", lengths(10_000))]
    order = [key for batch in epoch_of(BatchSampler(load_cuts(paths), BatchOptions(), True, 0)) for key in batch]
    assert len(order) == len(set(order)) == 40_000
    for start in range(0, 40_000, 4000):
        part = order[start : start + 4000]
        assert sum(key[0] == "b" for key in part) == pytest.approx(1000, abs=250)
        assert sum(key[0] == "a" and int(key[1:]) < 15_000 for key in part) == pytest.approx(1500, abs=250)


def test_the_order_is_that_of_seed_and_epoch(make_manifest):
    path = make_manifest("a", lengths(200))
    options = BatchOptions(max_duration=30)

    def passes(seed):
        sampler = BatchSampler(load_cuts([path]), options, True, seed)
        return [epoch_of(sampler) for _ in range(2)]

    first, second = passes(1)
    assert passes(1) == [first, second]
    assert first != second
    assert passes(2)[0] not in (first, second)


def test_the_budget_holds_for_batches_that_are_padded_to_30_s(make_manifest):
    cuts = load_cuts([make_manifest("a", [2.0] * 400)])
    options = BatchOptions(max_duration=200, pad_to_30s=0.25)
    batches = [batch for [batch] in BatchSampler(cuts, options, shuffle=True, seed=0)]
    padded, alike = ([len(b.cuts) for b in batches if b.padded is kind] for kind in (True, False))
    assert max(padded) == 6 and max(alike) == 100
    assert sum(padded) == pytest.approx(100, abs=25)  # a quarter of the cuts
    assert sum(padded) + sum(alike) == 400
    options = BatchOptions(max_duration=20, pad_to_30s=1.0)
    assert {len(batch.cuts) for [batch] in BatchSampler(cuts, options, True, 0) if batch.padded} == {1}


def test_weights_are_shares_of_the_seconds(make_manifest):
    paths = [make_manifest("a", lengths(400)), make_manifest("b", lengths(3000))]
    cuts = load_cuts([f"{paths[0]}:0.75", f"{paths[1]}:0.25"])
    rates = draw_rates(selected(cuts), None)
    assert rates[:400] == pytest.approx(0.75 * 3400 / 400, rel=0.01)
    taken = drawn(cuts)
    assert seconds_of(taken) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.02)
    assert sum(cut.duration for cut in taken) == pytest.approx(sum(lengths(400) + lengths(3000)), rel=0.05)
    # Not one corpus after the other: every tenth of the epoch has the same mixture.
    tenth = len(taken) // 10
    for start in range(0, len(taken) - tenth, tenth):
        assert seconds_of(taken[start : start + tenth])["a"] == pytest.approx(0.75, abs=0.08)


def test_all_cuts_have_their_turn_over_the_epochs(make_manifest):
    paths = [make_manifest("a", lengths(100)), make_manifest("b", lengths(300))]
    cuts = load_cuts([f"{paths[0]}:0.75", f"{paths[1]}:0.25"])
    often = Counter(cut.id for cut in drawn(cuts, epochs=30))
    # Taken three times in each epoch, and once in three.
    assert {often[f"a{number:05d}"] for number in range(100)} <= set(range(85, 96))
    assert min(often[f"b{number:05d}"] for number in range(300)) > 0
    assert sum(often[f"b{number:05d}"] for number in range(300)) == pytest.approx(300 * 10, rel=0.05)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.9), (2.0, 0.75), (1e6, 0.5)])
def test_temperature_brings_languages_nearer(make_manifest, temperature, expected):
    # 0.9 ** 0.5 is three times 0.1 ** 0.5.
    paths = [make_manifest("e", lengths(1800), "en"), make_manifest("z", lengths(200), "zh")]
    shares = seconds_of(drawn(load_cuts(paths), temperature))
    assert shares == pytest.approx({"e": expected, "z": 1 - expected}, abs=0.02)


def test_a_sampler_that_goes_on_has_the_same_mixture(make_manifest):
    paths = [make_manifest("a", lengths(200)), make_manifest("b", lengths(600))]
    cuts = load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"])
    options = BatchOptions(max_duration=30, num_buckets=4)
    whole = BatchSampler(cuts, options, shuffle=True, seed=2)
    passes = [[(batch.number, [cut.id for cut in batch.cuts]) for [batch] in whole] for _ in range(4)]
    assert passes[0] != passes[1]
    again = BatchSampler(load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"]), options, shuffle=True, seed=2)
    again.pass_over(2 * len(whole))
    rest = [[(batch.number, [cut.id for cut in batch.cuts]) for [batch] in again] for _ in range(2)]
    assert rest == passes[2:]


def test_cuts_are_made_when_they_are_due(make_manifest, monkeypatch):
    cuts = selected(load_cuts([make_manifest("a", lengths(50))]))
    made = []
    monkeypatch.setattr("whisper_recipe.training.cuts.deserialize_item", lambda row: made.append(row["id"]))
    assert cuts[7] is None
    assert made == ["a00007"]


def test_a_process_makes_cuts_of_its_own_batches_alone(make_manifest, monkeypatch):
    sampler = BatchSampler(load_cuts([make_manifest("a", lengths(50))]), BatchOptions(), True, 0, Part(1, 2))
    made = []
    monkeypatch.setattr(
        "whisper_recipe.training.cuts.deserialize_item", lambda row: made.append(row["id"]) or deserialize_item(row)
    )
    [batch] = next(iter(sampler))
    assert made == [cut.id for cut in batch.cuts]


def test_dropped_cuts_do_not_count_for_the_shares(make_manifest, tokenizer):
    paths = [make_manifest("a", [*lengths(200), *[31.0] * 50]), make_manifest("b", lengths(200))]
    kept, dropped = drop_untrainable(load_cuts([f"{paths[0]}:0.5", f"{paths[1]}:0.5"]), tokenizer)
    assert len(dropped) == 50
    assert draw_rates(kept.data, None) == pytest.approx(1.0)
    assert sum(1 for _ in kept) == sum(1 for _ in outlines(kept)) == 400


def test_eval_loss_is_of_the_cuts_as_they_are(make_manifest):
    paths = [make_manifest("a", lengths(20)), make_manifest("b", lengths(60))]
    options = BatchOptions(language_temperature=5.0, max_duration=10)
    sampler = BatchSampler(load_cuts([f"{paths[0]}:0.9", f"{paths[1]}:0.1"]), options, shuffle=False, seed=0)
    assert sum(len(batch.cuts) for [batch] in sampler) == 80


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
    with pytest.raises(RecipeError, match="is not a weight; give a number over 0"):
        parse_weight(f"a.jsonl.gz:{weight}")


def test_some_weights_or_two_kinds_are_one_line(make_manifest):
    a, b = make_manifest("a", [1.0]), make_manifest("b", [1.0])
    with pytest.raises(RecipeError, match="b.jsonl.gz: it has no weight, but others do"):
        load_cuts([f"{a}:0.5", b])
    with pytest.raises(RecipeError, match="language_temperature: the manifests have weights too"):
        draw_rates(selected(load_cuts([f"{a}:0.5", f"{b}:1"])), 2.0)
    with pytest.raises(RecipeError, match="language_temperature: must be greater than 0, got 0.0"):
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
