# shellcheck shell=bash
# What run_cuda_baseline.sh and run_mlx_baseline.sh have in common. Sourced, never run by itself.
#
#   run_baseline TRAINER REQUIREMENTS CONFIG [--packed | --readable] [KEY=VALUE ...]
#   run_baseline TRAINER REQUIREMENTS [CONFIG] --resume RUN [KEY=VALUE ...]
#
# Where the config sets TARGET_BYTES, a self-extracting copy of the trainer trains, whose code takes a third of the bytes: the rest goes
# to the weights. --readable trains with the source as it is, --packed with the copy whatever the config says. --resume RUN goes on with an
# interrupted run by the source and the settings in its folder, without the config.

. "$(dirname "${BASH_SOURCE[0]}")/setup_python.sh"

_pgl_usage() {
  printf 'usage: bash %s CONFIG [--packed | --readable] [--resume RUN] [KEY=VALUE ...], with one of these as CONFIG:\n' "$0"
  (cd "$PGL_ROOT" && printf '       %s\n' configs/*.env)
}

_pgl_refuse() { # line that says what is wrong
  printf 'error: %s\n' "$1" >&2
  _pgl_usage >&2
  exit 2
}

run_baseline() {
  local trainer="$1" requirements="$2" config="${3:-}" with=()
  shift 2
  case "$config" in
    '') _pgl_refuse "no config given" ;;
    -h | --help)
      _pgl_usage
      exit 0
      ;;
    --resume | --resume=*) ;; # the run has settings of its own
    -* | *=*) _pgl_refuse "the first argument is $config; the config comes first" ;;
    *)
      shift
      # A config is looked for where the command was typed, then in the repository root, where everything runs.
      if [ -f "$config" ]; then
        if [ "$PWD" != "$PGL_ROOT" ]; then config="$(cd "$(dirname "$config")" && pwd)/$(basename "$config")"; fi
      elif [ ! -f "$PGL_ROOT/$config" ]; then
        _pgl_refuse "there is no config file $config"
      fi
      with=(--config "$config")
      ;;
  esac

  cd "$PGL_ROOT" || exit 1
  setup_python "$requirements"
  PGL_SCRIPT="$0" exec "$PGL_PYTHON" scripts/prepare_run.py "$trainer" --train ${with[@]+"${with[@]}"} "$@"
}
