#!/usr/bin/env python3
"""Fetch the challenge's FineWeb shards and tokenizer into the public layout under data/.

    python3 data/cached_challenge_fineweb.py --variant sp1024 --train-shards 2
    python3 data/cached_challenge_fineweb.py --variant sp1024 --verify
    python3 data/cached_challenge_fineweb.py --variant sp1024 --bundle fineweb_sp1024.tar
    python3 data/cached_challenge_fineweb.py --from-bundle fineweb_sp1024.tar

All of validation and the first N train shards (200 MB each) are fetched. A cut download continues where it
stopped, a second call does nothing. Every file is checked (the hub's sha256 where it gives one; header, size
and token range always) before it takes its name.

Environment: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE as huggingface_hub has them;
MATCHED_FINEWEB_REPO_ID and MATCHED_FINEWEB_REMOTE_ROOT_PREFIX for another repository in the same layout.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from prep.bundle import restore_bundle, write_bundle
from prep.console import Interrupted, Progress, ToolError, amount_text, tool_main
from prep.hub import REPO_ID, Hub, RemoteFile, in_parallel, is_whole, remote
from prep.published import DOCS_FILES, Plan, Variant, check_shard, make_plan, read_published, shard_names
from prep.shards import (
    MANIFEST_NAME,
    exclusive,
    file_entry,
    hash_faults,
    read_manifest,
    split_totals,
    tokenizer_entry,
    tokenizer_of,
    write_manifest,
)

DATA = Path(__file__).resolve().parent
DISK_MARGIN_BYTES = 100_000_000


def hub_source(manifest: dict[str, Any]) -> tuple[Any, Any]:
    """Repository and revision that a dataset manifest names; None for each it does not."""
    source = manifest.get("source")
    return (source.get("hub_repo"), source.get("revision")) if isinstance(source, dict) else (None, None)


def already_there(folder: Path, train_shards: int, docs: bool, root: Path, revision: str | None) -> bool:
    """Is everything asked for in place, by manifest and file sizes, from this repository and `revision` (None: any)? Needs no network."""
    if not (folder / MANIFEST_NAME).is_file() or (docs and not (root / DOCS_FILES[0]).is_file()):
        return False
    manifest = read_manifest(folder)
    repo, found = hub_source(manifest)
    if repo != REPO_ID or revision not in (None, found):
        print(f"{folder} is from {repo} revision {found}; looking whether {REPO_ID} revision {revision or 'main'} has the same", flush=True)
        return False
    present = {e["path"] for e in manifest["files"] if (folder / e["path"]).is_file() and (folder / e["path"]).stat().st_size == e["size"]}
    wanted = {e["path"] for e in manifest["files"] if e["split"] == "val"} | set(shard_names("train", train_shards))
    tokenizer = tokenizer_of(folder, manifest)
    return wanted <= present and tokenizer.is_file() and (root / MANIFEST_NAME).is_file()


def check_disk(files: list[RemoteFile], root: Path) -> None:
    """Raises ToolError unless the bytes still to come fit on the disk of `root`, with 100 MB to spare."""
    needed = sum(file.size - (file.part.stat().st_size if file.part.is_file() else 0) for file in files)
    free = shutil.disk_usage(root).free
    if needed and needed + DISK_MARGIN_BYTES > free:
        raise ToolError(
            f"{amount_text(needed)} to download and {amount_text(free)} free on the disk of {root}; "
            f"free {amount_text(needed + DISK_MARGIN_BYTES - free)}, or ask for fewer --train-shards"
        )


def recorded(folder: Path, hub: Hub) -> list[dict[str, Any]] | None:
    """The manifest's entries of the shards in `folder`; None without a manifest, or with one of another source."""
    if not (folder / MANIFEST_NAME).is_file():
        return None
    manifest = read_manifest(folder)
    repo, revision = hub_source(manifest)
    return manifest["files"] if repo == REPO_ID and (revision == hub.revision or hub.offline) else None


def other_shards(plan: Plan, variant: Variant, folder: Path, hub: Hub) -> list[tuple[str, RemoteFile]]:
    """Shards in `folder` that were not asked for and that no manifest of this very source lists: (split, file) each.

    They count as part of the dataset only where they are what the repository has.
    """
    known = {file.local.name for _, file in plan.shards} | {entry["path"] for entry in recorded(folder, hub) or []}
    found = [(path, re.fullmatch(r"fineweb_(train|val)_\d{6}\.bin", path.name)) for path in sorted(folder.glob("*.bin"))]
    place = f"datasets/{variant.dataset}"
    return [
        (match[1], RemoteFile(remote(f"{place}/{path.name}"), path, lambda p: check_shard(p, variant.vocab_size), optional=True))
        for path, match in found
        if match and path.name not in known
    ]


def fetch(variant: Variant, args: argparse.Namespace) -> None:
    """Bring everything asked for into place and write the dataset's manifest. Raises ToolError."""
    root, folder = args.data_root, args.data_root / "datasets" / variant.dataset
    hub = Hub(REPO_ID, args.revision or "main", args.retries, args.retry_wait)
    listing = RemoteFile(remote(MANIFEST_NAME), root / MANIFEST_NAME, lambda path: (read_published(path), None)[1])
    hub.pin(listing)
    if not (listing.sha256 and is_whole(listing)):
        hub.fetch(listing, Progress("manifest", None, quiet=True))
    plan = make_plan(read_published(root / MANIFEST_NAME), variant, args.train_shards, args.with_docs, root)
    others = other_shards(plan, variant, folder, hub)
    in_parallel(hub, args.jobs, hub.look_up, plan.files + [file for _, file in others])
    if differing := [file.local.name for _, file in others if file.missing or not is_whole(file)]:
        raise ToolError(
            f"{folder} has {', '.join(differing)} of another source than {REPO_ID} revision {hub.revision}; "
            "delete what is named here, or ask for as many --train-shards, and run the same command again"
        )
    files = [file for file in plan.files if not file.missing and not is_whole(file)]
    check_disk(files, root)
    total = sum(file.size for file in files)
    if files and recorded(folder, hub) is None:  # else a fetch cut short would leave a mixture under the manifest of the old source
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
    print(f"fetching files:{len(files)} bytes:{total} from {REPO_ID} revision {hub.revision}", flush=True)
    with Progress("fetching", total) as progress:
        progress.add(sum(file.part.stat().st_size for file in files if file.part.is_file()))
        in_parallel(hub, args.jobs, lambda file: hub.fetch(file, progress), files)
    plan.shards += others
    record(variant, plan, folder, hub.revision)
    for stale in [*folder.glob(".*.part"), *parts_of([listing, *plan.tokenizers, *plan.docs])]:  # parts of other versions
        stale.unlink(missing_ok=True)


def parts_of(files: list[RemoteFile]) -> list[Path]:
    """The parts of these files, of any version, as `RemoteFile.part` names them; others may build under names like theirs."""
    found = [(file, path) for file in files for path in file.local.parent.glob(f".{glob.escape(file.local.name)}.*.part")]
    return [path for file, path in found if len(path.name) != len(f".{file.local.name}.12345678.part")]


def what_is_kept(folder: Path, root: Path) -> str:
    """For the person who pressed Ctrl-C during a fetch."""
    sizes = []
    for part in (part for place in (root, root / "tokenizers", folder) for part in place.glob(".*.part")):
        with contextlib.suppress(OSError):  # a thread may just have given it its name
            sizes.append(part.stat().st_size)
    kept = f" and {len(sizes)} unfinished file{'s'[: len(sizes) != 1]} ({amount_text(sum(sizes))}, named .*.part)" if sizes else ""
    return f"files that are complete{kept} are kept; run the same command again and it continues"


def record(variant: Variant, plan: Plan, folder: Path, revision: str) -> None:
    """Write the dataset manifest of what is in `folder`; shards from earlier calls stay listed."""
    entries = {file.local.name: file_entry(file.local, split) for split, file in plan.shards}
    if (folder / MANIFEST_NAME).is_file():
        for entry in read_manifest(folder)["files"]:
            if (folder / entry["path"]).is_file():
                entries.setdefault(entry["path"], entry)
    files = [entries[name] for name in sorted(entries)]
    write_manifest(
        folder,
        name=variant.dataset,
        note="The challenge's FineWeb shards, as published.",
        smoke=False,
        tokenizer=tokenizer_entry(plan.tokenizers[0].local, folder, variant.vocab_size, variant.kind),
        files=files,
        splits={split: split_totals(files, split) for split in ("train", "val")},
        source={"hub_repo": REPO_ID, "revision": revision},
    )


def verify(folder: Path) -> None:
    """Hash everything in `folder` again and read all tokens. Raises ToolError that lists what is wrong."""
    manifest = read_manifest(folder)
    with Progress("verifying", sum(entry["size"] for entry in manifest["files"])) as progress:
        faults = hash_faults(folder, manifest, progress)
        for entry in manifest["files"]:
            path = folder / entry["path"]
            try:
                if path.is_file():
                    check_shard(path, manifest["tokenizer"]["vocab_size"])
            except ToolError as error:
                faults.append(str(error))
    if faults:
        raise ToolError("; ".join(faults) + ". Delete what is named here and run the same command without --verify to fetch it again")
    print(f"verified {folder}: {len(manifest['files'])} shards and the tokenizer are as recorded")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="sp1024", help="sp<VOCAB> or byte260 (default: sp1024)")
    parser.add_argument("--train-shards", type=int, default=2, metavar="N", help="train shards of 100,000,000 tokens (default: 2)")
    parser.add_argument("--with-docs", action="store_true", help="also the documents' text (tens of GB)")
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="files at a time (default: 4)")
    parser.add_argument("--retries", type=int, default=6, metavar="N", help="how often a failed request is tried again (default: 6)")
    parser.add_argument(
        "--retry-wait", type=float, default=1.0, metavar="S", help="seconds before the first retry, doubled each time (default: 1)"
    )
    parser.add_argument("--data-root", type=Path, default=DATA, metavar="DIR", help="where datasets/ and tokenizers/ go (default: data)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--verify", action="store_true", help="hash again what is there; fetch nothing")
    mode.add_argument("--bundle", type=Path, metavar="FILE", help="pack what is there for a machine without network")
    mode.add_argument("--from-bundle", type=Path, metavar="FILE", help="restore a bundle")
    args = parser.parse_args(argv)
    for option, low in (("train_shards", 0), ("jobs", 1), ("retries", 0), ("retry_wait", 0)):
        if getattr(args, option) < low:
            raise ToolError(f"--{option.replace('_', '-')} {getattr(args, option)} is below {low}")
    return args


def run(argv: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    args = parse_arguments(argv)
    variant = Variant.parse(args.variant)
    folder = args.data_root / "datasets" / variant.dataset
    if args.verify:
        verify(folder)
        return 0
    if args.bundle is not None:
        verify(folder)
        write_bundle(folder, args.data_root, args.bundle)
        return 0
    busy = f"another download into {args.data_root} is running; waiting for it to end"
    with exclusive(args.data_root / ".fetch.lock", busy, wait=True):
        if args.from_bundle is not None:
            restore_bundle(args.from_bundle, args.data_root)
        elif already_there(folder, args.train_shards, args.with_docs, args.data_root, args.revision):
            print(f"{folder} is complete: nothing to do (--verify hashes it again)")
        else:
            try:
                fetch(variant, args)
            except KeyboardInterrupt:
                raise Interrupted(what_is_kept(folder, args.data_root)) from None
            print(f"{folder} is complete")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(run))
