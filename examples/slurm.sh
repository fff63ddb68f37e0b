#!/bin/bash
# Train one run and predict by it on two machines of eight GPUs each: sbatch examples/slurm.sh carot 0
# First, in params.yaml: imagenet.hardware.devices: 8 and nodes: 2; profile: imagenet.
#SBATCH --job-name=carot
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log

# Every task is one device; they find each other by SLURM's own variables. The project, its prepared
# data and checkpoints/ must lie on a file system that all machines see. A job that was killed goes
# on from its last checkpoint when it is submitted (or requeued) again.
set -euo pipefail
source .venv/bin/activate
srun python -m carot_lib train --profile imagenet --run "$1" --seed "$2"
srun python -m carot_lib predict --profile imagenet --run "$1" --seed "$2"

# DVC does not see what was made without it: `dvc commit carot@imagenet-<run>-<seed>
# predict@imagenet-<run>-<seed>` enters it, and `dvc repro` does the rest; it predicts on the devices
# of the machine it runs on. On one machine without SLURM `dvc repro` alone does it all, and torchrun
# is not needed.
# Without SLURM, on every machine, with its number as node_rank:
#   torchrun --nnodes=2 --nproc-per-node=8 --node-rank=0 --rdzv-backend=c10d \
#     --rdzv-endpoint=first-machine:29500 -m -- carot_lib train --profile imagenet \
#     --run carot --seed 0
