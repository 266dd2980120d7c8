"""egs/wenetspeech on a synthetic tree: WenetSpeech.json, long recordings in Opus with segments, noise for speech."""

import json

import pytest

from tests.egs.helpers import ONE_JOB, load_script, place_for_a_trial, run, table, write_noise
from whisper_recipe.data.corpus import write_corpus
from whisper_recipe.data.utterance import Utterance
from whisper_recipe.errors import RecipeError

pytestmark = pytest.mark.slow

# Path of a recording -> its segments: subsets, seconds and text.
AUDIOS = {
    "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus": [
        (["L"], 0.2, 1.5, "怎么样这些日子住得还习惯吧"),
        (["L", "M", "S"], 1.6, 3.2, "挺好的"),
        (["L", "M"], 3.2, 4.9, "那就好"),
    ],
    "audio/train/podcast/B00000/X0000000000_100638174.opus": [(["L", "M", "S"], 0.5, 2.25, "今天我们来聊一聊")],
    "audio/dev/youtube/B00000/DEV_T0000000000.opus": [(["DEV"], 0.0, 1.61, "对我做了介绍啊")],
    "audio/test_net/youtube/B00000/TEST_NET_Y0000000000_-KTKHdZ2fb8.opus": [
        (["TEST_NET"], 0.25, 1.75, "她这个就是有点"),
        (["TEST_NET"], 2.0, 3.5, "说是这样"),
    ],
    "audio/test_meeting/B00000/TEST_MEETING_T0000000000.opus": [(["TEST_MEETING"], 1.0, 2.5, "好那我们开始")],
}


def audio_entry(path, segments):
    """An entry of WenetSpeech.json."""
    key = path.rpartition("/")[2].removesuffix(".opus")
    rows = [
        {
            "sid": f"{key}_S{n:05d}",
            "confidence": 1.0,
            "begin_time": start,
            "end_time": end,
            "subsets": subsets,
            "text": t,
        }
        for n, (subsets, start, end, t) in enumerate(segments)
    ]
    more = {"md5": "0" * 32, "source": "youtube", "tags": ["drama"], "url": "https://www.youtube.com/"}
    return {"aid": key, "duration": 5.0, "path": path, **more, "segments": rows}


def expected(subset):
    """The segments of a subset: id -> (recording, start, end, text)."""
    return {
        row["sid"]: (audio["aid"], row["begin_time"], row["end_time"], row["text"])
        for audio in (audio_entry(*item) for item in AUDIOS.items())
        for row in audio["segments"]
        if subset in row["subsets"]
    }


def write_json(folder, audios):
    (folder / "WenetSpeech.json").write_text(json.dumps({"audios": audios}, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "WenetSpeech"
    for path in AUDIOS:
        write_noise(folder / path, 5.0, 16000, format="OGG", subtype="OPUS")
    write_json(folder, [audio_entry(*item) for item in AUDIOS.items()])
    return folder


@pytest.fixture
def aishell(tmp_path):
    """A Kaldi directory as egs/aishell writes data/test."""
    key = "BAC009S0764W0121"
    write_noise(tmp_path / f"aishell/{key}.wav", 2.0)
    audio = str(tmp_path / f"aishell/{key}.wav")
    row = Utterance(key, key, audio, "甚至出现交易", "zh", "transcribe", "S0764", duration=2.0)
    write_corpus([row], tmp_path / "aishell/test")
    return tmp_path / "aishell/test"


@pytest.fixture
def recipe_script():
    return load_script("wenetspeech")


def test_synthetic_tree_to_a_table_of_the_fields_test_sets(corpus, aishell, tmp_path, tiny_model):
    recipe = place_for_a_trial("wenetspeech", tmp_path)
    options = ("--corpus", corpus, "--aishell", aishell, "--base_model", tiny_model, "--method", "full")
    done = run(recipe, *options, "--exports", "ct2:int8", "--max_new_tokens", "8", *ONE_JOB)
    assert done.returncode == 0, done.stdout[-3000:]
    written = (recipe / "exp/RESULTS.md").read_text()
    assert written.strip() in done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in written.splitlines()[2:8]]
    assert rows[0] == ["system", "aishell_test CER", "test_net CER", "test_meeting CER"]
    assert [row[0] for row in rows[2:]] == [
        "base transformers", "full transformers", "full ct2_int8", "full ct2_int8_beam5"
    ]  # fmt: skip
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[1:])
    assert table(recipe / "data/aishell_test", "text") == {"BAC009S0764W0121": "甚至出现交易"}


@pytest.mark.parametrize("part", ["S", "M", "L", "DEV", "TEST_NET", "TEST_MEETING"])
def test_synthetic_tree_gives_the_segments_of_a_part(corpus, tmp_path, recipe_script, part):
    recipe_script.make_data([part.lower()], tmp_path / "data", corpus, tmp_path, 1)
    folder = tmp_path / "data" / part.lower()
    segments = {key: row.split() for key, row in table(folder, "segments").items()}
    texts = table(folder, "text")
    found = {key: (name, float(start), float(end), texts[key]) for key, (name, start, end) in segments.items()}
    assert found == expected(part)
    paths = {name: str(corpus / path) for path in AUDIOS for name in [audio_entry(path, [])["aid"]]}
    assert table(folder, "wav.scp") == {name: paths[name] for name, *_ in found.values()}
    assert set(table(folder, "utt2lang").values()) == {"zh"}
    assert (folder / "dropped.tsv").read_text().count("\n") == 1  # the heading


def test_synthetic_tree_with_a_segment_after_the_end_says_so(corpus, tmp_path, recipe_script, capsys):
    audios = [audio_entry(*item) for item in AUDIOS.items()]
    late = {"sid": "LATE_S00000", "begin_time": 7.0, "end_time": 8.0, "subsets": ["S"], "text": "晚"}
    audios[0]["segments"].append(late)
    write_json(corpus, audios)
    recipe_script.make_data(["s"], tmp_path / "data", corpus, tmp_path, 1)
    assert "2 utterances" in (printed := capsys.readouterr().out)
    assert "1 dropped" in printed
    assert "LATE_S00000" in (tmp_path / "data/s/dropped.tsv").read_text()


def test_what_is_missing_is_named(corpus, tmp_path, recipe_script):
    with pytest.raises(RecipeError, match=r"aishell/data/test: no such file.*leave aishell_test out"):
        recipe_script.make_data(["aishell_test"], tmp_path, corpus, tmp_path / "aishell/data/test", 1)
    with pytest.raises(RecipeError, match=r"WenetSpeech.json: no such file.*--corpus"):
        recipe_script.make_data(["s"], tmp_path, tmp_path, tmp_path, 1)
    with pytest.raises(RecipeError, match="no set 'xl'"):
        recipe_script.make_data(["xl"], tmp_path, corpus, tmp_path, 1)


@pytest.mark.parametrize("content", ["not JSON", '{"audios": [{"aid": "a"}]}', "{}"])
def test_a_damaged_table_is_named(corpus, tmp_path, recipe_script, content):
    (corpus / "WenetSpeech.json").write_text(content)
    with pytest.raises(RecipeError, match=r"WenetSpeech: lhotse can't prepare it"):
        recipe_script.make_data(["s"], tmp_path / "data", corpus, tmp_path, 1)
