"""The synthetic corpus: disjoint sets, the same bytes for the same seed, exact translations, real noise."""

import filecmp
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import wait_until

LOCAL = Path(__file__).parents[2] / "egs/mini/local"
TABLES = ("wav.scp", "text", "utt2lang", "utt2spk", "utt2task", "utt2dur")


def call(out: Path, *options: str, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, str(LOCAL / "make_corpus.py"), "--out", str(out), "--scale", "0.02", *options]
    return subprocess.run(command, capture_output=True, text=True, **more)


def make(out: Path, *options: str) -> Path:
    call(out, *options, check=True)
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="module")
def make_corpus():
    sys.path.insert(0, str(LOCAL))
    import make_corpus

    sys.path.remove(str(LOCAL))
    return make_corpus


@pytest.fixture(scope="module")
def grammar(make_corpus):
    return make_corpus.grammar


def table(split: Path, name: str) -> dict[str, str]:
    lines = (split / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def same(one: Path, other: Path) -> bool:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return all(filecmp.cmp(one / path, other / path, shallow=False) for path in files)


@pytest.mark.slow
def test_sets_share_no_speaker_and_no_sentence(corpus):
    speakers, sentences = {}, {}
    for split in corpus.iterdir():
        for speaker in table(split, "utt2spk").values():
            assert speakers.setdefault(speaker, split.name) == split.name
        for text in table(split, "text").values():
            assert sentences.setdefault(text, split.name) == split.name
    assert len(set(speakers.values())) == 6


def test_what_is_spoken_in_one_set_is_not_spoken_or_translated_in_another(make_corpus):
    sets = {}
    for name, utterances in make_corpus.plan(seed=1, scale=1.0).items():
        for utterance in utterances:
            assert sets.setdefault((utterance.language, utterance.spoken), name) == name


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(corpus, tmp_path):
    assert same(corpus, make(tmp_path / "one", "--num-jobs", "1"))
    (tmp_path / "two").mkdir()
    other = make(tmp_path / "two", "--seed", "2")
    assert (other / "test/text").read_bytes() != (corpus / "test/text").read_bytes()


@pytest.mark.slow
def test_tables_are_sorted_and_agree_with_the_audio(corpus):
    for split in corpus.iterdir():
        tables = {name: table(split, name) for name in TABLES}
        keys = list(tables["text"])
        assert keys == sorted(keys, key=str.encode)
        assert all(list(rows) == keys for rows in tables.values())
        for key in keys:
            samples, rate = soundfile.read(split / tables["wav.scp"][key])
            assert (rate, samples.ndim) == (16000, 1)
            assert float(tables["utt2dur"][key]) == pytest.approx(len(samples) / rate, abs=1e-3)
            assert np.abs(samples).max() > 0.05
            assert key.startswith(tables["utt2spk"][key])


def test_all_languages_and_tasks_are_there(corpus):
    split = corpus / "test"
    languages, tasks = table(split, "utt2lang"), table(split, "utt2task")
    assert {(languages[key], tasks[key]) for key in tasks} == {
        ("en", "transcribe"),
        ("zh", "transcribe"),
        ("es", "transcribe"),
        ("zh", "translate"),
    }
    assert set(table(corpus / "base_train", "utt2lang").values()) == {"en", "zh"}


def test_the_fine_tuning_domain_is_noisier(corpus):
    def quietest_over_loudest(split: str) -> float:
        ratios = []
        for path in sorted((corpus / split / "wav").iterdir()):
            samples, _ = soundfile.read(path)
            power = [np.mean(frame**2) for frame in np.array_split(samples, max(1, len(samples) // 400))]
            ratios.append(10 * np.log10(min(power) / max(power)))
        return float(np.median(ratios))

    assert quietest_over_loudest("train") > quietest_over_loudest("base_train") + 6


@pytest.mark.parametrize(
    ("value", "en", "zh", "es"),
    [
        (0, "zero", "零", "cero"),
        (10, "ten", "十", "diez"),
        (16, "sixteen", "十六", "dieciséis"),
        (20, "twenty", "二十", "veinte"),
        (23, "twenty three", "二十三", "veintitrés"),
        (30, "thirty", "三十", "treinta"),
        (59, "fifty nine", "五十九", "cincuenta y nueve"),
    ],
)
def test_numbers_are_spelt_as_speakers_do(grammar, value, en, zh, es):
    assert grammar.number(value) == (en, zh, es)


@pytest.mark.parametrize(
    ("kind", "picks", "en", "zh", "es"),
    [
        ("command", [0, 0, 0], "turn on the light in the kitchen", "打开厨房的灯", "enciende la luz en la cocina"),
        ("date", [0, 2, 5], "monday march five", "星期一三月五号", "lunes cinco de marzo"),
        (
            "temperature",
            [4, 29],
            "set the office to twenty nine degrees",
            "设定办公室二十九度",
            "pon la oficina a veintinueve grados",
        ),
        ("shopping", [4, 0, 5, 12], "on friday buy twelve eggs", "星期五买十二个鸡蛋", "el viernes compra doce huevos"),
    ],
)
def test_the_three_languages_mean_the_same(grammar, kind, picks, en, zh, es):
    class Picks:
        """Draws what the test says."""

        def integers(self, *_bounds):
            return picks.pop(0)

    assert getattr(grammar, kind)(Picks()) == (en, zh, es)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--scale", "0"], "--scale: must be above 0, got 0.0"),
        (["--num-jobs", "0"], "--num-jobs: must be above 0, got 0"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, options, says):
    done = call(tmp_path / "data", *options)
    assert done.returncode == 1
    assert done.stderr.startswith(f"make_corpus.py: error: {says}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_each_kind_of_sentence_is_as_frequent_in_each_set(make_corpus):
    kinds = [r"(turn|check|clean|move|repair)", r"on \w+ (turn|check|clean|move|repair)", r"\w+day", r"meet"]
    kinds += [r"on \w+ (buy|bring|sell)", r"set", r"call"]
    for name, utterances in make_corpus.plan(seed=1, scale=1.0).items():
        english = [utterance.text for utterance in utterances if utterance.language == "en"]
        counts = [sum(bool(re.match(kind, text)) for text in english) for kind in kinds]
        assert sum(counts) == len(english)
        if len(english) >= 100:
            assert min(counts) >= len(english) / 20, (name, counts)


def test_a_missing_espeak_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('not installed')\n")
    done = call(tmp_path / "data", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "make_corpus.py: error: espeakng-loader is missing; pip install -r requirements.txt"
    )
    assert not list((tmp_path / "data").iterdir())


def test_a_process_that_dies_is_an_error(make_corpus, monkeypatch):
    monkeypatch.setattr(make_corpus, "synthesise", lambda _utterance: os._exit(3))
    [utterance, *_] = make_corpus.plan(seed=1, scale=0.01)["test"]
    with pytest.raises(make_corpus.RecipeError, match=r"the process with espeak-ng died \(exit status 3\)"):
        make_corpus.Synthesis([utterance]).result()


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_num_jobs_is_the_number_of_processes(make_corpus, monkeypatch, tmp_path, num_jobs):
    running = []

    class Counted(make_corpus.Synthesis):
        def __init__(self, utterances):
            super().__init__(utterances)
            running.append(len(multiprocessing.active_children()))

    def synthesise(_utterance):
        time.sleep(0.2)
        return np.zeros(160)

    for name, value in {"Synthesis": Counted, "synthesise": synthesise, "CHUNK": 1}.items():
        monkeypatch.setattr(make_corpus, name, value)
    make_corpus.write_split(tmp_path / "test", make_corpus.plan(seed=1, scale=0.01)["test"], num_jobs)
    assert max(running) == num_jobs


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_no_set(tmp_path):
    out = tmp_path / "data"
    running = subprocess.Popen(
        [sys.executable, str(LOCAL / "make_corpus.py"), "--out", str(out)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: list(out.glob(".*/wav/*.wav")), running)
    running.kill()
    running.wait()
    wait_until(lambda: subprocess.run(["pgrep", "-f", f"out {out}"], capture_output=True).returncode == 1)
    assert not [path for path in out.iterdir() if path.name[0] != "."]
