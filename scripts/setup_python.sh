# shellcheck shell=bash
# Chooses the Python for the other scripts. Sourced, never run by itself; works in bash 3.2 (macOS) and newer.
#
#   . scripts/setup_python.sh
#   setup_python requirements-cuda.txt [more requirements files]
#   "$PGL_PYTHON" train_gpt.py ...
#
# 1. $PYTHON if it is set, otherwise the first of PGL_PYTHONS (bare_python.sh) that is 3.11 to 3.14 (for newer ones
#    there may be no wheels yet), or else newer. If it has every package of the files, it is used as it is and nothing
#    is installed.
# 2. Otherwise .venv in the repository root, made from that Python where there is none. The files are installed there
#    with pip. A file that was installed in full leaves a stamp with its checksum, so an interrupted install is
#    taken up again, an edited file is installed anew, and a finished one costs nothing.
#
# A Python that has all of the first file (with a PyTorch built for its card, say) lends its packages to a new .venv.

. "$(dirname "${BASH_SOURCE[0]}")/bare_python.sh"
PGL_VENV="$PGL_ROOT/.venv"
PGL_MISSING="$PGL_ROOT/scripts/missing_packages.py"

_pgl_say() { printf 'setup: %s\n' "$*" >&2; }

_pgl_fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '       %s\n' "$@" >&2; fi
  exit 1
}

# Prints the path of the Python to start from, or nothing when there is none that is new enough.
_pgl_find_python() {
  local name too_new names=("${PGL_PYTHONS[@]}")
  if [ -n "${PYTHON:-}" ]; then names=("$PYTHON"); fi # the one asked for, or none
  for too_new in 15 999; do
    for name in "${names[@]}"; do
      if pgl_new_enough "$name" "$too_new"; then
        "$name" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
}

_pgl_explain_no_python() {
  local name="${PYTHON:-python3}" found
  if found="$("$name" -c 'import platform; print(platform.python_version())' 2>/dev/null)"; then
    found="$name is Python $found"
  else
    found="there is no $name that runs"
  fi
  _pgl_fail "$found; Python 3.11 or newer is needed" \
    "Debian/Ubuntu: sudo apt install python3 python3-venv; macOS: brew install python; others: python.org/downloads" \
    "If it is installed under another name: PYTHON=/path/to/python3.12 bash $0 ..."
}

_pgl_venv_python() { # Windows keeps it in Scripts
  if [ -x "$PGL_VENV/Scripts/python.exe" ]; then
    printf '%s\n' "$PGL_VENV/Scripts/python.exe"
  else
    printf '%s\n' "$PGL_VENV/bin/python"
  fi
}

_pgl_has_pip() { # Python; `uv venv` leaves it out
  { "$1" -c 'import pip' || "$1" -m ensurepip; } >/dev/null 2>&1
}

_pgl_about() { "$1" -c 'import platform as p, sys; print("Python", p.python_version(), "on", sys.platform, p.machine())'; }

_pgl_checksum() { "$1" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$2"; }

_pgl_make_venv() { # base Python
  if [ -e "$PGL_VENV" ]; then
    _pgl_say ".venv does not work (half made, its Python is gone, or older than 3.11): making it again"
  else
    _pgl_say "making .venv from $1"
  fi
  if ! "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    _pgl_fail "$1 cannot make virtual environments: its venv or ensurepip module is missing" \
      "Debian/Ubuntu: sudo apt install python3-venv; then run this command again"
  fi
  "$1" -m venv --clear "$PGL_VENV" || _pgl_fail "could not make $PGL_VENV with $1 (its own message stands above)"
}

# Lets .venv see the packages of its base Python, behind its own. (--system-site-packages does not do it: where the
# base is a virtual environment itself, that shows the packages of the Python below it.)
_pgl_lend_packages() { # base Python, Python of .venv
  "$1" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' \
    >"$("$2" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pgl_base_python.pth"
}

setup_python() {
  local base venv_python file stamp missing
  base="$(_pgl_find_python)"
  if [ -z "$base" ]; then _pgl_explain_no_python; fi

  cd "$PGL_ROOT" || exit 1
  if missing="$("$base" "$PGL_MISSING" "$@")"; then
    export PGL_PYTHON="$base"
    return
  fi

  venv_python="$(_pgl_venv_python)"
  if ! { pgl_new_enough "$venv_python" && _pgl_has_pip "$venv_python"; }; then
    _pgl_say "$base lacks $missing"
    _pgl_make_venv "$base"
    venv_python="$(_pgl_venv_python)"
    if "$base" "$PGL_MISSING" "$1" >/dev/null; then
      _pgl_say ".venv uses the packages of $1 from $base"
      _pgl_lend_packages "$base" "$venv_python"
      _pgl_checksum "$venv_python" "$1" >"$PGL_VENV/$1.sha256"
    fi
  fi

  for file in "$@"; do
    stamp="$PGL_VENV/$file.sha256"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(_pgl_checksum "$venv_python" "$file")" ] &&
      "$venv_python" "$PGL_MISSING" "$file" >/dev/null; then
      continue
    fi
    _pgl_say "installing $file into .venv (minutes for the large ones; interrupt and repeat as you like)"
    PIP_USER=0 "$venv_python" -m pip install --disable-pip-version-check --progress-bar off -r "$file" >&2 ||
      _pgl_fail "pip could not install $file into .venv (its own message stands above)" \
        "Run the same command again once that is mended: what is installed already stays." \
        "If it finds no matching distribution for $(_pgl_about "$venv_python"): rm -r .venv, then PYTHON=/path/to/python3.13 bash $0 ..." \
        "On a Mac there are packages for arm64 alone (Apple silicon, and a Python made for it), MLX from macOS 14 on." \
        "Without a network, PIP_FIND_LINKS=/folder/with/wheels PIP_NO_INDEX=1 bash $0 ... installs from files."
    _pgl_checksum "$venv_python" "$file" >"$stamp"
  done
  export PGL_PYTHON="$venv_python"
}
