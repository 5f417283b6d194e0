#!/usr/bin/env bash
# Purpose:  checks record folders: files, submission.json, logs, source and artifact against one another and the rules.
#           Nothing of the folder is run, unless --rescore asks the referee for it.
# Hardware: any; Python 3.11 or newer, no packages (--rescore needs those of the trainer).
# Duration: under 1 s a folder (2 CPU cores, 2026-11-21).
# Example:  bash scripts/check_submission_folder.sh records/track_30min_2mb_local/2026-11-21_wider
#           bash scripts/check_submission_folder.sh records/track_*/2026-* --json
# Exit status: 0 clean, 1 findings, 2 usage.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/bare_python.sh"
run_bare check_submission.py "$@"
