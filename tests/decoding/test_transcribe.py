"""`transcribe` from files to files: names, lists, damaged and empty input, formats."""

import json
import os
import shutil
import wave

import numpy as np
import pytest
import soundfile

from whisper_recipe import cli
from whisper_recipe.cli import Command, main
from whisper_recipe.decoding.backends import load_backend
from whisper_recipe.decoding.formats import FORMATS
from whisper_recipe.decoding.transcribe import _mono

RATE = 16000


@pytest.fixture(autouse=True)
def command(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "transcribe", Command("decoding.transcribe", "transcribe", "audio -> text"))


@pytest.fixture(scope="module")
def our_model(tiny_model, tmp_path_factory):
    """As training leaves it: at natural length, without timestamps."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "ours")
    (folder / "whisper_recipe.json").write_text('{"natural_length": true, "timestamps": false}')
    return folder


def write_noise(path, seconds=1.0, seed=0, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels)) * 0.1
    soundfile.write(path, noise, rate)
    return path


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    for number, name in enumerate(["a/x.wav", "b/x.flac", "b/deep/my talk.v2.ogg"]):
        write_noise(folder / name, 1.0 + number, number)
    (folder / "b/notes.md").write_text("no audio")
    return folder


def run(model, out, *inputs, formats=("json",), language="en", options=()):
    argv = ["transcribe", *map(str, inputs), "--model", str(model), "--out", str(out), "--language", language]
    return main([*argv, "--formats", *formats, "--search.max_new_tokens", "5", *options])


def written(out):
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_outputs_keep_the_folders_of_the_inputs(our_model, audio, tmp_path, capsys):
    assert run(our_model, tmp_path / "out", audio, formats=FORMATS) == 0
    suffixes = ("txt", "json", "srt", "vtt", "tsv")
    names = {f"{name}.{suffix}" for name in ("a/x", "b/x", "b/deep/my talk.v2") for suffix in suffixes}
    assert written(tmp_path / "out") == names | {"text", "hyp.trn", "hyp.ctm"}
    result = json.loads((tmp_path / "out/b/x.json").read_text())
    assert list(result) == ["language", "duration", "results", "text"]
    assert (result["language"], result["duration"]) == ("en", 2.0)
    ids = [line.split()[0] for line in (tmp_path / "out/text").read_text().splitlines()]
    assert ids == ["a/x", "b/deep/my_talk.v2", "b/x"]
    assert "3 files, 6 s of audio, RTF" in capsys.readouterr().out


@pytest.mark.slow
def test_the_text_is_that_of_the_decode_command(our_model, corpus, tmp_path):
    """Features are stored with an error of 0.002 there, so a few of the texts may differ; not most."""
    folder = corpus.parent.parent / "noise"
    assert main(["decode", str(our_model), "--cuts", str(corpus), "--out", str(tmp_path / "d")]) == 0
    argv = ["transcribe", str(folder / "wav.scp"), "--model", str(our_model), "--out", str(tmp_path / "t")]
    assert main([*argv, "--formats", "kaldi", "--language", "en"]) == 0
    ours = dict((line.split(" ", 1) + [""])[:2] for line in (tmp_path / "t/text").read_text().splitlines())
    theirs = [json.loads(line) for line in (tmp_path / "d/hyp.jsonl").read_text().splitlines()]
    assert ours.keys() == {row["id"] for row in theirs}
    same = [row["text"] == ours[row["id"]] for row in theirs if row["language"] == "en"]
    assert sum(same) > 0.6 * len(same)


def test_what_cannot_be_read_is_skipped_and_reported_and_the_rest_is_done(our_model, audio, tmp_path, capsys):
    (audio / "broken.wav").write_bytes(b"RIFF nonsense")
    short = write_noise(audio / "short.wav")
    short.write_bytes(short.read_bytes()[:20000])
    (audio / "empty.flac").write_bytes(b"")
    lines = ["", "broken.wav", "a/x.wav", "gone.wav", "short.wav", "b/x.flac", "empty.flac"]
    (audio / "list.txt").write_text("\n".join(lines))
    assert run(our_model, tmp_path / "out", audio / "list.txt") == 2
    assert written(tmp_path / "out") == {"a/x.json", "b/x.json", "short.json", "skipped.tsv"}
    rows = [line.split("\t") for line in (tmp_path / "out/skipped.tsv").read_text().splitlines()]
    assert [(row[0].rpartition(":")[2], row[1].rpartition("/")[2]) for row in rows] == [
        ("2", "broken.wav"),
        ("4", "gone.wav"),
        ("7", "empty.flac"),
    ]
    # Of truncated audio what is there is transcribed: 20,000 bytes less a header of 44.
    assert json.loads((tmp_path / "out/short.json").read_text())["duration"] == pytest.approx(9978 / RATE, abs=1e-3)
    errors = capsys.readouterr().err.splitlines()
    assert sum("short.wav: truncated: 12044 bytes" in line for line in errors) == 1
    assert sum(line.startswith("skipped: ") for line in errors) == 3
    assert "3 of 6 inputs can't be read and were skipped" in errors[-1]
    # The next run, without invalid files, deletes the old list.
    assert run(our_model, tmp_path / "out", audio / "a") == 0
    assert not (tmp_path / "out/skipped.tsv").exists()


def test_names_of_files_that_are_not_utf_8(our_model, audio, tmp_path, capfd):
    """The outputs keep the bytes of the name; tables, which are UTF-8, have an escape in its place."""
    for name, source in ((b"caf\xe9.wav", "a/x.wav"), (b"caf\xe8.flac", "b/x.flac")):
        shutil.copy(audio / source, audio / os.fsdecode(name))
    (audio / os.fsdecode(b"\xff.wav")).write_bytes(b"no audio")
    shutil.copy(audio / "a/x.wav", audio / "😀.wav")
    out = tmp_path / os.fsdecode(b"out\xe9")
    assert run(our_model, out, audio / "😀.wav", audio / os.fsdecode(b"caf\xe9.wav"), formats=["txt"]) == 0
    assert run(our_model, out, audio, formats=FORMATS) == 2
    assert {os.fsencode(name) for name in written(out)} >= {b"caf\xe9.txt", b"caf\xe8.json", b"caf\xe9.srt"}
    ids = [line.split()[0] for line in (out / "text").read_text(encoding="utf-8").splitlines()]
    assert ids == ["a/x", "b/deep/my_talk.v2", "b/x", r"caf\udce8", r"caf\udce9", "😀"]
    assert r"\udcff.wav: can't be read" in (out / "skipped.tsv").read_text(encoding="utf-8")
    assert r"skipped: " in capfd.readouterr().err


@pytest.mark.parametrize(("name", "seconds"), [("cat.mp3", 13.143), ("stream.flac", 11), ("ph_zero.wav", 11)])
def test_recorded_files_with_wrong_headers_are_transcribed_to_their_end(
    our_model, shared_cases, audio, tmp_path, name, seconds
):
    assert run(our_model, tmp_path / "out", shared_cases / name, audio) == 0
    assert json.loads((tmp_path / f"out/{name[:-4].rstrip('.')}.json").read_text())["duration"] == pytest.approx(
        seconds, abs=0.01
    )
    assert len(written(tmp_path / "out")) == 4


def test_truncated_audio_is_transcribed_as_far_as_it_goes(our_model, shared_cases, tmp_path, capsys):
    inputs = [shared_cases / name for name in ("tr_wavex24.wav", "tr_w64.w64", "tr_ogg.ogg")]
    assert run(our_model, tmp_path / "out", *inputs) == 0
    assert capsys.readouterr().err.count(": truncated: ") == 3
    for name, seconds in (("tr_wavex24", 5.499), ("tr_w64", 5.498), ("tr_ogg", 5.32)):
        duration = json.loads((tmp_path / f"out/{name}.json").read_text())["duration"]
        assert duration == pytest.approx(seconds, abs=0.01)


def test_shell_commands_in_wav_scp_are_not_run(our_model, audio, tmp_path):
    (audio / "wav.scp").write_text(f"good a/x.wav\nevil touch {tmp_path}/ran; cat a/x.wav |\n")
    assert run(our_model, tmp_path / "out", audio / "wav.scp", formats=["kaldi"]) == 2
    assert not (tmp_path / "ran").exists()
    assert "shell command" in (tmp_path / "out/skipped.tsv").read_text()
    assert (tmp_path / "out/text").read_text().split()[0] == "good"


def test_audio_without_samples_or_with_one_is_no_error(our_model, tmp_path):
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
    soundfile.write(tmp_path / "one.wav", np.zeros(1), RATE)
    for language in ("en", "auto"):
        inputs = [tmp_path / "empty.wav", tmp_path / "one.wav"]
        assert run(our_model, tmp_path / "out", *inputs, formats=FORMATS, language=language) == 0
        result = json.loads((tmp_path / "out/empty.json").read_text())
        assert result == {
            "language": "en" if language == "en" else None, "duration": 0.0, "results": [], "text": ""
        }  # fmt: skip
        assert (tmp_path / "out/empty.txt").read_text() == ""
        assert (tmp_path / "out/text").read_text().startswith("empty\n")


@pytest.mark.parametrize(
    ("files", "inputs", "message"),
    [
        (["x.wav", "x.flac"], ["."], "x.wav and "),
        (["a/x.wav", "b/x.wav"], ["a/x.wav", "b/x.wav"], "would both be written as x"),
        (["a/x.wav"], [".", "a/x.wav", "a"], "would both be written as x"),
        (["a b.wav", "a_b.wav"], ["."], "would both be written as a_b"),
        (["skipped.wav"], ["."], "the list of skipped inputs"),
        ([], ["."], "no audio in it; supported audio files end in .3gp"),
        ([], ["gone.wav"], "gone.wav: no such file or directory"),
        ([], ["up.scp"], "up.scp:1: ../x would be written outside"),
        ([], ["root.scp"], "root.scp:1: /x would be written outside"),
        ([], ["bare.scp"], "bare.scp:1: x has no path"),
        ([], ["latin.txt"], "latin.txt: not UTF-8"),
    ],
)
def test_what_cannot_be_written_apart_is_refused_before_work_begins(files, inputs, message, tmp_path, capsys):
    for name in files:
        write_noise(tmp_path / "in" / name)
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in/up.scp").write_text("../x x.wav\n")
    (tmp_path / "in/root.scp").write_text("/x x.wav\n")
    (tmp_path / "in/bare.scp").write_text("x\n")
    (tmp_path / "in/latin.txt").write_bytes(b"caf\xe9.wav\n")
    assert run("no-model", tmp_path / "out", *(tmp_path / "in" / name for name in inputs)) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_lists_of_paths_anywhere_are_named_from_the_folder_they_share(our_model, audio, tmp_path):
    (tmp_path / "list.lst").write_text(f"\ufeff{audio}/a/x.wav\naudio/b/x.flac\n", encoding="utf-8")
    assert run(our_model, tmp_path / "out", tmp_path / "list.lst", formats=["txt"]) == 0
    assert written(tmp_path / "out") == {"a/x.txt", "b/x.txt"}


def test_channels_are_mixed_and_rates_converted(tmp_path):
    path = write_noise(tmp_path / "stereo.wav", 2.0, rate=8000, channels=2)
    mixed = _mono(str(path))
    both, _ = soundfile.read(path, dtype="float32")
    soundfile.write(tmp_path / "mean.wav", both.mean(axis=1), 8000, subtype="FLOAT")
    assert mixed.shape == (2 * RATE,)
    assert np.abs(mixed - _mono(str(tmp_path / "mean.wav"))).max() < 1e-5


def test_the_options_reach_the_model(our_model, audio, tmp_path, monkeypatch):
    seen = []
    backend = type(load_backend(our_model))
    decode = backend.decode

    def noting(self, features, prompts, search):
        seen.append((features.shape[2], search.max_new_tokens, len(prompts)))
        return decode(self, features, prompts, search)

    monkeypatch.setattr(backend, "decode", noting)
    assert run(our_model, tmp_path / "out", audio) == 0
    assert run(our_model, tmp_path / "out", audio, options=["--pad-to-30s", "true", "--batch-duration", "60"]) == 0
    assert seen == [(302, 5, 3), (3000, 5, 2), (3000, 5, 1)]


def test_long_recorded_speech_gives_subtitles_in_the_order_of_time(our_model, shared_data, tmp_path):
    speech, rate = soundfile.read(shared_data / "english/libri-1088-134315-0000.wav", dtype="float32")
    soundfile.write(tmp_path / "long.flac", np.concatenate([speech, np.zeros(2 * rate), speech, speech]), rate)
    assert run(our_model, tmp_path / "out", tmp_path / "long.flac", formats=["srt", "json"]) == 0
    result = json.loads((tmp_path / "out/long.json").read_text())
    times = [time for segment in result["results"] for time in (segment["start"], segment["end"])]
    assert times == sorted(times)
    assert len(times) >= 4
    assert times[-1] <= result["duration"] == pytest.approx(50.12, abs=0.01)
    assert (tmp_path / "out/long.srt").read_text().count(" --> ") == len(times) // 2
