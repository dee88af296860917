#!/usr/bin/env bash
# All that a session with a real GPU should run, in under 9 minutes: the CUDA tests, pretraining at
# the scale of HEST-1k, the attention grid, routing, extraction by ViT-L. Writes one JSON file.
#
#   benchmarks/gpu.sh OUT.json [--rehearse]
#
# It needs torch, timm, h5py and scikit-learn; the tests also want pytest, and are left out (and the
# file says so) where it is missing. PYTHON names the interpreter. --rehearse takes tiny sizes and
# runs anywhere.
set -uo pipefail
out=${1:?usage: benchmarks/gpu.sh OUT.json [--rehearse]}
shift
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export PYTHONPATH=$PWD:$PWD/benchmarks:$PWD/tests/helpers${PYTHONPATH:+:$PYTHONPATH}
started=$(date +%s)

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [[ " $* " == *" --rehearse "* ]]; then
  tests="not run in a rehearsal"
elif ! "$python" -c "import pytest" 2>/dev/null; then
  tests="not run: pytest is missing"
else
  timeout 120 "$python" -m pytest -q -m cuda -p no:cacheprovider tests/cuda >"$log" 2>&1
  tests="exit $?: $(tail -n 1 "$log")"
  tail -n 40 "$log" >&2
fi

left=$((500 - ($(date +%s) - started)))
timeout "$left" "$python" benchmarks/gpu.py --out "$out" --minutes "$((left / 60 - 1))" "$@" >&2
status=$?
"$python" - "$out" "$tests" "$status" "$(($(date +%s) - started))" <<'EOF'
import json, pathlib, sys

path, tests, status, seconds = sys.argv[1:]
file = pathlib.Path(path)
content = json.loads(file.read_text()) if file.is_file() else {"benchmark": "gpu"}
content |= {"tests": tests, "exit": int(status), "seconds": int(seconds)}
file.write_text(json.dumps(content, indent=1) + "\n")
print(json.dumps(content))
EOF
exit "$status"
