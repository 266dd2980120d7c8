#!/usr/bin/env bash
# Fine-tunes Whisper on your own corpus: bash egs/template/run.sh [--option value ...]
#
# The corpus is one of: your Kaldi data directories data/train, data/dev and data/test; --corpus, one Kaldi data
# directory to split; or --from_json, a folder with train, dev and test as JSON lists.

train_sets="train"               # sets to fine-tune on
dev_sets="dev"                   # sets for eval_loss
test_sets="test"                 # sets to decode
base_model=openai/whisper-small  # a name on the Hub, a Whisper folder, or OpenAI's small.pt
method=lora                      # lora, full, or both in quotes
corpus=                          # a Kaldi data directory, to be split into train, dev and test
split_by=speaker                 # what must not be split: speaker, recording or utterance
split_parts="train=0.9 dev=0.05 test=0.05" # the sets, as shares of the hours
from_json=                       # a folder with {train,dev,test}.json or .jsonl
language=                        # language of the rows of these lists without one

make_data() {
  local set list
  [[ -z $corpus || -z $from_json ]] || fail "give --corpus or --from_json, not both"
  if [[ -n $corpus ]]; then
    # shellcheck disable=SC2086 # one word per part
    run whisper-recipe split "$corpus" --out data --by "$split_by" --parts $split_parts
    return
  fi
  for set in train dev test; do
    if [[ -n $from_json ]]; then
      list=$from_json/$set.jsonl
      [[ -e $list ]] || list=${list%l}
      run whisper-recipe convert "$list" --out "data/$set" ${language:+--language "$language"} || return
    else
      [[ -e data/$set ]] || fail "$PWD/data/$set is missing: make it, or give --corpus or --from_json"
    fi
  done
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
