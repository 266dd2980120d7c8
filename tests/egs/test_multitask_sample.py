"""egs/multitask_sample on a synthetic corpus (tones): two tasks of the same audio down to one table of CER and BLEU."""

import json

import pytest
from lhotse import CutSet

from tests.egs.synthetic import place, run, table_rows, try_to_run, write_tables, write_tones

CHINESE = ["设定二十九度", "调高温度", "三月五号星期一", "设定三十度", "孔家花园"]
BACKENDS = ("transformers", "ct2_float32", "ct2_float32_beam5")
ENGLISH = ["Set 29 degrees", "Turn up the heat", "Monday March five", "Set 30 degrees", "Confucius Garden"]


@pytest.fixture
def corpus(tmp_path):
    """Five tones of one speaker, each transcribed and translated, with id|language|task in both tables."""
    audio, text = {}, {}
    for number, (transcript, translation) in enumerate(zip(CHINESE, ENGLISH, strict=True)):
        path = write_tones(tmp_path / f"wav/tone{number}.wav", 200.0 + 40 * number)
        for task, words in (("transcribe", transcript), ("translate", translation)):
            audio[f"tone{number}|chinese|{task}"] = str(path)
            text[f"tone{number}|chinese|{task}"] = words
    return write_tables(tmp_path / "tones", wav_scp=audio, text=text)


@pytest.mark.slow
def test_both_tasks_of_a_synthetic_corpus_are_trained_together_and_scored_apart(corpus, tiny_model, tmp_path):
    recipe = place("multitask_sample", tmp_path)
    quick = ("--exports", "ct2:float32", "--max_new_tokens", "4", "--num_jobs", "1")
    run(recipe, "--corpus", "tones", "--base_model", str(tiny_model), *quick, cwd=tmp_path)

    ids = {part: keys(recipe / f"data/{part}/text") for part in ("train", "dev", "test")}
    assert sum(map(len, ids.values())) == 10
    for part in ids.values():  # the tasks of a recording are in one part: nothing of the test set has been heard
        assert {key.replace("translate", "transcribe") for key in part if key.endswith("translate")} == {
            key for key in part if key.endswith("transcribe")
        }
    cuts = CutSet.from_file(recipe / "data/fbank_whisper80/cuts_train.jsonl.gz")
    assert {cut.supervisions[0].custom["task"] for cut in cuts} == {"transcribe", "translate"}

    rows = table_rows(recipe)
    assert set(rows) == {"base test_transformers", *(f"lora test_{name}" for name in BACKENDS)}
    scored = json.loads((recipe / "exp/lora/decode_test_ct2_float32/metrics.json").read_text())["groups"]
    row = rows["lora test_ct2_float32"]
    assert row["zh transcribe CER"].startswith(f"{100 * scored['zh transcribe']['error_rate']:.2f} ")
    assert row["zh→en translate BLEU / chrF"].startswith(f"{scored['zh→en translate']['bleu']:.2f} /")


def keys(table):
    return {line.split()[0] for line in table.read_text().splitlines()}


def test_a_synthetic_corpus_may_be_trained_and_tested_on_as_a_whole(corpus, tmp_path):
    recipe = place("multitask_sample", tmp_path)
    sets = [word for split in ("train", "dev", "test") for word in (f"--{split}_sets", "all")]
    run(recipe, "--corpus", str(corpus), *sets, "--stop_stage", "0")
    assert len(keys(recipe / "data/all/text")) == 10


def test_without_a_corpus_there_is_a_line(tmp_path):
    status, printed = try_to_run(place("multitask_sample", tmp_path), "--stop_stage", "0")
    assert status == 1
    assert printed.splitlines()[-1].startswith("run.sh: error: give --corpus, a Kaldi data directory with id|language")
