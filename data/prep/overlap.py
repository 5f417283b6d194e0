"""Finding stretches that two texts or token streams share, by hashes of every window."""

from __future__ import annotations

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = 26


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values of any shape so that all bits depend on all bits (splitmix64's finalizer)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def window_hashes(values: np.ndarray, width: int) -> np.ndarray:
    """A 64-bit hash of each window of `width` neighbours in `values`.

    Args:
        values: non-negative integers, shape (n,).
        width: window length, at least 1.

    Returns:
        uint64 of shape (max(n - width + 1, 0),); equal windows have equal hashes.
    """
    count = len(values) - width + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    # A window's polynomial hash is put together from hashes of 1, 2, 4, … neighbours: log2(width) passes.
    block, size, base = _mix(values.astype(np.uint64) + np.uint64(1)), 1, _BASE
    result, have = np.zeros(count, np.uint64), 0
    with np.errstate(over="ignore"):
        while True:
            if width & size:
                result = result * base + block[have : have + count]
                have += size
            if have == width:
                return _mix(result)
            block = block[:-size] * base + block[size:]
            base, size = base * base, size * 2


class HashSet:
    """A fixed set of uint64 hashes that answers for whole arrays; 8 bytes a hash and 64 MiB besides."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = np.unique(hashes)
        # Most questions are answered "no" by one look at this table, which is far cheaper than a search.
        self._maybe = np.zeros(1 << _FILTER_BITS, bool)
        self._maybe[self._slot(self.hashes)] = True

    @staticmethod
    def _slot(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """bool of the shape of `hashes` (n,): is each one in the set?"""
        found = self._maybe[self._slot(hashes)]
        at = np.flatnonzero(found)
        if len(at):
            place = np.searchsorted(self.hashes, hashes[at])
            place[place == len(self.hashes)] = 0
            found[at] = self.hashes[place] == hashes[at]
        return found
