#!/usr/bin/env python3
"""The same text in other vocabularies: decode sp1024 shards, train a SentencePiece BPE of each size, write shards beside them.

    python3 data/cached_challenge_fineweb.py --variant sp1024 --train-shards 1
    python3 data/other_vocabularies.py 512 2048 4096

About a minute for each. Makes data/datasets/decoded_sp<V> and data/tokenizers/decoded_<V>_bpe.model. Tokenizers are trained on train
text alone. For each vocabulary, sp1024 included, it prints the settings with which runs score the same documents and see
equally many bytes of train text: that of ITERATIONS assumes steps of equally many tokens. Exit status: 0 done, 1 not possible, 2 usage.
"""

import argparse
import glob
import sys
from pathlib import Path

import prep.console  # noqa: F401  first, as it says what to type where packages are missing

# isort: split
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from prep.console import ToolError, tool_main
from prep.dataset_writer import write_dataset
from prep.encoders import PieceEncoder, tool_versions, train_tokenizer
from prep.shards import MANIFEST_NAME, MAX_VOCAB, read_manifest, temporary_path, tokenizer_of

try:
    from train_gpt import ByteTable, DataError, document_bounds, load_tokens
except ImportError:  # a Mac has MLX in place of PyTorch
    from train_gpt_mlx import ByteTable, DataError, document_bounds, load_tokens

FINEWEB_TOKENIZER = "fineweb_1024_bpe.model"


def documents(tokens: np.ndarray, table: ByteTable) -> list[str]:
    bounds = document_bounds(tokens)
    return [text.decode() for text in table.decode([tokens[a + 1 : b].tolist() for a, b in zip(bounds[:-1], bounds[1:])])]


def stream(folder: Path, split: str) -> np.ndarray:
    """The tokens of the first shard, (n,) uint16. Raises DataError."""
    return load_tokens(f"{glob.escape(str(folder))}/*_{split}_000000.bin", 2**40, 65_536)


def measure(tokens: np.ndarray, number: int, table: ByteTable) -> tuple[int, int]:
    """Tokens of the first documents of a stream, BOS counted, and the bytes of their targets."""
    tokens = tokens[: document_bounds(tokens)[number]]
    return len(tokens), int(table.target_bytes(tokens[:-1], tokens[1:]).sum())


def known_tokenizer(folder: Path, tokenizers: Path, asked: str | None) -> Path:
    """The tokenizer that was asked for, by its name in `tokenizers` or its path; else that of the dataset's manifest; else FineWeb's."""
    if asked is not None:
        return Path(asked) if Path(asked).is_file() and not (tokenizers / asked).is_file() else tokenizers / asked
    if (folder / MANIFEST_NAME).is_file():
        return tokenizer_of(folder, read_manifest(folder))
    return tokenizers / FINEWEB_TOKENIZER


def make(args: argparse.Namespace) -> None:
    """Raises DataError or ToolError."""
    sets, tokenizers = args.data_root / "datasets", args.data_root / "tokenizers"
    known = sets / args.known
    table = ByteTable.load(known_tokenizer(known, tokenizers, args.known_tokenizer))
    train, val = stream(known, "train"), stream(known, "val")
    texts = documents(train[: args.train_bytes], table)  # a token stands for a byte or more
    texts = texts[: int(np.searchsorted(np.cumsum([len(x.encode()) for x in texts]), args.train_bytes)) + 1]
    if len(texts) == len(document_bounds(train)) - 1:
        texts.pop()  # a shard may end inside a document
    bounds = document_bounds(val)
    number = min(args.val_documents, len(bounds) - 2)
    if number < 1 or not texts:
        raise ToolError(f"{known}: no whole document in the first shard; other shards, or --known NAME")
    val_texts = documents(val[: bounds[number]], table)
    (val_count, val_bytes), (train_count, train_bytes) = measure(val, number, table), measure(train, len(texts), table)
    print(f"VOCAB_SIZE={len(table.base_bytes)} VAL_TOKENS={val_count - 1} ITERATIONS={args.steps} val_bytes:{val_bytes}")
    for vocab in args.vocabularies:
        folder, model = sets / f"decoded_sp{vocab}", tokenizers / f"decoded_{vocab}_bpe.model"
        pairs = [("val", x) for x in val_texts] + [("train", x) for x in texts]
        write = dict(prefix="decoded", smoke=False, source=tool_versions(), tokenizer_path=model)
        write["note"] = f"The text of {known.name} in another vocabulary, {len(texts)} of its train documents."
        with temporary_path(model) as part:  # it takes its name with the shards
            train_tokenizer(texts, vocab, part, normalize=False)  # the known tokenizer has done so, and the file counts as model bytes
            write_dataset(folder, pairs, PieceEncoder(part, 1), **write)
        own = ByteTable.load(model)
        count, own_bytes = measure(stream(folder, "val"), number, own)
        if own_bytes != val_bytes:
            raise ToolError(f"{folder}: {own_bytes} validation bytes, not the {val_bytes} of {known.name}: it changes the text")
        tokens, token_bytes = measure(stream(folder, "train"), len(texts), own)
        steps = round(args.steps * (train_bytes / train_count) / (token_bytes / tokens))
        print(f"VOCAB_SIZE={vocab} VAL_TOKENS={count - 1} ITERATIONS={steps} val_bytes:{own_bytes}")


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabularies", nargs="+", type=int, help="numbers of pieces, 512 or more")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="has datasets/ and tokenizers/ (default: data)")
    parser.add_argument("--known", default="fineweb10B_sp1024", metavar="NAME", help="dataset to decode (default: %(default)s)")
    words = f"its tokenizer, by name or path (default: that of its manifest.json; without one {FINEWEB_TOKENIZER})"
    parser.add_argument("--known-tokenizer", metavar="FILE", help=words)
    parser.add_argument("--train-bytes", type=int, default=40_000_000, metavar="N", help="train text to use (default: %(default)s)")
    parser.add_argument("--val-documents", type=int, default=109, metavar="N", help="validation documents to score (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="ITERATIONS of the known vocabulary (default: %(default)s)")
    args = parser.parse_args()
    for vocab in args.vocabularies:
        if not 512 <= vocab <= MAX_VOCAB:
            raise ToolError(f"{vocab} pieces: allowed are 512 to {MAX_VOCAB}, as in: python3 data/other_vocabularies.py 512 2048 4096")
    try:
        make(args)
    except DataError as e:
        raise ToolError(str(e)) from None
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(run))
