#!/usr/bin/env bash
# Acted Czech and Dutch from a game: bash egs/fillets/run.sh [--option value ...]
#
# The dialogue of Fish Fillets NG: 1.7 hours of Czech, 1.6 of Dutch, each line with an English translation. The default
# is Czech transcription; for the whole corpus: --languages "cs nl" --tasks "transcribe translate".

train_sets="train"              # sets to fine-tune on
dev_sets="dev"                  # sets for eval_loss
test_sets="test"                # sets to decode
base_model=openai/whisper-base  # base model: a name on the Hub, or a Whisper folder
method=full                     # lora, full, or both in quotes
languages="cs"                  # cs, nl, or both in quotes
tasks="transcribe"              # transcribe, translate, or both in quotes
corpus=                         # folder with Debian's packages, the upstream archive, or the game; downloaded if not given
url=https://downloads.sourceforge.net/fillets # download URL of the upstream archive, if apt-get has no packages
backends=ct2                    # decoding backends: transformers, ct2, or both in quotes
exports=ct2:int8                # exports, program:type
beam_size=5                     # beam size of an additional decoding; 0 for none
recordings=data/joined          # recordings to transcribe in stage 9; the default is the test set as one long recording

make_data() {
  run python local/make_data.py --out data --languages "$languages" --tasks "$tasks" --corpus "$corpus" --url "$url" &&
    run python local/join.py data/test --out data/joined
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
