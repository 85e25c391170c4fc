#!/usr/bin/env bash
# Everything that only a CUDA host can say, in at most 12 minutes; installs nothing.
#
#     tools/measure_on_cuda.sh FOLDER            the tests, then the bench: constructors, loads and init of whole models, in
#                                            seconds; transposes, clones, fills, boxes, fingerprints
#     tools/measure_on_cuda.sh FOLDER --dry-run  only print the commands
#
# FOLDER gets a log of each step and the rows, which stand in bench/results too. A step that fails or takes too long
# does not keep the others from running; what it measured until then is kept. The last lines say how each ended; the exit status is 1 if any failed.
# Environment: PYTHON [python3], which must have torch, triton, NumPy and pytest (pytest-xdist runs the tests side by
# side, transformers is what whole models need); TESTS, to run some of the tests, as "tests/kernels -k box"; COMMIT, to
# stand in the rows where git cannot say it.
set -u

usage="usage: tools/measure_on_cuda.sh FOLDER [--dry-run]"
out=${1:?$usage}
dry=${2:-}
if [[ $# -gt 2 || $out == -* || ($dry != "" && $dry != --dry-run) ]]; then
    echo "$usage" >&2
    exit 2
fi
mkdir -p "$out" && out=$(realpath "$out") || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHON=${PYTHON:-python3} PYTHONPATH=$PWD PYTHONUNBUFFERED=1
started=$(mktemp)
trap 'rm -f "$started"' EXIT
summary=()
failed=0

# step NAME SECONDS COMMAND...: run it for so long at most; its output goes to FOLDER/NAME.log, the end of it here too.
step() {
    local name=$1 limit=$2 begin=$SECONDS status
    shift 2
    if [[ $dry ]]; then
        printf 'timeout %s' "$limit"
        printf ' %q' "$@"
        printf ' > %q\n' "$out/$name.log"
        return
    fi
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
    tail -n 10 "$out/$name.log" | cut -c -200
    find bench/results -maxdepth 1 -name '*.csv' -newer "$started" -exec cp {} "$out" \;
    mkdir -p "$out/end-to-end"
    find bench/results/end-to-end -name '*.csv' -newer "$started" -exec cp {} "$out/end-to-end" \;
    [[ $status == 0 ]] || failed=1
    [[ $status != 124 && $status != 137 ]] || status="$status, stopped after $limit s"
    summary+=("$(printf '%-14s%4d s  exit status %s' "$name" $((SECONDS - begin)) "$status")")
}

# ways NAME SECONDS TEXT: time what people call, of the models with this text in their name; `init` comes last.
ways() {
    step "$1" "$2" "$PYTHON" -m bench.end_to_end --device cuda --rounds 1 ${COMMIT:+--commit "$COMMIT"} \
        --out bench/results/end-to-end --only "$3"
}

# bench NAME SECONDS TEXT: time the cases with this text in their description.
bench() {
    step "$1" "$2" "$PYTHON" -m bench --device cuda ${COMMIT:+--commit "$COMMIT"} --only "$3"
}

workers=""
if "$PYTHON" -c 'import xdist' 2> /dev/null; then
    cores=$(nproc)
    workers="-n $((cores > 3 ? cores - 2 : 1))"
fi
step tests 270 make test-gpu "PYTHON=$PYTHON" "ARGS=$workers${TESTS:+ $TESTS}"
ways gpt2 70 gpt2
ways llama 110 llama-2-7b
bench transposes 45 transposes
bench clones 45 clone
bench fills 60 "one tensor of 1024 MiB"
bench shards 40 "column shard"
bench channels 40 channels_last
bench fingerprints 40 "fingerprint, float32, GPT-2"

if [[ ! $dry ]]; then
    echo "== summary, after $SECONDS s; logs and rows in $out"
    printf '%s\n' "${summary[@]}"
fi
exit "$failed"
