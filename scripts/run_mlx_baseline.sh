#!/usr/bin/env bash
# Purpose:  one run of train_gpt_mlx.py, from a bare clone to a scored artifact (packages, data, training, export,
#           score).
# Hardware: a Mac with Apple silicon (open-hardware lane), or a Linux CPU.
# Example:  bash scripts/run_mlx_baseline.sh configs/local_apple_mlx.env
#           bash scripts/run_mlx_baseline.sh configs/local_apple_smoke.env SEED=2 RUN_ID=second
# Where the config sets TARGET_BYTES, a self-extracting copy of train_gpt_mlx.py trains; --readable: not there, --packed: everywhere.
# --resume runs/ID goes on with an interrupted run, by the source and the settings in its folder.
# All other arguments go to train_gpt_mlx.py as they are.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/run_baseline.sh"
run_baseline train_gpt_mlx requirements-mlx.txt "$@"
