#!/usr/bin/env python3
"""Turn your own text into token shards in the public layout.

    python3 data/build_dataset.py texts.jsonl.zst more/*.txt --name mine --tokenizer data/tokenizers/fineweb_1024_bpe.model
    python3 data/build_dataset.py texts.jsonl.gz --name mine --train-tokenizer 2048
    python3 data/build_dataset.py texts.jsonl --name mine --bytes

Input: JSON lines (`.jsonl`, `.ndjson`; one object with a "text" a line) or plain text (`.txt`), each also
as .gz, .xz or .zst. Output: `data/datasets/<name>_sp<V>/` (or `_byte260`) with shards and manifest.json.

Exact duplicates are dropped, and a document goes to validation or train by a hash of its text, so adding
text later moves no document from one to the other. Nothing appears under its name until it is whole; a run
that was killed can simply be started again. About 4 MB of text a second of a core (data/README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from pathlib import Path

import prep.console  # noqa: F401  first, as it says what to type where packages are missing
from prep.console import Progress, ToolError, tool_main
from prep.dataset_writer import SplitCount, report, write_dataset
from prep.dedupe import dedupe_and_split, sample_for_tokenizer
from prep.encoders import BYTE_VOCAB, ByteEncoder, Encoder, PieceEncoder, tool_versions, train_tokenizer
from prep.reading import is_json_lines, read_documents, text_suffix
from prep.shards import MAX_VOCAB, SHARD_TOKENS, SPLITS, atomic_path, sha256_file, temporary_path

DATA = Path(__file__).resolve().parent
TOKENIZER_SAMPLE_BYTES = 100_000_000
TXT_UNITS = ("file", "paragraph", "line")  # from coarse to fine


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help="files: .jsonl, .ndjson or .txt, also .gz, .xz, .zst")
    parser.add_argument("--name", required=True, help="first part of the dataset's name")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokenizer", type=Path, metavar="MODEL", help="an existing SentencePiece model")
    which.add_argument("--train-tokenizer", type=int, metavar="VOCAB", help="train a SentencePiece BPE of this many pieces")
    which.add_argument("--bytes", action="store_true", help="bytes as tokens (260 ids)")
    parser.add_argument("--text-field", default="text", metavar="KEY", help="key of the text in JSON lines (default: text)")
    parser.add_argument("--txt-documents", choices=TXT_UNITS, default="file", help="what one document is in plain text (default: file)")
    parser.add_argument(
        "--val-fraction", type=float, default=0.01, metavar="F", help="share of documents for validation, by hash (default: 0.01)"
    )
    parser.add_argument(
        "--tokenizer-sample-bytes",
        type=int,
        default=TOKENIZER_SAMPLE_BYTES,
        metavar="N",
        help="text a new tokenizer is trained on, at most (default: 100000000)",
    )
    parser.add_argument("--shard-tokens", type=int, default=SHARD_TOKENS, metavar="N", help="tokens in a full shard (default: 100000000)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="threads for tokenization (default: all cores)"
    )
    parser.add_argument("--data-root", type=Path, default=DATA, metavar="DIR", help="where datasets/ and tokenizers/ go (default: data)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    args = parser.parse_args(argv)
    if not 0 < args.val_fraction < 1:
        raise ToolError(f"--val-fraction {args.val_fraction} is not between 0 and 1; try 0.01")
    for option, low in (("threads", 1), ("shard_tokens", 1), ("tokenizer_sample_bytes", 10_000)):
        if getattr(args, option) < low:
            raise ToolError(f"--{option.replace('_', '-')} {getattr(args, option)} is below {low}")
    if args.train_tokenizer is not None and not 512 <= args.train_tokenizer <= MAX_VOCAB:
        raise ToolError(f"--train-tokenizer {args.train_tokenizer}: the vocabulary is 512 to {MAX_VOCAB} pieces; try 1024")
    if not args.name.replace("_", "").replace("-", "").replace(".", "").isalnum() or args.name.startswith("."):
        raise ToolError(f"--name {args.name!r}: use letters, digits, '_', '-' and '.'; try --name mine")
    for split in SPLITS:
        if f"_{split}_" in f"_{args.name}_":
            other = "mine" if args.name.strip("_") == split else args.name.strip("_").replace("_", "-")
            raise ToolError(
                f"--name {args.name!r}: '_{split}_' in a shard's name says its split, so a name cannot have it; try --name {other}"
            )
    for path in args.inputs:
        if not path.is_file():
            raise ToolError(f"{path} is not a file")
        if text_suffix(path) == ".json":
            raise ToolError(f'{path}: a .json file is not read; put one object such as {{"text": "…"}} on each line of a .jsonl file')
    return args


def make_encoder(args: argparse.Namespace, input_bytes: int, new_path: Path | None) -> Encoder:
    """The encoder the arguments ask for, with its tokenizer file in place under data/tokenizers; a new one goes to `new_path`."""
    tokenizers = args.data_root / "tokenizers"
    if args.bytes:
        return ByteEncoder(tokenizers / "byte260.json")
    if args.tokenizer is not None:
        encoder = PieceEncoder(args.tokenizer, args.threads)
        path = tokenizers / args.tokenizer.name
        if not path.exists():
            with atomic_path(path) as part:
                shutil.copyfile(args.tokenizer, part)
        elif sha256_file(path) != sha256_file(args.tokenizer):
            raise ToolError(f"{path} is another tokenizer than {args.tokenizer}; rename one of them")
        encoder.path = path
        return encoder
    with Progress("reading_sample", input_bytes) as progress:
        documents = read_documents(args.inputs, args.text_field, args.txt_documents, progress)
        sample = sample_for_tokenizer(documents, args.val_fraction, args.tokenizer_sample_bytes)
    if not sample:
        raise ToolError("the input gives no train text; give more text or change --val-fraction")
    print(f"training_tokenizer pieces:{args.train_tokenizer} sample_documents:{len(sample)}", flush=True)
    train_tokenizer(sample, args.train_tokenizer, new_path)
    return PieceEncoder(new_path, args.threads)


def run(argv: list[str] | None = None) -> int:
    """Build what the command line says; returns the exit status."""
    args = parse_arguments(argv)
    size = args.train_tokenizer or (BYTE_VOCAB if args.bytes else PieceEncoder(args.tokenizer, 1).vocab_size)
    folder = args.data_root / "datasets" / (f"{args.name}_byte260" if args.bytes else f"{args.name}_sp{size}")
    if folder.exists() and not args.overwrite:
        raise ToolError(f"{folder} exists; add --overwrite to replace it, or choose another --name")
    input_bytes = sum(path.stat().st_size for path in args.inputs)
    dropped = SplitCount()
    finer = " or ".join(f"--txt-documents {unit}" for unit in TXT_UNITS[TXT_UNITS.index(args.txt_documents) + 1 :])
    finer = "" if all(map(is_json_lines, args.inputs)) else finer
    trained = args.data_root / "tokenizers" / f"{args.name}_{size}_bpe.model" if args.train_tokenizer else None
    with contextlib.ExitStack() as stack:
        # A new tokenizer takes its name with the shards, so that a failure leaves old shards with their old one.
        encoder = make_encoder(args, input_bytes, trained and stack.enter_context(temporary_path(trained)))
        progress = stack.enter_context(Progress("tokenizing", input_bytes))
        documents = read_documents(args.inputs, args.text_field, args.txt_documents, progress)
        manifest = write_dataset(
            folder,
            dedupe_and_split(documents, args.val_fraction, dropped),
            encoder,
            prefix=args.name,
            note=f"Built from own text; {args.val_fraction:g} of documents, by hash, are validation. No FineWeb score.",
            smoke=False,
            source=tool_versions() | {"inputs": [path.name for path in args.inputs], "val_fraction": args.val_fraction},
            shard_limit=args.shard_tokens,
            tokenizer_path=trained,
            few_remedy=finer and f"{finer} makes more of a text file; or give more text or change --val-fraction",
        )
    report(folder, manifest)
    print(f"duplicates_dropped documents:{dropped.documents} bytes:{dropped.source_bytes}")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(run))
