"""The stage driver and its options, with stand-ins for the set-up and for `whisper-recipe`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

# Makes what the real command would, and notes every call; FAIL names a command that breaks off in the middle.
COMMAND = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ $1 != "${FAIL:-}" ]] || exit 1
for argument in "$@"; do
  case $previous in
    --out | --output_dir) out=$argument ;;
  esac
  previous=$argument
done
case $1 in
  prepare)
    mkdir -p "$out"
    touch "$out/recordings_$(basename "$2").jsonl.gz" "$out/supervisions_$(basename "$2").jsonl.gz"
    ;;
  fbank) mkdir -p "$out" && touch "$out/cuts_$2.jsonl.gz" ;;
  train)
    [[ $* == *train_full* ]] && out=$out/model || out=$out/adapter
    mkdir -p "$out" && touch "$out/weights"
    ;;
  import) mkdir -p "$out" && touch "$out/weights" ;;
  merge) mkdir -p "$2/model" && touch "$2/model/weights" ;;
  export) mkdir -p "$out" && touch "$out/model.bin" ;;
  score) touch "$2/metrics.json" ;;
  decode | transcribe) mkdir -p "$out" ;;
  compare) mkdir -p "$(dirname "$out")" && touch "$out" ;;
esac
"""

RUN = """#!/usr/bin/env bash
# A recipe for the tests.
train_sets="train"
dev_sets="dev"
test_sets="test"
base_model=exp/base/model
greeting=hello # what make_data says

make_data() {
  local set
  echo "make_data $greeting" >>"$CALLS"
  for set in train dev test; do
    mkdir -p "data/$set" && touch "data/$set/wav.scp" "data/$set/text"
  done
}

. "$(dirname "$0")/../../tools/stages.sh" "$@"
"""


# A recipe that takes a corpus of the user's.
CORPUS = RUN.replace("greeting=hello", "corpus= # the corpus\ngreeting=hello").replace(
    "make_data $greeting", "make_data $greeting $corpus"
)


# Stand-ins for Slurm: they note their options and run the command, sbatch from what it reads.
SRUN = """#!/usr/bin/env bash
options=()
while [[ $1 == -* ]]; do options+=("$1") && shift; done
echo "srun ${options[*]}" >>"$CALLS"
exec "$@"
"""
SBATCH = """#!/usr/bin/env bash
echo "sbatch $*" >>"$CALLS"
exec bash
"""


class Recipe:
    """A recipe in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "egs/test"
        for name in ("stages.sh", "parse_options.sh", "submit.sh"):
            (folder / "tools").mkdir(exist_ok=True)
            shutil.copy(TOOLS / name, folder / "tools")
        (folder / "tools/setup.sh").write_text("exit 0\n")
        self.write("tools/hf_download.sh", 'echo "hf_download $*" >>"$CALLS"\n')
        self.write("venv/bin/whisper-recipe", COMMAND)
        self.write("egs/test/run.sh", RUN)
        for name in ("lora", "full"):
            self.write(f"egs/test/conf/train_{name}.yaml", f"method: {name}\n")
        self.write("egs/test/local/corpus", "")
        self.write("egs/test/exp/base/model/weights", "")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *options: str, **environment: str) -> tuple[int, str, list[str]]:
        """Return (status, what was printed, the commands that ran)."""
        calls = self.folder / "calls"
        calls.write_text("")
        done = subprocess.run(
            ["bash", str(self.path / "run.sh"), *options],
            env={**os.environ, "VENV": str(self.folder / "venv"), "CALLS": str(calls), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )
        return done.returncode, done.stdout, calls.read_text().splitlines()


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


def names(calls: list[str]) -> list[str]:
    return [call.split()[0] for call in calls]


def test_all_stages_run_in_order_and_print_their_commands(recipe):
    status, printed, calls = recipe.run()
    assert status == 0, printed
    first = list(dict.fromkeys(names(calls)))
    assert first == [
        "make_data",
        "validate",
        "prepare",
        "fbank",
        "stats",
        "train",
        "merge",
        "export",
        "decode",
        "score",
        "compare",
    ]
    assert all(f"Stage {number}: " in printed for number in range(9))
    assert all(f"whisper-recipe {call}" in printed for call in calls if not call.startswith("make_data"))


def test_a_second_run_does_nothing_but_print_tables(recipe):
    recipe.run()
    recipe.write("egs/test/local/__pycache__/corpus.cpython-311.pyc", "")  # as Python leaves it in the first run
    assert set(names(recipe.run()[2])) == {"stats", "compare"}


@pytest.mark.slow
def test_changed_input_configuration_or_options_are_done_again(recipe):
    recipe.run("--cpu_bf16", "false")
    recipe.write("egs/test/conf/train_lora.yaml", "method: lora\nlora: {rank: 4}\n")
    [call] = recipe.run("--stage", "4", "--stop_stage", "4", "--cpu_bf16", "false")[2]
    assert call.split()[-1] == "data/fbank_whisper80/cuts_dev.jsonl.gz"
    assert len(recipe.run("--stage", "7", "--stop-stage", "7", "--max_new_tokens=9")[2]) == 18
    assert names(recipe.run("--stop_stage", "0", "--overwrite", "true")[2]) == ["make_data"]
    assert recipe.run("--stop_stage", "0", "--greeting", "bye")[2] == ["make_data bye"]


def test_a_lost_output_is_made_again(recipe):
    recipe.run()
    shutil.rmtree(recipe.path / "exp/lora/ct2_int8")
    assert names(recipe.run("--stage", "6", "--stop_stage", "6")[2]) == ["export"]


def test_the_middle_can_be_entered_and_missing_input_names_its_stage(recipe):
    for stage, missing in [(1, "data/train/wav.scp is missing: run stage 0"), (2, "run stage 1"), (4, "run stage 2")]:
        status, printed, calls = recipe.run("--stage", str(stage))
        assert status == 1
        assert missing in printed.splitlines()[-1]
        assert calls == []
    recipe.run("--stop_stage", "4")
    status, printed, _ = recipe.run("--stage", "6")
    assert "exp/lora/model is missing: run stage 5" in printed.splitlines()[-1]
    assert recipe.run("--stage", "5", "--stop_stage", "6")[0] == 0


def test_one_method_alone(recipe):
    calls = recipe.run("--method", "full")[2]
    assert not [call for call in calls if "lora" in call]
    assert "merge" not in names(calls)


def test_settings_may_stand_in_another_folder(recipe):
    recipe.write("egs/test/conf/large/train_full.yaml", "method: full\n")
    recipe.run("--stop_stage", "3")
    options = ("--method", "full", "--stage", "4", "--stop_stage", "4", "--conf")
    (call,) = recipe.run(*options, "conf/large")[2]
    assert "--config conf/large/train_full.yaml " in call
    status, printed, calls = recipe.run(*options, "conf/huge")
    assert (status, calls) == (1, [])
    assert "conf/huge/train_full.yaml is missing" in printed


def test_the_base_model_may_be_a_name_on_the_hub(recipe):
    status, printed, calls = recipe.run("--base_model", "openai/whisper-small")
    assert status == 0, printed
    assert any(call.startswith("decode openai/whisper-small") for call in calls)
    assert calls.index("hf_download openai/whisper-small") < names(calls).index("train")
    status, printed, _ = recipe.run("--base_model", "exp/nothing/model", "--stage", "4", "--overwrite", "true")
    assert status == 1
    assert "exp/nothing/model is missing" in printed.splitlines()[-1]


@pytest.mark.slow
def test_a_base_model_of_openai_becomes_a_folder_once(recipe):
    recipe.write("small.pt", "weights")  # where the user stands, not in the recipe's folder
    status, printed, calls = recipe.run("--base_model", "small.pt")
    assert status == 0, printed
    assert calls.count(f"import {recipe.folder}/small.pt --out exp/base/model") == 1
    assert any(call.startswith("train") and "--base_model exp/base/model" in call for call in calls)
    assert set(names(recipe.run("--base_model", "small.pt")[2])) == {"stats", "compare"}
    recipe.write("small.pt", "other weights")
    assert {"import", "train", "decode"} <= set(names(recipe.run("--base_model", "small.pt")[2]))


def test_a_ctranslate2_folder_is_imported_too(recipe):
    recipe.write("fast/model.bin", "weights")
    status, printed, calls = recipe.run("--base_model", "fast")
    assert status == 0, printed
    assert calls.count(f"import {recipe.folder}/fast --out exp/base/model") == 1


def test_a_corpus_is_found_from_where_the_user_stands_and_read_anew_when_it_changes(recipe):
    recipe.write("egs/test/run.sh", CORPUS)
    recipe.write("speech/text", "a one\n")
    assert recipe.run("--stop_stage", "0", "--corpus", "speech")[2] == [f"make_data hello {recipe.folder}/speech"]
    assert recipe.run("--stop_stage", "0", "--corpus", "speech")[2] == []
    recipe.write("speech/text", "a one\nb two\n")
    assert recipe.run("--stop_stage", "0", "--corpus", "speech")[2] == [f"make_data hello {recipe.folder}/speech"]


@pytest.fixture
def slurm(recipe):
    recipe.write("venv/bin/srun", SRUN)
    recipe.write("venv/bin/sbatch", SBATCH)
    recipe.write("egs/test/cmd.sh", 'train_cmd="sbatch --gres=gpu:1 --time=9:00"\ndecode_cmd="srun --gres=gpu:1"\n')
    return recipe


def test_training_and_decoding_alone_run_on_the_cluster(slurm):
    status, printed, calls = slurm.run()
    assert status == 0, printed
    after = {call.split()[0]: [] for call in calls}
    for before, call in zip(["", *calls], calls, strict=False):
        after[call.split()[0]].append(before)
    assert set(after["train"]) == {"sbatch --wait --output=exp/slurm/%j.log --gres=gpu:1 --time=9:00"}
    assert set(after["decode"]) == {"srun --gres=gpu:1"}
    assert not {"srun", "sbatch"} & {before.split()[0] for name in ("fbank", "score") for before in after[name]}
    assert (slurm.path / "exp/slurm").is_dir()  # Slurm makes no folders for its logs


@pytest.mark.slow
def test_a_change_of_cluster_does_nothing_again(slurm):
    slurm.run()
    assert set(names(slurm.run("--train_cmd", "srun --mem=1G", "--decode_cmd", "")[2])) == {"stats", "compare"}
    retrained = slurm.run("--train_cmd", "srun --mem=1G", "--stage", "4", "--stop_stage", "4", "--overwrite", "true")
    assert names(retrained[2]) == ["srun", "train"] * 2


def test_a_job_that_fails_stops_the_run_and_names_its_log(slurm):
    status, printed, calls = slurm.run("--method", "lora", FAIL="train")
    assert status == 1
    assert names(calls)[-1] == "train"
    assert "stage 4 failed while making exp/lora/adapter" in printed.splitlines()[-1]
    assert "exp/slurm/<job>.log" in printed


def test_ctranslate2_alone_decodes_the_base_model_too(recipe):
    options = ("--backends", "ct2", "--method", "full", "--exports", "ct2:float32 ct2:int8", "--beam_size", "0")
    calls = [call.split() for call in recipe.run(*options)[2]]
    assert [call[1] for call in calls if call[0] == "export"] == ["exp/base/model", *["exp/full/model"] * 2]
    assert [(call[1], call[call.index("--out") + 1]) for call in calls if call[0] == "decode"] == [
        ("exp/base/ct2_int8", "exp/base/decode_test_ct2_int8"),
        ("exp/full/ct2_float32", "exp/full/decode_test_ct2_float32"),
        ("exp/full/ct2_int8", "exp/full/decode_test_ct2_int8"),
    ]
    (compare,) = (call for call in calls if call[0] == "compare")
    runs = ("base/decode_test_ct2_int8", "full/decode_test_ct2_float32", "full/decode_test_ct2_int8")
    assert compare[1:4] == [f"exp/{name}" for name in runs]


def test_exports_are_made_of_each_fine_tuned_model_and_those_for_ctranslate2_are_decoded(recipe):
    options = ("--exports", "ct2:int8 ggml:q5_0 onnx", "--method", "full", "--beam_size", "0")
    calls = recipe.run(*options)[2]
    assert [call for call in calls if call.startswith("export")] == [
        "export exp/full/model --to ct2 --out exp/full/ct2_int8 --quantization int8",
        "export exp/full/model --to ggml --out exp/full/ggml_q5_0 --quantization q5_0",
        "export exp/full/model --to onnx --out exp/full/onnx",
    ]
    decoded = [call.split()[1] for call in calls if call.startswith("decode")]
    assert decoded == ["exp/base/model", "exp/full/model", "exp/full/ct2_int8"]


def test_transformers_alone_decodes_once(recipe):
    calls = recipe.run("--backends", "transformers", "--method", "full")[2]
    assert [call.split()[1] for call in calls if call.startswith("decode")] == ["exp/base/model", "exp/full/model"]


def test_options_of_the_training_are_passed_on_and_change_it(recipe):
    recipe.run()
    options = ("--stage", "4", "--stop_stage", "4", "--method", "full", "--train_options")
    (call,) = recipe.run(*options, "--trainer.max_steps 3 --trainer.seed 2")[2]
    assert call.endswith(" --trainer.max_steps 3 --trainer.seed 2")


@pytest.mark.slow
def test_recordings_are_transcribed_by_each_fine_tuned_model_and_again_when_they_change(recipe):
    recipe.write("speech/talk.wav", "")
    calls = [call for call in recipe.run("--recordings", "speech")[2] if call.startswith("transcribe")]
    assert calls == [
        f"transcribe {recipe.folder}/speech --model exp/{name}/ct2_int8 --out exp/{name}/transcripts --formats txt srt"
        for name in ("lora", "full")
    ]
    assert not [call for call in recipe.run("--recordings", "speech")[2] if call.startswith("transcribe")]
    recipe.write("speech/more.wav", "")
    assert names(recipe.run("--recordings", "speech", "--stage", "9")[2]) == ["transcribe"] * 2


def test_a_step_that_fails_stops_the_run_and_is_not_taken_for_done(recipe):
    status, printed, _ = recipe.run(FAIL="train")
    assert status == 1
    assert "stage 4 failed while making exp/lora/adapter" in printed.splitlines()[-1]
    (recipe.path / "exp/lora/adapter").mkdir(parents=True)  # half-made
    assert names(recipe.run("--stage", "4", "--stop_stage", "4", "--method", "lora")[2]) == ["train"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stages", "1"], "unknown option --stages"),
        (["--stage"], "--stage has no value"),
        (["--stage", "one"], "--stage must be a number, got 'one'"),
        (["--overwrite", "yes"], "--overwrite must be true or false, got 'yes'"),
        (["stage", "1"], "stage is not an option"),
        (["--stage", "3", "--stop_stage", "2"], "after --stop_stage"),
        (["--method", "magic"], "--method must be lora, full or both"),
        (["--backends", "onnx"], "--backends must be transformers, ct2 or both"),
        (["--exports", "ct2:int8 gguf:q5_0"], "got 'gguf:q5_0'"),
        (["--exports", "ggml:q5_0"], "--backends transformers ct2 needs ct2 among the --exports"),
        (["--PATH", "/nowhere"], "unknown option --PATH"),
        (["--root", "/nowhere"], "unknown option --root"),
    ],
)
def test_wrong_options_are_one_line(recipe, options, message):
    status, printed, calls = recipe.run(*options)
    assert (status, calls) == (1, [])
    assert len(printed.splitlines()) == 1
    assert message in printed


@pytest.mark.parametrize(
    "options",
    [
        ["--stage", "$(touch evil)"],
        ["--stage", "a[$(touch evil)]"],
        ["--greeting", "$(touch evil)"],
        ["--greeting", "`touch evil`; touch evil"],
        ["--x$(touch evil)", "1"],
        ["--greeting[$(touch evil)]", "1"],
    ],
)
def test_what_the_user_types_is_never_run(recipe, options):
    recipe.run(*options, "--stop_stage", "0")
    assert not list(recipe.folder.rglob("evil"))


def test_help_lists_stages_and_every_option_with_its_default(recipe):
    status, printed, calls = recipe.run("--help")
    assert (status, calls) == (0, [])
    assert "A recipe for the tests." in printed
    assert all(f"{number} " in printed for number in range(10))
    assert "--greeting" in printed
    assert "what make_data says (hello)" in printed
    assert all(
        f"--{name}" in printed for name in ("stage", "stop_stage", "method", "overwrite", "num_jobs", "base_model")
    )
