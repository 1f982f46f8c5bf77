# shellcheck shell=bash
# What every job of this folder needs. Sourced by the scripts; edit it for your site.

# module load python/3.11 cuda/12.5

# the environment that `make` sets up beside main.py, or the one that VENV names
# shellcheck source=/dev/null
. "${VENV:-.venv}/bin/activate"

export PYTHONUNBUFFERED=1 # a log that is followed tells at once

# Run a command in the shell's place, so that signals reach it; with DRY_RUN=1 only say it.
run() {
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "$@" && echo
        exit
    fi
    exec "$@"
}
