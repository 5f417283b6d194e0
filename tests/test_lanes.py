"""Promise: each lane is what it is called, from windows and hashed pairs to test-time training and calibration, and none looks ahead."""

import contextlib
import json
import math
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import LANES, TINY, TRAINER, SteppingTime, arrays, line_of, pairs, run_trainer, same_arrays, settings, with_cache, write_shard
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import train_gpt
from train_gpt import BOS, GPT, LATER_KEYS, MODEL_KEYS, Log, Runtime, decode_artifact, initial_weights, score, window_batches

CPU = Runtime(torch.device("cpu"), torch.float32, False, [])
RATE = LANES["TTT_LR"]
PREFIX = "<4sBBHIIQI"  # docs/artifact_format.md


def lane_settings(**changes):
    return settings(*(f"{k}={v}" for k, v in (TINY | LANES | changes).items()))


def random_model(s, runtime=CPU):
    """Random weights everywhere: at its start the model passes nothing through its blocks."""
    model, generator = GPT(s, runtime), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.dim() > 1 else 1.0))
    return model


def scores(model, s, tokens, ttt=0.0, **changes):
    shape = {"EVAL_SEQ_LEN": s.EVAL_SEQ_LEN, "EVAL_STRIDE": s.EVAL_STRIDE} | changes
    return score(model, tokens, s, CPU, Log(False), "test", shape["EVAL_SEQ_LEN"], shape["EVAL_STRIDE"], ttt)


@pytest.fixture(scope="module")
def tokens():
    """Documents that begin in the first window, twice in the third and at the very start of the fourth; the last window is shorter."""
    tokens = np.random.default_rng(0).integers(2, 300, 331).astype(np.uint16)
    tokens[[0, 20, 115, 140, 160]] = BOS
    return tokens


@pytest.fixture(scope="module")
def lanes():
    s = lane_settings()
    return random_model(s), s


# ---------------------------------------------------------------------------------------------- windows of attention


@pytest.mark.parametrize("dtype,near", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("heads,kv_heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("T,window", [(1, 1), (7, 1), (8, 4), (13, 4), (12, 5), (5, 5), (6, 5), (9, 20), (9, 0), (33, 16), (17, 2)])
def test_windows_are_masked_attention(T, window, heads, kv_heads, dtype, near):
    """Values and gradients against the definition, in float64."""
    generator = torch.Generator().manual_seed(T)
    q, k, v = (torch.randn(2, n, T, 8, generator=generator).to(dtype).requires_grad_() for n in (heads, kv_heads, kv_heads))
    y = train_gpt.attend(q, k, v, window)
    distance = torch.arange(T)[:, None] - torch.arange(T)
    seen = (distance >= 0) & (distance < (window or T))
    group = torch.arange(heads) // (heads // kv_heads)
    dots = q.double() @ k.double()[:, group].mT / math.sqrt(8)
    want = dots.masked_fill(~seen, -math.inf).softmax(-1) @ v.double()[:, group]
    assert y.dtype is dtype and y.shape == (2, heads, T, 8)
    torch.testing.assert_close(y.double(), want, atol=near, rtol=near)
    weight = torch.randn(want.shape, generator=generator).double()
    ours, theirs = (torch.autograd.grad((x.double() * weight).sum(), (q, k, v)) for x in (y, want))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.double(), b.double(), atol=6 * near, rtol=6 * near)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_no_score_depends_on_a_later_token(tokens, precision):
    """Every lane on, every position changed in turn: logits before it are the same bits, those at it are not."""
    model = random_model(lane_settings(ATTN_WINDOW=5), Runtime(torch.device("cpu"), precision, False, []))
    row = torch.from_numpy(tokens[:23].astype(np.int64))
    changed = row.repeat(23, 1)
    changed[range(23), range(23)] = (row + 100) % 300
    with torch.no_grad():
        plain = model.logits(row.repeat(23, 1), 23)
        other = model.logits(changed, 23)
    for t in range(23):
        assert torch.equal(other[t, :t], plain[t, :t])
        assert (other[t, t:] != plain[t, t:]).any(-1)[:3].all()


def test_the_windows_of_all_layers_together_bound_what_is_seen(tokens):
    """Two layers of windows of 5, smear and pair: 9 positions and the two tokens before them."""
    model = random_model(lane_settings(ATTN_WINDOW=5, CONV_TAPS=0, KEY_SHIFT=0))
    row = torch.from_numpy(tokens[:24].astype(np.int64))
    changed = row.repeat(24, 1)
    changed[range(24), range(24)] = (row + 100) % 300
    with torch.no_grad():
        moved = (model.logits(changed, 1) != model.logits(row.repeat(24, 1), 1)).any(-1)[:, 0]
    assert moved.tolist() == [False] * 13 + [True] * 11


# ------------------------------------------------------------------------------------------------ streaming scores


@given(st.integers(1, 20), st.integers(1, 5), st.integers(2, 200))
@examples(max_examples=40)
def test_streaming_is_the_whole_stream_at_once(window, k, n):
    """One layer sees its window and no more, so that rows of window + k * window tokens lose nothing, pairs neither."""
    rows = {
        "ATTN_WINDOW": window,
        "EVAL_SEQ_LEN": window * (k + 1),
        "EVAL_STRIDE": window * k,
        "SMEAR": 0,
        "CONV_TAPS": 0,
        "KEY_SHIFT": 0,
        "NGRAM_CACHE": 0,
    }
    s = lane_settings(NUM_LAYERS=1, TRAIN_SEQ_LEN=256, **rows)
    model = random_model(s)
    tokens = np.random.default_rng(n).integers(2, 300, n + 1)
    stream = torch.from_numpy(tokens)
    with torch.no_grad():
        whole = model.nats(stream[None, :-1], stream[None, 1:], n).numpy()
    streamed = scores(model, s, tokens)
    assert np.isfinite(streamed).all()
    np.testing.assert_allclose(streamed, whole, atol=2e-4)


def test_streaming_takes_about_a_forward_pass_a_token():
    batches = window_batches(100_000, 17 * 256, 16 * 256, 15)
    passed = sum(len(starts) * length for starts, length, _ in batches)
    assert sum(len(starts) * last for starts, _, last in batches) == 100_000 and passed < 1.1 * 100_000


# -------------------------------------------------------------------------------------- smear, convolutions and gates


def test_no_token_is_smeared_into_a_new_document():
    """Without attention and pairs, a position knows its own token and, unless it is BOS, the one before it."""
    model = random_model(lane_settings(BIGRAM_ROWS=0, CONV_TAPS=0))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.out.zero_()
        rows = torch.tensor([[5, 6, 7, BOS, 9], [5, 8, 7, BOS, 9], [5, 6, 8, BOS, 9], [5, 6, 7, 8, 9]])
        logits = model.logits(rows, 5)
    moved = (logits != logits[0]).any(-1)
    assert moved.int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize("reach,T", [(1, 6), (3, 7), (5, 3)])
def test_a_convolution_is_its_definition(reach, T):
    """Values and gradients; taps that reach back before the row find nothing there."""
    generator = torch.Generator().manual_seed(reach)
    x, taps, weight = (torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((2, T, 4), (reach, 4), (2, T, 4)))
    want = torch.stack([x[:, t] + sum(taps[i] * x[:, t - 1 - i] for i in range(min(reach, t))) for t in range(T)], 1)
    y = train_gpt.convolve(x, taps, None)
    torch.testing.assert_close(y, want)
    for a, b in zip(*(torch.autograd.grad((z * weight.detach()).sum(), (x, taps)) for z in (y, want))):
        torch.testing.assert_close(a, b)


def test_convolutions_before_mlp_and_attention_reach_back_their_taps():
    """A block that attends to itself alone sees taps of its MLP and as many of its attention's input; at 0 they change nothing."""
    model = random_model(lane_settings(NUM_LAYERS=1, ATTN_WINDOW=1, BIGRAM_ROWS=0, SMEAR=0, CONV_TAPS=2, KEY_SHIFT=0))
    row = torch.arange(10, 22)
    changed = row.repeat(12, 1)
    changed[range(12), range(12)] = 7

    def seen() -> list[bool]:
        with torch.no_grad():
            return (model.logits(changed, 1) != model.logits(row.repeat(12, 1), 1)).any(-1)[:, 0].tolist()

    assert seen() == [False] * 7 + [True] * 5
    with torch.no_grad():
        model.blocks[0].attn_conv.zero_()
    assert seen() == [False] * 9 + [True] * 3
    start = GPT(lane_settings(CONV_TAPS=2), CPU)
    assert not start.blocks[0].attn_conv.any() and not start.blocks[1].mlp_conv.any()


def test_key_shift_moves_the_slow_half_of_each_key_by_a_token(monkeypatch):
    """Against keys shifted by hand, before norm and rotation; the first token of a row keeps its own. Queries and values stay."""
    plain, shifted = (random_model(lane_settings(NUM_LAYERS=1, KEY_SHIFT=n)).blocks[0].attn for n in (0, 1))
    seen, x = [], torch.randn(2, 9, plain.q.size(1), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(train_gpt, "rotate", lambda y, cos, sin: y)
    monkeypatch.setattr(train_gpt, "norm", lambda y: y)
    monkeypatch.setattr(train_gpt, "attend", lambda q, k, v, window: seen.append((q, k, v)) or q)
    for attention in (plain, shifted):
        attention(x, None, (torch.empty(9, 0), torch.empty(9, 0)), torch.ones(x.size(2)))
    (q, k, v), (q2, k2, v2) = seen
    width = plain.head_dim
    for channel in range(width):
        late = channel % (width // 2) >= width // 4
        want = torch.cat((k[:, :, :1, channel], k[:, :, :-1, channel]), 2) if late else k[..., channel]
        torch.testing.assert_close(k2[..., channel], want, rtol=0, atol=0)
    assert not torch.equal(k, k2) and torch.equal(q, q2) and torch.equal(v, v2)


def test_gates_start_open():
    """At zero a gate is 1; it reads no more channels than there are."""
    plain, gated = (GPT(lane_settings(HEAD_GATE=n, MODEL_DIM=16, NUM_HEADS=4, NUM_KV_HEADS=2), CPU) for n in (0, 64))
    weights, generator = gated.weights(), torch.Generator().manual_seed(3)
    weights |= {n: torch.randn(w.shape, generator=generator).numpy() for n, w in plain.weights().items()}
    gates = [n for n in weights if n.endswith(".gate")]
    assert gates and all(weights[n].shape == (4, 16) and not weights[n].any() for n in gates)
    gated.load_weights(weights)
    plain.load_weights({n: w for n, w in weights.items() if n not in gates})
    row = torch.arange(2, 22)[None]
    with torch.no_grad():
        torch.testing.assert_close(gated.logits(row, 20), plain.logits(row, 20))
        gated.blocks[0].attn.gate[1] = -100.0 * torch.sign(torch.randn(16))
        assert not torch.allclose(gated.logits(row, 20), plain.logits(row, 20))


def test_each_block_adds_the_value_embedding_of_a_token_to_its_values(monkeypatch):
    """By the block's scale, and for that token alone; at the start the table is zero, so it changes nothing."""
    s = lane_settings(NUM_LAYERS=1, CONV_TAPS=0)
    start = initial_weights(s, GPT(s, CPU).weights())
    assert start["value_embed"].shape == (s.VOCAB_SIZE, s.NUM_KV_HEADS * s.MODEL_DIM // s.NUM_HEADS) and not start["value_embed"].any()
    model, seen = random_model(s), []
    monkeypatch.setattr(train_gpt, "attend", lambda q, k, v, window: seen.append(v[0]) or q)
    row = torch.from_numpy(np.random.default_rng(1).integers(2, 300, (1, 12)))
    with torch.no_grad():
        model.logits(row, 1)
        table, scale = model.value_embed.clone(), model.blocks[0].attn.value_scale
        model.value_embed.zero_()
        model.logits(row, 1)
    added = table[row[0]].view(12, *scale.shape) * scale
    torch.testing.assert_close(seen[0] - seen[1], added.movedim(0, 1), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ hashed pairs


def test_pairs_are_hashed_alike_in_training_and_scoring(lanes):
    """Training hands over int32, scoring int64; the rows of the table are in range and well spread."""
    model, s = lanes
    row = torch.from_numpy(np.random.default_rng(1).integers(0, 300, (1, 64)))
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(row.int()), model.hidden(row), atol=0, rtol=0)
    model.zero_grad()
    model.nats(row, row, 64).sum().backward()
    hit = model.bigram.grad.abs().sum(1) > 0
    assert hit.sum() > 25
    model.zero_grad()


# ------------------------------------------------------------------------------------------------- test-time training


@contextlib.contextmanager
def as_read(kept, first):
    """What positions before `first` show to later ones is as `kept` has it, from when they were read: inputs of convolutions, products of
    queries, keys and values, keys and values themselves. What the others show is put there."""
    now, busy = [], []

    def put(x, axis=1):
        if first:
            x = torch.cat((kept[len(now)], x.narrow(axis, first, x.size(axis) - first)), axis)
        now.append(x.detach())
        return x

    def linear(x, *weights, **scale):  # a product of three matrices is queries, keys and values
        y = real["linear"](x, *weights, **scale)
        return put(y) if len(weights) == 3 else y

    def attend(q, k, v, window):  # it calls itself on the first window
        if busy:
            return real["attend"](q, k, v, window)
        busy.append(True)
        y = real["attend"](q, put(k, 2), put(v, 2), window)
        busy.clear()
        return y

    real = {name: getattr(train_gpt, name) for name in ("convolve", "linear", "attend")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_gpt, "convolve", lambda x, taps, _: real["convolve"](put(x), taps, None))
        patch.setattr(train_gpt, "linear", linear)
        patch.setattr(train_gpt, "attend", attend)
        yield
    kept[:] = now


def by_hand(model, s, tokens, rate, doc_rate, cached):
    """Score a window, then learn from it, from the page's definition; the weights are put back. The mixture is the trainer's. Each window
    is computed with all that stands before it, so ATTN_WINDOW must be at most EVAL_SEQ_LEN - EVAL_STRIDE."""
    lasting = {name: torch.from_numpy(w) for name, w in model.weights().items()}
    kept, squares, nats, own = model.weights(), dict.fromkeys(model.weights(), 0.0), np.full(len(tokens) - 1, np.nan, np.float32), 1.0
    stream, mixed = torch.from_numpy(tokens.astype(np.int64)), nats.copy()
    mix = train_gpt.cache_beside(tokens, s.NGRAM_CACHE) if cached else None
    model.first_angles, read = model.rotary(0, len(tokens)), []
    for i, (starts, length, last) in enumerate(window_batches(len(tokens) - 1, s.EVAL_SEQ_LEN, s.EVAL_STRIDE, 1), 1):
        z = slice(starts[0] + length - last, starts[0] + length)
        with as_read(read, z.start):
            logits = model.logits(stream[None, : z.stop], last)[0]
        loss = torch.nn.functional.cross_entropy(logits, stream[z.start + 1 : z.stop + 1], reduction="none")
        nats[z] = mixed[z] = loss.detach().numpy()
        if cached:
            mixed[z], own = mix(nats[z], z)
        share, began = torch.as_tensor(own) * torch.ones(last), np.flatnonzero(tokens[z] == BOS)
        if doc_rate and len(began):
            share[: began[-1]] = 0
        (loss * share).mean().backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                squares[name] = 0.99 * squares[name] + 0.01 * p.grad**2
                direction = p.grad / ((squares[name] / (1 - 0.99**i)).sqrt() + 0.001)
                if doc_rate and len(began):
                    p.copy_(lasting[name])
                lasting[name] = lasting[name] - rate * direction
                p -= (rate + doc_rate) * direction
                p.grad = None
    model.load_weights(kept)
    return mixed


@pytest.mark.parametrize("window", [0, 5, 32])
@pytest.mark.parametrize("n", [1, 3, 16, 47])
def test_rows_read_one_after_the_other_score_as_in_one_pass(window, n):
    """By a Learner whose steps are next to nothing. Whatever an edit lets a token see of those before it has to go through `behind`."""
    s = lane_settings(ATTN_WINDOW=window)
    model, stream = random_model(s), torch.from_numpy(np.random.default_rng(n).integers(1, 300, (1, 49)))
    with torch.no_grad():
        in_one = model.nats(stream[:, :-1], stream[:, 1:], 48)
    learner, row, by_rows = train_gpt.Learner(model, 1e-12, 0.0, 48), stream[0].numpy(), []
    for first in range(0, 48, n):
        x = stream[:, first : min(first + n, 48)]
        model.logits(torch.roll(x, 1, 1), 1, learner)  # a question that is not learned from leaves nothing
        by_rows.append(learner.learn(row[first : first + n + 1], lambda nats: (nats, np.ones_like(nats))))
    np.testing.assert_allclose(np.concatenate(by_rows), in_one, rtol=0, atol=1e-4)
    assert learner.at == 48
    torch.testing.assert_close(model.nats(stream[:, :-1], stream[:, 1:], 48), in_one, rtol=0, atol=1e-5)  # without it, as before


def test_what_a_learner_keeps_is_bounded():
    s = lane_settings(ATTN_WINDOW=0)
    model, row = random_model(s), np.arange(2, 15)
    for context in (0, 5, 30):
        learner = train_gpt.Learner(model, 0.01, 0.0, context)
        for read in (12, 24, 36):
            learner.learn(row, lambda nats: (nats, np.ones(12)))
            assert max(kept.size(1) for kept in learner.kept) == min(context, read)
            assert not any(kept.requires_grad for kept in learner.kept)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("doc_rate", [0, RATE / 20])
def test_scores_first_then_learns_and_puts_the_weights_back(tokens, cached, doc_rate):
    s = lane_settings(TTT_DOC_LR=doc_rate, ATTN_WINDOW=16, **({} if cached else {"NGRAM_CACHE": 0}))
    model = random_model(s)
    before, rate = model.weights(), RATE / 10  # at the whole rate, rounding alone grows to 2e-5
    frozen, learned = scores(model, s, tokens), scores(model, s, tokens, rate)
    after = model.weights()
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in model.parameters())
    assert np.array_equal(learned[:64], frozen[:64])  # nothing was learned yet
    assert (np.abs(learned[64:] - frozen[64:]) > 1e-6).mean() > 0.9
    np.testing.assert_allclose(learned, by_hand(model, s, tokens, rate, doc_rate, cached), atol=1e-5)
    assert np.array_equal(scores(model, s, tokens, rate), learned)  # in every evaluation anew
    assert np.array_equal(scores(model, s, tokens), frozen)


@given(st.integers(1, 330))
@examples(max_examples=12)
def test_learning_looks_at_no_target_before_its_score(lanes, tokens, changed):
    """Token `changed` is the target of position changed - 1: all scores before that are the same bits, learning or not."""
    model, s = lanes
    other = tokens.copy()
    other[changed] = (other[changed] + 100) % 300
    before, after = (scores(model, s, x, RATE) for x in (tokens, other))
    assert np.array_equal(before[: changed - 1], after[: changed - 1])
    assert before[changed - 1] != after[changed - 1]


def test_the_first_windows_are_scored_as_in_the_whole(lanes, tokens):
    model, s = lanes
    some, whole = scores(model, s, tokens[:161], RATE), scores(model, s, tokens, RATE)  # 64 targets and twice 48
    assert np.array_equal(some, whole[:160])


@pytest.mark.parametrize("length, stride", [(64, 48), (32, 8)])
def test_the_cache_learns_by_the_windows_that_are_scored(lanes, tokens, length, stride):
    """Those of EVAL_SEQ_SWEEP too, which are not those of EVAL_SEQ_LEN."""
    model, s = lanes
    alone, beside = (scores(model, x, tokens, EVAL_SEQ_LEN=length, EVAL_STRIDE=stride) for x in (lane_settings(NGRAM_CACHE=0), s))
    np.testing.assert_array_equal(beside, with_cache(alone, tokens, length, stride, s.NGRAM_CACHE))
    assert not np.array_equal(beside, alone)


class Heard(dict):
    """A dictionary that remembers what it was asked for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)


def test_the_header_has_every_setting_that_learning_needs(lanes, tokens):
    """All that building and scoring read, but for how much is done at once and tables that are only longer."""
    s = lane_settings()
    s.values = Heard(s.values)
    model = random_model(s)
    learned = score(model, tokens, s, CPU, Log(False), "test", s.EVAL_SEQ_LEN, s.EVAL_STRIDE, ttt=s.TTT_LR)
    needless = {"TRAIN_SEQ_LEN", "EVAL_SEQ_SWEEP", "QK_GAIN_INIT"}
    assert {"TTT_LR", "TTT_DOC_LR"} <= s.values.asked and s.values.asked - needless <= set(MODEL_KEYS + LATER_KEYS)
    other = lane_settings(MUON_MOMENTUM=0.9, ADAM_BETA2=0.9, EMBED_LR=0.1, EVAL_BATCH_TOKENS=64)
    np.testing.assert_allclose(scores(model, other, tokens, RATE), learned, atol=1e-6)


def test_the_learner_is_never_compiled(lanes, tokens, monkeypatch):
    """The referee's is not either, and a difference in rounding would grow from step to step."""
    model, s = lanes
    plain = scores(model, s, tokens, RATE)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    compiling = Runtime(torch.device("cpu"), torch.float32, True, [])
    learned = score(model, tokens, s, compiling, Log(False), "test", s.EVAL_SEQ_LEN, s.EVAL_STRIDE, ttt=RATE)
    np.testing.assert_array_equal(learned, plain)


def test_glances_never_learn(main, tmp_path):
    """Two runs that differ in TTT_LR alone: the same glances and weights, other scores."""
    runs = [
        main(RUN_ID=name, **(LANES | {"TTT_LR": rate}), VAL_LOSS_EVERY=2, VAL_LOSS_TOKENS=200)
        for name, rate in (("frozen", 0), ("learning", RATE))
    ]
    assert [done.code for done in runs] == [0, 0], runs[0].err + runs[1].err
    glances = [re.findall(r"^step:\d+ glance_targets:200 .*", done.out, re.M) for done in runs]
    assert len(glances[0]) == 6 and glances[0] == glances[1]
    assert same_arrays(tmp_path / "runs/frozen/weights.npz", tmp_path / "runs/learning/weights.npz")
    final = [line_of(done.out, "final_sliding_window_exact ")["val_bpb"] for done in runs]
    assert final[0] != final[1]


# -------------------------------------------------------------------------------------------------------- calibration


def test_second_moments_are_those_of_the_inputs(lanes, monkeypatch):
    model, s = lanes
    rows = np.random.default_rng(0).integers(0, 300, (6, 33))
    moments = train_gpt.second_moments(model, rows)
    matrices = {n: p for n, p in model.named_parameters() if train_gpt.role_of(n) in ("matrix", "embed")}
    assert {n: h.shape for n, h in moments.items()} == {n: (p.shape[1],) * 2 for n, p in matrices.items()}
    assert not train_gpt.WATCH
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(rows[:, :-1])).flatten(0, 1).double()
    np.testing.assert_allclose(moments["embed"], (hidden.mT @ hidden).numpy(), rtol=1e-3, atol=1e-2)
    assert np.array_equal(moments["blocks.0.attn.q"], moments["blocks.0.attn.v"])
    mlp, linear = model.blocks[0].mlp, train_gpt.linear
    monkeypatch.setattr(mlp, "forward", lambda x, scale: linear(linear(x, mlp.up * 1), mlp.down))
    assert moments.keys() - train_gpt.second_moments(model, rows).keys() == {"blocks.0.mlp.up"}  # `up` is no parameter as it is used there
    assert train_gpt.second_moments(model, rows[:0]) == train_gpt.second_moments(model, np.array([], np.int32)) == {}


@pytest.mark.parametrize("changes", [{}, {"NUM_LAYERS": 1}], ids=["two blocks", "one block, so no skips"])
def test_squared_gradients_are_those_of_single_sequences(changes):
    """Against the derivative of each sequence's mean loss, one at a time; the model keeps its weights and no gradient."""
    s = lane_settings(**changes)
    model = random_model(s)
    before = model.weights()
    rows = np.random.default_rng(0).integers(0, 300, (6, 33), dtype=np.int32)
    powers = train_gpt.squared_gradients(model, rows)
    named = {n: p for n, p in model.named_parameters() if p.numel()}
    want = dict.fromkeys(named, 0.0)
    for sequence in rows:
        tokens = torch.from_numpy(sequence).long()[None]
        loss = torch.nn.functional.cross_entropy(model.logits(tokens[:, :-1], 32)[0], tokens[0, 1:])
        for n, g in zip(named, torch.autograd.grad(loss, list(named.values()))):
            want[n] += float(g.square().mean())
    assert powers.keys() == want.keys() and all(x > 0 for x in want.values())
    assert powers == pytest.approx(want, rel=1e-4)
    assert all(p.grad is None for p in model.parameters())
    assert all(np.array_equal(w, before[n]) for n, w in model.weights().items())
    assert train_gpt.squared_gradients(model, np.array([], np.int32)) == dict.fromkeys(named, 0.0)


def other_validation(tiny, folder):
    """The same training shards, the validation documents in another order."""
    for path in tiny.folder.glob("*_train_*.bin"):
        (folder / path.name).symlink_to(path)
    (path,) = tiny.folder.glob("*_val_*.bin")
    documents = train_gpt.load_tokens(str(path), 10**6, 300)
    documents = np.split(documents, np.flatnonzero(documents == 1))[1:]
    write_shard(folder / path.name, np.concatenate(documents[5:] + documents[:5]))
    return folder


def test_calibration_reads_training_shards_alone(main, tiny, tmp_path, monkeypatch, finished_lanes):
    """With validation replaced, moments, gradients and artifact are the same bits and the score is another."""
    seen, read, real = [], [], {name: getattr(train_gpt, name) for name in ("second_moments", "squared_gradients")}

    def spy(name):
        def spied(model, rows):
            read.append(rows)
            seen.append(real[name](model, rows))
            return seen[-1]

        return spied

    for name in real:
        monkeypatch.setattr(train_gpt, name, spy(name))
    (tmp_path / "data").mkdir()
    done = main(RUN_ID="a", **LANES), main(RUN_ID="b", **LANES, DATA_PATH=other_validation(tiny, tmp_path / "data"))
    assert [x.code for x in done] == [0, 0], done[0].err + done[1].err
    first, second = (dict(zip(("forecast", "forecast gradients", "export", "export gradients"), seen[i : i + 4])) for i in (0, 4))
    assert len(seen) == 8
    order = train_gpt.TrainSequences(lane_settings(DATA_PATH=tiny.folder))
    wanted = [[order.sequence(i) for i in range(n)] for n in (10, 8)]  # 300 and 256 tokens in sequences of 32
    assert all(np.array_equal(rows, wanted[i % 2]) for i, rows in enumerate(read))
    for when in first:
        assert first[when].keys() == second[when].keys() != set()
        assert all(np.array_equal(first[when][n], second[when][n]) for n in first[when])
    ours, theirs = ((tmp_path / f"runs/{x}/artifact.bin").read_bytes() for x in "ab")
    assert ours == theirs == (finished_lanes[0] / "artifact.bin").read_bytes()
    final = [line_of(x.out, "final_sliding_window_exact ")["val_bpb"] for x in done]
    assert final[0] != final[1]
    s = lane_settings(TOKENIZER_PATH=tiny.tokenizer, DATA_PATH=tiny.folder)
    weights = arrays(tmp_path / "runs/a/weights.npz")
    assert train_gpt.fit_artifact(weights, s, TRAINER.stat().st_size, first["export"], first["export gradients"])[1] == ours
    assert train_gpt.fit_artifact(weights, s, TRAINER.stat().st_size, None, first["export gradients"])[1] != ours  # rounded to nearest


def test_calibration_is_on_the_clock_of_the_export(main, monkeypatch):
    clock, real = SteppingTime(), train_gpt.second_moments

    def slow(*args):
        clock.now += 50
        return real(*args)

    monkeypatch.setattr(train_gpt, "time", clock)
    monkeypatch.setattr(train_gpt, "second_moments", slow)
    done = main(**LANES, ITERATIONS=2)
    spans = line_of(done.out, "peak_memory_bytes:")
    assert done.code == 0 and 50 < float(spans["export_s"]) < 60 and float(spans["train_s"]) < 50


# -------------------------------------------------------------------------------------------------------- whole runs


def test_the_target_is_met_from_below(finished_lanes):
    folder, done = finished_lanes
    size, target = line_of(done.out, "size "), LANES["TARGET_BYTES"] - TRAINER.stat().st_size
    assert 0.998 * target <= int(size["model_bytes"]) == (folder / "artifact.bin").stat().st_size <= target
    assert int(size["total_bytes"]) <= LANES["TARGET_BYTES"]
    steps = {name: float(step) for name, step in line_of(done.out, "steps ").items()}
    usual = train_gpt.balanced_steps(arrays(folder / "weights.npz"), lane_settings(), {})
    assert steps.keys() == usual.keys() and len({steps[n] / usual[n] for n in steps}) == len(steps)  # each has its own share


def test_the_artifact_alone_gives_the_score_in_a_fresh_process(finished_lanes, tiny, tmp_path):
    """Nothing of the run's settings is there: the header says how to learn."""
    (tmp_path / "a.bin").write_bytes((finished_lanes[0] / "artifact.bin").read_bytes())
    result = json.loads((finished_lanes[0] / "result.json").read_text())
    data = {"DATA_PATH": tiny.folder, "TOKENIZER_PATH": tiny.tokenizer, "VOCAB_SIZE": 300, "VAL_TOKENS": 1500, "DEVICE": "cpu"}
    items = [f"{k}={v}" for k, v in data.items()]
    done = run_trainer("--eval-only", tmp_path / "a.bin", *items, f"AUX_VAL=same={tiny.folder}/*_val_*.bin")
    assert done.code == 0, done.err
    score = line_of(done.out, "final_sliding_window_exact ")["val_bpb"]
    assert float(score) == pytest.approx(result["val_bpb"], abs=1e-6)
    assert line_of(done.out, "auxiliary name:same ")["val_bpb"] == score  # other sets are learned from as well


def test_the_export_gap_is_of_scores_that_learned(finished_lanes, tiny):
    """Of the trained weights on the first targets, as the artifact's score is."""
    result, s = json.loads((finished_lanes[0] / "result.json").read_text()), lane_settings(TOKENIZER_PATH=tiny.tokenizer)
    model, val = GPT(s, CPU), train_gpt.load_tokens(f"{tiny.folder}/*_val_*.bin", 1500, 300)
    model.load_weights(arrays(finished_lanes[0] / "weights.npz"))
    nats = scores(model, s, val[: result["gap_tokens"] + 1], RATE)
    table = train_gpt.ByteTable.load(tiny.tokenizer)
    bpb = train_gpt.bits_per_byte(nats, table.target_bytes(val[:-1], val[1:])[: len(nats)])[1]
    assert result["pre_export_val_bpb"] == pytest.approx(bpb, abs=1e-6) != pytest.approx(result["post_export_val_bpb"], abs=1e-6)


def test_the_run_reports_what_it_did(finished_lanes):
    folder, done = finished_lanes
    header, weights = decode_artifact((folder / "artifact.bin").read_bytes())
    assert header == {k: v for k, v in json.loads((folder / "result.json").read_text())["settings"].items() if k in header}
    assert set(header) == set(MODEL_KEYS + LATER_KEYS) and header["TTT_LR"] == RATE
    assert weights["bigram"].shape == (50, 8) and weights["bigram"].any() and weights["bigram_up"].any()
    model = line_of(done.out, "model ")
    assert int(model["parameters"]) == sum(w.size for w in weights.values()) == sum(int(model[r]) for r in set(train_gpt.ROLES.values()))
    assert int(model["table"]) == 400 + weights["value_embed"].size


def test_learning_can_be_left_out_by_hand(main, finished_lanes):
    """TTT_LR=0 on the command line: the frozen score of the same artifact, which the first window shares."""
    frozen = main("--eval-only", finished_lanes[0] / "artifact.bin", bare=True, TTT_LR=0)
    learned = main("--eval-only", finished_lanes[0] / "artifact.bin", bare=True)
    a, b = (line_of(done.out, "final_sliding_window_exact ")["val_bpb"] for done in (frozen, learned))
    assert a != b == line_of(finished_lanes[1].out, "final_sliding_window_exact ")["val_bpb"]


@pytest.mark.parametrize("phase", ["second_moments", "squared_gradients", "encode_artifact", "atomic_write"])
def test_a_crash_in_the_export_changes_nothing(main, finished_lanes, tmp_path, monkeypatch, phase):
    """The process dies while it calibrates, fits, or writes the artifact; the resumed run writes the same bytes."""

    class Killed(BaseException):
        pass

    real, exporting = getattr(train_gpt, phase), []

    def dies(*args):
        if (tmp_path / "runs/x/weights.npz").exists() and (phase != "atomic_write" or args[0].name == "artifact.bin"):
            exporting.append(True)
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_gpt, phase, dies)
        with pytest.raises(Killed):
            main(RUN_ID="x", **LANES)
    folder = tmp_path / "runs/x"
    assert exporting and not (folder / "artifact.bin").exists()
    done = main("--resume", folder, bare=True)
    assert done.code == 0, done.err
    assert (folder / "artifact.bin").read_bytes() == (finished_lanes[0] / "artifact.bin").read_bytes()
    assert done.out.splitlines()[-1] == finished_lanes[1].out.splitlines()[-1]


def with_header(data, change):
    """The artifact with other model settings in its header."""
    fields = list(struct.unpack(PREFIX, data[:28]))
    header = json.loads(zlib.decompress(data[28 : 28 + fields[4]]))
    header["model"] = change(header["model"])
    text = zlib.compress(json.dumps(header).encode())
    rest, fields[4] = data[28 + fields[4] :], len(text)
    return struct.pack(PREFIX, *fields) + text + rest


def test_artifacts_from_before_the_lanes_mean_the_defaults(main, finished, tmp_path, tiny):
    """A version 1 file with the first keys alone, as tests/golden has them, scores as it did."""
    data = (finished[0] / "artifact.bin").read_bytes()
    old = with_header(data, lambda model: {k: v for k, v in model.items() if k in MODEL_KEYS})
    assert old[4] == 1 and set(decode_artifact(old)[0]) == set(MODEL_KEYS)
    golden = decode_artifact((TRAINER.parent / "tests/golden/zlib_bits_6_8.bin").read_bytes())[0]
    assert set(golden) == set(MODEL_KEYS)
    (tmp_path / "old.bin").write_bytes(old)
    data = dict(DATA_PATH=tiny.folder, TOKENIZER_PATH=tiny.tokenizer, VOCAB_SIZE=300, VAL_TOKENS=1500, DEVICE="cpu")
    done = main("--eval-only", tmp_path / "old.bin", bare=True, **data)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == finished[1].out.splitlines()[-1]


def test_check_foretells_the_scoring_time_of_learning(main):
    done = main("--check", **LANES)
    assert done.code == 0, done.err
    assert any("scoring_s" in pairs(line) for line in done.out.splitlines() if line.startswith("check "))


@pytest.mark.parametrize("ttt,batch", [(0.0, 64), (RATE, 64), (0.0, 8)])
def test_check_foretells_scoring_by_windows(main, monkeypatch, ttt, batch):
    """Where a window takes a second, the 368 of 1,500 targets take as many, although the first scores eight times as many as the others;
    and where EVAL_BATCH_TOKENS is less than a window too."""
    clock = SteppingTime()

    def one_second_each(model, tokens, s, r, log, label, seq_len, stride, ttt=0.0):
        clock.now += len(list(train_gpt.score_windows(len(tokens) - 1, seq_len, stride)))

    monkeypatch.setattr(train_gpt, "time", clock)
    monkeypatch.setattr(train_gpt, "score", one_second_each)
    done = main("--check", **LANES | {"TTT_LR": ttt, "EVAL_SEQ_LEN": 32, "EVAL_STRIDE": 4, "VAL_TOKENS": 1500, "EVAL_BATCH_TOKENS": batch})
    (found,) = (pairs(line)["scoring_s"] for line in done.out.splitlines() if "scoring_s:" in line)
    assert int(found) == pytest.approx(1 + (1500 - 32) / 4, rel=0.05)
