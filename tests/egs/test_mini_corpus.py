"""The synthetic corpus: disjoint sets, the same bytes for the same seed, exact translations, real noise."""

import filecmp
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

LOCAL = Path(__file__).parents[2] / "egs/mini/local"
TABLES = ("wav.scp", "text", "utt2lang", "utt2spk", "utt2task", "utt2dur")


def make(out: Path, *options: str) -> Path:
    command = [sys.executable, str(LOCAL / "make_corpus.py"), "--out", str(out), "--scale", "0.02", *options]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="module")
def grammar():
    sys.path.insert(0, str(LOCAL))
    import grammar

    sys.path.remove(str(LOCAL))
    return grammar


def table(split: Path, name: str) -> dict[str, str]:
    lines = (split / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def same(one: Path, other: Path) -> bool:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return all(filecmp.cmp(one / path, other / path, shallow=False) for path in files)


def test_sets_share_no_speaker_and_no_sentence(corpus):
    speakers, sentences = {}, {}
    for split in corpus.iterdir():
        for speaker in table(split, "utt2spk").values():
            assert speakers.setdefault(speaker, split.name) == split.name
        for text in table(split, "text").values():
            assert sentences.setdefault(text, split.name) == split.name
    assert len(set(speakers.values())) == 6


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(corpus, tmp_path):
    assert same(corpus, make(tmp_path / "one", "--num-jobs", "1"))
    (tmp_path / "two").mkdir()
    other = make(tmp_path / "two", "--seed", "2")
    assert (other / "test/text").read_bytes() != (corpus / "test/text").read_bytes()


def test_tables_are_sorted_and_agree_with_the_audio(corpus):
    for split in corpus.iterdir():
        tables = {name: table(split, name) for name in TABLES}
        keys = list(tables["text"])
        assert keys == sorted(keys, key=str.encode)
        assert all(list(rows) == keys for rows in tables.values())
        for key in keys:
            info = soundfile.info(split / tables["wav.scp"][key])
            assert (info.samplerate, info.channels) == (16000, 1)
            assert float(tables["utt2dur"][key]) == pytest.approx(info.duration, abs=1e-3)
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
