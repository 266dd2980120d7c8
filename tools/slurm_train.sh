#!/usr/bin/env bash
# Trains on all GPUs of the nodes allocated by Slurm:
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 tools/slurm_train.sh whisper-recipe train --config ...
#
#   PROCESSES=N   processes per node (default: the number of its GPUs, or 1)
#   PORT=N        rendezvous port on the first node (default: 29500)
#   VENV=DIR      the environment with whisper-recipe (default: .venv where sbatch was called)
#
# All nodes must see the recipe's folder. To resume a killed job from its last checkpoint, submit it again, also with a
# different number of nodes.
#SBATCH --job-name=whisper-recipe
#SBATCH --ntasks-per-node=1
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail

fail() {
  echo "slurm_train.sh: error: $*" >&2
  exit 1
}

[[ ${1:-} == whisper-recipe && ${2:-} == train ]] || fail "not a training command; give whisper-recipe train --config ..."
[[ -n ${SLURM_JOB_NODELIST:-} ]] || fail "not in a Slurm job; submit it with sbatch --nodes=2 tools/slurm_train.sh COMMAND"
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES must be a number, got '$processes'"
PATH=${VENV:-$PWD/.venv}/bin:$PATH
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
launch=(accelerate launch --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * processes))
  --main_process_ip "$first" --main_process_port "${PORT:-29500}" --mixed_precision no --dynamo_backend no)
((SLURM_NNODES * processes == 1)) || launch+=(--multi_gpu) # on CPUs too
echo "$(date '+%Y-%m-%d %H:%M:%S') $first: $(printf '%q ' "${launch[@]}" -m whisper_recipe "${@:2}")"
# SLURM_NODEID is expanded on each node.
# shellcheck disable=SC2016
exec srun --ntasks-per-node=1 bash -c 'exec "${@:1:2}" --machine_rank "$SLURM_NODEID" "${@:3}"' node \
  "${launch[@]}" -m whisper_recipe "${@:2}"
