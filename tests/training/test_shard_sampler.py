"""Shards: written and read back, streamed from a web server, each once an epoch over ranks and loading processes."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import tarfile
import threading
from collections import Counter

import pytest
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy
from transformers import WhisperTokenizer

from whisper_recipe.cli import main
from whisper_recipe.data.features import load_fbank
from whisper_recipe.data.shar import shar
from whisper_recipe.data.shar_reader import SHARD, index_place, list_shards, read_features
from whisper_recipe.errors import RecipeError
from whisper_recipe.model.load import load_model
from whisper_recipe.processes import Part
from whisper_recipe.training.batches import BatchOptions, drop_untrainable, load_cuts, make_loader
from whisper_recipe.training.cuts import cuts_digest
from whisper_recipe.training.encoder_cache import with_encoder_states
from whisper_recipe.training.shard_sampler import ShardSampler

ONE_PROCESS = BatchOptions(max_duration=4, num_workers=0)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return WhisperTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def manifest(corpus, tmp_path_factory):
    """Four copies of the corpus, 48 cuts of 12 different features."""
    path = tmp_path_factory.mktemp("cuts") / "cuts.jsonl.gz"
    cuts = sorted(CutSet.from_jsonl_lazy(corpus), key=lambda cut: int(cut.id[3:]) * 7 % 12)  # lengths mixed
    CutSet.from_cuts(fastcopy(cut, id=f"{cut.id}.{copy}") for copy in range(4) for cut in cuts).to_file(path)
    return path


@pytest.fixture(scope="module")
def shards(manifest, tmp_path_factory):
    """The corpus in 8 shards of 6 cuts."""
    out = tmp_path_factory.mktemp("shar") / "shar"
    shar([manifest], out, shard_size=6)
    return out


@pytest.fixture(autouse=True)
def forget():
    read_features.cache_clear()


@pytest.fixture
def server(shards):
    """(URL of the shards, a counter of what was asked for)."""
    asked = Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(shards.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/shar", asked
        running.shutdown()


def ids(sampler):
    return [[cut.id for cut in batch.cuts] for [batch] in sampler]


@pytest.mark.parametrize("storage", ["lilcom", "float16"])
def test_features_in_shards_are_the_stored_ones(manifest, tmp_path, storage):
    assert main(["shar", str(manifest), "--out", str(tmp_path), "--shard_size", "20", "--storage", storage]) == 0
    assert len(list_shards(tmp_path)) == 3
    read = list(load_cuts([tmp_path]))
    for cut, original in zip(read, CutSet.from_jsonl_lazy(manifest), strict=True):
        assert (cut.id, cut.duration, cut.supervisions) == (original.id, original.duration, original.supervisions)
        assert cut.recording.sources[0].source == ""
        expected = load_fbank(original)
        assert load_fbank(cut).shape == expected.shape
        assert (load_fbank(cut) - expected).abs().max() <= (0 if storage == "lilcom" else 2**-10)


def test_lhotse_reads_the_shards(shards, manifest):
    read = list(CutSet.from_shar(in_dir=shards / "shards"))
    originals = list(CutSet.from_jsonl_lazy(manifest))
    assert [cut.id for cut in read] == [cut.id for cut in originals]
    assert abs(read[7].load_features() - originals[7].load_features()).max() == 0


def test_a_part_of_a_longer_recording_keeps_its_part(manifest, tmp_path):
    (cut, *_) = (cut for cut in CutSet.from_jsonl_lazy(manifest) if cut.duration > 2)
    part = cut.truncate(offset=0.5, duration=1.0)
    CutSet.from_cuts([part]).to_file(tmp_path / "cuts.jsonl.gz")
    shar([tmp_path / "cuts.jsonl.gz"], tmp_path / "out")
    (read,) = load_cuts([tmp_path / "out"])
    torch.testing.assert_close(load_fbank(read), load_fbank(part), atol=2**-9, rtol=0)


def test_the_same_cuts_give_the_same_bytes(manifest, shards, tmp_path):
    shar([manifest], tmp_path, shard_size=6)
    for path in shards.rglob("*.*"):
        assert (tmp_path / path.relative_to(shards)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 1), (2, 2), (3, 1)])
def test_each_cut_once_an_epoch_over_ranks_and_workers(shards, manifest, ranks, workers):
    seen, lengths, shards_of = [], set(), {}
    for rank in range(ranks):
        options = BatchOptions(max_duration=4, num_workers=workers)
        sampler = ShardSampler(load_cuts([shards]), options, True, 1, Part(rank, ranks))
        lengths.add(len(sampler))
        for number, [(_, cuts, *_)] in enumerate(sampler):
            assert 0 < len(cuts) * max(cut.duration for cut in cuts) <= 4 + 1e-9
            seen += [cut.id for cut in cuts]
            for cut in cuts:
                shards_of.setdefault(cut.custom[SHARD], set()).add((rank, number % max(1, workers)))
    assert len(lengths) == 1
    assert sorted(seen) == sorted(cut.id for cut in CutSet.from_jsonl_lazy(manifest))
    assert len(shards_of) == 8
    assert all(len(readers) == 1 for readers in shards_of.values())


def test_padded_batches_of_shards_keep_within_the_budget(shards, manifest):
    options = BatchOptions(max_duration=90, num_workers=1, pad_to_30s=0.5)
    batches = [batch for [batch] in ShardSampler(load_cuts([shards]), options, True, 1)]
    assert max(len(batch.cuts) for batch in batches if batch.padded) == 3
    assert 0 < sum(len(batch.cuts) for batch in batches if batch.padded) < 48
    assert sorted(cut.id for batch in batches for cut in batch.cuts) == sorted(
        cut.id for cut in CutSet.from_jsonl_lazy(manifest)
    )


def test_epochs_differ_and_each_has_every_cut(shards):
    sampler = ShardSampler(load_cuts([shards]), ONE_PROCESS, True, 1)
    stream = itertools.chain.from_iterable(itertools.chain.from_iterable(ids(sampler)) for _ in range(4))
    first, second = (list(itertools.islice(stream, 48)) for _ in range(2))
    assert sorted(first) == sorted(second)
    assert first != second
    again = ShardSampler(load_cuts([shards]), ONE_PROCESS, False, 1)
    assert ids(again) == ids(again)


def test_training_goes_on_with_the_same_batches_and_reads_nothing_for_those_it_passes_over(server):
    url, asked = server
    options = BatchOptions(max_duration=4, num_workers=2)
    whole = ShardSampler(load_cuts([url]), options, True, 5, Part(1, 2))
    passes = [ids(whole) for _ in range(4)]
    again = ShardSampler(load_cuts([url]), options, True, 5, Part(1, 2))
    before = asked.total()
    again.pass_over(2 * whole.batches)
    assert asked.total() == before
    assert [ids(again) for _ in range(2)] == passes[2:]


def test_batches_from_a_web_server_read_each_shard_once_an_epoch(server, tokenizer, manifest):
    url, asked = server
    kept, dropped = drop_untrainable(load_cuts([url]), tokenizer)
    assert not dropped
    loader = make_loader(kept, tokenizer, BatchOptions(max_duration=4, num_workers=2), shuffle=True)
    batches = list(loader)
    assert sorted(key for batch in batches for key in batch["cuts"]) == sorted(
        cut.id for cut in CutSet.from_jsonl_lazy(manifest)
    )
    tars = {path: count for path, count in asked.items() if path.endswith(".tar")}
    assert len(tars) == 8
    assert set(tars.values()) == {1}


def test_batches_of_shards_are_those_of_the_stored_features(shards, manifest, tokenizer):
    originals = {cut.id: cut for cut in CutSet.from_jsonl_lazy(manifest)}
    loader = make_loader(load_cuts([shards]), tokenizer, ONE_PROCESS, shuffle=True)
    for batch in itertools.islice(loader, 5):
        longest = batch["input_features"].shape[-1]
        for key, features in zip(batch["cuts"], batch["input_features"], strict=True):
            expected = load_fbank(originals[key])
            assert len(expected) <= longest
            torch.testing.assert_close(features[:, : len(expected)].T, expected, atol=0, rtol=0)


def test_cuts_that_can_not_be_trained_on_are_in_no_batch(shards, tokenizer, monkeypatch):
    monkeypatch.setattr("whisper_recipe.data.audio.MAX_SECONDS", 2.0)
    kept, dropped = drop_untrainable(load_cuts([shards]), tokenizer)
    assert 0 < len(dropped) < 48
    seen = [key for batch in ids(ShardSampler(kept, ONE_PROCESS, True, 0)) for key in batch]
    assert sorted([*seen, *dropped]) == sorted(cut.id for cut in load_cuts([shards]))


def test_more_processes_than_shards_is_one_line(shards):
    with pytest.raises(RecipeError, match="8 shards are too few for 5 ranks with 2 workers each; use fewer"):
        ShardSampler(load_cuts([shards]), BatchOptions(num_workers=2), True, 0, Part(0, 5))


def test_shards_are_not_mixed_by_languages(shards):
    with pytest.raises(RecipeError, match="language_temperature: not supported with shards"):
        ShardSampler(load_cuts([shards]), BatchOptions(language_temperature=2.0), True, 0)


def test_encoder_outputs_of_shards_are_trained_on_without_the_shards(shards, tiny_model, tokenizer, tmp_path):
    model = load_model(tiny_model)
    cuts = with_encoder_states(load_cuts([shards]), [shards], str(tiny_model), model, tmp_path / "states")
    read_features.cache_clear()
    batches = list(make_loader(cuts, tokenizer, ONE_PROCESS, shuffle=True))
    assert sum(len(batch["cuts"]) for batch in batches) == 48
    assert "encoder_outputs" in batches[0]
    assert read_features.cache_info().misses == 0


def test_the_digest_is_of_the_contents(shards, server, manifest):
    assert cuts_digest(shards) == cuts_digest(server[0]) != cuts_digest(manifest)
    assert cuts_digest(f"{manifest}:0.5") == cuts_digest(manifest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "pipe:touch evil", "/etc/passwd", "http://elsewhere/x.tar", ""])
def test_an_index_leads_nowhere_else(tmp_path, name):
    row = {"cuts": "shards/cuts.000000.jsonl.gz", "features": name}
    (tmp_path / "index.json").write_text(json.dumps({"shards": [row]}))
    with pytest.raises(RecipeError, match="index.json: not an index of shards .names outside its folder"):
        list_shards(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shards": 3}', '{"shards": [{}]}', '{"shards": []}', "\x00"])
def test_a_damaged_index_is_one_line(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(RecipeError, match="index.json: (not an index of|no) shards"):
        list_shards(tmp_path)


def test_what_the_server_does_not_have_is_one_line(server):
    url, asked = server
    with pytest.raises(RecipeError, match=r"nothing/index.json: can't be read \(HTTP Error 404"):
        load_cuts([f"{url}/nothing"])
    assert asked["/shar/nothing/index.json"] == 1


def test_a_path_that_was_a_url_is_one_again(server):
    url, _ = server
    assert index_place(url.replace("//", "/")) == index_place(url) == f"{url}/index.json"


def test_a_damaged_shard_is_one_line(manifest, tmp_path):
    shar([manifest], tmp_path, shard_size=48)
    tar, cuts = tmp_path / "shards/features.000000.tar", tmp_path / "shards/cuts.000000.jsonl.gz"
    whole, cut = tar.read_bytes(), next(iter(load_cuts([tmp_path])))
    for damaged in (whole[:5000], b"", b"no archive" * 200):
        tar.write_bytes(damaged)
        with pytest.raises(RecipeError, match=r"features.000000.tar: (not a shard of features|no features for cut)"):
            load_fbank(cut)
        read_features.cache_clear()
    cuts.write_bytes(cuts.read_bytes()[:300])
    with pytest.raises(RecipeError, match="cuts.000000.jsonl.gz: not a shard of cuts"):
        list(load_cuts([tmp_path]))


def test_cuts_without_features_and_mixed_inputs_are_one_line(manifest, shards, tmp_path):
    cuts = [fastcopy(cut, features=None) for cut in CutSet.from_jsonl_lazy(manifest)]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    with pytest.raises(RecipeError, match="it has no stored features"):
        shar([tmp_path / "cuts.jsonl.gz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match="manifests and shards can't be mixed"):
        load_cuts([manifest, shards])


def test_archives_hold_data_alone(shards):
    with tarfile.open(shards / "shards/features.000000.tar") as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"llc", "json"}
