"""Bundles: a dataset with its tokenizer and all hashes in one tar file, for machines without a network.

cached_challenge_fineweb.py makes (--bundle FILE) and restores (--from-bundle FILE) them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from prep.console import Progress, ToolError, amount_text
from prep.shards import MANIFEST_NAME, atomic_path, brief, load_manifest, read_manifest, sha256_file, temporary_path, tokenizer_of

BUNDLE_FORMAT = "parameter-golf-local/bundle-1"
BUNDLE_INDEX = "bundle.json"


def bundle_files(folder: Path, root: Path) -> list[Path]:
    """What a bundle of `folder` holds; the dataset's manifest comes last, so it is restored last."""
    manifest = read_manifest(folder)
    tokenizer = tokenizer_of(folder, manifest)
    files = [tokenizer, *sorted(tokenizer.parent.glob(tokenizer.stem + ".vocab"))]
    files += [root / MANIFEST_NAME] if (root / MANIFEST_NAME).is_file() else []
    return files + [folder / entry["path"] for entry in manifest["files"]] + [folder / MANIFEST_NAME]


def write_bundle(folder: Path, root: Path, target: Path) -> None:
    """Pack the dataset in `folder`, verified, its tokenizer and their hashes into one tar file. Raises ToolError."""
    folder, root = Path(os.path.abspath(folder)), Path(os.path.abspath(root))  # as typed: parts of them may be symlinks
    files = bundle_files(folder, root)
    index = [{"path": path.relative_to(root).as_posix(), "size": path.stat().st_size, "sha256": sha256_file(path)} for path in files]
    with atomic_path(target) as part, tarfile.open(part, "w") as tar, Progress("bundling", sum(e["size"] for e in index)) as progress:
        head = json.dumps({"format": BUNDLE_FORMAT, "files": index}, indent=1).encode()
        add_member(tar, BUNDLE_INDEX, head, progress)
        for entry, path in zip(index, files, strict=True):
            add_member(tar, entry["path"], path, progress)
    print(f"bundled {len(files)} files into {target} ({amount_text(target.stat().st_size)})")


def add_member(tar: tarfile.TarFile, name: str, content: Path | bytes, progress: Progress) -> None:
    """Add bytes or a file to `tar` as `name`, without owner or date, so that equal data gives equal bundles."""
    member = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        return
    member.size = content.stat().st_size
    with open(content, "rb") as file:
        tar.addfile(member, file)
    progress.add(member.size)


def restore_bundle(source: Path, root: Path) -> None:
    """Unpack a bundle under `root`. Files take their names together, after all were checked; until then nothing is changed.

    Raises:
        ToolError: not a bundle, cut, or with anything in it that its index does not name.
    """
    with contextlib.ExitStack() as stack:
        staged: dict[str, Path] = {}
        try:
            with tarfile.open(source, "r|") as tar:
                members = iter(tar)
                listed = read_index(tar, next(members, None), source)
                with Progress("restoring", sum(entry["size"] for entry in listed.values())) as progress:
                    for member in members:
                        entry = listed.get(member.name)
                        if entry is None or member.name in staged or not member.isreg() or member.size != entry["size"]:
                            raise ToolError(f"{source}: {member.name} is not as its index says; nothing of it was used")
                        staged[member.name] = stack.enter_context(temporary_path(root / member.name))
                        stage_member(tar, member, entry, staged[member.name], source)
                        progress.add(member.size)
        except (tarfile.TarError, EOFError) as error:
            raise ToolError(f"{source}: not a whole bundle ({error}); nothing of it was used; copy it again") from None
        if missing := sorted(set(listed) - set(staged)):
            raise ToolError(f"{source}: {', '.join(missing)} is missing; nothing of it was used; copy the bundle again")
        check_staged(staged, listed, root, source)
        manifests = [name for name in staged if PurePosixPath(name).name == MANIFEST_NAME and name != MANIFEST_NAME]
        for name in manifests:  # without it, should the machine stop between two renames, the next fetch looks at every file
            (root / name).unlink(missing_ok=True)
        for name in [name for name in staged if name not in manifests] + manifests:
            os.replace(staged[name], root / name)
    print(f"restored {source} into {root}")


def check_staged(staged: dict[str, Path], listed: dict[str, dict[str, Any]], root: Path, source: Path) -> None:
    """Raises ToolError unless the dataset manifests of a bundle are right and speak of its files, and all can take their names."""
    for name, part in staged.items():
        if (root / name).is_dir():
            raise ToolError(f"{source}: {root / name} is a folder where it has a file; nothing of it was used; move that folder away")
        folder = PurePosixPath(name).parent
        if PurePosixPath(name).name != MANIFEST_NAME or name == MANIFEST_NAME:
            continue
        manifest = load_manifest(part, f"{source}: {name}")
        for entry in manifest["files"]:
            if listed.get(f"{folder}/{entry['path']}", {}).get("sha256") != entry["sha256"]:
                raise ToolError(f"{source}: {entry['path']} is not as its {name} says; nothing of it was used; make the bundle again")


def read_index(tar: tarfile.TarFile, member: tarfile.TarInfo | None, source: Path) -> dict[str, dict[str, Any]]:
    """The bundle's index by path. Raises ToolError if there is none or a path is out of place."""
    remedy = "make one with --bundle FILE"
    error = ToolError(f"{source} is not a bundle; {remedy}")
    if member is None or member.name != BUNDLE_INDEX or not member.isreg() or member.size > 1 << 26:
        raise error
    try:
        index = json.loads(tar.extractfile(member).read())
    except (ValueError, RecursionError):
        raise error from None
    found = index.get("format") if isinstance(index, dict) else None
    if found != BUNDLE_FORMAT:
        raise ToolError(f"{source}: its format is {brief(found)}, and {BUNDLE_FORMAT} is read; {remedy}")
    files = index.get("files")
    if not isinstance(files, list):
        raise ToolError(f"{source}: files in its index is {brief(files)}, not a list; {remedy}")
    listed = {}
    for entry in files:
        path, size, sha256 = (entry.get(key) for key in ("path", "size", "sha256")) if isinstance(entry, dict) else (None, None, None)
        if not isinstance(path, str) or type(size) is not int or size < 0 or not isinstance(sha256, str):
            raise ToolError(f"{source}: its index has {brief(entry)}; each file has a path, a size in bytes and a sha256; {remedy}")
        listed[path] = {"size": size, "sha256": sha256}
    for path in listed:
        if path != MANIFEST_NAME and not re.fullmatch(r"(datasets/[\w.-]+|tokenizers)/\w[\w.-]*", path) or ".." in path:
            raise ToolError(f"{source}: its index names {path!r}, which is outside datasets/ and tokenizers/")
    return listed


def stage_member(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: dict[str, Any], part: Path, source: Path) -> None:
    """Write one file of a bundle to `part`, checked."""
    with open(part, "wb") as file:
        shutil.copyfileobj(tar.extractfile(member), file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    if sha256_file(part) != entry["sha256"]:
        raise ToolError(f"{source}: {member.name} does not have the sha256 of the index; nothing of it was used; copy the bundle again")
