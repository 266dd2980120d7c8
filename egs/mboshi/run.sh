#!/usr/bin/env bash
# A language that Whisper has never heard: bash egs/mboshi/run.sh [--option value ...]
#
# Mboshi (Bantu, Congo-Brazzaville; ISO 639-3 mdw): 4.5 hours of read sentences with transcripts and French translations.
# One model learns both: text in Mboshi after the token that mdw borrows, <|ln|> of Lingala, and text in French after
# French's. Other ways to write mdw: --train_options "--new_languages.mdw new".

train_sets="train"              # sets to fine-tune on
dev_sets="dev"                  # sets for eval_loss
test_sets="dev"                 # sets to decode; the corpus has no third
base_model=openai/whisper-base  # base model: a name on the hub, or a Whisper folder
method=full                     # lora, full, or both in quotes
corpus=                         # a clone of the repository; else stage 0 clones it
url=https://github.com/besacier/mboshi-french-parallel-corpus # of the repository
backends=ct2                    # what decodes
beam_size=5                     # beam of one more decoding; 0 for none
decode_options="--new_languages.mdw ln" # what the base model, which has not learned mdw, is asked for
score_options="--bleu fr"       # French texts are translations

make_data() {
  run python local/make_data.py --out data --corpus "$corpus" --url "$url"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
