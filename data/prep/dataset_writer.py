"""Writing a dataset folder, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prep.console import ToolError
from prep.encoders import Encoder
from prep.shards import (
    BOS_ID,
    SHARD_TOKENS,
    SPLITS,
    SplitWriter,
    exclusive,
    file_entry,
    split_totals,
    temporary_path,
    tokenizer_entry,
    write_manifest,
)

BATCH_CHARS = 1 << 21
FEW_DOCUMENTS = 10  # fewer are hardly meant, and a hash may send all of them to one split


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


def report(folder: Path, manifest: dict[str, Any]) -> None:
    """Print what a built dataset holds."""
    for split, total in manifest["splits"].items():
        if total["tokens"]:
            counts = " ".join(f"{key}:{value}" for key, value in total.items())
            print(f"built {folder.name} split:{split} {counts}")
