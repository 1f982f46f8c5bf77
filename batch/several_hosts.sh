#!/bin/bash
# One training on the GPUs of several hosts, one process per host. From the project's folder:
#   sbatch --nodes=4 batch/several_hosts.sh train --dataset osie --data PATH --output runs/frozen
#SBATCH --job-name=several_hosts
#SBATCH --output=batch/logs/%x-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
. batch/environment.sh

# If a process ends, end the others, which would wait for it. Since SLURM 22.05, a step does not inherit
# the number of cores per process.
run srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    python main.py "$@" --cluster --devices "${SLURM_GPUS_ON_NODE:-1}"
