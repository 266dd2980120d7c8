#!/usr/bin/env bash
# Runs one command (fbank, stats or decode) as a Slurm job array; each task does one part, on any node:
#
#   sbatch --array=1-8 --cpus-per-task=4 tools/slurm.sh whisper-recipe fbank train --manifests data/manifests --num_jobs 4
#   sbatch --array=1-4 --gpus-per-task=1 tools/slurm.sh whisper-recipe decode exp/lora/model --cuts ... --out ...
#
#   PARTS=N      number of parts (default: the highest number of the array)
#   VENV=DIR     the environment with whisper-recipe (default: .venv where sbatch was called)
#
# The task that finishes last merges the parts. To resume a failed task, submit it again (PARTS=8 sbatch --array=3 ...), or run
# the command itself, without this script.
#SBATCH --job-name=whisper-recipe
#SBATCH --ntasks=1
#SBATCH --output=slurm-%x-%A_%a.log
set -euo pipefail

fail() {
  echo "slurm.sh: error: $*" >&2
  exit 1
}

(($#)) || fail "no command; use e.g. whisper-recipe fbank train"
[[ -n ${SLURM_ARRAY_TASK_ID:-} ]] || fail "not in a job array; submit it with sbatch --array=1-8 tools/slurm.sh COMMAND"
((SLURM_ARRAY_TASK_ID >= 1)) || fail "tasks are counted from 1; submit it with --array=1-N"
parts=${PARTS:-$SLURM_ARRAY_TASK_MAX}
[[ $parts =~ ^[0-9]+$ ]] || fail "PARTS must be a number, got '$parts'"
((SLURM_ARRAY_TASK_ID <= parts)) || fail "part $SLURM_ARRAY_TASK_ID of $parts does not exist; set PARTS to the number of parts"
PATH=${VENV:-$PWD/.venv}/bin:$PATH
echo "$(date '+%Y-%m-%d %H:%M:%S') $(hostname): $(printf '%q ' "$@" --part "$SLURM_ARRAY_TASK_ID/$parts")"
exec "$@" --part "$SLURM_ARRAY_TASK_ID/$parts"
