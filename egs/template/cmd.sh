# Where training and decoding run (stages 4 and 7); everything else runs here.
#
# Nothing is this machine. srun and sbatch are Slurm's, with the options of your cluster; their output is shown, or
# written to exp/slurm/<job>.log. The recipe's folder must be seen by both machines.
#
# shellcheck shell=bash disable=SC2034 # read by tools/stages.sh
train_cmd=""  # sbatch --gres=gpu:1 --cpus-per-task=4 --mem=32G --time=24:00:00
decode_cmd="" # srun --gres=gpu:1 --cpus-per-task=4 --mem=16G
