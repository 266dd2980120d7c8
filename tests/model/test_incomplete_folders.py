"""Folders that leave something out: what is written from them works in other programs, and what is wrong is named."""

import json
import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from tests.conftest import ROOT, make_model
from tests.model.folder_fuzz import make_talkative, words
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.errors import RecipeError
from whisper_recipe.export import ct2, hf
from whisper_recipe.model.load import load_model, load_processor, load_tokenizer, save_model
from whisper_recipe.text.labels import training_ids

pytestmark = pytest.mark.slow


def edited(source, folder, file="generation_config.json", **values):
    """Copy a model folder and set values in one of its files; None takes the key away."""
    shutil.copytree(source, folder)
    content = json.loads((folder / file).read_text()) | values
    content = {key: value for key, value in content.items() if value is not None or key not in values}
    (folder / file).write_text(json.dumps(content))
    return folder


def without(source, folder, *files):
    shutil.copytree(source, folder)
    for file in files:
        (folder / file).unlink()
    return folder


def recognized(folder, audio, **options):
    """Return what the pipeline of transformers, and nothing of ours, makes of audio at 16 kHz."""
    recognize = pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32)
    return recognize(audio.copy(), generate_kwargs=options)["text"]


@pytest.fixture(scope="module")
def noise():
    return torch.randn(16000, generator=torch.Generator().manual_seed(1)).numpy() * 0.1


def test_the_pipeline_takes_what_is_written_of_a_folder_without_generation_config(transcripts, noise, tmp_path):
    model = make_model(tmp_path / "model", transcripts, seed=3)  # its random weights write something here
    bare = without(model, tmp_path / "bare", "generation_config.json")
    hf.export(bare, tmp_path / "hf")
    save_model(tmp_path / "saved", load_model(bare), load_processor(bare))
    calls = [{"max_new_tokens": 12}, {"max_new_tokens": 12, "language": "zh", "task": "transcribe"}]
    expected = [recognized(model, noise, **options) for options in calls]
    assert all(expected) and len(set(expected)) == 2
    for name in ("hf", "saved"):
        assert [recognized(tmp_path / name, noise, **options) for options in calls] == expected
    with pytest.raises(ValueError, match="outdated"):  # the folder itself can't be asked for a language
        recognized(bare, noise, **calls[1])


def test_a_generation_config_that_transformers_ignores_is_written_so_that_it_does_not(tiny_model, noise, tmp_path):
    """Former versions of `merge` wrote such folders."""
    marked = edited(tiny_model, tmp_path / "marked", _from_model_config=True)
    hf.export(marked, tmp_path / "hf")
    options = {"language": "es", "max_new_tokens": 12}
    assert recognized(tmp_path / "hf", noise, **options) == recognized(tiny_model, noise, **options)


@pytest.fixture(scope="module")
def talkative(transcripts, tmp_path_factory):
    """A tiny model that writes words."""
    folder = make_model(tmp_path_factory.mktemp("talkative") / "model", transcripts)
    make_talkative(folder)
    return folder


@pytest.mark.parametrize("key", ["generation_config.json", "suppress_tokens", "alignment_heads"])
@pytest.mark.parametrize("backend", ["transformers", "ct2"])
def test_words_have_times_whatever_the_generation_config_leaves_out(talkative, tmp_path, backend, key):
    change = without if key.endswith(".json") else lambda source, folder, key: edited(source, folder, **{key: None})
    found = []
    for folder in (change(talkative, tmp_path / "changed", key), talkative):
        if backend == "ct2":
            ct2.export(folder, tmp_path / "ct2" / folder.name)
            folder = tmp_path / "ct2" / folder.name
        found.append(words(folder))
    assert found[0] == found[1] != []


@pytest.mark.parametrize("backend", ["transformers", "ct2"])
def test_heads_of_a_teacher_are_left_out_and_said_so(talkative, tmp_path, backend, capsys):
    model = edited(talkative, tmp_path / "model", alignment_heads=[[1, 0], [10, 12], [13, 17]])
    if backend == "ct2":
        ct2.export(model, tmp_path / "ct2")
        model = tmp_path / "ct2"
    assert words(model)
    assert "2 of 3 alignment_heads are not in the model" in capsys.readouterr().out


def test_a_ctranslate2_folder_with_the_heads_of_a_teacher_has_no_times_of_words(ct2_folder, tmp_path):
    """CTranslate2 itself ends the process, or raises MemoryError."""
    folder = edited(ct2_folder, tmp_path / "ct2", "config.json", alignment_heads=[[1, 0], [10, 12]])
    with pytest.raises(RecipeError, match="not heads of its decoder, which has 2 layers of 2 heads"):
        words(folder)


@pytest.mark.parametrize("ids", [[10**6], [-1], "x", [[1]]])
@pytest.mark.parametrize("key", ["suppress_ids", "suppress_ids_begin", "lang_ids"])
def test_ids_that_would_end_ctranslate2_are_an_error(ct2_folder, tmp_path, key, ids):
    folder = edited(ct2_folder, tmp_path / "ct2", "config.json", **{key: ids})
    with pytest.raises(RecipeError, match=f"{key} is not a list of ids of the model"):
        load_backend(folder)


def test_a_generation_config_without_any_of_the_model_s_heads_gets_its_upper_half(tiny_model, tmp_path):
    model = edited(tiny_model, tmp_path / "model", alignment_heads=[[10, 12], [13, 17]])
    hf.export(model, tmp_path / "hf")
    assert json.loads((tmp_path / "hf/generation_config.json").read_text())["alignment_heads"] == [[1, 0], [1, 1]]


def old_tokenizer(source, folder):
    """A folder as OpenAI's were in 2022: vocab.json, merges.txt, and added tokens without times."""
    shutil.copytree(source, folder)
    tokenizer = WhisperProcessor.from_pretrained(source).tokenizer
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    tokenizer.backend_tokenizer.model.save(str(folder))
    first_time = tokenizer.convert_tokens_to_ids("<|0.00|>")
    added = {token: index for token, index in tokenizer.get_added_vocab().items() if index < first_time}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def nameless_tokenizer(source, folder):
    """A folder whose tokenizer_config.json has no list of special tokens."""
    removed = {"additional_special_tokens": None, "extra_special_tokens": None}
    return edited(source, folder, "tokenizer_config.json", **removed)


@pytest.mark.parametrize("make", [old_tokenizer, nameless_tokenizer])
@pytest.mark.parametrize("source", ["tiny_model", "whisper_base"])
def test_incomplete_tokenizers_do_what_complete_ones_do(make, source, request, tmp_path):
    source = request.getfixturevalue(source)
    complete = WhisperProcessor.from_pretrained(source).tokenizer
    tokenizer = load_tokenizer(make(source, tmp_path / "model"))
    assert tokenizer.get_vocab() == complete.get_vocab()
    assert set(tokenizer.all_special_ids) == set(complete.all_special_ids)
    inputs, labels = training_ids(tokenizer, "turn on", "en", "transcribe", [(0.0, 1.2, "turn on")])
    ids = complete.convert_tokens_to_ids
    assert labels[:3] == [ids("<|en|>"), ids("<|transcribe|>"), ids("<|0.00|>")]
    assert labels[-2:] == [ids("<|1.20|>"), ids("<|endoftext|>")]
    for options in ({}, {"skip_special_tokens": True}, {"decode_with_timestamps": True}):
        assert tokenizer.decode(inputs, **options) == complete.decode(inputs, **options)


@pytest.mark.parametrize("make", [old_tokenizer, nameless_tokenizer])
def test_exports_have_the_complete_tokenizer(make, tiny_model, tmp_path):
    model = make(tiny_model, tmp_path / "model")
    complete = WhisperProcessor.from_pretrained(tiny_model).tokenizer
    for to in (ct2, hf):
        to.export(model, tmp_path / to.__name__)
        tokenizer = WhisperProcessor.from_pretrained(tmp_path / to.__name__).tokenizer
        assert tokenizer.get_vocab() == complete.get_vocab()
        assert tokenizer.all_special_ids[-1] == complete.convert_tokens_to_ids("<|notimestamps|>")


def test_a_tokenizer_of_another_size_is_an_error_with_both_backends(
    tiny_model, full_vocabulary_model, ct2_folder, tmp_path
):
    for folder in (tiny_model, ct2_folder):
        wrong = shutil.copytree(folder, tmp_path / folder.name)
        shutil.copyfile(full_vocabulary_model / "tokenizer.json", wrong / "tokenizer.json")
        with pytest.raises(RecipeError, match=r"the tokenizer has 51865 tokens, but the weights have 1\d\d\d"):
            load_backend(wrong)


def test_a_tokenizer_that_is_not_whisper_s_names_the_first_token_it_lacks(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8").replace("<|startoftranscript|>", "<|start|>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["extra_special_tokens"].remove("<|startoftranscript|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"the tokenizer has no <\|startoftranscript\|>"):
        load_tokenizer(folder)


def test_rows_of_padding_after_the_vocabulary_are_accepted(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(pad_to_multiple_of=64)
    model.save_pretrained(folder)
    assert model.config.vocab_size > len(load_tokenizer(folder))
    assert load_backend(folder).name == "transformers"


@pytest.fixture(scope="module")
def ct2_folder(talkative, tmp_path_factory):
    out = tmp_path_factory.mktemp("ct2") / "folder"
    ct2.export(talkative, out)
    return out


def test_ctranslate2_folders_of_former_years_are_read(ct2_folder, tmp_path):
    """A folder of the first converters: vocabulary.txt, and beside it only what faster-whisper asks for."""
    old = tmp_path / "old"
    old.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        shutil.copyfile(ct2_folder / name, old / name)
    tokens = json.loads((ct2_folder / "vocabulary.json").read_text(encoding="utf-8"))
    (old / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    assert words(old) == words(ct2_folder) != []
    (old / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"old: contains none of tokenizer.json, vocab.json"):
        load_backend(old)


def test_damaged_folders_work_or_end_in_one_error():
    """`python -m tests.model.folder_fuzz FIRST COUNT` does more."""
    command = [sys.executable, "-m", "tests.model.folder_fuzz", "0", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"the process ended in {rows[-1]}: {done.stderr[-500:]}"
    results = [row for row in rows if "damage" in row]
    assert len(results) == 60
    assert [row for row in results if "FAULT" in str(row)] == []
    assert sum(row["decode"][0] == "ok" and row["decode"][1] != [] for row in results) > 20
    assert sum(row["decode"][0] == "refused" for row in results) > 5


def test_real_weights_without_generation_config_give_the_text_of_the_whole_folder(whisper_base, shared_data, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in whisper_base.iterdir():
        if file.name != "generation_config.json":
            (bare / file.name).symlink_to(file)
    hf.export(bare, tmp_path / "hf")
    path = shared_data / "english/libri-1088-134315-0000.wav"
    audio, rate = soundfile.read(path, dtype="float32", frames=6 * 16000)
    assert rate == 16000 and audio.ndim == 1
    options = {"language": "en", "task": "transcribe", "max_new_tokens": 30}
    expected = recognized(whisper_base, audio, **options)
    assert len(expected.split()) > 5
    assert recognized(tmp_path / "hf", audio, **options) == expected
