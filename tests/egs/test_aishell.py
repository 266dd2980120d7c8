"""egs/aishell on a synthetic tree: the corpus' layout, names, transcripts and archives, with noise for speech."""

import hashlib

import pytest

from tests.egs.helpers import ONE_JOB, ROOT, load_script, pack, place, place_for_a_trial, run, table, write_noise
from whisper_recipe.errors import RecipeError

# Split -> speaker -> utterance -> its line in aishell_transcript_v0.8.txt, where words have spaces between them.
SPLITS = {
    "train": {
        "S0002": {
            "BAC009S0002W0122": "而 对 楼市 成交 抑制 作用 最 大 的 限 购",
            "BAC009S0002W0123": "也 成为 地方 政府",
        },
        "S0003": {"BAC009S0003W0121": "自 六月 底 呼和浩特", "BAC009S0003W0122": "二 十 五 家 ａｂ 公司"},
    },
    "dev": {"S0724": {"BAC009S0724W0121": "广州市 房地产 中介 协会", "BAC009S0724W0122": "可能 还 好"}},
    "test": {"S0764": {"BAC009S0764W0121": "甚至 出现 交易 几乎 停滞", "BAC009S0764W0122": "一二 线 城市"}},
}
TEXTS = {
    split: {
        key: text.replace(" ", "").replace("ａ", "a").replace("ｂ", "b").upper()
        for texts in speakers.values()
        for key, text in texts.items()
    }
    for split, speakers in SPLITS.items()
}


@pytest.fixture
def corpus(tmp_path):
    """The folder with data_aishell/, all unpacked; a recording without transcript and a line without recording too."""
    root = tmp_path / "corpus/data_aishell"
    lines = ["BAC009S0999W0999 没有 录音"]
    for split, speakers in SPLITS.items():
        for speaker, texts in speakers.items():
            for key, text in texts.items():
                write_noise(root / "wav" / split / speaker / f"{key}.wav", 0.5 + len(text) / 20)
                lines.append(f"{key} {text}")
    write_noise(root / "wav/train/S0002/BAC009S0002W0499.wav", 1)
    transcript = root / "transcript/aishell_transcript_v0.8.txt"
    transcript.parent.mkdir()
    transcript.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root.parent


@pytest.fixture
def packed(corpus):
    """The folder with data_aishell/ as data_aishell.tgz unpacks it: an archive for each speaker."""
    root = corpus.parent / "packed/data_aishell"
    (root / "wav").mkdir(parents=True)
    for split, speakers in SPLITS.items():
        for speaker in speakers:
            pack(root / "wav" / f"{speaker}.tar.gz", corpus / "data_aishell/wav", f"{split}/{speaker}")
    (corpus / "data_aishell/transcript").rename(root / "transcript")
    return root.parent


@pytest.fixture
def archive(packed):
    return pack(packed.parent / "data_aishell.tgz", packed, "data_aishell")


@pytest.fixture
def recipe_script(monkeypatch, tmp_path):
    """The recipe's module, in an empty folder."""
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    return load_script("aishell")


@pytest.mark.slow
def test_synthetic_tree_from_its_archive_to_the_table(archive, tmp_path, tiny_model):
    recipe = place_for_a_trial("aishell", tmp_path)
    options = ("--corpus", archive, "--base_model", tiny_model, "--method", "lora", "--exports", "ct2:int8")
    done = run(recipe, *options, *ONE_JOB, "--max_new_tokens", "8")
    assert done.returncode == 0, done.stdout[-3000:]
    written = (recipe / "exp/RESULTS.md").read_text()
    assert written.strip() in done.stdout
    assert "zh transcribe CER" in written
    for system in ("base test_transformers", "lora test_transformers", "lora test_ct2_int8"):
        assert f"| {system} " in written
    for split, texts in TEXTS.items():
        assert table(recipe / "data" / split, "text") == texts
    assert "conf/small/train_lora.yaml" in done.stdout


def test_synthetic_tree_as_a_folder_gives_the_data_that_its_archive_gives(corpus, tmp_path, recipe_script):
    for number, folder in enumerate((corpus, corpus / "data_aishell")):
        recipe_script.make_data(tmp_path / f"folder{number}", folder, "")
    pack(tmp_path / "all.tgz", corpus, "data_aishell")
    recipe_script.make_data(tmp_path / "archive", tmp_path / "all.tgz", "")
    for split, texts in TEXTS.items():
        for name in ("text", "utt2spk", "utt2lang", "utt2dur"):
            rows = [table(tmp_path / which / split, name) for which in ("folder0", "folder1", "archive")]
            assert rows[0] == rows[1] == rows[2]
        assert table(tmp_path / "archive" / split, "text") == texts
        assert table(tmp_path / "archive" / split, "utt2spk") == {key: key[6:11] for key in texts}
        assert set(table(tmp_path / "archive" / split, "utt2lang").values()) == {"zh"}


def test_synthetic_tree_says_what_has_no_partner(corpus, tmp_path, recipe_script, capsys):
    recipe_script.make_data(tmp_path / "data", corpus, "")
    printed = capsys.readouterr().out
    assert "1 dropped" in printed
    assert "1 lines have no recording (BAC009S0999W0999" in printed
    dropped = (tmp_path / "data/train/dropped.tsv").read_text().splitlines()[1:]
    assert [(line.split("\t")[0], line.split("\t")[2]) for line in dropped] == [("BAC009S0002W0499", "no transcript")]


def test_speakers_archives_that_are_not_unpacked_are_told(packed, tmp_path, recipe_script):
    with pytest.raises(RecipeError, match="the speakers' archives are not unpacked"):
        recipe_script.make_data(tmp_path / "data", packed, "")


def test_a_folder_that_is_not_the_corpus_is_named(tmp_path, recipe_script):
    with pytest.raises(RecipeError, match=rf"{tmp_path}: data_aishell/transcript/.* is not in it"):
        recipe_script.make_data(tmp_path / "data", tmp_path, "")


def test_a_partial_archive_is_named_and_leaves_nothing(archive, tmp_path, recipe_script):
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(RecipeError, match=r"data_aishell.tgz: corrupt or partial archive"):
        recipe_script.make_data(tmp_path / "data", archive, "")
    assert not list((tmp_path / "recipe/download").iterdir())


def test_a_partial_archive_of_a_speaker_is_named(packed, tmp_path, recipe_script):
    speaker = packed / "data_aishell/wav/S0724.tar.gz"
    speaker.write_bytes(speaker.read_bytes()[:-500])
    archive = pack(tmp_path / "data_aishell.tgz", packed, "data_aishell")
    with pytest.raises(RecipeError, match=r"data_aishell.tgz: data_aishell/wav/S0724.tar.gz: corrupt or partial"):
        recipe_script.make_data(tmp_path / "data", archive, "")


@pytest.mark.slow
def test_a_download_is_checked_by_the_recipe(archive, tmp_path):
    recipe = place(ROOT / "egs/aishell", tmp_path)
    done = run(recipe, "--stop_stage", "0", "--url", archive.parent.as_uri())
    assert done.returncode == 1
    assert "data_aishell.tgz.part: corrupt: its md5 is" in done.stdout
    assert not (recipe / "data/train").exists()


def test_a_download_with_the_right_md5_is_taken(archive, tmp_path, recipe_script, monkeypatch):
    monkeypatch.setattr(recipe_script, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    recipe_script.make_data(tmp_path / "data", None, archive.parent.as_uri())
    assert table(tmp_path / "data/dev", "text") == TEXTS["dev"]
