#!/usr/bin/env bash
# Tests and measures the project on a GPU, in about eight minutes on an H100: bash tools/gpu_check.sh OUT
#
#   OUT            folder of the results: report.md, and a JSON file per part, written after every row
#   WHEELS=DIR     folder of wheels of missing packages; they are installed for this run only, from this folder only, and
#                  keep the machine's own torch and transformers (pip's --no-index --no-deps)
#   PYTHON=PATH    the Python that has torch (default: .venv's if it exists, otherwise python3)
#   LIMIT_TESTS, LIMIT_TRAINING, LIMIT_DECODING, LIMIT_BENCH=SECONDS    time limit of a part; its results so far are kept
#
# Without a GPU the same parts run at a small size on the CPU. The exit status is 1 if a part failed or exceeded its limit.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd)
out=${1:?usage: bash tools/gpu_check.sh OUT}
[[ -n ${PYTHON:-} ]] || { PYTHON=$root/.venv/bin/python && [[ -x $PYTHON ]] || PYTHON=python3; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1 PYTHONWARNINGS=ignore::FutureWarning
export PYTHONPATH=$root:$packages${PYTHONPATH:+:$PYTHONPATH}

if [[ -n ${WHEELS:-} ]]; then
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --find-links "$WHEELS" \
    --target "$packages" "$WHEELS"/*.whl
fi

status=0
# part NAME SECONDS COMMAND...: run a part within its limit.
part() {
  local name=$1 seconds=$2 began=${EPOCHREALTIME/[.,]/} code=0
  shift 2
  echo "gpu_check.sh: $name (at most $seconds s)"
  timeout --kill-after 10 "$seconds" "$@" || code=$?
  ((code == 0)) || status=1
  ((code != 124 && code != 137)) || echo "gpu_check.sh: $name was cut off after $seconds s; its rows so far are kept"
  # In microseconds: SECONDS changes with the clock's whole seconds, also a moment after the start.
  echo "gpu_check.sh: $name exited with $code after $(((${EPOCHREALTIME/[.,]/} - began) / 1000000)) s"
}

cd "$root"
part tests "${LIMIT_TESTS:-75}" "$PYTHON" tools/bench/gpu_check.py tests "$out"
part training "${LIMIT_TRAINING:-150}" "$PYTHON" tools/bench/gpu_check.py training "$out"
part decoding "${LIMIT_DECODING:-100}" "$PYTHON" tools/bench/gpu_check.py decoding "$out"
part bench "${LIMIT_BENCH:-150}" "$PYTHON" tools/bench/gpu.py --out "$out" --seconds 2
echo "gpu_check.sh: $out/report.md, after $SECONDS s"
exit "$status"
