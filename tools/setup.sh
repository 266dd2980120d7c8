#!/usr/bin/env bash
# Makes the virtual environment of the project: bash tools/setup.sh [--dev]
#
#   --dev        also what the tests need
#   VENV=DIR     where it stands (default: .venv in the project)
#
# It does nothing where the environment has what the requirements ask. pip's own settings apply (PIP_INDEX_URL,
# PIP_FIND_LINKS ...): on a machine without a GPU, PIP_INDEX_URL=https://download.pytorch.org/whl/cpu and
# PIP_EXTRA_INDEX_URL=https://pypi.org/simple save gigabytes.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd)
venv=${VENV:-$root/.venv}
case ${1:-} in
  "") requirements="requirements.txt" ;;
  --dev) requirements="requirements-dev.txt" ;;
  *) echo "setup.sh: error: unknown option $1; use --dev or nothing" >&2 && exit 1 ;;
esac

fail() {
  echo "setup.sh: error: $*" >&2
  exit 1
}

# A stamp is written last: an interrupted set-up has none and starts again.
wanted=$(cd "$root" && sha256sum requirements.txt requirements-dev.txt pyproject.toml && echo "$root")
stamp=$venv/.installed-$requirements
for made in "$stamp" "$venv/.installed-requirements-dev.txt"; do # what the tests need holds what the recipes need
  if [[ -f $made && $(<"$made") == "$wanted" && -x $venv/bin/whisper-recipe ]]; then
    exit 0
  fi
done

# transformers 5.23 and matplotlib 3.11 don't take less than 3.11.
command -v python3 >/dev/null || fail "python3 is missing: install Python 3.11 or newer"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(python3 --version) is too old: 3.11 is needed"
SECONDS=0
echo "setup.sh: installing $requirements into $venv (minutes)"
if [[ ! -x $venv/bin/python ]]; then
  # Debian keeps venv's pip in a package of its own (python3-venv); virtualenv from PyPI brings one.
  python3 -m venv "$venv" 2>/dev/null || {
    rm -rf "$venv"
    python3 -m virtualenv --quiet "$venv" 2>/dev/null ||
      fail "python3 can't make virtual environments: apt install python3-venv, or pip install virtualenv"
  }
fi
rm -f "$venv"/.installed-*
(cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" &&
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e .) ||
  fail "pip failed: see above; the next call goes on from here"
echo "$wanted" >"$stamp"
echo "setup.sh: done in $SECONDS s"
