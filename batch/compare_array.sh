#!/bin/bash
# The comparison page of a study's data set. submit_array.py submits it to start after the data set's
# tasks. Arguments: the job id of the array, the index of the first task, and the run folders.
#SBATCH --job-name=compare
#SBATCH --output=batch/logs/compare-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
. batch/environment.sh

array=$1 task=$2
shift 2
missing=0
for folder in "$@"; do
    if [ ! -e "$folder/done.json" ]; then
        echo "not done: $folder (its log: batch/logs/array-${array}_$task.log)" >&2
        missing=$((missing + 1))
    fi
    task=$((task + 1))
done
if [ "$missing" -gt 0 ]; then
    echo "error: $missing of $# runs are not done, so they are not compared. Fix the problems in" \
        "their logs and submit the study again: finished runs are kept." >&2
    exit 1
fi
run python main.py compare "$@" --output "$(dirname "$1")/comparison"
