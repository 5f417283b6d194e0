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
import json
import sys
from dataclasses import asdict
from pathlib import Path

import prep.console  # noqa: F401  first, as it says what to type where packages are missing
from prep.audit_checks import (
    Report,
    check_bos,
    check_byte_table,
    check_bytes,
    check_documents,
    check_hashes,
    check_stretches,
    check_totals,
    check_vocabulary,
    open_streams,
)
from prep.audit_inputs import Tokenizer, find_tokenizer, load_trainer
from prep.console import Progress, ToolError, tool_main
from prep.shards import MANIFEST_NAME, read_manifest

MAX_SHARED_PERCENT = 1.0


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
