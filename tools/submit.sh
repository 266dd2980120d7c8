# Runs commands here or on a cluster, as set in a recipe's cmd.sh; sourced by tools/stages.sh.

# shellcheck shell=bash
# shellcheck disable=SC2086,SC2154 # launchers' options are split on purpose; tools/stages.sh sets the launchers

# submit LAUNCHER COMMAND...: run the command here (no launcher), with srun, or as an sbatch job, and wait for it.
submit() {
  local launcher=$1
  shift
  if [[ ${launcher%% *} == sbatch ]]; then
    log "$launcher: $(printf '%q ' "$@")(output: exp/slurm/<job>.log)"
    mkdir -p exp/slurm
    sbatch --wait --output=exp/slurm/%j.log ${launcher#sbatch} <<<"#!/usr/bin/env bash"$'\n'"$(printf '%q ' "$@")"
  else
    run $launcher "$@"
  fi
}

run_training() { submit "$train_cmd" "$@"; }
run_decoding() { submit "$decode_cmd" "$@"; }
