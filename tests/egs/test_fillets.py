"""egs/fillets on a small tree in the layout of the game's data, with noise for speech, and on archives of it."""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.egs.helpers import ONE_JOB, ROOT, load_script, pack, place_for_a_trial, run, table, write_noise
from whisper_recipe.errors import RecipeError

# Level -> file of its texts and the folder of its sound -> id -> (font, English, Czech or Dutch).
DIALOGUE = {
    ("airplane/dialogs_cs.lua", "airplane/cs"): {
        "let-m-divna": ("small", "What kind of strange ship is that?", "Co je to za divnou loď?"),
        "let-v-proc": ("big", "Why?", "Proč?"),
        "let-v-citat": ("big", "He said “no”.", r"Řekl: \"ne\"."),
    },
    ("airplane/dialogs_nl.lua", "airplane/nl"): {
        "let-m-divna": ("small", "What kind of strange ship is that?", "Wat is dit voor raar schip?"),
    },
    ("share/bore_dialogs_cs.lua", "share/borejokes/cs"): {"ob-o-halo": ("both", "Hello!", "Haló!")},
    ("map/dialogs_cs.lua", "map/cs"): {"map-m-mapa": ("small", "It’s a map.", "To je mapa.")},
    ("cave/dialogs_cs.lua", "cave/cs"): {
        "jes-x-proc": ("white", "What for?", "proč"),
        "jes-v-tma": ("big", "It is dark.", "Je tu tma."),
    },
    ("cave/dialogs_nl.lua", "cave/nl"): {"jes-v-tma": ("big", "It is dark.", "Het is donker.")},
}
UPSTREAM = "fillets-ng-data-1.0.1.tar.gz"


@pytest.fixture
def game(tmp_path):
    """script/ and sound/ as the game has them."""
    folder = tmp_path / "game"
    for (texts, sound), lines in DIALOGUE.items():
        path = folder / "script" / texts
        path.parent.mkdir(parents=True, exist_ok=True)
        calls = [
            f'\ndialogId("{key}", "font_{font}", "{english}")\ndialogStr("{text}")\n'
            for key, (font, english, text) in lines.items()
        ]
        path.write_text("".join(calls), encoding="utf-8")
        for number, key in enumerate(lines):
            write_noise(folder / "sound" / sound / f"{key}.ogg", 0.8 + number / 4, 22050, format="OGG")
    return folder


@pytest.fixture
def make_data(monkeypatch, tmp_path):
    """The recipe's module, in an empty folder."""
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    monkeypatch.syspath_prepend(ROOT / "egs/fillets/local")
    return load_script("fillets")


def write_deb(path: Path, folder: Path, *names: str) -> Path:
    """Write a Debian package whose data is `names` of a folder: an ar archive, https://manpages.debian.org/deb.5."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name in names:
            tar.add(folder / name, f"./usr/share/games/fillets-ng/{name}")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.fixture
def packages(game, tmp_path):
    """A folder with the game as Debian's packages: the texts, and the sound of each language."""
    folder = tmp_path / "packages"
    write_deb(folder / "fillets-ng-data_1.0.1-1.1_all.deb", game, "script", "sound/cave/cs")
    write_deb(folder / "fillets-ng-data-cs_1.0.1-1.1_all.deb", game, *(f"sound/{x}/cs" for x in ("airplane", "map")))
    write_deb(folder / "fillets-ng-data-nl_1.0.1-1.1_all.deb", game, "sound/airplane/nl", "sound/cave/nl")
    return folder


def all_tables(folder: Path) -> dict[str, dict[str, str]]:
    tables = ("text", "utt2lang", "utt2spk", "utt2task", "utt2dur")
    return {f"{split}/{name}": table(folder / split, name) for split in ("train", "dev", "test") for name in tables}


@pytest.mark.slow
def test_synthetic_packages_to_the_table_the_report_and_a_transcript(packages, tmp_path, tiny_model):
    recipe = place_for_a_trial("fillets", tmp_path)
    tasks = ("--languages", "cs nl", "--tasks", "transcribe translate")
    done = run(recipe, "--corpus", packages, "--base_model", tiny_model, "--max_new_tokens", "8", *tasks, *ONE_JOB)
    assert done.returncode == 0, done.stdout[-3000:]
    written = (recipe / "exp/RESULTS.md").read_text()
    assert written.strip() in done.stdout
    for column in ("cs transcribe WER", "nl transcribe WER", "cs→en translate BLEU", "nl→en translate BLEU"):
        assert column in written
    assert "| base test_ct2_int8 " in written
    assert "| full test_ct2_int8 " in written
    assert (recipe / "exp/full/decode_test_ct2_int8/report.html").is_file()
    for language in ("cs", "nl"):
        assert (recipe / f"exp/full/transcripts/{language}.srt").is_file()


def test_synthetic_tree_split_by_level_with_translations_of_the_same_recordings(game, make_data, tmp_path):
    make_data.make_data(["cs", "nl"], ["transcribe", "translate"], tmp_path / "data", game, "")
    test = tmp_path / "data/test"
    assert table(test, "text") == {
        "cs-big-cave-jes-v-tma": "Je tu tma.",
        "cs-big-cave-jes-v-tma|cs|translate": "It is dark.",
        "cs-white-cave-jes-x-proc": "proč",
        "cs-white-cave-jes-x-proc|cs|translate": "What for?",
        "nl-big-cave-jes-v-tma": "Het is donker.",
        "nl-big-cave-jes-v-tma|nl|translate": "It is dark.",
    }
    assert table(test, "utt2lang")["nl-big-cave-jes-v-tma|nl|translate"] == "nl"
    assert table(test, "utt2task")["nl-big-cave-jes-v-tma|nl|translate"] == "translate"
    assert table(test, "utt2spk")["cs-white-cave-jes-x-proc|cs|translate"] == "cs-white"
    audio = table(test, "wav.scp")
    assert audio["cs-big-cave-jes-v-tma"] == audio["cs-big-cave-jes-v-tma|cs|translate"]
    assert audio["cs-big-cave-jes-v-tma"] == str(game / "sound/cave/cs/jes-v-tma.ogg")
    assert float(table(test, "utt2dur")["cs-big-cave-jes-v-tma"]) == pytest.approx(1.05, abs=1e-3)
    assert table(tmp_path / "data/dev", "text")["cs-small-map-map-m-mapa|cs|translate"] == "It's a map."
    train = table(tmp_path / "data/train", "text")
    assert train["cs-both-share_borejokes-ob-o-halo"] == "Haló!"
    assert train["cs-big-airplane-let-v-citat"] == 'Řekl: "ne".'


def test_a_sentence_of_the_test_set_is_not_trained_on(game, make_data, tmp_path):
    make_data.make_data(["cs"], ["transcribe", "translate"], tmp_path / "data", game, "")
    train = table(tmp_path / "data/train", "text")
    assert "cs-big-airplane-let-v-proc" not in train  # "Proč?", in test "proč"
    assert train["cs-big-airplane-let-v-proc|cs|translate"] == "Why?"  # which test does not have
    lines = (tmp_path / "data/train/dropped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["cs-big-airplane-let-v-proc"]
    assert lines[1].endswith("test has the same sentence")


def test_what_is_no_utterance_is_listed_with_the_reason(game, make_data, tmp_path, capsys):
    with open(game / "script/airplane/dialogs_cs.lua", "a") as file:
        file.write('dialogId("count", "", "")\n')
        file.write('dialogId("field", "font_cyan", "A%1.")\ndialogStr("A%1.")\n')
        file.write('dialogId("russian", "font_cyan", "Wait")\ndialogStr("Подожди")\n')
        file.write('dialogId("silent", "font_cyan", "Sh!")\ndialogStr("Pst!")\n')
        file.write('dialogId("phone", "font_cyan", "Hello")\ndialogStr("Dobrý den")\n')
    sound = game / "sound/airplane/cs"
    for name in ("count", "field", "russian", "unknown"):
        write_noise(sound / f"{name}.ogg", 1, 22050, format="OGG")
    write_noise(sound / "phone.ogg", 30.1, 22050, format="OGG")
    soundfile.write(sound / "silent.ogg", np.zeros(0), 22050, format="OGG")
    make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", game, "")
    assert "7 dropped" in capsys.readouterr().out
    lines = (tmp_path / "data/train/dropped.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[0].rpartition("-")[2]: line.split("\t")[2] for line in lines} == {
        "count": "no text",
        "field": "the text has a placeholder or no letters",
        "phone": "longer than 30 s",
        "russian": "the text is not in Latin letters",
        "silent": "contains no samples",
        "unknown": "no text",
        "proc": "test has the same sentence",
    }


def test_calls_are_read_with_the_escapes_of_lua_and_nothing_is_run(make_data, tmp_path):
    """Expected strings by the Lua 5.1 manual, section 2.1."""
    path = tmp_path / "dialogs_cs.lua"
    path.write_text(
        r"""
-- dialogId("comment", "font_big", "")  dialogStr("never")
dialogStr("of nobody")
dialogId("quoted", "font_big", "a \"b\", c")
dialogStr("C:\\WINDOWS \/etc")
dialogId(
    "lines", "font_small",
    "two\nlines"
)
dialogStr(
    "one\
two \065\100")
dialogId("missing", "font_small", "No subtitle")
for i = 0, 9 do dialogId("key"..i, "", "") end
os.execute("touch executed")
dialogId("last", "", "") dialogStr("-- no comment; ’")
""",
        encoding="utf-8",
    )
    import game

    lines = game.read_dialogue(path)
    assert {key: line[:3] for key, line in lines.items()} == {
        "quoted": ("big", 'a "b", c', r"C:\WINDOWS /etc"),
        "lines": ("small", "two lines", "one two Ad"),
        "missing": ("small", "No subtitle", ""),
        "last": ("", "", "-- no comment; '"),
    }
    assert lines["lines"].where == f"{path}:6"
    assert not Path("executed").exists()


def test_packages_archive_and_folder_give_the_same_data(game, packages, make_data, tmp_path):
    both = (["cs", "nl"], ["transcribe"])
    shutil.rmtree(game / "sound/share")  # in none of the packages
    (tmp_path / "upstream").mkdir()
    game.rename(tmp_path / "fillets-ng-data-1.0.1")
    pack(tmp_path / "upstream" / UPSTREAM, tmp_path, "fillets-ng-data-1.0.1")
    installed = tmp_path / "root/usr/share/games/fillets-ng"
    shutil.copytree(tmp_path / "fillets-ng-data-1.0.1", installed)
    make_data.make_data(*both, tmp_path / "from_packages", packages, "")
    expected = all_tables(tmp_path / "from_packages")
    assert len(expected["train/text"]) == 3
    for corpus in (tmp_path / "upstream", tmp_path / "root", installed):
        make_data.make_data(*both, tmp_path / "again", corpus, "")
        assert all_tables(tmp_path / "again") == expected


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on this machine")
def test_what_dpkg_builds_is_unpacked_as_dpkg_does(game, make_data, tmp_path):
    import game as module

    root = tmp_path / "root"
    shutil.copytree(game, root / "usr/share/games/fillets-ng")
    (root / "DEBIAN").mkdir()
    fields = {
        "Package": "fillets-ng-data",
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "x",
        "Description": "x",
    }
    (root / "DEBIAN/control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    deb = tmp_path / "fillets-ng-data_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zxz", root, deb], check=True, stdout=subprocess.DEVNULL)
    folder = module.unpack(deb, tmp_path / "unpacked")
    files = {path.relative_to(game): path.read_bytes() for path in game.rglob("*") if path.is_file()}
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_an_archive_writes_nothing_but_texts_and_sound_inside_of_its_folder(make_data, tmp_path):
    import game as module

    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../sound/a/b.ogg", "/sound/a/c.ogg", "sound/../../d.ogg", "sound/a/e.sh", "script/a/f.lua"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("sound/a/g.ogg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = set(tmp_path.rglob("*"))
    folder = module.unpack(archive, tmp_path / "out")
    made = set(tmp_path.rglob("*")) - before
    assert all(path == folder or path.is_relative_to(folder) for path in made)
    files = {str(path.relative_to(folder)) for path in made if path.is_file()}
    assert files == {"sound/a/b.ogg", "sound/a/c.ogg", "script/a/f.lua"}


@pytest.mark.parametrize("content", [b"no archive", b"!<arch>\n", None])
def test_a_damaged_package_is_an_error_that_names_it(packages, make_data, tmp_path, content):
    damaged = packages / "fillets-ng-data-cs_1.0.1-1.1_all.deb"
    damaged.write_bytes(damaged.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(RecipeError, match=f"{damaged.name}: corrupt"):
        make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", packages, "")
    assert not list(Path("download").rglob("*data-cs*"))


def write_apt_get(folder: Path, packages: Path, status: int = 0) -> None:
    """Write a stand-in for apt-get, which notes its arguments and copies the packages."""
    folder.mkdir()
    lines = ["#!/bin/bash", f'echo "$*" >>{folder}/calls', f"((!{status})) || exit {status}", "shift 2"]
    lines.append(f'for name in "$@"; do cp {packages}/${{name}}_*.deb .; done')
    (folder / "apt-get").write_text("\n".join(lines))
    (folder / "apt-get").chmod(0o755)


def test_packages_are_downloaded_once_and_only_those_of_the_languages(packages, make_data, tmp_path, monkeypatch):
    write_apt_get(tmp_path / "bin", packages)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", None, "")
    shutil.rmtree(packages)
    for archive in Path("download").glob("*.deb"):
        archive.unlink()  # the user wants the room
    make_data.make_data(["cs"], ["transcribe"], tmp_path / "again", None, "")
    assert (tmp_path / "bin/calls").read_text() == "download -q fillets-ng-data fillets-ng-data-cs\n"
    assert all_tables(tmp_path / "again") == all_tables(tmp_path / "data")


def test_without_packages_the_upstream_archive_is_downloaded_and_checked(game, make_data, tmp_path, monkeypatch):
    import game as module

    write_apt_get(tmp_path / "bin", tmp_path, status=100)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    (tmp_path / "server").mkdir()
    archive = pack(tmp_path / "server" / UPSTREAM, tmp_path, "game")
    with pytest.raises(RecipeError, match="sha256"):
        make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", None, archive.parent.as_uri())
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", None, archive.parent.as_uri())
    shutil.rmtree(archive.parent)
    make_data.make_data(["cs"], ["transcribe"], tmp_path / "again", None, archive.parent.as_uri())
    assert len(table(tmp_path / "again/test", "text")) == 2


def test_where_nothing_can_be_had_one_line_says_which_file_and_which_option(make_data, tmp_path, monkeypatch):
    write_apt_get(tmp_path / "bin", tmp_path, status=100)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    # Nothing listens there: five attempts would take half a minute, as they should over a bad line.
    monkeypatch.setattr("whisper_recipe.data.download.PAUSE", 0)
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--url", "http://127.0.0.1:9"])
    with pytest.raises(SystemExit) as stop:
        make_data.main()
    assert str(stop.value).startswith("make_data.py: error: no data: http://127.0.0.1:9/")
    assert UPSTREAM in str(stop.value)
    assert "fillets-ng-data fillets-ng-data-cs (.deb)" in str(stop.value)
    assert "--corpus" in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_corpus_without_the_game_and_an_unknown_language_are_errors(make_data, tmp_path):
    with pytest.raises(RecipeError, match=r"neither script/ and sound/ nor fillets-ng-data\*\.deb"):
        make_data.make_data(["cs"], ["transcribe"], tmp_path / "data", tmp_path, "")
    with pytest.raises(RecipeError, match="no recordings in 'de'"):
        make_data.make_data(["de"], ["transcribe"], tmp_path / "data", tmp_path, "")


def test_joined_recordings_stand_where_their_list_says(game, make_data, tmp_path):
    make_data.make_data(["cs", "nl"], ["transcribe", "translate"], tmp_path / "data", game, "")
    script = [ROOT / "egs/fillets/local/join.py", tmp_path / "data/test", "--out", tmp_path / "joined"]

    subprocess.run([sys.executable, *script, "--pauses", "0.5", "1"], check=True, stdout=subprocess.DEVNULL)
    assert {path.name for path in (tmp_path / "joined").iterdir()} == {
        f"{language}.{suffix}" for language in ("cs", "nl") for suffix in ("flac", "tsv", "txt")
    }
    assert (tmp_path / "joined/cs.txt").read_text() == "Je tu tma.\nproč\n"
    samples, rate = soundfile.read(tmp_path / "joined/cs.flac")
    assert rate == 16000
    end = 0.0
    for line in (tmp_path / "joined/cs.tsv").read_text().splitlines():
        start, stop, key, _ = line.split("\t")
        source = soundfile.info(game / f"sound/cave/cs/{key.removeprefix('cs-').split('-cave-')[1]}.ogg")
        assert float(stop) - float(start) == pytest.approx(source.duration, abs=0.01)
        assert end == 0 or 0.5 <= float(start) - end <= 1
        assert np.abs(samples[int(float(start) * rate) : int(float(stop) * rate)]).mean() > 0.02
        assert not samples[int(float(stop) * rate) + 1 : int((float(stop) + 0.5) * rate)].any()
        end = float(stop)
