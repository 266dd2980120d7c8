"""egs/mboshi on a small tree in the corpus's layout, with noise for speech, and on a repository to clone."""

import subprocess
import sys

import pytest
import sacrebleu

from tests.egs.helpers import ONE_JOB, load_script, place_for_a_trial, run, table, write_noise
from whisper_recipe.errors import RecipeError

# As in the corpus: name -> transcript, translation in Moses' tokens.
SENTENCES = {
    "train": {
        "abiayi_2015-09-08_mdw_elicit_Dico18_1": ("kyéma yeékirá ikóó wó adí sωndω", "ce singe est un cercopithèque"),
        "martial_2015-09-07_mdw_elicit_Dico19_4": ("mwána ya ngá ámiwáa", "mon enfant vient de mourir ."),
    },
    "dev": {
        "abiayi_2015-09-08_mdw_elicit_Dico18_9": ("obia itsωώ s éléngé", "l&apos; habit a séché , aujourd&apos; hui"),
        "kouarata_2015-08-13_mdw_elicit_Part1_2": ("bána bo báatúsá", "ces femmes-là parlent"),
    },
}


@pytest.fixture
def clone(tmp_path):
    """A clone of the repository, with files that the recipe does not use."""
    folder = tmp_path / "mboshi-french-parallel-corpus"
    for split, rows in SENTENCES.items():
        for number, (name, (mboshi, french)) in enumerate(rows.items()):
            audio = folder / "full_corpus_newsplit" / split / f"{name}.wav"
            write_noise(audio, 0.8 + number / 4)
            for suffix, text in ((".mb.cleaned", mboshi), (".fr.cleaned", french), (".fr.cleaned.noPunct", "x")):
                audio.with_suffix(suffix).write_text(f"{text}\n", encoding="utf-8")
    return folder


@pytest.fixture
def make_data(monkeypatch, tmp_path):
    """The recipe's module, in an empty folder."""
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    return load_script("mboshi")


@pytest.mark.slow
def test_small_tree_to_the_table(clone, tmp_path, full_vocabulary_model):
    recipe = place_for_a_trial("mboshi", tmp_path)
    options = ("--corpus", clone, "--base_model", full_vocabulary_model, "--max_new_tokens", "4", "--beam_size", "0")
    options += (*ONE_JOB, "--train_sets", "dev", "--train_options", "--new_languages.mdw new")
    done = run(recipe, *options)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "mdw is not among Whisper's languages" in done.stdout
    written = (recipe / "exp/RESULTS.md").read_text()
    for column in ("mdw transcribe WER", "fr transcribe WER", "fr transcribe BLEU"):
        assert column in written
    assert "mdw transcribe BLEU" not in written
    assert "| base dev_ct2_int8 " in written
    assert "| full dev_ct2_int8 " in written


def test_each_recording_stands_for_both_tasks(clone, make_data, tmp_path):
    make_data.make_split(make_data.find_corpus(clone, "", tmp_path) / "dev", tmp_path / "data/dev")
    first, second = (f"{name}" for name in SENTENCES["dev"])
    assert table(tmp_path / "data/dev", "text") == {
        first: "obia itsωώ s éléngé",
        f"{first}|fr|transcribe": "l'habit a séché, aujourd'hui",
        second: "bána bo báatúsá",
        f"{second}|fr|transcribe": "ces femmes-là parlent",
    }
    languages = table(tmp_path / "data/dev", "utt2lang")
    assert (languages[first], languages[f"{first}|fr|transcribe"]) == ("mdw", "fr")
    assert table(tmp_path / "data/dev", "utt2spk")[f"{second}|fr|transcribe"] == "kouarata"
    audio = table(tmp_path / "data/dev", "wav.scp")
    assert audio[first] == audio[f"{first}|fr|transcribe"]


def test_reference_tokens_are_those_that_espnet_counts(make_data):
    """By hand, as mteval-v13a splits what Moses' detokenizer.perl -l fr makes of the text."""
    text = make_data.detokenized("appellation : l&apos; ami d&apos; okyeri , dit-il , part .\n")
    assert text == "appellation : l'ami d'okyeri, dit-il, part."
    assert sacrebleu.corpus_bleu([text], [[text]]).ref_len == 9


def test_a_header_that_promises_a_little_more_is_corrected_but_not_much_more(clone, make_data, tmp_path):
    first, second = sorted((clone / "full_corpus_newsplit/dev").glob("*.wav"))
    first.write_bytes(first.read_bytes()[:-726])  # as in the corpus
    second.write_bytes(second.read_bytes()[:-9000])
    make_data.make_split(first.parent, tmp_path / "data/dev")
    audio = table(tmp_path / "data/dev", "wav.scp")
    assert set(audio.values()) == {str(tmp_path / "data/audio/dev" / first.name)}
    assert float(table(tmp_path / "data/dev", "utt2dur")[first.stem]) == pytest.approx(0.8 - 363 / 16000, abs=1e-3)
    dropped = (tmp_path / "data/dev/dropped.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in dropped] == [second.stem, f"{second.stem}|fr|transcribe"]
    assert "truncated" in dropped[0]


def test_a_recording_without_translation_is_still_transcribed(clone, make_data, tmp_path):
    next((clone / "full_corpus_newsplit/train").glob("martial*.fr.cleaned")).unlink()
    make_data.make_split(clone / "full_corpus_newsplit/train", tmp_path / "data/train")
    assert len(table(tmp_path / "data/train", "text")) == 3
    assert "martial_2015-09-07_mdw_elicit_Dico19_4|fr|transcribe" in (tmp_path / "data/train/dropped.tsv").read_text()


def test_the_repository_is_cloned_once_and_only_the_folder_that_is_needed(clone, make_data, tmp_path):
    (clone / "forced_alignments").mkdir()
    (clone / "forced_alignments/x").write_text("x")
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", clone, *command], check=True)
    url = clone.as_uri()
    found = make_data.find_corpus(None, url, tmp_path / "download")
    assert len(list((found / "train").glob("*.wav"))) == 2
    assert not (found.parent / "forced_alignments").exists()
    assert make_data.find_corpus(None, "file:///nowhere", tmp_path / "download") == found


def test_what_can_not_be_had_is_one_line(make_data, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"neither train/ and dev/ nor full_corpus_newsplit"):
        make_data.find_corpus(tmp_path, "", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--url", "file:///nowhere"])
    with pytest.raises(SystemExit) as stop:
        make_data.main()
    assert str(stop.value).startswith("make_data.py: error: file:///nowhere: git can't clone it")
    assert not list((tmp_path / "recipe").rglob("mboshi-french-parallel-corpus"))
