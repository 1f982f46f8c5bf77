#!/bin/bash
# One table of the program's speed on one GPU, in at most 8 minutes:
#   benchmarks/gpu.sh --data PATH/TO/osie --backbone_weights VGG16.h5 [--weights FILE]
#   benchmarks/gpu.sh --tiny
# ML-Net at 480x640, batch 10: the step alone, train, the feed, test and evaluate. Weights that are
# not given are random (--backbone_weights) or the included ones (--weights). --tiny takes synthetic
# scenes and a tiny network: it only shows that everything works, on a CPU, too.
# $PYTHON is the interpreter, and KERAS_BACKEND the backend (jax unless set; TensorFlow may be absent).
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

seconds=460 # the rest of the 8 minutes is for the table and for ending what runs
tiny_seconds=1800
python=${PYTHON:-}
if [ -z "$python" ]; then
	python=python3
	if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
fi
given=() tiny=''
while [ $# -gt 0 ]; do
	case $1 in
	--tiny)
		tiny=yes seconds=$tiny_seconds
		given+=(--tiny)
		shift
		;;
	--data | --backbone_weights | --weights | --workers)
		if [ $# -lt 2 ]; then
			echo "$1: a value is missing" >&2
			exit 2
		fi
		if [ "$1" != --workers ] && [ ! -e "$2" ]; then
			echo "$1: there is no $2" >&2
			exit 2
		fi
		given+=("$1" "$2")
		shift 2
		;;
	*)
		echo "$1: unknown. Usage: benchmarks/gpu.sh --data OSIE [--backbone_weights FILE] [--weights FILE] [--workers N], or --tiny" >&2
		exit 2
		;;
	esac
done
if [ -z "$tiny" ] && [[ " ${given[*]} " != *" --data "* ]]; then
	echo "--data: give OSIE's folder, or --tiny" >&2
	exit 2
fi

scratch=$(mktemp -d) || exit 2
running=''
trap 'if [ -n "$running" ]; then kill "$running"; wait "$running"; fi; rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export KERAS_BACKEND=${KERAS_BACKEND:-jax} SALIENCY_CACHE=$scratch/cache
: >"$scratch/rows"

# the most important ones first: what has no time left is named below the table
parts=(
	"step finetuned bf16" "step frozen bf16" "train finetuned off" "train frozen off"
	"train frozen on" "train frozen auto" "feed" "test" "evaluate" "step finetuned float32"
	"memory finetuned float32 kept" "memory finetuned float32 untried"
	"plain finetuned bf16" "plain frozen bf16" "plain finetuned float32" "step frozen float32"
	"on_torch finetuned bf16"
)
missing=()
measure() { # PART ...: in one process, with the time that is left
	local left=$((seconds - SECONDS))
	if [ "$left" -lt 5 ]; then
		missing+=("$*: no time was left")
		return
	fi
	timeout --kill-after=5 "$left" "$python" benchmarks/measures/gpu.py --table "$scratch/rows" \
		--scratch "$scratch" ${given[@]+"${given[@]}"} "$@" >"$scratch/log" 2>&1 &
	running=$! # timeout passes a signal on to all that it started
	if ! wait "$running"; then
		missing+=("$*: failed or out of time: $(grep -v '^$' "$scratch/log" | tail -n 1)")
	fi
	running=''
}
if [ -n "$tiny" ]; then
	together=() alone=()
	for part in "${parts[@]}"; do
		case $part in
		memory* | on_torch*) alone+=("$part") ;; # other flags, or another backend
		*) together+=("$part") ;;
		esac
	done
	measure "${together[@]}" # imports Keras once
	for part in "${alone[@]}"; do measure "$part"; done
else
	# each in its own process, since JAX and PyTorch keep the device's memory
	for part in "${parts[@]}"; do
		echo "$SECONDS s: $part" >&2
		measure "$part"
	done
fi

"$python" benchmarks/measures/gpu.py --table "$scratch/rows"
echo
echo "$SECONDS s in all, KERAS_BACKEND=$KERAS_BACKEND, $(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || echo "no GPU")"
for line in ${missing[@]+"${missing[@]}"}; do echo "NOT MEASURED: $line"; done
[ ${#missing[@]} -eq 0 ]
