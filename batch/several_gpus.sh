#!/bin/bash
# One training on all GPUs of one host. From the project's folder:
#   sbatch --gpus=2 batch/several_gpus.sh train --dataset osie --data PATH --output runs/frozen
#SBATCH --job-name=several_gpus
#SBATCH --output=batch/logs/%x-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
. batch/environment.sh

run python main.py "$@" --devices "${SLURM_GPUS_ON_NODE:-1}"
