#!/usr/bin/env python3
"""Turn your own text into token shards in the public layout.

    python3 data/build_dataset.py texts.jsonl.zst more/*.txt --name mine --tokenizer data/tokenizers/fineweb_1024_bpe.model
    python3 data/build_dataset.py texts.jsonl.gz --name mine --train-tokenizer 2048
    python3 data/build_dataset.py texts.jsonl --name mine --bytes

Input: JSON lines (`.jsonl`, `.ndjson`; one object with a "text" a line) or plain text (`.txt`), each also
as .gz, .xz or .zst. Output: `data/datasets/<name>_sp<V>/` (or `_byte260`) with shards and manifest.json.

Exact duplicates are dropped, and a document goes to validation or train by a hash of its text, so adding
text later moves no document from one to the other. Nothing appears under its name until it is whole; a run
that was killed can simply be started again. About 10 MB of text a second on two cores, under 1 GB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import hashlib
import heapq
import io
import json
import lzma
import os
import platform
import shutil
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import console  # noqa: F401  first, as it says what to type where packages are missing
import numpy as np
import sentencepiece
from console import Progress, ToolError, amount_text, tool_main
from shards import (
    BOS_ID,
    MAX_VOCAB,
    SHARD_TOKENS,
    SplitWriter,
    atomic_path,
    exclusive,
    file_entry,
    sha256_file,
    split_totals,
    temporary_path,
    tokenizer_entry,
    write_manifest,
    write_text,
)

DATA = Path(__file__).resolve().parent
MAX_DOCUMENT_CHARS = 1 << 20
MAX_LINE_BYTES = 1 << 26
BATCH_CHARS = 1 << 21
BYTE_OFFSET = 4
BYTE_VOCAB = BYTE_OFFSET + 256
TOKENIZER_SAMPLE_BYTES = 100_000_000
SPLITS = ("train", "val")
TXT_UNITS = ("file", "paragraph", "line")  # from coarse to fine
PACKED = (".gz", ".xz", ".zst")
FEW_DOCUMENTS = 10  # fewer are hardly meant, and a hash may send all of them to one split


# --- reading documents ----------------------------------------------------------------------------


class CountingFile(io.RawIOBase):
    """A binary file that tells `progress` how many bytes of it were read."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._file, self._progress = open(path, "rb"), progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._progress.add(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def open_text_file(path: Path, progress: Progress) -> BinaryIO:
    """`path` as a stream of plain bytes, unpacked by its suffix (.gz, .xz, .zst or none)."""
    raw = io.BufferedReader(CountingFile(path, progress), 1 << 20)
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".xz":
        return lzma.LZMAFile(raw)
    if path.suffix == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True), 1 << 20)
    return raw


def text_suffix(path: Path) -> str:
    """The suffix that says what a file holds, once it is unpacked."""
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix


def is_json_lines(path: Path) -> bool:
    return text_suffix(path) in (".jsonl", ".ndjson")


@functools.cache  # a file is read twice where a tokenizer is trained on it
def warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def lines_of(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) pairs, refusing a line that would not fit in memory."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ToolError(f"{path}:{number}: a line over {amount_text(MAX_LINE_BYTES)}; put one document on a line")
        yield number, line


def json_documents(stream: BinaryIO, path: Path, field: str) -> Iterator[str]:
    """The string under `field` of every JSON line.

    Raises:
        ToolError: a line that is not a JSON object with that string, with its number.
    """
    for number, line in lines_of(stream, path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except RecursionError:
            raise ToolError(f'{path}:{number}: nested too deeply; each line is one object such as {{"text": "…"}}') from None
        except ValueError as error:
            raise ToolError(f'{path}:{number}: not JSON ({error}); each line is one object such as {{"text": "…"}}') from None
        text = value.get(field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            keys = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ToolError(f"{path}:{number}: no string under {field!r} (found {keys}); name it with --text-field KEY")
        yield text


def plain_documents(stream: BinaryIO, path: Path, unit: str) -> Iterator[str]:
    """Documents of a plain text file: the whole "file", each "paragraph" (ended by a blank line) or each "line"."""
    lines: list[bytes] = []
    held = replaced = 0

    def decoded() -> str:
        nonlocal replaced
        data = b"".join(lines)
        text = data.decode("utf-8", "replace")
        if "\ufffd" in text:
            replaced += len(data) - len(data.decode("utf-8", "ignore").encode("utf-8"))
        return text

    for _, line in lines_of(stream, path):
        if unit == "line" or (unit == "paragraph" and not line.strip()):
            lines.append(line)
            yield decoded()
            lines, held = [], 0
            continue
        lines.append(line)
        held += len(line)
        if held > MAX_LINE_BYTES:
            raise ToolError(
                f"{path}: a document over {amount_text(MAX_LINE_BYTES)}; say where documents end with "
                "--txt-documents paragraph or --txt-documents line"
            )
    yield decoded()
    if replaced:
        warn_once(f"{replaced} bytes of {path} are not UTF-8 and were replaced")


def read_documents(paths: list[Path], field: str, txt_unit: str, progress: Progress) -> Iterator[str]:
    """The texts in `paths`, in order, with damaged Unicode replaced and over-long documents cut at white space."""
    for path in paths:
        try:
            with open_text_file(path, progress) as stream:
                if is_json_lines(path):
                    texts = json_documents(stream, path, field)
                else:
                    texts = plain_documents(stream, path, txt_unit)
                for text in texts:
                    yield from bounded(text.encode("utf-8", "replace").decode("utf-8"))
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ToolError(f"{path}: cannot be read to its end ({error})") from None
        except Exception as error:
            if type(error).__module__.startswith("zstandard"):
                raise ToolError(f"{path}: cannot be read to its end ({error})") from None
            raise


def bounded(text: str) -> Iterator[str]:
    """`text`, or its parts of at most MAX_DOCUMENT_CHARS, cut at white space where there is any.

    A tokenizer's memory grows with the longest document; without a bound one book could take gigabytes.
    """
    while len(text) > MAX_DOCUMENT_CHARS:
        cut = max(text.rfind(" ", 0, MAX_DOCUMENT_CHARS), text.rfind("\n", 0, MAX_DOCUMENT_CHARS)) + 1
        cut = cut or MAX_DOCUMENT_CHARS
        yield text[:cut]
        text = text[cut:]
    yield text


# --- duplicates and the split ---------------------------------------------------------------------


def text_hash(text: str) -> int:
    """A 64-bit number that depends on the text alone, up to white space at its ends and the kind of its line ends."""
    text = text.strip().replace("\r\n", "\n").replace("\r", "\n")
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def split_of(digest: int, val_fraction: float) -> str:
    """ "val" for the share `val_fraction` of all hashes, "train" for the rest."""
    return "val" if digest < val_fraction * 2.0**64 else "train"


class SeenHashes:
    """A growing set of 64-bit numbers at about 8 bytes each, so that deduplication fits in memory.

    100 million documents take 800 MB less than a Python set would take for 15 million. Two different texts
    would be taken for one with probability n²/2^65: 3e-6 for ten million documents.
    """

    RECENT = 1 << 18

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, digest: int) -> bool:
        """Add `digest`; True if it is new."""
        if digest in self._recent:
            return False
        at = int(np.searchsorted(self._sorted, np.uint64(digest)))
        if at < len(self._sorted) and int(self._sorted[at]) == digest:
            return False
        self._recent.add(digest)
        if len(self._recent) >= self.RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.concatenate([self._sorted, recent])
            self._sorted.sort()
            self._recent.clear()
        return True


# --- tokenizers -----------------------------------------------------------------------------------


class PieceEncoder:
    """A SentencePiece model as an encoder of documents.

    Attributes:
        path, vocab_size, kind: of the tokenizer, for the manifest.
        token_bytes: int64 of shape (vocab_size,), UTF-8 bytes of each piece with "▁" as one space.
    """

    kind = "sentencepiece"

    def __init__(self, path: Path, threads: int) -> None:
        """Load the model at `path`.

        Raises:
            ToolError: it is no SentencePiece model, its BOS id is not 1, its ids do not fit in 16 bits, or
                text outside its vocabulary would be lost.
        """
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError, TypeError) as error:
            raise ToolError(f"--tokenizer {path}: not a SentencePiece model ({str(error).strip()})") from None
        self.path, self.threads = path, threads
        self.vocab_size = self.model.get_piece_size()
        ids = range(self.vocab_size)
        if self.model.bos_id() != BOS_ID:
            raise ToolError(
                f"{path}: its BOS id is {self.model.bos_id()}; shards need BOS id {BOS_ID}. Train one with --train-tokenizer VOCAB"
            )
        if self.vocab_size > MAX_VOCAB:
            raise ToolError(f"{path}: {self.vocab_size} pieces; shards hold 16-bit ids, at most {MAX_VOCAB}")
        self.is_byte = np.array([self.model.is_byte(i) for i in ids])
        if self.is_byte.sum() != 256:
            raise ToolError(
                f"{path}: {self.is_byte.sum()} byte pieces, not 256, so rare text would be lost. "
                "Use a model trained with byte fallback, or --train-tokenizer VOCAB"
            )
        silent = np.array([self.model.is_control(i) or self.model.is_unused(i) for i in ids])
        pieces = [self.model.id_to_piece(i).replace("\N{LOWER ONE EIGHTH BLOCK}", " ") for i in ids]
        lengths = np.array([len(piece.encode("utf-8")) for piece in pieces], np.int64)
        self.token_bytes = np.where(silent, 0, np.where(self.is_byte, 1, lengths))
        # The space in front of a document's first word is not text: decoding drops it, and scoring does not count it.
        self.opens_with_space = np.array([piece.startswith(" ") for piece in pieces]) & ~silent

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, without BOS: int arrays of shape (n,)."""
        try:
            return self.model.encode(texts, num_threads=self.threads, return_type="numpy")
        except TypeError:  # older releases know lists only, at half the speed
            return [np.array(ids, np.int32) for ids in self.model.encode(texts, num_threads=self.threads)]

    def text_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text that `ids` of shape (n,), without BOS, decode to."""
        return int(self.token_bytes[ids].sum()) - int(self.opens_with_space[ids[0]])


class ByteEncoder:
    """Bytes as tokens: byte b is id 4 + b; ids 0 to 3 are pad, BOS, EOS and unknown."""

    kind = "byte"
    vocab_size = BYTE_VOCAB

    def __init__(self, path: Path) -> None:
        """Describe the tokenizer in a small JSON file at `path`."""
        described = {"kind": "byte", "vocab_size": BYTE_VOCAB, "bos_id": BOS_ID, "byte_offset": BYTE_OFFSET}
        write_text(path, json.dumps(described) + "\n")
        self.path = path

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, without BOS: uint16 arrays of shape (bytes,)."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16) + BYTE_OFFSET for text in texts]

    def text_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text that `ids` of shape (n,) decode to."""
        return len(ids)


Encoder = PieceEncoder | ByteEncoder


def sample_for_tokenizer(documents: Iterable[str], val_fraction: float, limit: int) -> list[str]:
    """Train documents of `limit` bytes at most in total: those of lowest hash, so a fair sample in any order of input."""
    heap: list[tuple[int, str]] = []  # the highest hash on top
    seen = SeenHashes()
    size = 0
    for text in documents:
        digest = text_hash(text)
        if split_of(digest, val_fraction) == "val" or not text.strip() or not seen.add(digest):
            continue
        heapq.heappush(heap, (-digest, text))
        size += len(text.encode("utf-8"))
        while size > limit and len(heap) > 1:
            size -= len(heapq.heappop(heap)[1].encode("utf-8"))
    return [text for _, text in sorted(heap, reverse=True)]


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Train a SentencePiece BPE of exactly `vocab_size` pieces on `texts` and put it at `path`.

    Same conventions as the public sp1024: pad 0, BOS 1, EOS 2, unknown 3, all 256 bytes as fallback, single
    digits, no space added in front. One thread, so the model depends on the texts alone.

    Raises:
        ToolError: `vocab_size` cannot be had from these texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            character_coverage=0.999,
            normalization_rule_name="nmt_nfkc",
            pad_id=0,
            bos_id=BOS_ID,
            eos_id=2,
            unk_id=3,
            max_sentence_length=4 * MAX_DOCUMENT_CHARS,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rsplit("] ", 1)[-1]  # in front of it stands a place in SentencePiece's source
        raise ToolError(f"--train-tokenizer {vocab_size}: {reason} Give more text or another size") from None
    with atomic_path(path) as part:
        part.write_bytes(model.getvalue())


# --- writing --------------------------------------------------------------------------------------


@dataclass
class SplitCount:
    """What went into one split.

    `text_bytes` is UTF-8 bytes as decoding gives them back, which scoring counts; `source_bytes` is what they were before
    the tokenizer normalised them (white space, ligatures and the like).
    """

    documents: int = 0
    text_bytes: int = 0
    source_bytes: int = 0


class EncodedBatches:
    """Encodes batches on a thread beside the reader's and hands them to the writers in order.

    SentencePiece works on its own threads without Python's lock, so reading, hashing and writing here go on
    meanwhile. At most two batches wait, which bounds memory.
    """

    WAITING = 2

    def __init__(self, encoder: Encoder, writers: dict[str, SplitWriter]) -> None:
        self.encoder, self.writers = encoder, writers
        self.counts = {split: SplitCount() for split in writers}
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque = deque()

    def submit(self, batch: list[tuple[str, str]]) -> None:
        """Queue (split, text) pairs. White space round a text is left out: a space in front would follow no word."""
        texts = [text.strip() for _, text in batch]
        self._pending.append((batch, self._pool.submit(self.encoder.encode, texts)))
        while len(self._pending) > self.WAITING:
            self._write_oldest()

    def _write_oldest(self) -> None:
        batch, encoded = self._pending.popleft()
        streams: dict[str, list[np.ndarray]] = {split: [] for split in self.writers}
        bos = np.array([BOS_ID], np.uint16)
        for (split, text), ids in zip(batch, encoded.result(), strict=True):
            if len(ids) == 0:  # white space only, once normalised
                continue
            streams[split] += (bos, ids)
            count = self.counts[split]
            count.documents += 1
            count.text_bytes += self.encoder.text_bytes(ids)
            count.source_bytes += len(text.encode("utf-8"))
        for split, arrays in streams.items():
            if arrays:
                self.writers[split].add(np.concatenate(arrays).astype(np.uint16))

    def finish(self) -> dict[str, SplitCount]:
        """Write what waits and return the counts."""
        while self._pending:
            self._write_oldest()
        self.stop()
        return self.counts

    def stop(self) -> None:
        """End the thread; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)


def write_dataset(
    folder: Path,
    documents: Iterable[tuple[str, str]],
    encoder: Encoder,
    *,
    prefix: str,
    note: str,
    smoke: bool,
    source: dict[str, Any],
    shard_limit: int = SHARD_TOKENS,
    least: dict[str, int] | None = None,
    remedy: str = "give more text or change --val-fraction",
    few_remedy: str = "",
    tokenizer_path: Path | None = None,
) -> dict[str, Any]:
    """Tokenize (split, text) pairs into a new dataset folder and return its manifest.

    The folder takes its name only when it is complete. An existing one is replaced then, and not before.

    Args:
        folder: where the dataset goes; the tokenizer is `encoder.path`, usually ../../tokenizers/.
        prefix: shards are named `<prefix>_<split>_%06d.bin`.
        least: tokens that each split needs at least; one of each where not given.
        remedy: what to do if there are fewer.
        few_remedy: what to do instead, if the documents are few too.
        tokenizer_path: the name that `encoder.path` takes when the dataset is complete, where it is a temporary one.

    Raises:
        ToolError: another build of this folder is running, or a split has too few tokens.
    """
    staging = folder.with_name(f".{folder.name}.building")
    lock = folder.with_name(f".{folder.name}.lock")
    with exclusive(lock, f"{folder} is being built by another process; wait for it to end", wait=False), removed(staging):
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
        staging.mkdir()
        writers = {split: SplitWriter(staging, prefix, split, shard_limit) for split in SPLITS}
        batches = EncodedBatches(encoder, writers)
        try:
            batch, held = [], 0
            for split, text in documents:
                batch.append((split, text))
                held += len(text)
                if held >= BATCH_CHARS:
                    batches.submit(batch)
                    batch, held = [], 0
            batches.submit(batch)
            counts = batches.finish()
        finally:
            batches.stop()
            for writer in writers.values():
                writer.close()
        for split, wanted in (least or dict.fromkeys(SPLITS, 1)).items():
            if writers[split].tokens < wanted:
                found = sum(count.documents for count in counts.values())
                if found < FEW_DOCUMENTS:
                    remedy = f"it has {found} document{'s'[: found != 1]}; {few_remedy or remedy}"
                raise ToolError(f"the input gives {writers[split].tokens} {split} tokens, at least {wanted} wanted; {remedy}")
        files = [file_entry(path, split) for split in SPLITS for path in writers[split].paths]
        manifest = write_manifest(
            staging,
            name=folder.name,
            note=note,
            smoke=smoke,
            tokenizer=tokenizer_entry(encoder.path, folder, encoder.vocab_size, encoder.kind, tokenizer_path),
            files=files,
            splits={split: split_totals(files, split, **asdict(count)) for split, count in counts.items()},
            source=source,
        )
        with renamed(encoder.path, tokenizer_path) if tokenizer_path else contextlib.nullcontext():
            old = replace_folder(staging, folder)
        shutil.rmtree(old, ignore_errors=True)
        return manifest


@contextlib.contextmanager
def removed(folder: Path) -> Iterator[None]:
    """Whatever happens, `folder` is gone afterwards."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def renamed(new: Path, path: Path) -> Iterator[None]:
    """Give the file `new` the name `path`; what stood there before is restored if the block fails."""
    with temporary_path(path) as old:
        had = path.is_file()
        if had:
            shutil.copyfile(path, old)
        try:
            os.replace(new, path)
            yield
        except BaseException:
            if had:
                os.replace(old, path)
            else:
                path.unlink(missing_ok=True)
            raise


def replace_folder(new: Path, folder: Path) -> Path:
    """Give `new` the name `folder`; what stood there before gets the name that is returned, and is restored if that fails."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if not folder.exists():
        os.replace(new, folder)
        return old
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    return old


def tool_versions() -> dict[str, str]:
    """Versions that the token ids depend on, for the manifest."""
    return {"python": platform.python_version(), "sentencepiece": sentencepiece.__version__}


# --- command line ---------------------------------------------------------------------------------


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


def dedupe_and_split(documents: Iterable[str], val_fraction: float, dropped: SplitCount) -> Iterator[tuple[str, str]]:
    """(split, text) of each new document; `dropped` counts the repeated ones."""
    seen = SeenHashes()
    for text in documents:
        digest = text_hash(text)
        if seen.add(digest):
            yield split_of(digest, val_fraction), text
        else:
            dropped.documents += 1
            dropped.source_bytes += len(text.encode("utf-8"))


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


def report(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what a built dataset holds."""
    for split, total in manifest["splits"].items():
        if total["tokens"]:
            counts = " ".join(f"{key}:{value}" for key, value in total.items())
            print(f"built {folder.name} split:{split} {counts}")


if __name__ == "__main__":
    sys.exit(tool_main(run))
