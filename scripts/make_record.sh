#!/usr/bin/env bash
# Purpose:  makes a record folder from one finished run, or from one run per seed, and checks it.
# Hardware: any; Python 3.11 or newer, no packages.
# Duration: about 1 s (2 CPU cores, 2026-11-21).
# Example:  bash scripts/make_record.sh records/track_30min_2mb_local/2026-11-21_wider runs/a runs/b runs/c
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/bare_python.sh"
run_bare make_record.py "$@"
