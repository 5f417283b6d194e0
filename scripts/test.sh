#!/usr/bin/env bash
# Purpose:  installs what the tests need (see scripts/setup_python.sh), checks style, runs the tests.
# Hardware: a CPU; tests that need a GPU or a Mac are skipped and say so.
# Example:  bash scripts/test.sh
#           bash scripts/test.sh -k windows -x
# The arguments go to pytest as they are.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/setup_python.sh"
cd "$PGL_ROOT"
needed=(requirements-cuda.txt requirements-test.txt)
if (setup_python "${needed[@]}" requirements-analysis.txt requirements-mlx.txt); then
  setup_python "${needed[@]}" requirements-analysis.txt requirements-mlx.txt
else
  echo "note: MLX or the analysis packages do not install here; their tests are skipped"
  setup_python "${needed[@]}"
fi

style=0
echo "== ruff"
"$PGL_PYTHON" -m ruff check . || style=$?
echo "== shellcheck"
PATH="$(dirname "$PGL_PYTHON"):$PATH"
shellcheck scripts/*.sh .ci/run || style=$?

echo "== pytest"
tests=0
OMP_NUM_THREADS=1 "$PGL_PYTHON" -m pytest -n "${PYTEST_WORKERS:-auto}" --dist loadfile "$@" || tests=$? # a process a core
if [ "$style" -ne 0 ]; then echo "style: failed, see above" >&2; fi
if [ "$tests" -ne 0 ]; then exit "$tests"; fi
exit "$style"
