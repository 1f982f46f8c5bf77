# shellcheck shell=bash
# Environment of all jobs of this folder. The scripts source it; edit it for your site.

# module load python/3.11 cuda/12.5

# the virtual environment of `make`, or the one in $VENV
# shellcheck source=/dev/null
. "${VENV:-.venv}/bin/activate"

export PYTHONUNBUFFERED=1 # unbuffered output for logs

# Run a command and exit with its exit code; with DRY_RUN=1 only print it. Signals are forwarded: a
# training writes a checkpoint and exits with 75. The scripts request SIGUSR1 before the time limit; the
# job is then requeued and resumes the training. (SLURM itself requeues preempted jobs, but not jobs
# ended by scancel.) A requeued job omits --overwrite, which is meant for its first start.
run() {
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "$@" && echo
        exit
    fi
    local code=0 again="" before="" child last word words=()
    for word in "$@"; do
        if [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then
            words+=("$word")
        else
            case "$before ${word,,}" in
            *" --overwrite" | *" --overwrite="*) ;;
            --overwrite\ true | --overwrite\ false | --overwrite\ yes | --overwrite\ no | --overwrite\ [01]) ;;
            *) words+=("$word") ;;
            esac
        fi
        before=$word
    done
    "${words[@]}" &
    child=$!
    # shellcheck disable=SC2329 # the traps call it
    pass_on() {
        if [ "${words[0]}" = srun ]; then # srun would end its step instead of forwarding the signal
            scancel --signal=TERM "$SLURM_JOB_ID"
        else
            kill -TERM "$child" 2>/dev/null || true
        fi
    }
    trap pass_on TERM
    trap 'again=yes; pass_on' USR1
    while :; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # a signal interrupts wait before the command has ended
    done
    if [ "$code" -gt 128 ]; then # the code may be that of the signal
        last=0
        wait "$child" 2>/dev/null || last=$?
        [ "$last" -eq 127 ] || code=$last # 127: the command's code is already known
    fi
    # srun may end the last of several processes: 143
    if [ -n "$again" ] && { [ "$code" -eq 75 ] || { [ "$code" -eq 143 ] && [ "$1" = srun ]; }; }; then
        echo "the time limit is near: the job is requeued"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
}
