#!/usr/bin/env bash
# A language that Whisper lacks: bash egs/mboshi/run.sh [--option value ...]
#
# Mboshi (Bantu, Congo-Brazzaville; ISO 639-3 mdw): 4.5 hours of read sentences with transcripts and French translations.
# One model learns both: text in Mboshi after Lingala's token <|ln|>, which mdw borrows, and text in French after the
# French token. To add a token for mdw instead: --train_options "--new_languages.mdw new".

train_sets="train"              # sets to fine-tune on
dev_sets="dev"                  # sets for eval_loss
test_sets="dev"                 # sets to decode; the corpus has no test set
base_model=openai/whisper-base  # base model: a name on the Hub, or a Whisper folder
method=full                     # lora, full, or both in quotes
corpus=                         # a clone of the repository; stage 0 clones it if not given
url=https://github.com/besacier/mboshi-french-parallel-corpus # URL of the repository
backends=ct2                    # decoding backends: transformers, ct2, or both in quotes
beam_size=5                     # beam size of an additional decoding; 0 for none
decode_options="--new_languages.mdw ln" # decode the base model, which has not learned mdw, as Lingala
score_options="--bleu fr"       # French texts are translations

make_data() {
  run python local/make_data.py --out data --corpus "$corpus" --url "$url"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
