#!/usr/bin/env bash
# WenetSpeech, Mandarin from YouTube and podcasts, from your copy: bash egs/wenetspeech/run.sh --corpus PATH [...]
#
# Trains on subset S (100 hours), M (1,000) or L (10,000): --train_sets s, m or l. The test sets are test_net, test_meeting
# and AISHELL-1's; without the latter: --test_sets "test_net test_meeting"

train_sets="s"                  # subset to fine-tune on: s, m or l
dev_sets="dev"                  # sets for eval_loss
test_sets="aishell_test test_net test_meeting" # sets to decode
base_model=openai/whisper-small # base model: a name on the Hub, or a Whisper folder
corpus=                         # folder with WenetSpeech.json and audio/
aishell=../aishell/data/test    # Kaldi directory of AISHELL-1's test set, from egs/aishell

make_data() {
  run python local/make_data.py --out data --sets "$train_sets $dev_sets $test_sets" --corpus "$corpus" \
    --aishell "$aishell" --num-jobs "$num_jobs"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
