#!/usr/bin/env bash
# AISHELL-1, read Mandarin, 178 hours: bash egs/aishell/run.sh [--option value ...]
#
# Downloads the corpus (15.6 GB), or uses --corpus. conf/ has settings for every size of Whisper, for example
#   --base_model openai/whisper-large-v3 --num_mel_bins 128 --conf conf/large

train_sets="train"                        # sets to fine-tune on
dev_sets="dev"                            # sets for eval_loss
test_sets="test"                          # sets to decode
base_model=openai/whisper-small           # base model: a name on the Hub, or a Whisper folder
conf=conf/small                           # settings: conf/tiny, small, medium, large or turbo
corpus=                                   # data_aishell.tgz, or the folder with data_aishell/; downloaded if not given
url=https://www.openslr.org/resources/33  # download URL; see https://www.openslr.org/33 for mirrors

make_data() {
  run python local/make_data.py --out data --corpus "$corpus" --url "$url"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
