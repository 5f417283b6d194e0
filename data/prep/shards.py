"""Token shards and dataset manifests: the one place in the tools that writes them.

Shard: 256 little-endian int32 (magic 20240520, version 1, token count, zeros), then that many
little-endian uint16 tokens, and nothing else. Manifest: `manifest.json` in a dataset folder, format
"parameter-golf-local/dataset-1", described in data/README.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from prep.console import ToolError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
TOKEN_BYTES = 2
SHARD_TOKENS = 100_000_000
BOS_ID = 1
MAX_VOCAB = 1 << 16
SPLITS = ("train", "val")
MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "parameter-golf-local/dataset-1"


# --- files that are whole or absent ---------------------------------------------------------------


@contextlib.contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; whatever happens, a file of that name is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and takes its name.

    On any error, Ctrl-C included, the temporary file is removed and `path` is as it was.
    """
    with temporary_path(path) as part:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def exclusive(path: Path, busy: str, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it when the process dies, however that happens.

    Args:
        busy: what to say when another process holds it.
        wait: say so and wait, instead of raising ToolError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise ToolError(busy) from None
        print(busy, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256_file(path: Path) -> str:
    """Hex sha256 of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- shards ---------------------------------------------------------------------------------------


def header(tokens: int) -> bytes:
    """The 1,024 header bytes of a shard of `tokens` tokens."""
    return struct.pack("<3i", MAGIC, VERSION, tokens).ljust(HEADER_BYTES, b"\0")


def shard_tokens(path: Path) -> int:
    """Token count of the shard at `path`, from its header checked against its size.

    Raises:
        ToolError: not a shard, another version, or a size that does not match the count.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(12)
    if size < HEADER_BYTES:
        raise ToolError(f"{path}: {size} bytes is too short for a shard, whose header alone is {HEADER_BYTES}")
    magic, version, tokens = struct.unpack("<3i", start)
    if (magic, version) != (MAGIC, VERSION):
        raise ToolError(f"{path}: magic {magic} version {version}; a token shard has {MAGIC} and {VERSION}")
    expected = HEADER_BYTES + TOKEN_BYTES * tokens
    if tokens < 1 or size != expected:
        raise ToolError(f"{path}: header says {tokens} tokens, so {expected} bytes; the file has {size}")
    return tokens


def check_token_range(path: Path, vocab_size: int) -> None:
    """Read every token of the shard at `path`.

    Raises:
        ToolError: a token is not below `vocab_size`.
    """
    chunk = 1 << 22
    tokens = np.memmap(path, "<u2", "r", offset=HEADER_BYTES)
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        if int(part.max()) >= vocab_size:
            at = start + int(np.argmax(part >= vocab_size))
            raise ToolError(f"{path}: token {int(tokens[at])} at position {at}; the tokenizer has ids 0 to {vocab_size - 1}")


class SplitWriter:
    """Streams the tokens of one split into numbered shards of `limit` tokens.

    Files are `<prefix>_<split>_%06d.bin` in `folder`. The caller gives a folder that is renamed when it is
    complete, so a shard here may be unfinished until `close`.
    """

    def __init__(self, folder: Path, prefix: str, split: str, limit: int = SHARD_TOKENS) -> None:
        self.folder, self.prefix, self.split, self.limit = folder, prefix, split, limit
        self.paths: list[Path] = []
        self.tokens = 0
        self._file = None
        self._room = 0

    def add(self, tokens: np.ndarray) -> None:
        """Append tokens, a uint16 array of shape (n,)."""
        while len(tokens):
            if not self._room:
                self._next_file()
            part, tokens = tokens[: self._room], tokens[self._room :]
            self._file.write(part.astype("<u2", copy=False).tobytes())
            self._room -= len(part)
            self.tokens += len(part)

    def _next_file(self) -> None:
        self._finish_file()
        path = self.folder / f"{self.prefix}_{self.split}_{len(self.paths):06d}.bin"
        self.paths.append(path)
        self._file = open(path, "wb")
        self._file.write(header(0))
        self._room = self.limit

    def _finish_file(self) -> None:
        if self._file is None:
            return
        with self._file as file:
            self._file = None
            file.seek(0)
            file.write(header(self.limit - self._room))
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Write the last header and flush to disk. May be called twice."""
        self._finish_file()


# --- manifests ------------------------------------------------------------------------------------


def file_entry(path: Path, split: str) -> dict[str, Any]:
    """The manifest's line for the shard at `path`: name, split, sha256, size in bytes, tokens."""
    return {
        "path": path.name,
        "split": split,
        "sha256": sha256_file(path),
        "size": path.stat().st_size,
        "tokens": shard_tokens(path),
    }


def tokenizer_entry(path: Path, folder: Path, vocab_size: int, kind: str, later: Path | None = None) -> dict[str, Any]:
    """The manifest's tokenizer block; the path is relative to the dataset `folder`, and that of `later` if `path` is renamed to it."""
    relative = Path(os.path.relpath(later or path, folder)).as_posix()
    return {"path": relative, "sha256": sha256_file(path), "vocab_size": vocab_size, "kind": kind}


def split_totals(files: list[dict[str, Any]], split: str, **known: int) -> dict[str, Any]:
    """The manifest's totals of one split; `known` documents, text_bytes and source_bytes, null where not given."""
    tokens = sum(f["tokens"] for f in files if f["split"] == split)
    return {"tokens": tokens, "documents": None, "text_bytes": None, "source_bytes": None} | known


def write_manifest(
    folder: Path,
    *,
    name: str,
    note: str,
    smoke: bool,
    tokenizer: dict[str, Any],
    files: list[dict[str, Any]],
    splits: dict[str, dict[str, Any]],
    source: dict[str, Any],
) -> dict[str, Any]:
    """Write `folder`/manifest.json and return what it holds. Keys as in data/README.md."""
    manifest = {
        "format": MANIFEST_FORMAT,
        "name": name,
        "note": note,
        "smoke": smoke,
        "tokenizer": tokenizer,
        "files": files,
        "splits": splits,
        "source": source,
    }
    write_text(folder / MANIFEST_NAME, json.dumps(manifest, indent=1) + "\n")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The dataset manifest in `folder`.

    Raises:
        ToolError: there is none, or it is not one of ours.
    """
    return load_manifest(folder / MANIFEST_NAME)


def load_manifest(path: Path, name: str | None = None) -> dict[str, Any]:
    """The dataset manifest at `path`, called `name` in messages. Raises ToolError as `read_manifest` does."""
    name = name or str(path)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ToolError(f"{name} is missing: build or fetch the dataset again") from None
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{name} is not JSON ({error}): build or fetch the dataset again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise ToolError(f"{name}: not a dataset manifest of format {MANIFEST_FORMAT}")
    if fault := manifest_fault(manifest):
        raise ToolError(f"{name}: {fault}: build or fetch the dataset again")
    return manifest


def tokenizer_of(folder: Path, manifest: dict[str, Any]) -> Path:
    """The tokenizer of the dataset in `folder`. `..` leads back along `folder` as typed, since a part of it may be a symlink."""
    path = folder / manifest["tokenizer"]["path"]
    typed = Path(os.path.abspath(path))
    return typed if typed.is_file() else path


def manifest_fault(manifest: dict[str, Any]) -> str:
    """What a dataset manifest lacks of that which the tools rely on; "" if nothing."""
    files = manifest.get("files")
    if not isinstance(files, list):
        return f"files is {brief(files)}, not a list"
    blocks = [("tokenizer", manifest.get("tokenizer"), {"path": str, "sha256": str, "vocab_size": int})]
    blocks += [
        (f"files[{i}]", entry, {"path": str, "split": str, "sha256": str, "size": int, "tokens": int}) for i, entry in enumerate(files)
    ]
    splits = manifest.get("splits")
    blocks += [("splits", splits, {})]
    blocks += [(f"splits.{split}", total, {}) for split, total in splits.items()] if isinstance(splits, dict) else []
    for where, block, keys in blocks:
        if not isinstance(block, dict):
            return f"{where} is {brief(block)}, not an object"
        for key, kind in keys.items():
            value = block.get(key)
            if type(value) is not kind or (kind is int and value < 0):
                return f"{where}.{key} is {brief(value)}, not {'a number' if kind is int else 'a text'}"
    for entry in files:
        if entry["split"] not in ("train", "val"):
            return f"the split of {entry['path']!r} is {brief(entry['split'])}, not 'train' or 'val'"
        if "/" in entry["path"] or "\0" in entry["path"] or entry["path"] in ("", ".", ".."):
            return f"{brief(entry['path'])} is not the name of a file in its folder"
    if "\0" in manifest["tokenizer"]["path"]:
        return f"tokenizer.path is {brief(manifest['tokenizer']['path'])}"
    return ""


def brief(value: Any) -> str:
    """A JSON value as messages show it; "missing" for none."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def hash_faults(folder: Path, manifest: dict[str, Any], progress: Any = None) -> list[str]:
    """Re-hash tokenizer and shards of `folder` against `manifest`; one sentence per fault, none if all is well.

    `progress`, where given, has `add(bytes)`.
    """
    faults = []
    listed = [(tokenizer_of(folder, manifest), manifest["tokenizer"]["sha256"])]
    listed += [(folder / entry["path"], entry["sha256"]) for entry in manifest["files"]]
    for path, expected in listed:
        if not path.is_file():
            faults.append(f"{path} is missing")
            continue
        found = sha256_file(path)
        if found != expected:
            faults.append(f"{path}: sha256 {found[:16]}… differs from the manifest's {expected[:16]}…")
        if progress is not None:
            progress.add(path.stat().st_size)
    names = {entry["path"] for entry in manifest["files"]}
    faults += [f"{p} is not in the manifest" for p in sorted(folder.glob("*.bin")) if p.name not in names]
    return faults
