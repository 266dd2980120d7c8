#!/usr/bin/env bash
# LibriSpeech, read English: bash egs/librispeech/run.sh [--option value ...]
#
# The default is Mini LibriSpeech (5 hours of training data, 460 MB to download). The sets are parts of the corpus; for all:
#   --train_sets "train-clean-100 train-clean-360 train-other-500" --dev_sets dev-clean --test_sets "test-clean test-other"

train_sets="train-clean-5"             # parts to fine-tune on
dev_sets="dev-clean-2"                 # parts for eval_loss
test_sets="dev-clean-2"                # parts to decode; the mini corpus has no test set
base_model=openai/whisper-small        # base model: a name on the Hub, or a Whisper folder
corpus=                                # folder with the parts or their archives; downloaded if not given
url=https://www.openslr.org/resources  # download URL; see https://www.openslr.org/12 for mirrors

make_data() {
  run python local/make_data.py --out data --sets "$train_sets $dev_sets $test_sets" --corpus "$corpus" --url "$url"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
