# The stages shared by all recipes. A recipe's run.sh sets its variables, then sources this file with "$@".
#
#   0 corpus -> Kaldi data directories   1 validation and Lhotse manifests   2 fbank features and statistics
#   3 base model                         4 fine-tuning                       5 merging
#   6 export for other programs          7 decoding and scoring              8 table of results
#   9 transcription of recordings
#
# A recipe must set train_sets, dev_sets and test_sets (names of directories under data/), and base_sets if it trains a
# base model. It may define make_data (stage 0) and make_base_model (stage 3). A step is skipped if its outputs exist and
# its command and inputs have not changed, unless --overwrite true is given. A recipe's optional cmd.sh sets the commands
# that launch training and decoding (train_cmd, decode_cmd).
#
# shellcheck shell=bash
# shellcheck disable=SC2046,SC2086 # names of sets, methods and types have no spaces, and lists are split on purpose
set -euo pipefail
: "${train_sets:?the recipe must set it}" "${dev_sets:?the recipe must set it}" "${test_sets:?the recipe must set it}"

recipe=$(dirname "$0")
# Recipe options that are paths to the user's data.
given="corpus from_json aishell"
# shellcheck source=egs/template/cmd.sh
[[ ! -f $recipe/cmd.sh ]] || . "$recipe/cmd.sh"
ct2_exports="ct2:float32 ct2:int8"
[[ ! -e /dev/nvidiactl ]] || ct2_exports="ct2:float16 ct2:int8_float16"

stage=${stage:-0}                # first stage
stop_stage=${stop_stage:-9}      # last stage
method=${method:-lora full}      # fine-tuning methods, one run each: lora, full, or both
base_model=${base_model:-}       # base model: a folder (transformers or CTranslate2), a name on the Hub, or OpenAI's .pt
conf=${conf:-conf}               # folder with train_lora.yaml and train_full.yaml
num_mel_bins=${num_mel_bins:-80} # mel bins of the base model: 80, or 128 for large-v3
num_jobs=${num_jobs:-2}          # number of processes that compute features
exports=${exports:-$ct2_exports} # exports, program:type: ct2, hf, openai, ggml, onnx, sherpa-onnx, vllm; "ct2:int8 ggml:q5_0 onnx"
backends=${backends:-transformers ct2} # decoding backends: transformers, ct2, or both; the first decodes the base model
beam_size=${beam_size:-5}        # beam size of an additional CTranslate2 decoding; 0 for none
max_new_tokens=${max_new_tokens:-224} # maximum tokens per hypothesis
cpu_bf16=${cpu_bf16:-true}       # train in bfloat16 on CPUs that support it
train_options=${train_options:-} # further options of train, such as "--trainer.num_train_epochs 1"
decode_options=${decode_options:-} # further options of decode, such as "--new_languages.mdw ln"
score_options=${score_options:-} # further options of score, such as "--bleu fr"
recordings=${recordings:-}       # audio file, folder or list to transcribe with the fine-tuned model (stage 9)
overwrite=${overwrite:-false}    # run finished steps again
train_cmd=${train_cmd:-}         # command that launches training: empty for this machine, or srun or sbatch with options
decode_cmd=${decode_cmd:-}       # command that launches decoding, likewise

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd)
# shellcheck source=tools/parse_options.sh
. "$root/tools/parse_options.sh"
# shellcheck source=tools/submit.sh
. "$root/tools/submit.sh"
declare_options "${BASH_SOURCE[0]}"
shared_options=${#option_names[@]}
declare_options "$0"

print_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  echo "stages:"
  sed -n '3,6s/^# / /p' "$root/tools/stages.sh"
  print_options
}

log() { echo "$(date '+%Y-%m-%d %H:%M:%S') $*"; }

# made_by PATH: the stage that writes it.
made_by() {
  case $1 in
    data/manifests/*) echo 1 ;;
    data/fbank_*) echo 2 ;;
    data/*) echo 0 ;;
    exp/*/decode_*) echo 7 ;;
    exp/*/ct2*) echo 6 ;;
    exp/*/adapter) echo 4 ;;
    exp/base/*) echo 3 ;;
    exp/full/model) echo 4 ;;
    exp/*/model) echo 5 ;;
  esac
}

# need PATH...: fail if an input is missing, naming the stage that writes it.
need() {
  local path made cure
  for path in "$@"; do
    [[ -e $path ]] && continue
    made=$(made_by "$path")
    cure=${made:+run stage $made first (--stage $made)}
    fail "$path is missing: ${cure:-give another path}"
  done
}

# state PATH...: paths, sizes and times of files and of the files in folders.
state() { find "$@" -type f -not -name '*.pyc' -printf '%p %s %T@\n' | LC_ALL=C sort; }

# run COMMAND...: print the exact command, then run it.
run() {
  log "$(printf '%q ' "$@")"
  "$@"
}

# step "OUTPUT ..." "INPUT ..." COMMAND...: run the command unless the outputs exist and neither the command nor the inputs
# have changed. Finished steps are recorded under exp/.done, in a file named after the first output.
step() {
  local outputs inputs output key stamp
  read -ra outputs <<<"$1"
  read -ra inputs <<<"$2"
  shift 2
  need "${inputs[@]}"
  key=$({ printf '%q ' "$@" && state "${inputs[@]}"; } | sha256sum)
  stamp=exp/.done/${outputs[0]//\//_}
  if [[ $overwrite == false && -f $stamp && $(<"$stamp") == "$key" ]] && all_exist "${outputs[@]}"; then
    log "${outputs[0]} is up to date"
    return
  fi
  rm -f "$stamp"
  "$@" || fail "stage $current failed while making ${outputs[0]} (its command is above)"
  all_exist "${outputs[@]}" || fail "stage $current did not write all of ${outputs[*]}"
  mkdir -p exp/.done
  echo "$key" >"$stamp"
}

all_exist() { for output in "$@"; do [[ -e $output ]] || return 1; done; }

# begin N TEXT: whether stage N is selected; if so, log it.
begin() {
  current=$1
  ((stage <= $1 && $1 <= stop_stage)) || return 1
  log "Stage $1: $2"
}

all_sets() { tr ' ' '\n' <<<"${base_sets:-} $train_sets $dev_sets $test_sets" | awk 'NF && !seen[$0]++'; }

# cuts SET...: the cut manifests of the sets.
cuts() { printf "$fbank/cuts_%s.jsonl.gz " "$@"; }

fine_tuned() { printf 'exp/%s/model\n' $method; } # folders of the fine-tuned models
local_model() { [[ $1 != exp/* && ! -e $1 ]] || echo "$1"; } # the model's folder; empty for a name on the Hub

# model_folder MODEL: its folder; for a name on the Hub, its folder in the cache.
model_folder() {
  if [[ -n $(local_model "$1") ]]; then
    echo "$1"
  else
    HF_HUB_OFFLINE=1 hf download "$1" --quiet --include config.json || fail "$1 is not in the cache: run stage 3 first (--stage 3)"
  fi
}

# recipe_options: the inputs of the recipe's own functions: name=value of the options that only the recipe declares, and the
# state of the user's corpus.
recipe_options() {
  local name
  for name in "${option_names[@]:shared_options}"; do printf '%s=%q\n' "$name" "${!name}"; done
  for name in $given; do
    if [[ -e ${!name:-} ]]; then state "${!name}" -maxdepth 1; fi
  done
}

stage_data() {
  local outputs
  if ! declare -F make_data >/dev/null; then
    log "this recipe has no make_data: using your data/<set>"
    return
  fi
  outputs=$(all_sets | sed 's|^|data/|' | tr '\n' ' ')
  [[ $recordings != data/* ]] || outputs+=$recordings # make_data writes it too
  # A recipe without scripts has no local/.
  step "$outputs" "$(find local -maxdepth 0 2>/dev/null)" make_data "$(recipe_options)"
}

stage_manifests() {
  local set
  for set in $(all_sets); do
    step "data/manifests/recordings_$set.jsonl.gz data/manifests/supervisions_$set.jsonl.gz" \
      "data/$set/wav.scp data/$set/text $(find "data/$set/" -maxdepth 1 -type f 2>/dev/null | tr '\n' ' ')" \
      check_and_prepare "data/$set"
  done
}

check_and_prepare() {
  run whisper-recipe validate "$1" && run whisper-recipe prepare "$1" --out data/manifests
}

stage_fbank() {
  local set
  for set in $(all_sets); do
    step "$(cuts "$set")" "data/manifests/recordings_$set.jsonl.gz data/manifests/supervisions_$set.jsonl.gz" \
      run whisper-recipe fbank "$set" --manifests data/manifests --out "$fbank" --num_mel_bins "$num_mel_bins" \
      --num_jobs "$num_jobs"
  done
  run whisper-recipe stats $(cuts $(all_sets))
}

stage_base_model() {
  : "${base_model:?give --base_model}"
  if [[ -n $checkpoint ]]; then
    step "$base_model" "$checkpoint" run whisper-recipe import "$checkpoint" --out "$base_model"
  elif [[ -z $(local_model "$base_model") ]]; then
    run bash "$root/tools/hf_download.sh" "$base_model" || fail "stage 3 could not download $base_model (see above)"
  elif [[ $base_model == exp/* ]] && declare -F make_base_model >/dev/null; then
    step "$base_model" "conf/train_base.yaml $(cuts $base_sets)" make_base_model "$(recipe_options)"
  else
    need "$base_model"
    log "base model: $base_model"
  fi
}

stage_train() {
  local name output
  for name in $method; do
    output=exp/$name/adapter
    [[ $name == full ]] && output=exp/$name/model
    step "$output" "$conf/train_$name.yaml $(local_model "$base_model") $(cuts $train_sets $dev_sets)" \
      run_training whisper-recipe train --config "$conf/train_$name.yaml" --base_model "$base_model" --output_dir "exp/$name" \
      --train_cuts $(cuts $train_sets) --dev_cuts $(cuts $dev_sets) $train_options
  done
}

stage_merge() {
  local name
  for name in $method; do
    if [[ $name == full ]]; then
      log "exp/full/model needs no merging"
    else
      step "exp/$name/model" "exp/$name/adapter" run whisper-recipe merge "exp/$name"
    fi
  done
}

stage_export() {
  local model form
  if [[ $backends == ct2* ]]; then
    model=$(model_folder "$base_model")
    export_step "$model" exp/base "${of_ct2[-1]}"
  fi
  for model in $(fine_tuned); do
    for form in $exports; do export_step "$model" "$(dirname "$model")" "$form"; done
  done
}

# export_step MODEL FOLDER EXPORT: FOLDER/ct2_int8 of ct2:int8.
export_step() {
  local type=()
  [[ $3 != *:* ]] || type=(--quantization "${3#*:}")
  step "$2/${3/:/_}" "$1" run whisper-recipe export "$1" --to "${3%%:*}" --out "$2/${3/:/_}" "${type[@]}"
}

# decode_and_score OUTPUT MODEL CUTS SCORE_OPTIONS [OPTION...]
decode_and_score() {
  run_decoding whisper-recipe decode "$2" --cuts "$3" --out "$1" "${@:5}" &&
    run whisper-recipe score "$1" --ref "$3" $4
}

# each_decoding FUNCTION: call it with OUTPUT MODEL CUTS [OPTION...] for every model, backend and test set.
each_decoding() {
  local set cuts model folder form
  for set in $test_sets; do
    cuts=$fbank/cuts_$set.jsonl.gz
    if [[ $backends == ct2* ]]; then
      form=${of_ct2[-1]/:/_}
      "$1" "exp/base/decode_${set}_$form" "exp/base/$form" "$cuts"
    else
      "$1" "exp/base/decode_${set}_transformers" "$base_model" "$cuts" # in exp/base too if it is on the Hub
    fi
    for model in $(fine_tuned); do
      folder=$(dirname "$model")
      [[ $backends != *transformers* ]] || "$1" "$folder/decode_${set}_transformers" "$model" "$cuts"
      [[ $backends == *ct2* ]] || continue
      for form in "${of_ct2[@]/:/_}"; do "$1" "$folder/decode_${set}_$form" "$folder/$form" "$cuts"; done
      form=${of_ct2[0]/:/_}
      ((beam_size == 0)) ||
        "$1" "$folder/decode_${set}_${form}_beam$beam_size" "$folder/$form" "$cuts" --search.beam_size "$beam_size"
    done
  done
}

decode_step() {
  step "$1/metrics.json" "$(local_model "$2") $3" decode_and_score "${@:1:3}" "$score_options" "${@:4}" \
    --search.max_new_tokens "$max_new_tokens" $decode_options
}

stage_results() {
  local runs
  mapfile -t runs < <(each_decoding echo | cut -d ' ' -f 1)
  need "${runs[@]}"
  run whisper-recipe compare "${runs[@]}" --out exp/RESULTS.md
}

stage_transcribe() {
  local model folder
  for model in $(fine_tuned); do
    folder=$(dirname "$model")
    [[ -z ${of_ct2[*]} ]] || model=$folder/${of_ct2[-1]/:/_}
    step "$folder/transcripts" "$model $recordings" run_decoding \
      whisper-recipe transcribe "$recordings" --model "$model" --out "$folder/transcripts" --formats txt srt
  done
}

if [[ " $* " == *" --help "* ]]; then
  print_help
  exit 0
fi
parse_options "$@"
((stage <= stop_stage)) || fail "--stage $stage is after --stop_stage $stop_stage"
for name in $method; do
  [[ $name == lora || $name == full ]] || fail "--method must be lora, full or both in quotes, got '$name'"
done
for name in $backends; do
  [[ $name == transformers || $name == ct2 ]] || fail "--backends must be transformers, ct2 or both in quotes, got '$name'"
done
# of_ct2: the exports for CTranslate2.
of_ct2=()
for name in $exports; do
  [[ " ct2 hf openai ggml onnx sherpa-onnx vllm " == *" ${name%%:*} "* ]] ||
    fail "--exports must be program:type, e.g. ct2:int8 ggml:q5_0 onnx, got '$name'"
  [[ ${name%%:*} != ct2 ]] || of_ct2+=("$name")
done
[[ $backends != *ct2* || -n ${of_ct2[*]} ]] || fail "--backends $backends needs ct2 among the --exports, e.g. ct2:int8"
cd "$recipe"
# The user's paths are relative to the current folder if they exist there; all others, and defaults, to the recipe's folder.
for name in base_model recordings $given; do
  if [[ " ${*//-/_} " == *" __$name"[\ =]* && -n ${!name} && -e $OLDPWD/${!name} ]]; then
    printf -v "$name" '%s' "$(realpath "$OLDPWD/${!name}")"
  fi
done
# Stage 3 converts OpenAI's file or a CTranslate2 folder to a Whisper folder.
checkpoint=""
if [[ $base_model == *.pt || -f $base_model/model.bin ]]; then
  checkpoint=$base_model
  base_model=exp/base/model
fi
fbank=data/fbank_whisper$num_mel_bins
bash "$root/tools/setup.sh"
PATH=${VENV:-$root/.venv}/bin:$PATH
# Faster training (docs/training.md, Speed).
if [[ ! -e /dev/nvidiactl && ! -e /dev/kfd ]]; then
  # By default glibc returns a step's memory to the kernel, which zeroes it for the next step.
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=2147483647}
  if [[ $cpu_bf16 == true ]] && grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then
    train_options="--trainer.bf16 true --trainer.use_cpu true $train_options"
  fi
else
  # Batches of different shapes fragment GPU memory. PyTorch's advice; not measured.
  export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
fi

if begin 0 "corpus -> Kaldi data directories"; then stage_data; fi
if begin 1 "validation and Lhotse manifests"; then stage_manifests; fi
if begin 2 "fbank features and statistics"; then stage_fbank; fi
if begin 3 "base model"; then stage_base_model; fi
if begin 4 "fine-tuning: $method"; then stage_train; fi
if begin 5 "merging adapters"; then stage_merge; fi
if begin 6 "export: $exports"; then stage_export; fi
if begin 7 "decoding and scoring"; then each_decoding decode_step; fi
if begin 8 "table of results"; then stage_results; fi
if [[ -n $recordings ]] && begin 9 "transcription of $recordings"; then stage_transcribe; fi
