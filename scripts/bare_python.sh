# shellcheck shell=bash
# Which Pythons there may be, and running a tool of scripts/ that needs no packages. Sourced, never run by itself.
#
#   run_bare TOOL.py [arguments]
#
# Paths in the arguments are those of where the command was typed. $PYTHON, when set, is tried before the others.

unset CDPATH # with it cd may print, or go elsewhere
PGL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# In the order in which they are tried.
PGL_PYTHONS=(python3 python3.14 python3.13 python3.12 python3.11 python)

pgl_new_enough() { # Python, first minor version that is too new
  "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, ${2:-999}))" >/dev/null 2>&1
}

run_bare() {
  local tool="$1" name
  shift
  for name in ${PYTHON:+"$PYTHON"} "${PGL_PYTHONS[@]}"; do
    if pgl_new_enough "$name"; then
      exec "$name" "$PGL_ROOT/scripts/$tool" "$@"
    fi
  done
  printf 'error: Python 3.11 or newer is needed; PYTHON=/path/to/python3.12 bash %s ...\n' "$0" >&2
  exit 2
}
