"""The checks of an audit, each a line of its report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prep.audit_inputs import CHUNK_TOKENS, Stream, Tokenizer
from prep.console import Progress
from prep.overlap import HashSet, window_hashes
from prep.shards import BOS_ID, MANIFEST_NAME, SPLITS, hash_faults

SHINGLE_TOKENS = 32
MAX_VAL_WINDOWS = 1 << 23  # more than this many are thinned out by hash, which bounds memory
NEAR_DUPLICATE_SHARE = 0.5
DECODE_DOCUMENTS = 2048


@dataclass
class Check:
    """One line of the table: status is "ok", "FAIL" or "skipped"."""

    name: str
    status: str
    detail: str


@dataclass
class FileTotals:
    """One shard: `documents` counts BOS tokens, `text_bytes` the scored bytes of its tokens."""

    path: str
    split: str
    tokens: int
    documents: int = 0
    text_bytes: int = 0


@dataclass
class Report:
    """All that was found out about one folder."""

    folder: str
    checks: list[Check] = field(default_factory=list)
    files: list[FileTotals] = field(default_factory=list)
    source_bytes: dict[str, int] = field(default_factory=dict)  # by split, where the manifest says it

    def add(self, name: str, faults: list[str], well: str) -> None:
        """A check that failed with `faults`, or else went well."""
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        detail = "; ".join(faults[:3]) + more if faults else well
        self.checks.append(Check(name, "FAIL" if faults else "ok", detail))

    def skip(self, name: str, why: str) -> None:
        """A check that could not be made."""
        self.checks.append(Check(name, "skipped", why))

    @property
    def ok(self) -> bool:
        return all(check.status != "FAIL" for check in self.checks)

    def split_totals(self) -> dict[str, dict[str, int]]:
        """Tokens, documents and bytes of each split that is there."""
        totals = {}
        for split in SPLITS:
            files = [f for f in self.files if f.split == split]
            if files:
                totals[split] = {key: sum(getattr(f, key) for f in files) for key in ("tokens", "documents", "text_bytes")}
        return totals


def open_streams(folder: Path, trainer: Any, report: Report) -> dict[str, Stream]:
    """Check "headers": the splits whose shards all open as the trainer opens them."""
    streams, faults = {}, []
    for split in SPLITS:
        paths = sorted(folder.glob(f"*_{split}_[0-9]*.bin"))
        shards = []
        for path in paths:
            try:
                shards.append(trainer.open_shard(path))
            except trainer.DataError as error:
                faults.append(str(error))
        if paths and len(shards) == len(paths):
            streams[split] = Stream(paths, shards)
            report.files += [FileTotals(path.name, split, len(shard)) for path, shard in zip(paths, shards, strict=True)]
    if not streams and not faults:
        faults.append(f"no *_train_[0-9]*.bin or *_val_[0-9]*.bin in {folder}")
    report.add("headers", faults, f"{len(report.files)} shards: magic, version and size fit")
    return streams


def check_hashes(folder: Path, manifest: dict[str, Any] | None, report: Report) -> None:
    """Check "hashes": shards and tokenizer against the manifest."""
    if manifest is None:
        report.skip("hashes", f"no {MANIFEST_NAME} here")
        return
    report.add("hashes", hash_faults(folder, manifest), "shards and tokenizer have the sha256 of the manifest")


def check_vocabulary(streams: dict[str, Stream], tokenizer: Tokenizer, manifest: dict[str, Any] | None, report: Report) -> bool:
    """Check "vocabulary": the tokenizer by itself, and all ids in the shards; True if every id has a piece."""
    faults = list(tokenizer.faults)
    if manifest is not None and manifest["tokenizer"]["vocab_size"] != tokenizer.size:
        faults.append(f"the manifest says {manifest['tokenizer']['vocab_size']} ids, {tokenizer.path.name} has {tokenizer.size}")
    in_range = True
    for stream in streams.values():
        for path, shard in zip(stream.paths, stream.shards, strict=True):
            used = np.zeros(1 << 16, np.int64)
            for start in range(0, len(shard), CHUNK_TOKENS):
                used += np.bincount(shard[start : start + CHUNK_TOKENS], minlength=1 << 16)
            if used[tokenizer.size :].any():
                in_range = False
                faults.append(f"{path.name}: {used[tokenizer.size :].sum()} tokens above the last id {tokenizer.size - 1}")
            for token in np.flatnonzero(used[: tokenizer.size] * tokenizer.forbidden):
                faults.append(f"{path.name}: {used[token]} times id {token}, a control or unknown piece that stands for no text")
    report.add("vocabulary", faults, f"{tokenizer.size} ids, bare space, 256 bytes, BOS {BOS_ID}; all tokens in range")
    return in_range


def check_bos(streams: dict[str, Stream], report: Report) -> None:
    """Check "bos": every split starts with BOS, and no document is empty. Fills in the files' document counts."""
    faults = []
    for split, stream in streams.items():
        if stream.shards[0][0] != BOS_ID:
            faults.append(f"{stream.paths[0].name} starts with id {stream.shards[0][0]} instead of BOS {BOS_ID}")
        last = None
        for totals, shard in zip([f for f in report.files if f.split == split], stream.shards, strict=True):
            for start in range(0, len(shard), CHUNK_TOKENS):
                bos = shard[start : start + CHUNK_TOKENS] == BOS_ID
                totals.documents += int(bos.sum())
                empty = int((bos[1:] & bos[:-1]).sum()) + int(last is not None and last and bos[0])
                if empty:
                    faults.append(f"{totals.path}: {empty} documents are empty (two BOS in a row)")
                last = bool(bos[-1])
        if last:
            faults.append(f"{stream.paths[-1].name} ends with BOS: its last document is empty")
    report.add("bos", faults, "every split starts with BOS, no document is empty")


def check_byte_table(table: Any, tokenizer: Tokenizer, report: Report) -> bool:
    """Check "byte_table": the trainer's bytes of each id against its piece; True if the sizes fit."""
    if len(table.base_bytes) != tokenizer.size:
        report.add("byte_table", [f"the trainer's table has {len(table.base_bytes)} ids, the tokenizer {tokenizer.size}"], "")
        return False
    ids = np.arange(tokenizer.size)
    space = int(np.argmax(tokenizer.piece_bytes > 0))  # some id after which a space counts
    found = table.target_bytes(np.full(tokenizer.size, space), ids)
    wrong = np.flatnonzero(found != tokenizer.piece_bytes)
    faults = [f"id {i}: {found[i]} bytes, its piece has {tokenizer.piece_bytes[i]}" for i in wrong]
    report.add("byte_table", faults, "the trainer's table agrees with every piece")
    return True


def check_bytes(streams: dict[str, Stream], table: Any, tokenizer: Tokenizer, progress: Progress, report: Report) -> None:
    """Check "bytes": counted bytes of every document against the UTF-8 length of its decoded text."""
    faults = []
    for split, stream in streams.items():
        number = 0
        for tokens, starts in stream.documents():
            counted = np.zeros(len(tokens) + 1, np.int64)  # bytes of all targets before each position
            np.cumsum(table.target_bytes(tokens[:-1], tokens[1:]), out=counted[2:])
            for first in range(0, len(starts) - 1, DECODE_DOCUMENTS):
                bounds = starts[first : first + DECODE_DOCUMENTS + 1]
                ids = [tokens[a + 1 : b].tolist() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
                decoded = np.array([len(text) for text in tokenizer.decode(ids)])
                table_bytes = counted[bounds[1:]] - counted[bounds[:-1]]
                for i in np.flatnonzero(decoded != table_bytes):
                    if not cut_inside_character(ids[i], int(table_bytes[i]), tokenizer):
                        faults.append(
                            f"{split} document {number + first + i}: the table counts {table_bytes[i]} bytes, its text has {decoded[i]}"
                        )
            number += len(starts) - 1
            progress.add(len(tokens))
    count_file_bytes(streams, table, report)
    report.add("bytes", faults, "table and decoded text agree in every document")


def cut_inside_character(ids: list[int], table_bytes: int, tokenizer: Tokenizer) -> bool:
    """Does this document agree but for byte pieces at its end, which a stream cut to length leaves undecodable?"""
    kept = len(ids)
    while kept and len(ids) - kept < 3 and tokenizer.is_byte[ids[kept - 1]]:
        kept -= 1
        if len(tokenizer.decode([ids[:kept]])[0]) == table_bytes - (len(ids) - kept):
            return True
    return False


def count_file_bytes(streams: dict[str, Stream], table: Any, report: Report) -> None:
    """Fill in the scored bytes of each shard: those of its tokens, each given the token before it."""
    by_name = {totals.path: totals for totals in report.files}
    for stream in streams.values():
        last = np.array([BOS_ID], np.uint16)
        for path, shard in zip(stream.paths, stream.shards, strict=True):
            for start in range(0, len(shard), CHUNK_TOKENS):
                chunk = shard[start : start + CHUNK_TOKENS]
                previous = np.concatenate([last, chunk[:-1]])
                by_name[path.name].text_bytes += int(table.target_bytes(previous, chunk).sum())
                last = chunk[-1:]


def check_totals(manifest: dict[str, Any] | None, report: Report) -> None:
    """Check "totals": tokens, documents and bytes against the manifest, where it gives them."""
    if manifest is None:
        report.skip("totals", f"no {MANIFEST_NAME} here")
        return
    faults = []
    for split, found in report.split_totals().items():
        for key, value in found.items():
            expected = manifest["splits"].get(split, {}).get(key)
            if expected is not None and expected != value:
                faults.append(f"{split} {key}: {value} found, the manifest says {expected}")
    report.add("totals", faults, "tokens, documents and bytes are those of the manifest")


def document_digests(stream: Stream, progress: Progress) -> Iterator[bytes]:
    """A 96-bit hash of the tokens of each document of a split, BOS left out."""
    for tokens, starts in stream.documents():
        for a, b in zip(starts[:-1], starts[1:], strict=True):
            yield hashlib.blake2b(tokens[a + 1 : b].tobytes(), digest_size=12).digest()
        progress.add(len(tokens))


def check_documents(streams: dict[str, Stream], allowed: int, progress: Progress, report: Report) -> None:
    """Check "overlap_documents": validation documents that are also train documents, token for token."""
    val = Counter(document_digests(streams["val"], progress))
    both = Counter(digest for digest in document_digests(streams["train"], progress) if digest in val)
    faults = [f"{len(both)} validation documents are in train too, as {both.total()} train documents ({allowed} allowed)"]
    well = f"{len(both)} documents in both splits; {val.total() - len(val)} repeated within validation"
    report.add("overlap_documents", faults if len(both) > allowed else [], well)


def check_stretches(streams: dict[str, Stream], max_percent: float, allowed: int, progress: Progress, report: Report) -> None:
    """Check "overlap_stretches": windows of SHINGLE_TOKENS tokens that both splits have.

    Fails if over `max_percent` of validation windows are in train, or over `allowed` validation documents have half of their
    windows there. Windows of a very large validation set are sampled by their hash; then one short shared stretch
    may go unseen, a shared document hardly.
    """
    before = SHINGLE_TOKENS - 1
    thin = np.uint64(-(-streams["val"].tokens // MAX_VAL_WINDOWS))

    def sampled(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hashes = window_hashes(tokens, SHINGLE_TOKENS)
        at = np.flatnonzero(hashes % thin == 0)
        return hashes[at], at

    wanted = HashSet(np.concatenate([np.empty(0, np.uint64)] + [sampled(chunk)[0] for chunk in streams["val"].chunks(before)]))
    common = [np.empty(0, np.uint64)]
    for chunk in streams["train"].chunks(before):
        hashes, _ = sampled(chunk)
        common.append(np.unique(hashes[wanted.contains(hashes)]))
        progress.add(len(chunk))
    found = HashSet(np.concatenate(common))
    windows = shared = 0
    copied: list[int] = []
    number = 0
    for tokens, starts in streams["val"].documents():
        hashes, at = sampled(tokens)
        hit = found.contains(hashes)
        document = np.searchsorted(starts, at, side="right") - 1
        inside = at + SHINGLE_TOKENS <= starts[document + 1]  # windows that run into the next document say little
        total = np.bincount(document[inside], minlength=len(starts) - 1)
        hits = np.bincount(document[inside & hit], minlength=len(starts) - 1)
        windows, shared = windows + int(total.sum()), shared + int(hits.sum())
        copied += (number + np.flatnonzero((total > 0) & (hits >= NEAR_DUPLICATE_SHARE * total) & (hits > 0))).tolist()
        number += len(starts) - 1
    percent = 100 * shared / max(windows, 1)
    faults = []
    if len(copied) > allowed:
        faults.append(f"{len(copied)} validation documents are at least half in train, the first is number {copied[0]} ({allowed} allowed)")
    if percent > max_percent:
        faults.append(f"{percent:.2f}% of validation stretches of {SHINGLE_TOKENS} tokens are in train ({max_percent:g}% allowed)")
    well = f"{shared} of {windows} validation stretches of {SHINGLE_TOKENS} tokens are in train ({percent:.3f}%)"
    report.add("overlap_stretches", faults, well)
