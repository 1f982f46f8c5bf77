#!/bin/bash
# One command of main.py on one GPU. From the project's folder:
#   sbatch batch/one_gpu.sh train --dataset osie --data PATH --output runs/frozen
#SBATCH --job-name=one_gpu
#SBATCH --output=batch/logs/%x-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
. batch/environment.sh

run python main.py "$@"
