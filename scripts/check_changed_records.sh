#!/usr/bin/env bash
# Purpose:  checks the record folders that differ between two commits, as the workflow for pull requests does, and
#           that their dates are neither in the future nor, in the record track, that of a record in BASE or earlier.
#           A folder that stands in BASE is neither changed nor removed, but by maintainers: --maintainer allows it.
#           The folders are taken out of git as data; nothing of them is run.
# Hardware: any; Python 3.11 or newer, no packages.
# Example:  bash scripts/check_changed_records.sh origin/main HEAD
#           bash scripts/check_changed_records.sh origin/main HEAD --maintainer
# Exit status: 0 all clean, 1 findings, 2 usage.
set -euo pipefail

case "$# ${3-}" in
  "2 " | "3 --maintainer") ;;
  *)
    printf 'usage: bash %s BASE HEAD [--maintainer]\n' "$0" >&2
    exit 2
    ;;
esac
unset CDPATH # with it cd may print, or go elsewhere
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

export GIT_INDEX_FILE="$work/index"
git -C "$root" read-tree "$2"

# A record takes its place by its date, so a new one is dated later than those that stand.
standing="$(git -C "$root" ls-tree --name-only "$1" records/track_30min_2mb_local/)"

# On its own line, so that its failure stops all. Whatever the case: where it does not count, Records/verified is records/verified.
git -C "$root" diff --no-renames --name-only -z "$1...$2" -- ':(icase)records' >"$work/changed"

status=0
folders=()
while IFS= read -r -d '' path; do
  case "$path" in
    records/verified/*)
      echo "$path: verdicts come from maintainers, in a commit of their own" >&2
      status=1
      ;;
    records/track_*/*/*)
      inside="${path#records/*/*/}" # not by cut, which takes a path of two lines for two
      folder="${path%"/$inside"}"
      case " ${folders[*]-} " in *" $folder "*) ;; *) folders+=("$folder") ;; esac
      ;;
    records/README.md | records/track_*/README.md)
      if [ "${3-}" != --maintainer ]; then
        echo "$path: what the tracks are is for maintainers to say; put your run into a folder of its own" >&2
        status=1
      fi
      ;;
    *)
      echo "$path: belongs to no record folder" >&2
      status=1
      ;;
  esac
done <"$work/changed"

for folder in ${folders[@]+"${folders[@]}"}; do
  if [ "${3-}" != --maintainer ] && git -C "$root" rev-parse --quiet --verify "$1:$folder" >/dev/null; then
    echo "$folder: stands in $1, and only maintainers change or remove what stands; put yours into a folder of its own" >&2
    status=1
  fi
  if ! git -C "$root" rev-parse --quiet --verify "$2:$folder" >/dev/null; then
    echo "$folder: removed"
    continue
  fi
  # Not by git archive, from which a .gitattributes of the folder's own could hide files.
  git -C "$root" ls-files -z -- "$folder" | git -C "$root" checkout-index -z --stdin --prefix="$work/tree/"
  newest="$(printf '%s\n' "$standing" | grep -vxF "$folder" |
    sed -n 's|.*/\([0-9]\{4\}-[0-9][0-9]-[0-9][0-9]\)_.*|\1|p' | sort | tail -n 1 || true)"
  bash "$root/scripts/check_submission_folder.sh" "$work/tree/$folder" --proposed "${newest:-none}" || status=1
done
echo "checked ${#folders[@]} changed record folders"
exit "$status"
