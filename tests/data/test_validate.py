"""Problems that validate finds in damaged data directories, by file and line."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.data.conftest import tone
from whisper_recipe.data.validate import validate
from whisper_recipe.errors import RecipeError


def problems(capsys, folder, **options):
    """Run validate on a directory with problems; return what it lists as {(file:line, kind)}."""
    with pytest.raises(RecipeError):
        validate(folder, **options)
    lines = capsys.readouterr().out.splitlines()
    return {match.groups() for line in lines if (match := re.match(rf"{folder}/(\S+): ([^:]+): ", line))}


def test_a_sound_directory(make_data_dir, capsys):
    validate(make_data_dir(utt2dur="a 1.0\nb 2.0\n"))
    assert capsys.readouterr().out.endswith("2 utterances, no problems\n")


def test_problems_of_tables_and_audio_are_all_found_at_once(make_data_dir, capsys):
    folder = make_data_dir(
        text="a one\nb two\nc\nd four\n",
        wav="a wav/a.wav\nb wav/none.wav\nc wav/b.wav\nd wav/b.wav\n",
        utt2lang="a en\nb english\nc en\nd klingon\n",
        utt2spk=None,
        utt2dur="a 1.5\nb 2.0\nc 2.0\n",
    )
    assert problems(capsys, folder) == {
        ("wav.scp:1", "wrong duration"),
        ("wav.scp:2", "missing audio"),
        ("text:3", "empty text"),
        ("utt2lang:4", "unknown language"),
    }


def test_the_table_counts_each_kind(make_data_dir, capsys):
    folder = make_data_dir(utt2dur="a 5\nb 5\n", utt2task="b sing\n")
    with pytest.raises(RecipeError, match="3 problems"):
        validate(folder)
    counts = capsys.readouterr().out.split("problem ")[-1]
    assert re.search(r"wrong duration\s+2$", counts, re.MULTILINE)
    assert re.search(r"unknown task\s+1$", counts, re.MULTILINE)


def test_audio_that_is_not_what_it_should_be(make_data_dir, capsys):
    folder = make_data_dir()
    wav = folder / "wav"
    (wav / "a.wav").write_bytes((wav / "a.wav").read_bytes()[:-5000])
    soundfile.write(wav / "b.wav", tone(31), 16000)
    soundfile.write(wav / "c.wav", [], 16000)
    (wav / "d.wav").write_text("no audio")
    soundfile.write(wav / "e.wav", tone(0.006, hertz=1000), 16000)
    for table, value in (("text", "x"), ("utt2lang", "en"), ("utt2spk", "s")):
        (folder / table).write_text("".join(f"{key} {value}\n" for key in "abcde"))
    (folder / "wav.scp").write_text("".join(f"{key} wav/{key}.wav\n" for key in "abcde"))
    assert problems(capsys, folder) == {
        ("wav.scp:1", "damaged audio"),
        ("wav.scp:2", "over 30 s"),
        ("wav.scp:3", "damaged audio"),
        ("wav.scp:4", "damaged audio"),
        ("wav.scp:5", "too short"),
    }


def test_segments_outside_their_recording(make_data_dir, capsys):
    folder = make_data_dir(segments="a a 0.5 1.5\nb b 3 -1\n")
    assert problems(capsys, folder) == {("segments:1", "segment outside"), ("segments:2", "segment outside")}


def test_a_missing_recording_is_told_once_where_wav_scp_names_it(make_data_dir, capsys):
    folder = make_data_dir(wav="r wav/none.wav\n", segments="a r 0 1\nb r 1 2\n")
    assert problems(capsys, folder) == {("wav.scp:1", "missing audio")}
    with pytest.raises(RecipeError, match="1 problem;"):
        validate(folder)


def test_a_segment_that_ends_a_rounding_error_after_its_recording_is_sound(make_data_dir):
    validate(make_data_dir(segments="a a 0.5 1.004\nb b 0 2\n"))


def test_a_segment_of_30_s_is_not_over_30_s(make_data_dir, capsys):
    folder = make_data_dir(wav="r wav/r.wav\n", segments="a r 2.20 32.20\nb r 2.20 32.21\n", utt2spk=None)
    soundfile.write(folder / "wav" / "r.wav", tone(40), 16000)
    assert problems(capsys, folder) == {("segments:2", "over 30 s")}


def test_decoding_finds_silence_damage_and_samples_that_are_no_numbers(make_data_dir, capsys):
    folder = make_data_dir(
        wav="a wav/a.flac\nb wav/b.wav\nc wav/c.wav\n", text="a x\nb x\nc x\n", utt2lang="a en\nb en\nc en\n"
    )
    soundfile.write(folder / "wav" / "a.flac", np.random.default_rng(0).normal(size=64000) / 10, 16000)
    content = bytearray((folder / "wav" / "a.flac").read_bytes())
    content[30000:50000] = bytes(20000)
    (folder / "wav" / "a.flac").write_bytes(content)
    soundfile.write(folder / "wav" / "b.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "wav" / "c.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    validate(folder, decode=False)
    assert problems(capsys, folder) == {
        ("wav.scp:1", "damaged audio"),
        ("wav.scp:2", "silent audio"),
        ("wav.scp:3", "not a number"),
    }


def test_long_lists_are_cut_short_and_say_so(make_data_dir, capsys):
    ids = [f"u{number:02d}" for number in range(30)]
    folder = make_data_dir(
        text="".join(f"{key} x\n" for key in ids),
        wav="".join(f"{key} {key}.wav\n" for key in ids),
        utt2lang="".join(f"{key} en\n" for key in ids),
        utt2spk=None,
    )
    assert len(problems(capsys, folder)) == 10
    assert len(problems(capsys, folder, show=0)) == 30
    with pytest.raises(RecipeError, match="30 problems"):
        validate(folder)
    assert "the first 10 of each kind are listed" in capsys.readouterr().out


def test_pipes_are_told_and_not_run(make_data_dir, capsys):
    folder = make_data_dir()
    (folder / "wav.scp").write_text(f"a touch {folder}/pwned |\nb wav/b.wav\n")
    assert problems(capsys, folder) == {("wav.scp:1", "pipe")}
    assert not (folder / "pwned").exists()


def test_unsorted_ids(make_data_dir, capsys):
    assert problems(capsys, make_data_dir(text="b 你好\na hello there\n")) == {("text:2", "unsorted id")}


def test_validate_and_stats_need_neither_torch_nor_lhotse():
    code = (
        "import sys, whisper_recipe.data.validate, whisper_recipe.data.audio, whisper_recipe.data.stats;"
        "sys.exit(', '.join({'torch', 'lhotse', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


def test_the_recorded_directory_is_sound_but_for_the_order_of_its_ids(shared_data, capsys):
    found = problems(capsys, shared_data / "aishell_multitask")
    assert found == {("text:11", "unsorted id"), ("wav.scp:11", "unsorted id")}


def test_languages_that_whisper_lacks_are_told_and_are_not_problems(make_data_dir, capsys):
    validate(make_data_dir(utt2lang="a MDW\nb en\n", utt2dur="a 1.0\nb 2.0\n"))
    printed = capsys.readouterr().out
    assert "mdw is not among Whisper's languages" in printed
    assert printed.endswith("2 utterances, no problems\n")
