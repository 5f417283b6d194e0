#!/usr/bin/env bash
# Purpose:  checks the record folders that differ between two commits, as the workflow for pull requests does, and
#           that their dates are neither in the future nor, in the record track, that of a record in BASE or earlier, and
#           that they count the same text as what stands in BASE does.
#           Beside record folders nothing else may differ, and a folder that stands in BASE is neither changed nor removed,
#           but by maintainers: --maintainer allows both, and verdicts.
#           The folders are taken out of git as data; nothing of them is run.
# Hardware: any; Python 3.11 or newer, git 2.38 or newer, no packages.
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

# What a merge of HEAD would make of BASE, and not how HEAD differs from where the two parted: of several such places git takes one,
# and from another HEAD may have undone what BASE has. On a conflict merge-tree fails, and so does this.
git -C "$root" merge-base "$1" "$2" >"$work/base" # fails where a name is unknown, or nothing is common
merged="$(git -C "$root" merge-tree --write-tree "$1" "$2")" || {
  printf 'HEAD does not merge into BASE by itself; merge or rebase first\n%s\n' "$(printf '%q' "$merged")" >&2
  exit 1
}
# What stands: a new folder is held against it.
export GIT_INDEX_FILE="$work/index"
mkdir -p "$work/standing/records"
git -C "$root" read-tree "$1"
git -C "$root" ls-files -z -- ':(glob)records/*/*/README.md' ':(glob)records/*/*/submission.json' |
  git -C "$root" checkout-index -z --stdin --prefix="$work/standing/"
git -C "$root" read-tree "$merged"

# On its own line, so that its failure stops all. Whatever the case: where it does not count, Records/verified is records/verified.
# Submodules count, whatever a .gitmodules says of them.
differ=(git -C "$root" diff --ignore-submodules=none --no-renames --name-only -z "$1" "$merged" --)
"${differ[@]}" ':(icase)records' >"$work/changed"
"${differ[@]}" . ':(exclude,icase)records' >"$work/beside"

status=0
maintainer="${3-}"
maintains() { [ "$maintainer" = --maintainer ]; }
there() { git -C "$root" rev-parse --quiet --verify "$1:$2" >/dev/null; }
say() { # say PATH WORDS: a finding; the path is a stranger's, and may hold anything
  printf '%q: %s\n' "$1" "$2" >&2
  status=1
}

folders=()
newline=$'\n'
while IFS= read -r -d '' path; do
  case "$path" in
    records/verified/*)
      maintains || say "$path" "verdicts come from maintainers, in a commit of their own"
      ;;
    records/track_*/*/*)
      inside="${path#records/*/*/}" # not by cut, which takes a path of two lines for two
      folder="${path%"/$inside"}"
      case "$newline$(printf '%s\n' ${folders[@]+"${folders[@]}"})$newline" in
        *"$newline$folder$newline"*) ;;
        *) folders+=("$folder") ;;
      esac
      ;;
    records/README.md | records/track_*/README.md)
      maintains || say "$path" "what the tracks are is for maintainers to say; put your run into a folder of its own"
      ;;
    *)
      say "$path" "belongs to no record folder"
      ;;
  esac
done <"$work/changed"

if [ -s "$work/changed" ] && ! maintains; then
  while IFS= read -r -d '' path; do
    say "$path" "belongs to no record folder, and a record comes alone; propose this by itself"
  done <"$work/beside"
fi

for folder in ${folders[@]+"${folders[@]}"}; do
  if ! maintains && there "$1" "$folder"; then
    say "$folder" "stands in $1, and only maintainers change or remove what stands; put yours into a folder of its own"
  fi
  if ! there "$merged" "$folder"; then
    printf '%q: removed\n' "$folder"
    continue
  fi
  for track in track_30min_2mb_local track_non_record; do # a verdict is found by the name alone
    twin="records/$track/${folder##*/}"
    if [ "$twin" != "$folder" ] && { there "$1" "$twin" || there "$merged" "$twin"; }; then
      say "$folder" "has the name of $twin; choose another"
    fi
  done
  # Not by git archive, from which a .gitattributes of the folder's own could hide files.
  git -C "$root" ls-files -z -- "$folder" | git -C "$root" checkout-index -z --stdin --prefix="$work/tree/"
  bash "$root/scripts/check_submission_folder.sh" "$work/tree/$folder" --standing "$work/standing/records" || status=1
done
echo "checked ${#folders[@]} changed record folders"
exit "$status"
