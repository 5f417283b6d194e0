#!/usr/bin/env bash
# Purpose:  everything that waits for a GPU, in one call: for each config the profile of a steady step, the run, its score without
#           the n-gram cache and, where it has BALANCE_TOKENS, its weights exported again without it and without DEAD_ZONE; logs and
#           artifacts in one folder. What it brings back belongs in docs/hardware.md and in records/. CONFIGS names the configs, where
#           one call may not last.
# Hardware: one CUDA device. TRAIN_SECONDS is the training clock; about 400 s of an H200 stand for 1800 s of an RTX 4090.
# Example:  TRAIN_SECONDS=400 bash scripts/gpu_evidence.sh out DATA_PATH=… TOKENIZER_PATH=… VAL_TOKENS=524288
#           CONFIGS=configs/local_4090_record.env TRAIN_SECONDS=400 bash scripts/gpu_evidence.sh out …
# The arguments after the folder go to every run as they are. Uses the running python3, which must have the packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out="${1:?usage: bash scripts/gpu_evidence.sh OUT [KEY=VALUE ...]}"
shift
mkdir -p "$out"
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' | tee "$out/device.txt"

failed=0
for config in ${CONFIGS:-configs/local_4090_baseline.env configs/local_4090_record.env}; do
  name="$(basename "$config" .env)"
  echo "== $name: profile"
  python3 scripts/profile_step.py --config "$config" "$@" 2>&1 | tee "$out/$name.profile.md" || failed=1
  echo "== $name: run"
  python3 train_gpt.py --config "$config" "RUNS_DIR=$out/runs" "RUN_ID=$name" "MAX_WALLCLOCK_SECONDS=${TRAIN_SECONDS:-1800}" "$@" || failed=1
  if grep -q '^NGRAM_CACHE' "$config"; then
    echo "== $name: scored without the cache"
    python3 train_gpt.py --config "$config" --eval-only "$out/runs/$name/artifact.bin" "$@" NGRAM_CACHE=0 | tee "$out/$name.no_cache.txt" || failed=1
  fi
  if grep -q '^BALANCE_TOKENS' "$config"; then
    echo "== $name: exported again"
    python3 scripts/sweep_export.py "$out/runs/$name" BALANCE_TOKENS=0,65536 DEAD_ZONE=0,0.12 --targets 262144 | tee "$out/$name.export.md" || failed=1
  fi
done
find "$out/runs" -name '*.npz' -delete
exit "$failed"
