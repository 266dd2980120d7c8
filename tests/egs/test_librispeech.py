"""egs/librispeech on a synthetic tree: the corpus' layout, names, transcripts and archives, with noise for speech."""

import hashlib
import shutil

import pytest

from tests.egs.helpers import ONE_JOB, ROOT, load_script, pack, place, place_for_a_trial, run, table, write_noise
from whisper_recipe.errors import RecipeError

TRANSCRIPTS = {
    "train-clean-5": {
        "1088-134315-0000": "AS YOU KNOW AND AS I HAVE GIVEN YOU PROOF",
        "1088-134315-0001": "I HAVE THE GREATEST ADMIRATION IN THE WORLD",
        "1088-134318-0000": "IT'S A LONG WAY",
        "118-47824-0000": "DON'T BE AFRAID",
    },
    "dev-clean-2": {
        "1272-135031-0000": "BECAUSE YOU WERE SLEEPING INSTEAD OF CONQUERING",
        "1272-135031-0001": "THE LOVELY ROSE PRINCESS HAS BECOME A FIDDLE WITHOUT A BOW",
        "2277-149874-0000": "HE DOES NOT SAY",
    },
}


@pytest.fixture
def corpus(tmp_path):
    """LibriSpeech/ as the archives of the mini corpus unpack it."""
    root = tmp_path / "corpus" / "LibriSpeech"
    for part, transcripts in TRANSCRIPTS.items():
        for key, text in transcripts.items():
            speaker, chapter, _ = key.split("-")
            folder = root / part / speaker / chapter
            write_noise(folder / f"{key}.flac", 0.8 + len(text) / 40)
            with open(folder / f"{speaker}-{chapter}.trans.txt", "a") as file:
                file.write(f"{key} {text}\n")
    for name in ("BOOKS", "CHAPTERS", "LICENSE", "README", "SPEAKERS"):
        (root / f"{name}.TXT").write_text(f"{name}\n")
    return root.parent


@pytest.fixture
def archives(corpus):
    """A folder with the parts' archives, as they are downloaded."""
    folder = corpus.parent / "archives"
    folder.mkdir()
    for part in TRANSCRIPTS:
        pack(folder / f"{part}.tar.gz", corpus, "LibriSpeech/README.TXT", f"LibriSpeech/{part}")
    return folder


@pytest.fixture
def make_data(monkeypatch, tmp_path):
    """The recipe's module, in an empty folder."""
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    return load_script("librispeech")


@pytest.mark.slow
def test_synthetic_tree_from_its_archives_to_the_table(archives, tmp_path, tiny_model):
    recipe = place_for_a_trial("librispeech", tmp_path)
    options = ("--corpus", archives, "--base_model", tiny_model, "--method", "full", "--exports", "ct2:int8")
    done = run(recipe, *options, *ONE_JOB, "--max_new_tokens", "8", preload=False)
    assert done.returncode == 0, done.stdout[-3000:]
    written = (recipe / "exp/RESULTS.md").read_text()
    assert written.strip() in done.stdout
    assert "en transcribe WER" in written
    assert "Normalizer: " in written
    for system in ("base dev-clean-2_transformers", "full dev-clean-2_transformers", "full dev-clean-2_ct2_int8"):
        assert f"| {system} " in written
    for part, transcripts in TRANSCRIPTS.items():
        assert table(recipe / "data" / part, "text") == {key: text.lower() for key, text in transcripts.items()}
        assert set(table(recipe / "data" / part, "utt2lang").values()) == {"en"}


def test_synthetic_tree_as_a_folder_gives_the_data_that_its_archives_give(corpus, archives, make_data, tmp_path):
    sets = list(TRANSCRIPTS)
    make_data.make_data(sets, tmp_path / "from_folder", corpus, "")
    make_data.make_data(sets, tmp_path / "from_parts", corpus / "LibriSpeech", "")
    make_data.make_data(sets, tmp_path / "from_archives", archives, "")
    for part in sets:
        for name in ("text", "utt2spk", "utt2lang", "utt2dur"):
            tables = [table(tmp_path / which / part, name) for which in ("from_folder", "from_parts", "from_archives")]
            assert tables[0] == tables[1] == tables[2]
    assert table(tmp_path / "from_folder/train-clean-5", "utt2spk")["118-47824-0000"] == "118"


def test_synthetic_tree_loses_what_has_no_partner_and_says_so(corpus, make_data, tmp_path, capsys):
    folder = corpus / "LibriSpeech/train-clean-5/1088/134315"
    (folder / "1088-134315-0001.flac").unlink()
    write_noise(folder / "1088-134315-0009.flac", 1)
    make_data.make_data(["train-clean-5"], tmp_path / "data", corpus, "")
    assert "3 utterances" in capsys.readouterr().out
    dropped = (tmp_path / "data/train-clean-5/dropped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in dropped] == ["id", "1088-134315-0009", "1088-134315-0001"]
    assert [line.split("\t")[-1] for line in dropped[1:]] == ["no transcript", "no recording"]


def test_synthetic_tree_read_again_leaves_equal_files_their_time(corpus, make_data, tmp_path):
    text = tmp_path / "data/dev-clean-2/text"
    make_data.make_data(["dev-clean-2"], tmp_path / "data", corpus, "")
    before = text.stat().st_mtime_ns
    make_data.make_data(["dev-clean-2"], tmp_path / "data", corpus, "")
    assert text.stat().st_mtime_ns == before
    transcript = corpus / "LibriSpeech/dev-clean-2/2277/149874/2277-149874.trans.txt"
    transcript.write_text("2277-149874-0000 HE DOES SAY\n")
    make_data.make_data(["dev-clean-2"], tmp_path / "data", corpus, "")
    assert text.stat().st_mtime_ns > before


def test_synthetic_tree_with_a_damaged_recording_is_an_error_that_names_it(corpus, make_data, tmp_path):
    damaged = corpus / "LibriSpeech/dev-clean-2/2277/149874/2277-149874-0000.flac"
    damaged.write_bytes(b"not FLAC")
    with pytest.raises(RecipeError, match=damaged.name):
        make_data.make_data(["dev-clean-2"], tmp_path / "data", corpus, "")


def test_a_part_that_is_not_there_is_an_error(corpus, make_data, tmp_path):
    with pytest.raises(RecipeError, match="neither test-clean/"):
        make_data.make_data(["test-clean"], tmp_path / "data", corpus, "")
    with pytest.raises(RecipeError, match="no part 'train'"):
        make_data.make_data(["train"], tmp_path / "data", corpus, "")


@pytest.mark.slow
def test_a_download_that_is_not_the_published_archive_is_refused(archives, tmp_path):
    """By the recipe's script: what the server has is intact, but its md5 is not the one that openslr.org publishes."""
    (tmp_path / "server").mkdir()
    shutil.copytree(archives, tmp_path / "server/31")
    recipe = place(ROOT / "egs/librispeech", tmp_path)
    done = run(recipe, "--stop_stage", "0", "--url", (tmp_path / "server").as_uri())
    assert done.returncode == 1
    assert "train-clean-5.tar.gz.part: corrupt: its md5 is" in done.stdout
    assert not (recipe / "data/train-clean-5").exists()
    assert not list((recipe / "download").iterdir())


def test_a_download_with_the_published_md5_is_unpacked_once(archives, make_data, tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    archives.rename(tmp_path / "server/31")
    md5s = {part: hashlib.md5((tmp_path / f"server/31/{part}.tar.gz").read_bytes()).hexdigest() for part in TRANSCRIPTS}
    monkeypatch.setattr(make_data, "PARTS", {part: (31, md5) for part, md5 in md5s.items()})
    url = (tmp_path / "server").as_uri()
    make_data.make_data(list(TRANSCRIPTS), tmp_path / "data", None, url)
    assert len(table(tmp_path / "data/train-clean-5", "text")) == 4
    shutil.rmtree(tmp_path / "server")
    for archive in (tmp_path / "recipe/download").glob("*.tar.gz"):
        archive.unlink()  # the user wants the room
    make_data.make_data(list(TRANSCRIPTS), tmp_path / "again", None, url)
    assert table(tmp_path / "again/dev-clean-2", "text") == table(tmp_path / "data/dev-clean-2", "text")
