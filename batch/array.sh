#!/bin/bash
# One run of a study per task. submit_array.py submits it with the study's run folders as arguments.
# The task trains the run of its index, with the settings beside the folder.
#SBATCH --job-name=array
#SBATCH --output=batch/logs/array-%A_%a.log
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

folders=("$@")
folder=${folders[$SLURM_ARRAY_TASK_ID]}
# --resume continues an interrupted run, or one that has fewer epochs; of a finished one it says so
run python main.py train --config "$folder.json" --resume
