#!/bin/bash
# Maps of many pictures, one shard per task. From the project's folder:
#   sbatch --array=1-8 batch/test_array.sh test images/ --weights FILE --output maps/
#SBATCH --job-name=test_array
#SBATCH --output=batch/logs/%x-%A_%a.log
#SBATCH --array=1-4
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
. batch/environment.sh

count=$SLURM_ARRAY_TASK_COUNT
if [ "$SLURM_ARRAY_TASK_MIN" != 1 ] || [ "$SLURM_ARRAY_TASK_MAX" != "$count" ]; then
    echo "error: each task predicts the shard of its index: submit all tasks, from 1 and without" \
        "gaps (--array=1-8). Existing maps are kept." >&2
    exit 2
fi
run python main.py "$@" --shard "$SLURM_ARRAY_TASK_ID/$count"
