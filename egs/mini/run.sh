#!/usr/bin/env bash
# The whole pipeline on synthetic speech: bash egs/mini/run.sh [--option value ...]
#
# Synthesizes English, Mandarin and Spanish sentences with espeak-ng. Trains a small Whisper from random weights on clean
# English and Mandarin, then fine-tunes it, with LoRA and fully, on noisy speech of other voices, a new language (Spanish)
# and a new task (translation from Mandarin into English). Needs no download and no GPU.

base_sets="base_train base_dev" # sets that train the base model
train_sets="train"              # sets to fine-tune on
dev_sets="dev"                  # sets for eval_loss
test_sets="test_base test"      # sets to decode: the base model's domain and the fine-tuning domain
base_model=exp/base/model       # the base model, trained in stage 3
vocab_size=0                    # vocabulary size of the base model: 0 is as small as the text allows; 51865 is Whisper's own
seed=1                          # seed of the corpus: same seed, same bytes
scale=1.0                       # share of the corpus's utterances; 0.02 for a quick trial
max_new_tokens=64               # maximum tokens per hypothesis
score_options="--audio_limit_mb 0.5" # further options of score; by default, only the worst utterances are audible in reports
beam_size=0                     # beam size of an additional CTranslate2 decoding; 0 for none
cpu_bf16=false                  # train in bfloat16 on CPUs that support it; float32 is faster for a model this small

make_data() {
  run python local/make_corpus.py --out data --seed "$seed" --scale "$scale" --num-jobs "$num_jobs"
}

make_base_model() {
  run whisper-recipe init-model exp/base/init --text data/base_train/text data/train/text --vocab_size "$vocab_size" \
    --encoder_layers 2 &&
    run whisper-recipe train --config conf/train_base.yaml --base_model exp/base/init --output_dir exp/base \
      --train_cuts "$fbank/cuts_base_train.jsonl.gz" --dev_cuts "$fbank/cuts_base_dev.jsonl.gz"
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
