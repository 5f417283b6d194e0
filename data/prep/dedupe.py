"""The hash of a text: which split it goes to, and whether it was seen."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

import numpy as np

from prep.dataset_writer import SplitCount


def text_hash(text: str) -> int:
    """A 64-bit number that depends on the text alone, up to white space at its ends and the kind of its line ends."""
    text = text.strip().replace("\r\n", "\n").replace("\r", "\n")
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big")


def split_of(digest: int, val_fraction: float) -> str:
    """ "val" for the share `val_fraction` of all hashes, "train" for the rest."""
    return "val" if digest < val_fraction * 2.0**64 else "train"


class SeenHashes:
    """A growing set of 64-bit numbers at about 8 bytes each, so that deduplication fits in memory.

    100 million documents take 800 MB, less than a Python set would take for 15 million. Two different texts
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
