"""What fix keeps, repairs and drops: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.data.conftest import tone
from whisper_recipe.data.fix import fix
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError


def dropped(path):
    """id -> (where, reason) of a dropped.tsv."""
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert header == ["id", "where", "reason"]
    return {key: (where, reason) for key, where, reason in rows}


def test_a_damaged_directory(make_data_dir, tmp_path, capsys):
    folder = make_data_dir(
        text="\ufeffb 你好\r\na hello there\r\nb again\r\nc\r\nd four\r\ne five\r\nf six\r\n".encode()
        + b"g \xff\nh eight\ni nine\n",
        wav="a wav/a.wav\nb wav/b.wav\nc wav/a.wav\nd none.wav\ne wav/a.wav\nf wav/silent.wav\nh rm -r / |\n"
        "i wav/long.wav\n"
        "z wav/a.wav\n",
        utt2lang="".join(f"{key} en\n" for key in "abcdfhi") + "e klingon\nstray en\n",
        utt2spk="a anna\n",
        utt2dur="a 7\nb 2\n",
    )
    soundfile.write(folder / "wav" / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "wav" / "long.wav", tone(31), 16000)
    fix(folder, tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1].endswith("11 utterances read = 2 kept + 9 dropped (dropped.tsv)")
    reasons = {
        "b": ("text:3", "duplicate id"),
        "c": ("text:4", "empty text"),
        "d": ("text:5", "missing audio"),
        "e": ("text:6", "unknown language"),
        "f": ("text:7", "silent audio"),
        "g": ("text:8", "not UTF-8"),
        "h": ("text:9", "pipe"),
        "i": ("text:10", "over 30 s"),
        "z": ("wav.scp:9", "id not in text"),
    }
    found = dropped(tmp_path / "out/dropped.tsv")
    assert found.keys() == reasons.keys()
    for key, (where, reason) in reasons.items():
        assert found[key][0] == f"{folder}/{where}"
        assert found[key][1].startswith(reason)
    assert (tmp_path / "out/text").read_text(encoding="utf-8") == "a hello there\nb 你好\n"
    assert (tmp_path / "out/utt2dur").read_text() == "a 1\nb 2\n"  # the 7 s were wrong
    validate(tmp_path / "out")


def test_a_list(make_data_dir, tmp_path):
    wav = make_data_dir() / "wav"
    path = tmp_path / "list.jsonl"
    path.write_text(
        f'{{"id": "x", "audio": "{wav}/a.wav", "text": "one"}}\n{{"audio": "{wav}/none.wav", "text": "two"}}\n'
    )
    fix(path, tmp_path / "out.json", language="en")
    assert dropped(tmp_path / "out.json.dropped.tsv").keys() == {"none"}
    validate(tmp_path / "out.json")


def test_nothing_sound_is_an_error_and_nothing_is_written(make_data_dir, tmp_path):
    folder = make_data_dir(utt2lang="a xx\nb xx\n")
    with pytest.raises(RecipeError, match="none of its 2 utterances is valid"):
        fix(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_over_whispers_limit_are_found_with_a_tokenizer_and_without(make_data_dir, tmp_path, tiny_model, capsys):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "light " * 80
    count = len(tokenizer(text.strip(), add_special_tokens=False).input_ids)
    long = " ".join(["light"] * (80 * 444 // count))
    tokens = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (long, long + " light" * 5)]
    assert tokens[0] <= 444 < tokens[1]
    folder = make_data_dir(text=f"a {long}\nb {long}{' light' * 5}\n")
    fix(folder, tmp_path / "exact", tokenizer=str(tiny_model))
    assert dropped(tmp_path / "exact/dropped.tsv").keys() == {"b"}
    (folder / "text").write_text(f"a {'w ' * 444}\nb {'w ' * 445}\n")
    fix(folder, tmp_path / "words")
    assert dropped(tmp_path / "words/dropped.tsv").keys() == {"b"}


def test_an_example_without_speech_may_be_silent(make_data_dir, tmp_path):
    folder = make_data_dir(text="a\nb two\n", utt2segments="a []\n")
    soundfile.write(folder / "wav" / "a.wav", np.zeros(16000), 16000)
    validate(folder)
    fix(folder, tmp_path / "out")
    assert (tmp_path / "out/text").read_text() == "a\nb two\n"
    validate(tmp_path / "out")


def test_corrections_of_the_report_are_applied_and_listed(make_data_dir, tmp_path, capsys):
    folder = make_data_dir(
        text="a hello there\nb two\nc three\n",
        wav="a wav/a.wav\nb wav/b.wav\nc wav/a.wav\n",
        utt2lang="a en\nb en\nc en\n",
    )
    corrections = tmp_path / "corrections.jsonl"
    corrections.write_text(
        '{"id": "a", "text": "hello  where"}\n{"id": "b", "text": null}\n{"id": "c", "text": "three"}\n'
    )
    fix(folder, tmp_path / "out", corrections=corrections)
    assert (tmp_path / "out" / "text").read_text() == "a hello where\nc three\n"
    assert dropped(tmp_path / "out" / "dropped.tsv")["b"] == (f"{folder}/text:2", "correction: dropped")
    assert list(dropped(tmp_path / "out" / "changed.tsv")) == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "text": "y"}', "x is not in the corpus"),
        ('{"id": "a"}', "invalid correction"),
        ('{"id": "a", "text": 1}', "invalid correction"),
    ],
)
def test_wrong_corrections_are_named_by_line(make_data_dir, tmp_path, line, message):
    (tmp_path / "corrections.jsonl").write_text(f'{{"id": "a", "text": "b"}}\n{line}\n')
    with pytest.raises(RecipeError, match=message) as raised:
        fix(make_data_dir(), tmp_path / "out", corrections=tmp_path / "corrections.jsonl")
    assert str(raised.value.where) == f"{tmp_path}/corrections.jsonl:2"
    assert not (tmp_path / "out").exists()
