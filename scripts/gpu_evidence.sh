#!/usr/bin/env bash
# Purpose:  everything that waits for a GPU, in one call: the tests that need one, a profile of the public baseline's shape, then for each
#           config the profile of a steady step (as it is, without CUDA graphs, with options of Inductor's) and the run, its source packed; last
#           the referee's verdict on RECORDS, scored on the device; logs, artifacts and verdicts in one folder. What it brings back belongs in
#           docs/hardware.md and in records/. PARTS names some of the parts (tests, profiles, runs, referee), CONFIGS some configs and RECORDS
#           other record folders, where one call may not last; AUTOTUNE=1 adds a profile with products that
#           Inductor tunes and fuses with what follows them, after minutes of compiling; AHEAD=1 first compiles for all profiles at once, which
#           saves minutes on a card of 40 GB or more with many cores beside it. What needs no GPU is left for later: other
#           exports of the same weights (scripts/sweep_export.py), scores without the cache (--eval-only … NGRAM_CACHE=0).
# Hardware: one CUDA device. TRAIN_SECONDS is the training clock; about 400 s of an H200 stand for 1800 s of an RTX 4090.
# Example:  TRAIN_SECONDS=400 bash scripts/gpu_evidence.sh out DATA_PATH=… TOKENIZER_PATH=… VAL_TOKENS=524288
#           PARTS=runs CONFIGS=configs/local_4090_record.env TRAIN_SECONDS=400 bash scripts/gpu_evidence.sh out …
# The arguments after the folder go to every run as they are. Uses the running python3, which must have the packages.
set -euo pipefail
unset CDPATH # with it cd may go elsewhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1-}" in
  -h | --help)
    echo "usage: bash $0 OUT [KEY=VALUE ...]; the lines at its top say what it runs, and what PARTS, CONFIGS, RECORDS and TRAIN_SECONDS do"
    exit 0
    ;;
  '' | -* | *=*)
    echo "usage: bash $0 OUT [KEY=VALUE ...]" >&2
    exit 2
    ;;
esac
out="$1"
shift
if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "error: python3 has no torch that finds a CUDA device; python3 scripts/doctor.py says what is missing" >&2
  exit 2
fi
mkdir -p "$out"
python3 -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' | tee "$out/device.txt"

failed=0
configs="${CONFIGS:-configs/local_4090_baseline.env configs/local_4090_record.env}"
wanted() { [[ " ${PARTS:-tests profiles runs referee} " == *" $1 "* ]]; }
profiled() { # NAME ARGUMENTS: a profile of a steady step, kept as NAME.profile.md
  local name="$1"
  shift
  if [ -n "${compiling:-}" ]; then # fill the compiler's caches; the numbers, of a crowded card, are thrown away
    python3 scripts/profile_step.py "$@" >/dev/null 2>&1 &
    return
  fi
  echo "== profile: $name"
  python3 scripts/profile_step.py "$@" 2>&1 | tee "$out/$name.profile.md" || failed=1
}
profiles() { # ARGUMENTS: all profiles
  # the public 16 MB baseline takes 44 ms for such a step on each of eight H100s (openai/parameter-golf, pull request 151)
  profiled public_shape --config configs/local_4090_baseline.env "$@" NUM_LAYERS=9 MODEL_DIM=512 NUM_HEADS=8 NUM_KV_HEADS=4 \
    TRAIN_SEQ_LEN=1024 TRAIN_BATCH_TOKENS=65536
  local config name option
  for config in $configs; do
    name="$(basename "$config" .env)"
    profiled "$name" --config "$config" "$@"
    profiled "$name.no_graphs" --config "$config" "$@" COMPILE=on
    for option in combo_kernels=True coordinate_descent_tuning=True triton.mix_order_reduction_split_size=256 ${AUTOTUNE:+max_autotune=True}; do
      profiled "$name.${option%%=*}" --config "$config" "$@" "inductor.$option"
    done
  done
}

if wanted tests; then # without pytest it fails, and says so
  python3 -m pytest -q -p no:cacheprovider tests/test_devices.py -k "gpu_gives or graphs_step" 2>&1 | tee "$out/tests.txt" || failed=1
fi
if wanted profiles; then
  if [ -n "${AHEAD:-}" ]; then
    echo "== compiling for all profiles"
    compiling=1 profiles "$@"
    wait
  fi
  profiles "$@"
fi
if wanted runs; then
  rm -f "$out/packed/train_gpt.py"
  python3 scripts/pack_code.py train_gpt.py "$out/packed/train_gpt.py"
  for config in $configs; do
    echo "== run: $config"
    python3 "$out/packed/train_gpt.py" --config "$config" "RUNS_DIR=$out/runs" "RUN_ID=$(basename "$config" .env)" \
      "MAX_WALLCLOCK_SECONDS=${TRAIN_SECONDS:-1800}" "$@" || failed=1
  done
fi
if wanted referee; then
  where=()
  for argument in "$@"; do
    case "$argument" in
      DATA_PATH=*) where+=(--data "${argument#*=}") ;;
      TOKENIZER_PATH=*) where+=(--tokenizer "${argument#*=}") ;;
    esac
  done
  for record in ${RECORDS:-records/track_non_record/2026-11-26_h200_record}; do
    echo "== referee: $record"
    python3 scripts/referee.py "$record" ${where[@]+"${where[@]}"} --json "$out/$(basename "$record").verdict.json" 2>&1 |
      tee "$out/$(basename "$record").referee.txt" || failed=1
  done
fi
exit "$failed"
