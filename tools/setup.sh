#!/usr/bin/env bash
# Creates the project's virtual environment: bash tools/setup.sh [--dev]
#
#   --dev        also install the requirements of the tests
#   VENV=DIR     folder of the environment (default: .venv in the project)
#
# Does nothing if the environment is up to date. Uses uv if it is installed (seconds instead of minutes), otherwise Python
# 3.11 or newer with venv and pip. On Linux without a GPU, PyTorch comes from its index of CPU-only wheels, which saves
# gigabytes. pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf ...) override both: PIP_INDEX_URL=https://pypi.org/simple
# installs PyTorch with CUDA on a machine without a GPU, for example in a container image.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && cd .. && pwd)
venv=${VENV:-$root/.venv}
cpu_wheels=https://download.pytorch.org/whl/cpu
case ${1:-} in
  "") requirements="requirements.txt" ;;
  --dev) requirements="requirements-dev.txt" ;;
  *) echo "setup.sh: error: unknown option $1; use --dev or nothing" >&2 && exit 1 ;;
esac

fail() {
  echo "setup.sh: error: $*" >&2
  exit 1
}

# find_python: the first Python that is new enough; transformers 5.23 and matplotlib 3.11 need 3.11 or newer.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
}

# advice: how to get such a Python. Ubuntu 22.04 has 3.10, and only a release candidate of 3.11.
advice() {
  local ID="" VERSION_ID=""
  # shellcheck source=/dev/null
  if [[ -r ${OS_RELEASE:-/etc/os-release} ]]; then . "${OS_RELEASE:-/etc/os-release}"; fi
  if [[ $ID-$VERSION_ID == ubuntu-22.04 ]]; then
    echo "type: sudo apt install -y python3-pip && python3 -m pip install --user uv (it brings its own Python)"
  else
    echo "install python3.11 or newer, or uv (https://docs.astral.sh/uv), which brings its own Python"
  fi
}

# make_venv: with uv, which downloads a Python if there is none, or with venv.
make_venv() {
  if [[ -n $uv ]]; then
    # With pip, for manual installs.
    "$uv" venv --quiet --seed --python "${python:-3.12}" "$venv" || fail "uv can't make $venv (see above)"
  else
    # On Debian, venv's pip is in a separate package (python3-venv); virtualenv from PyPI includes one.
    "$python" -m venv "$venv" 2>/dev/null || {
      rm -rf "$venv"
      "$python" -m virtualenv --quiet "$venv" 2>/dev/null ||
        fail "$python can't make virtual environments: apt install python3-venv, or pip install uv"
    }
  fi
}

# install_packages ARGUMENT...
install_packages() {
  if [[ -n $uv ]]; then
    "$uv" pip install --quiet --python "$venv/bin/python" "$@"
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  fi
}

# pip_is_configured: whether pip's settings name a source of packages. With PIP_CONFIG_FILE=/dev/null, pip reads no file.
pip_is_configured() {
  local files=(/etc/pip.conf /etc/xdg/pip/pip.conf ~/.pip/pip.conf "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf")
  env | grep -qE '^PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX)=' && return
  [[ ${PIP_CONFIG_FILE:-} != /dev/null ]] || return 1
  grep -qsE '^ *(index-url|extra-index-url|find-links|no-index)' "${files[@]}" "${PIP_CONFIG_FILE:-/dev/null}"
}

# has_gpu: whether there is a GPU (NVIDIA, AMD or WSL), or Slurm, whose jobs may have one.
has_gpu() { [[ -e /dev/nvidiactl || -e /dev/kfd || -e /dev/dxg ]] || command -v sbatch >/dev/null; }

# The stamp is written last: an interrupted set-up has none and starts over.
wanted=$(cd "$root" && sha256sum requirements.txt requirements-dev.txt pyproject.toml && echo "$root")
stamp=$venv/.installed-$requirements
for made in "$stamp" "$venv/.installed-requirements-dev.txt"; do # the tests' requirements include the recipes'
  if [[ -f $made && $(<"$made") == "$wanted" && -x $venv/bin/whisper-recipe ]]; then
    exit 0
  fi
done

configured=false uv=""
if pip_is_configured; then
  configured=true # uv ignores pip's settings
else
  uv=$(command -v uv || command -v ~/.local/bin/uv || true)
fi
python=$(find_python)
if [[ -z $python && -z $uv ]]; then
  fail "Python 3.11 or newer is required, found $(python3 --version 2>/dev/null || echo none); $(advice)"
fi

SECONDS=0
echo "setup.sh: installing $requirements into $venv with ${uv:-pip}"
[[ -x $venv/bin/python ]] || make_venv
rm -f "$venv"/.installed-*
cd "$root"
if [[ $configured == false && $(uname) == Linux ]] && ! has_gpu; then
  PIP_RETRIES=1 install_packages --index-url "$cpu_wheels" "$(grep -oE '^torch==[0-9.]+' requirements.txt)" ||
    echo "setup.sh: no CPU-only PyTorch from $cpu_wheels (see above): installing the larger one from the package index"
fi
if ! install_packages -r "$requirements" || ! install_packages --no-deps -e .; then
  fail "the installation failed (see above); run again to resume"
fi
echo "$wanted" >"$stamp"
echo "setup.sh: done in $SECONDS s"
