"""Promise: the n-gram cache is what docs/scoring.md says: whole distributions, from tokens before the target alone, each scored once."""

import math
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import with_cache
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from train_gpt import (
    BOS,
    CACHE_CELLS,
    CACHE_KINDS,
    CACHE_LATEST,
    CACHE_OWN,
    CACHE_TOLD,
    Cache,
    cache_beside,
    cache_finds,
    cells_told,
    context_hashes,
    last_copies,
    score_windows,
)

VOCAB = 12


def text(seed: int, n: int) -> np.ndarray:
    """A stream of n + 1 tokens that repeats itself, with documents in it."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(2, VOCAB, rng.integers(2, 12)).tolist() for _ in range(4)]
    parts = [
        [BOS] if rng.random() < 0.2 else phrases[rng.integers(4)] if rng.random() < 0.7 else [int(rng.integers(2, VOCAB))] for _ in range(n)
    ]
    return np.array(sum([[BOS], *parts], [])[: n + 1], np.uint16)


def model_nats(seed: int, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distributions (n, VOCAB) of no merit, and the nats of the targets."""
    p = np.random.default_rng(seed).dirichlet(np.ones(VOCAB), len(tokens) - 1)
    return p, -np.log(p[np.arange(len(p)), tokens[1:]]).astype(np.float32)


def finds_by_hand(tokens: np.ndarray, i: int, orders: int) -> list[tuple[dict, tuple] | None]:
    """For each length, then for those within the document, the shares of tokens after the latest copies of the context that ends at i, the
    kind of find, and the latest token."""
    found, begin = [], max(p for p in range(i + 1) if p == 0 or tokens[p] == BOS)
    for order, first in [(k, 0) for k in range(1, orders + 1)] + [(k, begin) for k in range(1, min(orders, CACHE_OWN) + 1)]:
        context = tokens[i - order + 1 : i + 1].tolist() if i >= order - 1 else None
        places = range(i - 1, max(first, order - 1) - 1, -1)
        places = [p for p in places if context and tokens[p - order + 1 : p + 1].tolist() == context][:CACHE_LATEST]
        if not places:
            found.append(None)
            continue
        total, shares = sum(Fraction(1, r) for r in range(1, len(places) + 1)), defaultdict(Fraction)
        for rank, place in enumerate(places, 1):
            shares[int(tokens[place + 1])] += Fraction(1, rank) / total
        agree = shares[int(tokens[places[0] + 1])]
        far = sum(i - places[0] >= 8**k for k in range(1, 6))
        own = BOS not in tokens[places[0] + 1 : i + 1].tolist()
        kind = len(places), (agree < 1) + (agree < Fraction(1, 2)), far, own
        found.append((shares, [("kind", *kind), ("last", tokens[i]), ("latest", tokens[places[0] + 1])]))
    return found


def by_hand(p: np.ndarray, tokens: np.ndarray, seq_len: int, stride: int, orders: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixture's whole distributions (n, VOCAB), from the page's definition, and the model's part in what it gives the target (n,)."""
    learned, squares, whole, own = defaultdict(float), defaultdict(lambda: 1e-3), np.array(p), np.zeros(len(p))
    for _, end, first in score_windows(len(p), seq_len, stride):
        push = defaultdict(float)
        for i in range(first, end):
            before = [find[0].get(int(tokens[i]), 0) for find in finds_by_hand(tokens, i - 1, orders) if find] if i else []
            by_model = min(9, math.floor(-math.log(p[i - 1, tokens[i]]))) if i else 0
            told = [("told by the model", by_model), ("told by finds", round(3 * max(before, default=0)))]
            finds = [(k, find[0], find[1] + told) for k, find in enumerate(finds_by_hand(tokens, i, orders)) if find]
            weights = [math.exp(-2.5 + sum(learned[k, cell] for cell in cells)) for k, _, cells in finds]
            spreads = [np.array([float(shares.get(t, 0)) for t in range(VOCAB)]) for _, shares, _ in finds]
            whole[i] = (p[i] + sum(w * x for w, x in zip(weights, spreads))) / (1 + sum(weights))
            target = tokens[i + 1]
            own[i] = p[i, target] / (1 + sum(weights)) / whole[i, target]
            for (k, _, cells), w, x in zip(finds, weights, spreads):
                for cell in cells:  # the derivative of ln p(target) by the logarithm of w
                    push[k, cell] += w / (1 + sum(weights)) * (x[target] / whole[i][target] - 1)
        for cell, value in push.items():
            squares[cell] += value**2
            learned[cell] += 0.35 * value / math.sqrt(squares[cell])
    return whole, own


@pytest.mark.parametrize(
    "seed,n,seq_len,stride,orders", [(0, 300, 64, 48, 4), (1, 200, 50, 50, 1), (2, 250, 400, 8, 8), (3, 90, 16, 3, 3), (4, 1, 8, 8, 2)]
)
def test_is_the_definition(seed, n, seq_len, stride, orders):
    tokens = text(seed, n)
    p, nats = model_nats(seed, tokens)
    whole, own = by_hand(p, tokens, seq_len, stride, orders)
    np.testing.assert_allclose(whole.sum(1), 1)
    mixed = with_cache(nats, tokens, seq_len, stride, orders)
    np.testing.assert_allclose(mixed, -np.log(whole[np.arange(n), tokens[1:]]), rtol=2e-5, atol=2e-6)
    assert n == 1 or np.abs(mixed - nats).max() > 0.1
    learn = cache_beside(tokens, orders)
    parts = [learn(nats[first:end], slice(first, end)) for _, end, first in score_windows(n, seq_len, stride)]
    np.testing.assert_array_equal(np.concatenate([nats for nats, _ in parts]).astype(np.float32), mixed)
    np.testing.assert_allclose(np.concatenate([x for _, x in parts]), own, rtol=2e-5, atol=2e-6)


def test_cells_of_what_was_told_are_apart():
    """Nats of 0 to 9 and more, then shares of thirds: each its own numbers, beside those of kinds and tokens."""
    n = 14
    p, finds = np.exp(-np.append(np.arange(10) + 0.5, [700, 0, 0, 0])), np.zeros((2, n))
    finds[1, -3:] = 1 / 3, 0.7, 1
    cells = cells_told(np.zeros((2, 3, n), np.int64), p, finds)
    model, found = cells[0, 3:] - CACHE_TOLD
    assert CACHE_TOLD > cache_finds(*[np.array([BOS, 1023, 1023, 1023])] * 2, np.array([-1, -1, 1, 2]), np.arange(3))[2].max()
    assert cells.shape == (2, 5, n) and np.array_equal(cells[0], cells[1]) and cells.max() == CACHE_CELLS - 1
    assert model.tolist() == [*range(10), 9, 0, 0, 0] and found.tolist() == [10] * 11 + [11, 12, 13]
    tokens = np.array([BOS, 1023, 1024, 1027, 1023])  # numbers of tokens are modulo 1024
    _, last, latest = cache_finds(tokens, np.cumsum(tokens == BOS), np.array([-1, -1, 1, 2]), np.arange(4))[2]
    assert (last - CACHE_KINDS).tolist() == [1, 1023, 0, 3] and (latest[2:] - CACHE_KINDS - 1024).tolist() == [0, 3]


def test_a_beginning_of_zeros_is_no_copy():
    """Contexts that reach before the stream are found nowhere, whatever their tokens."""
    tokens = np.array([0, 0, 0, 5, 0, 0])
    places = [last_copies(row).tolist() for row in context_hashes(tokens, np.zeros(6, np.int64), 3)[:3]]
    assert places == [[-1, 0, 1, -1, 2, 4], [-1, -1, 1, -1, -1, 2], [-1] * 6]


def test_repetition_pays():
    tokens = text(5, 2000)
    p, nats = model_nats(5, tokens)
    mixed = with_cache(nats, tokens, 64, 64, 6)
    assert mixed[1000:].mean() < 0.6 * nats[1000:].mean()


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, VOCAB - 1))
@examples(max_examples=40)
def test_no_score_depends_on_its_own_or_a_later_target(seed, changed, by):
    """Token `changed` is the target of position changed - 1; the model's own nats stay as they are."""
    tokens = text(seed, 200)
    _, nats = model_nats(seed, tokens)
    other = tokens.copy()
    other[changed] = (other[changed] + by) % VOCAB
    before, after = (with_cache(nats, x, 32, 24, 5) for x in (tokens, other))
    assert np.array_equal(before[: changed - 1], after[: changed - 1])


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 30))
@examples(max_examples=40)
def test_a_mixture_sums_to_one(seed, orders, n):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 3, n + 1)
    documents = np.cumsum(tokens == BOS)
    rows = context_hashes(tokens[:-1], documents[:-1], orders)
    cache, finds, cells = Cache(len(rows)), np.zeros((len(rows), VOCAB, n)), []
    cache.gates[:] = 2 * rng.standard_normal(cache.gates.shape)
    for row, hashes in enumerate(rows):
        found, shares, cell = cache_finds(tokens, documents, last_copies(hashes), np.arange(n))
        for token, share in zip(found, shares):
            assert (share[token < 0] == 0).all()
            finds[row, token, np.arange(n)] += share
        np.testing.assert_allclose(finds[row].sum(0), cell[0] > 0)
        cells.append(cell)
    p = rng.dirichlet(np.ones(VOCAB), n).T
    told = cells_told(np.stack(cells), p.max(0), finds.max(1))
    mixed = cache.mix(p, finds, told)[1]
    np.testing.assert_allclose(mixed.sum(0), 1)
    assert (mixed > 0).all()


def test_the_first_windows_are_mixed_as_in_the_whole():
    tokens = text(7, 300)
    _, nats = model_nats(7, tokens)
    some, whole = with_cache(nats[:160], tokens[:161], 64, 48, 4), with_cache(nats, tokens, 64, 48, 4)  # 64 targets and twice 48
    assert np.array_equal(some, whole[:160])


def test_the_example_on_the_page():
    """`cat` was followed by sat, ran and, latest, sat."""
    page = (Path(__file__).parents[1] / "docs/scoring.md").read_text(encoding="utf-8")
    assert "8/11 and 3/11" in page and "0.082" in page and round(math.exp(-2.5), 3) == 0.082
    cat, sat, ran = 5, 6, 7
    tokens = np.array([BOS, cat, sat, cat, ran, cat, sat, 8, cat, sat])
    documents = np.cumsum(tokens == BOS)
    found, shares, _ = cache_finds(tokens, documents, last_copies(context_hashes(tokens, documents, 1)[0]), np.array([8]))
    assert shares[found == sat].sum() == pytest.approx(8 / 11) and shares[found == ran].sum() == pytest.approx(3 / 11)
