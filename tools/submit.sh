# Where commands run: here or on a cluster, as a recipe's cmd.sh says; sourced by tools/stages.sh.

# shellcheck shell=bash
# shellcheck disable=SC2086,SC2154 # the options of a starter are split on purpose; tools/stages.sh sets the starters

# submit STARTER COMMAND...: run the command here (no starter), with srun, or as a job of sbatch, which is waited for.
submit() {
  local starter=$1
  shift
  if [[ ${starter%% *} == sbatch ]]; then
    log "$starter: $(printf '%q ' "$@")(its output: exp/slurm/<job>.log)"
    mkdir -p exp/slurm
    sbatch --wait --output=exp/slurm/%j.log ${starter#sbatch} <<<"#!/usr/bin/env bash"$'\n'"$(printf '%q ' "$@")"
  else
    run $starter "$@"
  fi
}

run_training() { submit "$train_cmd" "$@"; }
run_decoding() { submit "$decode_cmd" "$@"; }
