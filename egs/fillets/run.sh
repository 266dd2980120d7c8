#!/usr/bin/env bash
# Czech and Dutch as people speak it in a game: bash egs/fillets/run.sh [--option value ...]
#
# The acted dialogue of Fish Fillets NG: 1.7 hours of Czech, 1.6 of Dutch, each line with its English translation. By
# default Czech is transcribed; the whole corpus is --languages "cs nl" --tasks "transcribe translate".

train_sets="train"              # sets to fine-tune on
dev_sets="dev"                  # sets for eval_loss
test_sets="test"                # sets to decode
base_model=openai/whisper-base  # base model: a name on the hub, or a Whisper folder
method=full                     # lora, full, or both in quotes
languages="cs"                  # cs, nl, or both in quotes
tasks="transcribe"              # transcribe, translate, or both in quotes
corpus=                         # folder with Debian's packages, the upstream archive, or the game; else downloaded
url=https://downloads.sourceforge.net/fillets # where the upstream archive is, for where apt-get has no packages
backends=ct2                    # what decodes
exports=ct2:int8                # exports, program:type
beam_size=5                     # beam of one more decoding; 0 for none
recordings=data/joined          # what stage 9 transcribes: by default the test set as one long recording

make_data() {
  run python local/make_data.py --out data --languages "$languages" --tasks "$tasks" --corpus "$corpus" --url "$url" &&
    run python local/join.py data/test --out data/joined
}

# shellcheck source=tools/stages.sh
. "$(dirname "$0")/../../tools/stages.sh" "$@"
