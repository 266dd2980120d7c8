# Kaldi-like options for recipes, sourced by tools/stages.sh.
#
# Every line `name=default  # help` of the given files is an option `--name value`; its comment is its help. User
# input is never evaluated: undeclared names are refused, and values are assigned with printf -v.

# shellcheck shell=bash
declare -A option_help=()
option_names=()

fail() {
  echo "$(basename "$0"): error: $*" >&2
  exit 1
}

# declare_options FILE...: every `name=default  # help` line of the files is an option.
declare_options() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^([a-z][a-z0-9_]*)=.*[[:space:]]\#\ (.*)$ ]]; then
      [[ -v "option_help[${BASH_REMATCH[1]}]" ]] || option_names+=("${BASH_REMATCH[1]}")
      option_help[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
    fi
  done < <(cat "$@")
}

print_options() {
  local name
  echo "options (default):"
  for name in "${option_names[@]}"; do
    printf '  --%-14s %s (%s)\n' "$name" "${option_help[$name]}" "${!name}"
  done
}

# parse_options ARGUMENT...: assign the user's options to the variables of their names.
parse_options() {
  local name value
  while (($#)); do
    [[ $1 == --?* ]] || fail "$1 is not an option; options are --name value (--help lists them)"
    name=${1#--}
    if [[ $name == *=* ]]; then
      value=${name#*=} name=${name%%=*}
      shift
    else
      (($# > 1)) || fail "--$name has no value"
      value=$2
      shift 2
    fi
    name=${name//-/_}
    [[ $name =~ ^[a-z][a-z0-9_]*$ && -v "option_help[$name]" ]] || fail "unknown option --$name (--help lists them)"
    if [[ ${!name} == true || ${!name} == false ]]; then
      [[ $value == true || $value == false ]] || fail "--$name must be true or false, got '$value'"
    elif [[ ${!name} =~ ^[0-9]+$ ]]; then
      [[ $value =~ ^[0-9]+$ ]] || fail "--$name must be a number, got '$value'"
    fi
    printf -v "$name" '%s' "$value"
  done
}
