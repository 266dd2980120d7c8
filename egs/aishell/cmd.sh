# Commands that launch training and decoding (stages 4 and 7); all other stages run on this machine.
#
# Leave them empty for this machine, or use Slurm's srun or sbatch with the options of your cluster. Output is printed, or
# written to exp/slurm/<job>.log. Both machines must see the recipe's folder.
#
# shellcheck shell=bash disable=SC2034 # read by tools/stages.sh
train_cmd=""  # sbatch --gres=gpu:1 --cpus-per-task=4 --mem=32G --time=24:00:00
decode_cmd="" # srun --gres=gpu:1 --cpus-per-task=4 --mem=16G
