# shellcheck shell=bash
# Runs a tool of scripts/ that needs no packages. Sourced, never run by itself.
#
#   run_bare TOOL.py [arguments]
#
# Paths in the arguments are those of where the command was typed. $PYTHON, when set, names the Python to use.

PGL_SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

run_bare() {
  local tool="$1" name
  shift
  for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      exec "$name" "$PGL_SCRIPTS/$tool" "$@"
    fi
  done
  printf 'error: Python 3.11 or newer is needed; PYTHON=/path/to/python3.12 bash %s ...\n' "$0" >&2
  exit 2
}
