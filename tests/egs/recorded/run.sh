#!/usr/bin/env bash
# A check that the road carries real recordings, not a result: a small model learns ten utterances by heart.
train_sets="aishell_multitask"
dev_sets="aishell_multitask"
test_sets="aishell_multitask"
method="full"
max_new_tokens=64
corpus= # a Kaldi data directory

make_data() {
  run whisper-recipe fix "$corpus" --out data/aishell_multitask
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
