#!/usr/bin/env bash
# Purpose:  one run of train_gpt.py, from a bare clone to a scored artifact (packages, data, training, export, score).
# Hardware: one CUDA GPU, or the CPU with a config that says DEVICE=cpu.
# Example:  bash scripts/run_cuda_baseline.sh configs/local_4090_baseline.env
#           bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env SEED=2 RUN_ID=second
# Where the config sets TARGET_BYTES, a self-extracting copy of train_gpt.py trains; --readable: not there, --packed: everywhere.
# --resume runs/ID goes on with an interrupted run, by the source and the settings in its folder.
# All other arguments go to train_gpt.py as they are.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/run_baseline.sh"
run_baseline train_gpt requirements-cuda.txt "$@"
