#!/bin/sh
# Test the triton backend at full size on the GPU of this machine.
# Usage: scripts/test_gpu.sh python [options of pytest]     Without a GPU it says so and succeeds.
set -eu
cd "$(dirname "$0")/.."

python=${1:?usage: scripts/test_gpu.sh python [options of pytest]}
shift
# The device itself, not its stand-in.
unset TRITON_INTERPRET

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "test-gpu: no GPU that torch can use on this machine, so nothing was tested"
    exit 0
fi

status=0
"$python" -m pytest -q -m gpu tests/test_gpu_*.py tests/test_triton_*.py tests/test_contract_*.py \
    tests/test_sample.py tests/test_posterior_questions.py "$@" || status=$?

# It slows every access down by orders of magnitude, so it sees a small case.
if command -v compute-sanitizer >/dev/null 2>&1; then
    PYTHONPATH="tests:benchmarks${PYTHONPATH:+:$PYTHONPATH}" compute-sanitizer --tool racecheck \
        --error-exitcode 1 "$python" tests/gpu_racecheck.py || status=$?
else
    echo "test-gpu: compute-sanitizer is not on PATH, so no race check ran"
fi
exit "$status"
