#!/usr/bin/env bash
# Purpose:  the referee: scores a record's artifacts again, its code in a jail, and compares with the claim.
# Hardware: Linux for the isolation; a CPU, or the GPU of the claim.
# Duration: 4.9 times the CPU seconds of --eval-only for 131,072 targets without a cache (2 CPU cores, 2026-11-26), less for
#           more; with a cache 4 to 23 times the seconds of scoring.
# Example:  bash scripts/rescore.sh records/track_30min_2mb_local/2026-11-21_wider
#           bash scripts/rescore.sh records/track_non_record/2026-11-21_cpu --data DIR --tokenizer FILE.model \
#                --json records/verified/2026-11-21_cpu.json --sign me
# Exit status: 0 as claimed, 1 refused or not as claimed, 2 usage, no data, or no isolation to be had.
set -euo pipefail

for arg in "$@"; do # help needs no packages
  case "$arg" in -h | --help) exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/referee.py" --help ;; esac
done
here="$PWD"
. "$(dirname "${BASH_SOURCE[0]}")/setup_python.sh"
needed=(requirements-cuda.txt)
for arg in "$@"; do # a record of train_gpt_mlx.py says which MLX computed it
  if grep -qs -- '"mlx":' "$arg/submission.json"; then needed+=(requirements-mlx.txt); fi
done
setup_python "${needed[@]}"
cd "$here"
exec "$PGL_PYTHON" "$PGL_ROOT/scripts/referee.py" "$@"
