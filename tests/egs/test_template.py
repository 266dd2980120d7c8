"""egs/template on synthetic corpora: from the user's data to the table, in each form that data may have."""

import json

import pytest

from tests.egs.helpers import ONE_JOB
from tests.egs.synthetic import place, run, table_rows, try_to_run, write_tables, write_tones

TEXTS = ["turn on the light", "set 29 degrees", "the kitchen", "light in the kitchen"]
QUICK = ("--exports", "ct2:float32", "--max_new_tokens", "4", *ONE_JOB)


def corpus_rows(folder, speakers, utterances=2):
    """Tables of tones: so many utterances of each speaker, each with a pitch of its own."""
    keys = {
        f"{speaker}-{n}": (speaker, 200.0 + 40 * n + 7 * len(speaker))
        for speaker in speakers
        for n in range(utterances)
    }
    audio = {key: str(write_tones(folder / f"{key}.wav", pitch)) for key, (_, pitch) in keys.items()}
    text = {key: TEXTS[n % len(TEXTS)] for n, key in enumerate(keys)}
    return {
        "wav_scp": audio,
        "text": text,
        "utt2lang": dict.fromkeys(keys, "en"),
        "utt2spk": {key: speaker for key, (speaker, _) in keys.items()},
    }


@pytest.fixture
def tiny(tiny_model):
    return ("--base_model", str(tiny_model), *QUICK)


@pytest.mark.slow
def test_a_synthetic_corpus_of_three_speakers_in_one_directory_ends_in_a_table(tiny, tmp_path):
    """As a new user: copy the template, give a Kaldi directory from where one stands; no line is edited."""
    recipe = place("template", tmp_path, "mine")
    write_tables(tmp_path / "speech", **corpus_rows(tmp_path / "wav", ["ann", "bob", "cy"]))
    printed = run(recipe, "--corpus", "speech", *tiny, cwd=tmp_path)
    tables = [(recipe / f"data/{part}/utt2spk").read_text() for part in ("train", "dev", "test")]
    speakers = [{line.split()[1] for line in table.splitlines()} for table in tables]
    assert sorted(map(len, speakers)) == [1, 1, 1]
    assert set.union(*speakers) == {"ann", "bob", "cy"}
    rows = table_rows(recipe)
    assert list(rows) == [
        "base test_transformers",
        "lora test_transformers",
        "lora test_ct2_float32",
        "lora test_ct2_float32_beam5",
    ]
    assert all(float(row["en transcribe WER"].split()[0]) > 0 for row in rows.values())
    assert (recipe / "exp/RESULTS.md").read_text().strip() in printed


def test_synthetic_directories_of_the_user_are_taken_as_they_are(tiny, tmp_path):
    recipe = place("template", tmp_path)
    for part in ("train", "dev", "test"):
        write_tables(recipe / "data" / part, **corpus_rows(tmp_path / "wav", [part]))
    before = (recipe / "data/train/text").read_bytes()
    printed = run(recipe, "--stop_stage", "0")
    assert "whisper-recipe" not in printed
    assert (recipe / "data/train/text").read_bytes() == before


def test_synthetic_json_lists_become_data_directories(tmp_path):
    recipe = place("template", tmp_path)
    for part, suffix in (("train", "jsonl"), ("dev", "json"), ("test", "jsonl")):
        audio = write_tones(tmp_path / f"{part}.wav", 300.0)
        row = json.dumps({"audio": {"path": str(audio)}, "sentence": TEXTS[0], "id": part})
        (tmp_path / f"{part}.{suffix}").write_text(f"[{row}]" if suffix == "json" else row)
    run(recipe, "--from_json", ".", "--language", "english", "--stop_stage", "0", cwd=tmp_path)
    assert (recipe / "data/dev/text").read_text() == f"dev {TEXTS[0]}\n"
    assert (recipe / "data/dev/utt2lang").read_text() == "dev en\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "data/train is missing: make it, or give --corpus or --from_json"),
        (("--corpus", "/nowhere"), "/nowhere: no such file or directory"),
        (("--from_json", "/nowhere"), "/nowhere/train.json: no such file or directory"),
        (("--from_json", "/a", "--corpus", "/b"), "give --corpus or --from_json, not both"),
    ],
)
def test_missing_data_is_said_in_a_line(options, message, tmp_path):
    recipe = place("template", tmp_path)
    status, printed = try_to_run(recipe, *options, "--stop_stage", "0")
    assert status == 1
    assert message in printed
    assert not (recipe / "data").exists()
