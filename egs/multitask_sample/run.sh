#!/usr/bin/env bash
# Transcription and translation of the same audio, trained together: bash egs/multitask_sample/run.sh --corpus DIR
#
# DIR is a Kaldi data directory with id|language|task in wav.scp and text. Its recordings are split into train, dev and
# test, with all tasks of a recording in the same set; the table has CER or WER of the transcription and BLEU of the
# translation. The set `all` is the whole corpus.

train_sets="train"               # sets to fine-tune on
dev_sets="dev"                   # sets for eval_loss
test_sets="test"                 # sets to decode
base_model=openai/whisper-small  # a name on the Hub, a Whisper folder, or OpenAI's small.pt
method=lora                      # lora, full, or both in quotes
corpus=                          # the Kaldi data directory
split_by=recording               # what must not be split: recording, or speaker if there is an utt2spk
split_parts="train=0.8 dev=0.1 test=0.1" # the sets, as shares of the hours

make_data() {
  [[ -n $corpus ]] || fail "give --corpus, a Kaldi data directory with id|language|task in wav.scp and text"
  # shellcheck disable=SC2086 # one word per part
  run whisper-recipe fix "$corpus" --out data/all &&
    run whisper-recipe split data/all --out data --by "$split_by" --parts $split_parts
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
