#!/usr/bin/env bash
# Sets up, checks style, and runs the tests: bash tools/test.sh [pytest options, such as -m "not slow"]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup.sh --dev
PATH=${VENV:-$PWD/.venv}/bin:$PATH
export HF_HUB_OFFLINE=1
ruff check .
ruff format --check .
mapfile -t scripts < <(find .ci/run tools egs tests -name '*.sh' -not -path '*/exp/*' -o -path .ci/run)
shellcheck --external-sources "${scripts[@]}"
# The report tests need a browser; they are skipped if none can be installed.
if [[ -n ${CI:-} && $EUID == 0 ]] && ! command -v chromium > /dev/null; then
  (apt-get update && apt-get install -y --no-install-recommends chromium) > /dev/null || echo "chromium can't be installed"
fi
# One test per core; more threads would wait for each other.
OMP_NUM_THREADS=1 pytest -n "$(nproc)" --dist loadscope --no-loadscope-reorder "$@"
