"""Scoring a decoded set: groups, files, and everything that can be wrong with the two lists."""

import json
import random
import re
import subprocess
import sys

import jiwer
import pytest
import sacrebleu

from tests.scoring.conftest import HYPOTHESES, write_cuts
from tests.text.test_error_rates import PAIRS
from whisper_recipe.cli import main
from whisper_recipe.files import write_json, write_jsonl


def metrics(tmp_path, run="exp"):
    return json.loads((tmp_path / run / "metrics.json").read_text())


def groups(tmp_path):
    return metrics(tmp_path)["groups"]


def test_every_language_and_task_has_its_own_rate_and_unit(tmp_path, cuts, score, capsys):
    assert score(cuts) == 0
    found = {group: (values["unit"], values["error_rate"]) for group, values in groups(tmp_path).items()}
    assert found == {
        "en transcribe": ("WER", 0.0),
        "zh transcribe": ("CER", pytest.approx(1 / 6)),
        "zh→en translate": ("WER", pytest.approx(1 / 5)),
        "es transcribe": ("WER", pytest.approx(2 / 3)),
        "all": ("WER/CER", pytest.approx(4 / 18)),
    }
    assert "%WER 20.00 [ 1 / 5, 0 ins, 0 del, 1 sub ] zh→en translate" in (tmp_path / "exp/wer").read_text()
    assert "%CER 16.67 [ 1 / 6, 0 ins, 1 del, 0 sub ] zh transcribe" in (tmp_path / "exp/cer").read_text()
    printed = capsys.readouterr().out
    assert "es transcribe" in printed
    mean = (0 + 1 / 6 + 1 / 5 + 2 / 3) / 4  # words and characters can't be added up
    assert groups(tmp_path)["all"]["mean_error_rate"] == pytest.approx(mean)
    assert f"mean error rate of the groups: {100 * mean:.2f} %" in printed
    assert (tmp_path / "exp/errors.txt").read_text().index("c (2 errors)") == 0


def test_the_rates_of_all_stand_at_the_top_with_rtf(tmp_path, cuts, score):
    write_json(tmp_path / "exp/decode.json", {"rtf": 0.05})
    assert score(cuts) == 0
    found = {name: metrics(tmp_path)[name] for name in ("error_rate", "ins_rate", "del_rate", "sub_rate", "total")}
    assert found == pytest.approx(
        {"error_rate": 4 / 18, "ins_rate": 2 / 18, "del_rate": 1 / 18, "sub_rate": 1 / 18, "total": 18}
    )
    assert (metrics(tmp_path)["RTF"], metrics(tmp_path)["RTFx"]) == (0.05, 20)


def test_ten_hand_made_pairs_give_the_counts_made_by_hand(tmp_path, score):
    rows = [{"id": f"pair{n}", "text": pair[0], "language": "zh" if pair[2] else "en"} for n, pair in enumerate(PAIRS)]
    cuts = write_cuts(tmp_path / "cuts_pairs.jsonl", rows)
    assert score(cuts, {f"pair{n}": pair[1] for n, pair in enumerate(PAIRS)}, "--normalizer", "none") == 0
    for group, in_characters in (("en transcribe", False), ("zh transcribe", True)):
        insertions, deletions, substitutions, total = (
            sum(pair[column] for pair in PAIRS if pair[2] is in_characters) for column in (3, 4, 5, 6)
        )
        found = groups(tmp_path)[group]
        assert (found["insertions"], found["deletions"]) == (insertions, deletions)
        assert (found["substitutions"], found["total"]) == (substitutions, total)
    assert groups(tmp_path)["all"]["sentence_correct_rate"] == 2 / 10


@pytest.fixture(scope="module")
def random_set():
    """Three hundred utterances of four speakers, as rows of a manifest, and hypotheses."""
    draw = random.Random(0)
    rows, hypotheses = [], {}
    for number in range(300):
        language = draw.choice(["en", "zh", "es"])
        task = draw.choice(["transcribe", "translate"]) if language == "zh" else "transcribe"
        units, space = ("打开厨房的灯", "") if (language, task) == ("zh", "transcribe") else (list("abcdefgh"), " ")
        duration = draw.choice([0.5, 1.99, 2, 4, 7, 15, 25, 30])
        rows.append({"id": f"utt{number:03d}", "language": language, "task": task, "duration": duration})
        rows[-1] |= {"speaker": draw.choice(["ann", "bob", "cem", "dan"])}
        rows[-1] |= {"text": space.join(draw.choices(units, k=draw.randint(1, 9)))}
        hypotheses[rows[-1]["id"]] = space.join(draw.choices(units, k=draw.randint(0, 9)))
    return rows, hypotheses


RANGES = {"0–2 s": [0.5, 1.99], "2–5 s": [2, 4], "5–10 s": [7], "10–20 s": [15], "20–30 s": [25], "30 s and more": [30]}


@pytest.mark.parametrize("name", ["language", "task", "speaker", "duration"])
def test_breakdowns_are_what_jiwer_says_of_their_utterances(tmp_path, score, random_set, name):
    rows, hypotheses = random_set
    assert score(write_cuts(tmp_path / "cuts_random.jsonl", rows), hypotheses, "--normalizer", "none") == 0
    found = metrics(tmp_path)["breakdowns"][name]
    part_of = {
        "language": lambda row: "zh→en" if row["task"] == "translate" else row["language"],
        "task": lambda row: row["task"],
        "speaker": lambda row: row["speaker"],
        "duration": lambda row: next(name for name, seconds in RANGES.items() if row["duration"] in seconds),
    }[name]
    assert set(found) == {part_of(row) for row in rows}
    if name == "duration":
        assert list(found) == list(RANGES)
    for part, values in found.items():
        members = [row for row in rows if part_of(row) == part]
        units = [list if row["language"] == "zh" and row["task"] == "transcribe" else str.split for row in members]
        theirs = jiwer.process_words(
            [split(row["text"]) for split, row in zip(units, members, strict=True)],
            [split(hypotheses[row["id"]]) for split, row in zip(units, members, strict=True)],
            list,
            list,
        )
        assert (values["error_rate"], values["match_error_rate"]) == pytest.approx((theirs.wer, theirs.mer))
        assert (values["insertions"], values["deletions"]) == (theirs.insertions, theirs.deletions)
        assert (values["substitutions"], values["utterances"]) == (theirs.substitutions, len(members))
        assert values["interval_95"][0] < values["error_rate"] < values["interval_95"][1]


def test_unknown_speakers_and_durations_make_no_breakdown(tmp_path, cuts, score):
    assert score(cuts) == 0
    assert metrics(tmp_path)["breakdowns"]["speaker"] == metrics(tmp_path)["breakdowns"]["duration"] == {}


def test_translations_have_sacrebleus_figures_of_the_text_as_written(tmp_path, score):
    pairs = {f"utt{n}": (f"Turn on the light of room {n}.", f"turn on the lights of room {n}!") for n in range(8)}
    rows = [{"id": key, "text": pair[0], "language": "zh", "task": "translate"} for key, pair in pairs.items()]
    assert score(write_cuts(tmp_path / "cuts_st.jsonl", rows), {key: pair[1] for key, pair in pairs.items()}) == 0
    found = groups(tmp_path)["zh→en translate"]
    texts = [pair[1] for pair in pairs.values()], [[pair[0] for pair in pairs.values()]]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(*texts).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(*texts).score)
    assert "case:mixed" in found["bleu_signature"]


def test_only_translations_have_bleu(tmp_path, cuts, score):
    assert score(cuts) == 0
    assert [group for group, values in groups(tmp_path).items() if "bleu" in values] == ["zh→en translate"]


def test_without_a_normaliser_case_punctuation_and_script_count(tmp_path, cuts, score):
    assert score(cuts, HYPOTHESES, "--normalizer", "none") == 0
    assert groups(tmp_path)["en transcribe"]["substitutions"] == 2
    assert groups(tmp_path)["zh transcribe"]["substitutions"] == 3
    assert metrics(tmp_path)["normalizer"] == "none"


def test_every_output_names_the_normaliser(tmp_path, cuts, score, capsys):
    assert score(cuts) == 0
    used = {group: values["normalizer"] for group, values in groups(tmp_path).items()}
    assert used == {
        "en transcribe": "english",
        "zh transcribe": "chinese",
        "zh→en translate": "english",
        "es transcribe": "basic_marks",
        "all": "basic_marks/chinese/english",
    }
    assert "normalizer: whisper" in capsys.readouterr().out
    texts = ("wer", "cer", "errors.txt", "frequent_errors.txt", "hallucinations.txt", "report.html")
    for name in (*texts, "metrics.json", "utterances.jsonl"):
        assert re.search("normalizer", (tmp_path / "exp" / name).read_text(), re.IGNORECASE), name


def test_missing_hypotheses_are_deletions_said_and_listed(tmp_path, cuts, score, capsys):
    assert score(cuts, {"a": "turn on the light"}) == 0
    assert groups(tmp_path)["es transcribe"]["deletions"] == 3
    assert metrics(tmp_path)["missing_hypotheses"] == 3
    assert "3 utterances have no hypothesis and count as deletions" in capsys.readouterr().out
    assert (tmp_path / "exp/missing.txt").read_text().split() == ["b", "b|translate", "c"]
    assert "3 utterances have no hypothesis" in (tmp_path / "exp/report.html").read_text()
    assert score(cuts) == 0
    assert not (tmp_path / "exp/missing.txt").exists()


def test_frequent_errors_are_counted_one_by_one(tmp_path, score):
    rows = [{"id": f"utt{n}", "text": "set the light", "language": "en"} for n in range(5)]
    heard = ["set a light", "set a light", "set light", "set the the light", "set the light"]
    cuts = write_cuts(tmp_path / "cuts_five.jsonl", rows)
    assert score(cuts, {f"utt{n}": text for n, text in enumerate(heard)}) == 0
    lines = [line.split() for line in (tmp_path / "exp/frequent_errors.txt").read_text().splitlines()]
    assert ["2", "en", "the", "->", "a"] in lines
    assert ["1", "en", "the", "->", "*"] in lines
    assert ["1", "en", "*", "->", "the"] in lines


def test_signs_of_made_up_text_are_counted_and_listed(tmp_path, score, capsys):
    rows = [
        {"id": "music", "text": "", "language": "en"},
        {"id": "looping", "text": "hello", "language": "en"},
        {"id": "fine", "text": "hello", "language": "en"},
    ]
    cuts = write_cuts(tmp_path / "cuts_signs.jsonl", rows)
    heard = {"music": "thanks for watching", "looping": "hello " * 9, "fine": "hello"}
    assert score(cuts, heard) == 0
    assert metrics(tmp_path)["hallucination_signs"] == {"loop": 1, "text_on_silence": 1, "too_long": 1, "too_short": 0}
    listed = (tmp_path / "exp/hallucinations.txt").read_text()
    assert "looping: 'hello' 9 times" in listed
    assert "music: 3 units for 0" in listed
    assert "fine" not in listed
    assert "loop 1, text_on_silence 1, too_long 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hypotheses", "message"),
    [
        ([("a", "x"), ("a", "y")], "hyp.jsonl:2: a occurs twice"),
        ([("nobody", "x")], "hyp.jsonl:1: nobody has no reference"),
        ([("a", None)], "hyp.jsonl:1: no id and text"),
    ],
)
def test_wrong_hypotheses_are_named_by_line(tmp_path, cuts, score, capsys, hypotheses, message):
    assert score(cuts, hypotheses) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "exp/metrics.json").exists()


def test_missing_inputs_say_which_command_makes_them(tmp_path, cuts, capsys):
    assert main(["score", str(tmp_path / "none"), "--ref", str(cuts)]) == 1
    assert "run whisper-recipe decode first (stage 7)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"text": None, "language": "en", "custom": {"task": "transcribe"}}, "cuts_bad.jsonl:1: cut a has no text"),
        ({"text": "x", "language": None, "custom": None}, "cuts_bad.jsonl:1: cut a has no language"),
        ("x", "cuts_bad.jsonl:1: not a cut"),
        ({"text": "x", "language": "englsh", "custom": {"task": "transcribe"}}, "cuts_bad.jsonl:1: unknown language"),
        ({"text": "x", "language": "en", "custom": {"task": "Translate"}}, "cuts_bad.jsonl:1: unknown task"),
    ],
)
def test_wrong_references_are_named_by_line(tmp_path, score, capsys, cut, message):
    write_jsonl(tmp_path / "cuts_bad.jsonl", [{"id": "a", "supervisions": [cut]}])
    assert score(tmp_path / "cuts_bad.jsonl", {"a": "x"}) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("decoded", [{}, {"rtf": None}, {"rtf": 0.0}])
def test_a_decoding_without_rtf_is_an_error_in_one_line(tmp_path, cuts, score, capsys, decoded):
    write_json(tmp_path / "exp/decode.json", decoded)
    assert score(cuts) == 1
    assert "decode.json: no positive rtf in it" in capsys.readouterr().err


@pytest.mark.slow
def test_scoring_loads_neither_torch_nor_lhotse(tmp_path, cuts, score):
    assert score(cuts) == 0
    program = (
        "import sys; from whisper_recipe.cli import main; main(sys.argv[1:]);"
        "print(sorted({'torch', 'lhotse', 'librosa', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "score", str(tmp_path / "exp"), "--ref", str(cuts)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("[]\n")


def test_units_can_be_chosen_for_code_switched_text(tmp_path, score):
    rows = [{"id": "a", "text": "请打开YouTube谢谢", "language": "zh"}]
    cuts = write_cuts(tmp_path / "cuts_switched.jsonl", rows)
    # One word for another, one character missing of six units; in characters the same word costs five of twelve.
    assert score(cuts, {"a": "请打开you two谢"}, "--units", "mixed") == 0
    found = metrics(tmp_path)["groups"]["all"]
    assert (found["unit"], found["total"]) == ("mixed", 6)
    assert (found["substitutions"], found["insertions"], found["deletions"]) == (2, 0, 0)
    assert "%MIXED 33.33 [ 2 / 6" in (tmp_path / "exp/mixed").read_text()
    assert score(cuts, {"a": "请打开youtube谢"}, "--units", "characters") == 0
    found = metrics(tmp_path)["groups"]["all"]
    assert (found["unit"], found["total"], found["deletions"]) == ("CER", 12, 1)
    assert not (tmp_path / "exp/mixed").exists()
