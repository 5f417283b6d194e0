#!/usr/bin/env python3
"""Check a dataset folder: are the bytes counted right, and is validation really held out?

    python3 data/audit_dataset.py data/datasets/fineweb10B_sp1024
    python3 data/audit_dataset.py data/datasets/mine_sp1024 --json > audit.json

Checks headers, hashes and totals against the folder's manifest.json, the vocabulary against the tokenizer, the
trainer's byte table against the decoded text of every document, BOS structure, and train/validation overlap by
document hash and by shared stretches of 32 tokens. Exit status 1 if anything fails. Measured on 106 million train
tokens: see data/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import console  # noqa: F401  first, as it says what to type where packages are missing
import numpy as np
from console import Progress, ToolError, tool_main
from overlap import HashSet, window_hashes
from shards import BOS_ID, MANIFEST_NAME, hash_faults, read_manifest, tokenizer_of

SHINGLE_TOKENS = 32
MAX_VAL_WINDOWS = 1 << 23  # more than this many are thinned out by hash, which bounds memory
NEAR_DUPLICATE_SHARE = 0.5
MAX_SHARED_PERCENT = 1.0
CHUNK_TOKENS = 1 << 22
DECODE_DOCUMENTS = 2048
SPLITS = ("train", "val")
BARE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def load_trainer() -> Any:
    """The module that scores: train_gpt, or its MLX twin where PyTorch is missing. Raises ToolError."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    for name in ("train_gpt", "train_gpt_mlx"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = error
    raise ToolError(f"neither train_gpt.py nor train_gpt_mlx.py can be imported ({reason}); install the requirements")


# --- results --------------------------------------------------------------------------------------


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


# --- the data -------------------------------------------------------------------------------------


class Stream:
    """The shards of one split, one after the other.

    Attributes:
        paths: the files, in order.
        shards: their tokens, memory-mapped uint16 arrays of shape (n,).
    """

    def __init__(self, paths: list[Path], shards: list[np.ndarray]) -> None:
        self.paths, self.shards = paths, shards
        self.tokens = sum(map(len, shards))

    def chunks(self, before: int) -> Iterator[np.ndarray]:
        """The tokens in chunks; each starts with the last `before` tokens of the one before it, where there are any."""
        kept = np.empty(0, np.uint16)
        for shard in self.shards:
            for start in range(0, len(shard), CHUNK_TOKENS):
                chunk = np.concatenate([kept, shard[start : start + CHUNK_TOKENS]])
                yield chunk
                kept = chunk[max(len(chunk) - before, 0) :] if before else kept

    def documents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Whole documents in batches: (tokens, starts), where starts is 0, …, len(tokens), of shape (documents + 1,).

        Tokens before the first BOS are left out.
        """
        rest = np.empty(0, np.uint16)
        for chunk in self.chunks(0):
            tokens = np.concatenate([rest, chunk])
            starts = np.flatnonzero(tokens == BOS_ID)
            if len(starts) > 1:
                yield tokens[starts[0] : starts[-1]], starts - starts[0]
            rest = tokens[starts[-1] :] if len(starts) else tokens[:0]
        if len(rest):
            yield rest, np.array([0, len(rest)])


class Tokenizer:
    """The tokenizer, apart from the trainer's view of it.

    Attributes:
        size: number of ids.
        faults: what is wrong with its vocabulary.
        piece_bytes: int64 of shape (size,), bytes each id adds in the middle of a text, from its piece.
        forbidden: bool of shape (size,), ids that have no place in a stream: control pieces but BOS, and unknown.
        is_byte: bool of shape (size,), ids that stand for one byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[str] = []
        if path.suffix == ".json":
            self._load_bytes()
        else:
            self._load_pieces()

    def _load_bytes(self) -> None:
        try:
            described = json.loads(self.path.read_text(encoding="utf-8"))
            self.size = int(described["vocab_size"])
            offset = int(described.get("byte_offset", self.size - 256))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ToolError(f"{self.path} does not describe a byte tokenizer ({error!r})") from None
        ids = np.arange(self.size)
        self.is_byte = (ids >= offset) & (ids < offset + 256)
        if self.is_byte.sum() != 256 or offset <= BOS_ID:
            self.faults.append(f"{self.size} ids with bytes from {offset} on leave no room for 256 bytes and BOS id {BOS_ID}")
        self.piece_bytes = self.is_byte.astype(np.int64)
        self.forbidden = ~self.is_byte & (ids != BOS_ID)
        self.decode = lambda documents: [bytes(i - offset for i in ids if offset <= i < offset + 256) for ids in documents]

    def _load_pieces(self) -> None:
        import sentencepiece

        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (OSError, RuntimeError) as error:
            raise ToolError(f"{self.path} is not a SentencePiece model ({str(error).strip()})") from None
        self.size = model.get_piece_size()
        ids = range(self.size)
        pieces = [model.id_to_piece(i) for i in ids]
        self.is_byte = np.array([model.is_byte(i) for i in ids])
        silent = np.array([model.is_control(i) or model.is_unused(i) or model.is_unknown(i) for i in ids])
        lengths = [len(piece.replace(BARE_SPACE, " ").encode("utf-8")) for piece in pieces]
        self.piece_bytes = np.where(silent, 0, np.where(self.is_byte, 1, lengths))
        self.forbidden = silent & (np.arange(self.size) != BOS_ID)
        if model.bos_id() != BOS_ID:
            self.faults.append(f"BOS id is {model.bos_id()}, shards use {BOS_ID}")
        if BARE_SPACE not in pieces:
            self.faults.append("no bare '▁' piece, so a space before a rare character is counted wrong")
        if self.is_byte.sum() != 256:
            self.faults.append(f"{self.is_byte.sum()} byte pieces instead of 256, so rare text is lost")
        threads = os.cpu_count() or 1
        self.decode = lambda documents: [text.encode("utf-8") for text in model.decode(documents, num_threads=threads)]


def find_tokenizer(folder: Path, given: Path | None, manifest: dict[str, Any] | None) -> Path:
    """The tokenizer's file: as given, as in the manifest, or the only one in ../../tokenizers. Raises ToolError."""
    if given is None and manifest is not None:
        given = tokenizer_of(folder, manifest)
    if given is None:
        beside = Path(os.path.abspath(folder)).parents[1] / "tokenizers"
        found = [path for path in sorted(beside.glob("*")) if path.suffix in (".model", ".json")]
        if len(found) != 1:
            raise ToolError(f"{folder} has no {MANIFEST_NAME} and {beside} has {len(found)} tokenizers; add --tokenizer FILE")
        given = found[0]
    if not given.is_file():
        raise ToolError(f"tokenizer {given} is missing; add --tokenizer FILE")
    return given


# --- checks ---------------------------------------------------------------------------------------


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


def check_documents(streams: dict[str, Stream], allowed: int, progress: Progress, report: Report) -> None:
    """Check "overlap_documents": validation documents that are also train documents, token for token."""
    hashes: dict[str, set[bytes]] = {}
    repeated = {}
    for split in ("val", "train"):
        seen: set[bytes] = set()
        count = shared = 0
        for tokens, starts in streams[split].documents():
            for a, b in zip(starts[:-1], starts[1:], strict=True):
                digest = hashlib.blake2b(tokens[a + 1 : b].tobytes(), digest_size=12).digest()
                count += 1
                if split == "val" or digest in hashes["val"]:
                    seen.add(digest)
                    shared += split == "train"
            progress.add(len(tokens))
        hashes[split] = seen
        repeated[split] = count - len(seen) if split == "val" else shared
    both = len(hashes["train"])
    faults = [f"{both} validation documents are in train too, as {repeated['train']} train documents ({allowed} allowed)"]
    well = f"{both} documents in both splits; {repeated['val']} repeated within validation"
    report.add("overlap_documents", faults if both > allowed else [], well)


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


# --- command line ---------------------------------------------------------------------------------


def audit(
    folder: Path,
    tokenizer_path: Path | None = None,
    *,
    allow_overlap: int = 0,
    max_shared_percent: float = MAX_SHARED_PERCENT,
    quiet: bool = False,
) -> Report:
    """All checks on `folder`.

    Args:
        tokenizer_path: instead of the manifest's.
        allow_overlap: validation documents that may be in train.
        max_shared_percent: share of validation stretches that may be in train.

    Raises:
        ToolError: there is nothing to check, or no tokenizer.
    """
    if not folder.is_dir():
        raise ToolError(f"{folder} is not a folder; give a dataset folder such as data/datasets/fineweb10B_sp1024")
    manifest = read_manifest(folder) if (folder / MANIFEST_NAME).is_file() else None
    tokenizer = Tokenizer(find_tokenizer(folder, tokenizer_path, manifest))
    trainer = load_trainer()
    report = Report(str(folder))
    if manifest is not None:
        known = {split: total.get("source_bytes") for split, total in manifest["splits"].items()}
        report.source_bytes = {split: count for split, count in known.items() if count}
    streams = open_streams(folder, trainer, report)
    check_hashes(folder, manifest, report)
    in_range = check_vocabulary(streams, tokenizer, manifest, report)
    check_bos(streams, report)
    both = len(streams) == 2
    amount = sum(stream.tokens for stream in streams.values())
    with Progress("auditing", amount * (3 if both else 1), "tokens", quiet) as progress:
        table = trainer.ByteTable.load(tokenizer.path)
        fits = check_byte_table(table, tokenizer, report)
        if fits and in_range:
            check_bytes(streams, table, tokenizer, progress, report)
            check_totals(manifest, report)
        else:
            report.skip("bytes", "tokens and tokenizer do not fit together")
        if both:
            check_documents(streams, allow_overlap, progress, report)
            check_stretches(streams, max_shared_percent, allow_overlap, progress, report)
        else:
            report.skip("overlap", f"only the {', '.join(streams) or 'no'} split is here")
    return report


def print_table(report: Report) -> None:
    """The report for people."""
    print(f"{report.folder}")
    for totals in report.files:
        print(f"  {totals.path}  tokens:{totals.tokens:,}  documents:{totals.documents:,}  bytes:{totals.text_bytes:,}")
    for split, total in report.split_totals().items():
        per_byte = f"  tokens_per_byte:{(total['tokens'] - 1) / total['text_bytes']:.6f}" if total["text_bytes"] else ""
        source = report.source_bytes.get(split)
        per_byte += f"  bytes_before_normalisation:{source:,}" if source else ""
        print(f"  {split} targets:{total['tokens'] - 1:,} documents:{total['documents']:,} bytes:{total['text_bytes']:,}{per_byte}")
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        print(f"  {check.status:<7}  {check.name:<{width}}  {check.detail}")
    print("audit passed" if report.ok else "audit FAILED")


def run(argv: list[str] | None = None) -> int:
    """Audit what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a dataset folder")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="instead of the manifest's")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--allow-overlap", type=int, default=0, metavar="N", help="validation documents that may be in train (default: 0)")
    parser.add_argument(
        "--max-shared-percent",
        type=float,
        default=MAX_SHARED_PERCENT,
        metavar="P",
        help="validation stretches that may be in train (default: 1)",
    )
    args = parser.parse_args(argv)
    report = audit(
        args.folder,
        args.tokenizer,
        allow_overlap=args.allow_overlap,
        max_shared_percent=args.max_shared_percent,
        quiet=args.json,
    )
    if args.json:
        print(json.dumps(asdict(report) | {"ok": report.ok, "splits": report.split_totals()}, indent=1))
    else:
        print_table(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(tool_main(run))
