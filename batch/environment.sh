# shellcheck shell=bash
# What every job of this folder needs. Sourced by the scripts; edit it for your site.

# module load python/3.11 cuda/12.5

# the environment that `make` sets up beside main.py, or the one that VENV names
# shellcheck source=/dev/null
. "${VENV:-.venv}/bin/activate"

export PYTHONUNBUFFERED=1 # a log that is followed tells at once

# Run a command and end with its exit code; with DRY_RUN=1 only say it. Signals are passed on to it: a
# training saves where it stands and ends with 75. SIGUSR1, which the scripts ask for some time before
# the time limit, then puts the job back into the queue, too, and it goes on from there. (When a job is
# preempted SLURM does that itself; one that scancel ends stays ended.) A job that was put back does not
# begin anew: --overwrite was meant for its first time.
run() {
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "$@" && echo
        exit
    fi
    local code=0 again="" child last word words=()
    for word in "$@"; do
        if [ "$word" != --overwrite ] || [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then words+=("$word"); fi
    done
    "${words[@]}" &
    child=$!
    # shellcheck disable=SC2329 # the traps call it
    pass_on() {
        if [ "${words[0]}" = srun ]; then # which would end its step rather than pass it on
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
        kill -0 "$child" 2>/dev/null || break # a signal ends the wait before the command ends
    done
    if [ "$code" -gt 128 ]; then # the signal's, if the command ended just then
        last=0
        wait "$child" 2>/dev/null || last=$?
        [ "$last" -eq 127 ] || code=$last # 127: its own code was had before
    fi
    # of several processes, one that ends last may be ended by srun: 143
    if [ -n "$again" ] && { [ "$code" -eq 75 ] || { [ "$code" -eq 143 ] && [ "$1" = srun ]; }; }; then
        echo "the time limit is near: back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
}
