"""Promise: each target is scored exactly once, by tokens before it alone."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, settings
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import train_gpt
from train_gpt import GPT, Log, Runtime, score, score_windows, window_batches

SHAPES = (st.integers(1, 400), st.integers(1, 80), st.integers(1, 80))
CPU = Runtime(torch.device("cpu"), torch.float32, False, [])


def edges(test):
    """Shorter than a window; ragged tails of one; a stride of one and of a whole window; the smallest stream."""
    for shape in ((1, 8, 8), (5, 8, 3), (9, 8, 8), (17, 8, 4), (16, 8, 8), (18, 8, 4), (20, 8, 1), (8, 8, 2)):
        test = example(*shape)(test)
    return examples(max_examples=200)(given(*SHAPES)(test))


@edges
def test_each_target_exactly_once_and_in_order(n, seq_len, stride):
    stride = min(stride, seq_len)
    scored = []
    for number, (start, end, first) in enumerate(score_windows(n, seq_len, stride)):
        assert 0 <= start <= first < end <= n
        assert end - start == min(seq_len, n)  # equally long, nothing padded
        assert end - first == (stride if 0 < number and end < n else end - first) <= (stride if number else seq_len)
        assert number == 0 or first - start >= seq_len - stride  # as much context as the stride leaves, or more
        scored += range(first, end)
    assert scored == list(range(n))


@given(*SHAPES, st.integers(1, 9))
@examples(max_examples=200)
def test_batches_hold_the_same_windows(n, seq_len, stride, at_most):
    stride = min(stride, seq_len)
    flat = []
    for starts, length, last in window_batches(n, seq_len, stride, at_most):
        assert 1 <= len(starts) <= at_most
        flat += [(int(start), int(start) + length, int(start) + length - last) for start in starts]
    assert flat == list(score_windows(n, seq_len, stride))


# ---------------------------------------------------------------------------------------------------------- model


@pytest.fixture(scope="module")
def tiny_settings():
    return settings(*(f"{k}={v}" for k, v in (TINY | {"EVAL_SEQ_LEN": 200}).items()))


@pytest.fixture(scope="module")
def model(tiny_settings):
    """Random weights everywhere: at its start the model passes nothing through its blocks."""
    model = GPT(tiny_settings, CPU)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.dim() > 1 else 1.0))
    return model


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(2, 300, 151).astype(np.uint16)


def scores(model, s, tokens, seq_len, stride):
    return score(model, tokens, s, CPU, Log(False), "test", seq_len, stride)


@torch.no_grad()
def naive(model, tokens, seq_len, stride):
    """One target at a time: the first window alone gives scores for its targets, later ones for their last."""
    n = len(tokens) - 1
    nats = np.full(n, np.nan)
    stream = torch.from_numpy(tokens.astype(np.int64))
    done, begin = 0, 0
    while done < n:
        end = min(n, begin + seq_len)
        begin = max(0, min(begin, n - seq_len))
        for position in range(done, end):
            hidden = model.hidden(stream[None, begin : position + 1])[0, -1]
            logits = model.softcap * torch.tanh(hidden @ model.embed.T / model.softcap)
            nats[position] = -torch.log_softmax(logits.double(), -1)[stream[position + 1]]
        done = end
        begin = end + stride - seq_len
    return nats


@pytest.mark.parametrize("seq_len,stride", [(64, 16), (64, 64), (32, 5), (150, 150), (64, 63)])
def test_score_is_that_of_a_naive_reference(model, tiny_settings, tokens, seq_len, stride):
    got = scores(model, tiny_settings, tokens, seq_len, stride)
    assert got.shape == (150,) and got.std() > 0.1
    np.testing.assert_allclose(got, naive(model, tokens, seq_len, stride), atol=2e-4)


def test_stream_shorter_than_a_window(model, tiny_settings, tokens):
    for count in (2, 3, 20):
        got = scores(model, tiny_settings, tokens[:count], 64, 16)
        np.testing.assert_allclose(got, naive(model, tokens[:count], 64, 16), atol=2e-4)


def test_size_of_a_pass_changes_nothing(model, tiny_settings, tokens):
    want = scores(model, tiny_settings, tokens, 64, 16)
    for batch in (2, 64, 130, 10**6):
        items = [f"{k}={v}" for k, v in (TINY | {"EVAL_BATCH_TOKENS": batch}).items()]
        np.testing.assert_allclose(scores(model, settings(*items), tokens, 64, 16), want, atol=1e-4)


@pytest.mark.parametrize("limit,count", [(1, 64), (64, 64), (65, 80), (80, 80), (149, 150), (150, 150), (10**6, 150)])
def test_the_export_gap_is_of_whole_windows(model, tokens, limit, count):
    """Those that the whole stream is scored by, as many as GAP_TOKENS targets take, so that no model is behind by its context."""
    s = settings(*(f"{k}={v}" for k, v in (TINY | {"EVAL_SEQ_LEN": 64, "EVAL_STRIDE": 16, "GAP_TOKENS": limit}).items()))
    nats, each = scores(model, s, tokens, 64, 16), np.ones(150, np.int64)
    data = SimpleNamespace(val_tokens=tokens, val_bytes=each)
    run = SimpleNamespace(s=s, runtime=CPU, clock=train_gpt.Clock(CPU.synchronize), data=data, log=Log(False))
    run.score = functools.partial(train_gpt.Run.score, run)
    gap = train_gpt.Run.export_gap(run, model, nats)
    assert gap["gap_tokens"] == count and gap["export_gap_bpb"] == pytest.approx(0, abs=1e-5)
    assert gap["post_export_val_bpb"] == train_gpt.bits_per_byte(nats[:count], each[:count])[1]


@pytest.mark.parametrize("changed", [150, 149, 120, 64, 63, 1])
def test_a_later_token_changes_no_earlier_score(model, tiny_settings, tokens, changed):
    """Token `changed` is the target of position changed - 1; scores before that must be the same bits."""
    other = tokens.copy()
    other[changed] = (other[changed] + 100) % 300
    before, after = (scores(model, tiny_settings, x, 64, 16) for x in (tokens, other))
    assert np.array_equal(before[: changed - 1], after[: changed - 1])
    assert before[changed - 1] != after[changed - 1]
    assert changed == 150 or (before[changed:] != after[changed:])[: 64 - 16].any()  # it does count as context


def test_the_last_score_of_a_window_has_the_whole_window_as_context(model, tiny_settings, tokens):
    """The first token of the last window reaches its last score; the token before it does not."""
    starts = [start for start, _, _ in score_windows(150, 64, 16)]
    for position, same in ((starts[-1], False), (starts[-1] - 1, True)):
        other = tokens.copy()
        other[position] = (other[position] + 100) % 300
        before, after = (scores(model, tiny_settings, x, 64, 16)[-1] for x in (tokens, other))
        assert (before == after) == same


def test_probabilities_sum_to_one(model, tiny_settings, tokens):
    """The nats of every possible next token after one context."""
    context = tokens[:41]
    with torch.no_grad():
        row = torch.from_numpy(context.astype(np.int64))[None].expand(300, -1)
        targets = row.clone()
        targets[:, -1] = torch.arange(300)
        nats = model.nats(row, targets, 1)
    assert torch.exp(-nats.double()).sum().item() == pytest.approx(1.0, abs=1e-6)


def test_grouped_heads_are_those_of_repeated_keys(tiny_settings):
    """With as many key heads as query heads and each copied to its group, attention gives the same."""
    few = train_gpt.Attention(tiny_settings)
    many = train_gpt.Attention(settings(*(f"{k}={v}" for k, v in (TINY | {"NUM_KV_HEADS": 4}).items())))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in ("q", "k", "v", "out"):
            getattr(few, name).copy_(torch.randn(getattr(few, name).shape, generator=generator))
            weight = getattr(few, name)
            many_weight = weight.view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32) if name in "kv" else weight
            getattr(many, name).copy_(many_weight)
        x = torch.randn(2, 20, 32, generator=generator)
        cos, sin = train_gpt.rotary_table(0, 20, 8, 10_000.0, x.device)
        scale, one = torch.randn(32, generator=generator), torch.ones(32)
        torch.testing.assert_close(few(x, None, (cos, sin), scale), many(x, None, (cos, sin), scale), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(few(x, None, (cos, sin), scale), scale * few(x, None, (cos, sin), one), atol=1e-4, rtol=1e-4)


def test_rotation_makes_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(8, generator=generator).expand(1, 30, 1, 8) for _ in range(2))
    cos, sin = train_gpt.rotary_table(0, 30, 8, 10_000.0, q.device)
    dots = train_gpt.rotate(q, cos, sin)[0, :, 0] @ train_gpt.rotate(k, cos, sin)[0, :, 0].T
    for distance in (0, 1, 7):
        diagonal = torch.diagonal(dots, -distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert torch.diagonal(dots, -3)[0] != pytest.approx(torch.diagonal(dots, -9)[0].item(), abs=1e-3)
