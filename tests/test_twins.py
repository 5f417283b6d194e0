"""The MLX twin promises: the same text where no framework is used, and elsewhere the same model, steps, files and scores.

All of it in float32 on the CPU. What a Mac's GPU does is not tested here.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import TinyData, line_of, pairs, run_trainer
from data_helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import sync_twins

SOURCE, TWIN = ROOT / "train_gpt.py", ROOT / "train_gpt_mlx.py"
STEPS = 50


# ---------------------------------------------------------------------------------------------- text, without frameworks


def test_shared_text_is_the_same():
    assert sync_twins.main(["--check"]) == 0


def test_sync_copies_and_check_notices(tmp_path, monkeypatch):
    monkeypatch.setattr(sync_twins, "ROOT", tmp_path)
    (tmp_path / SOURCE.name).write_text("# shared: begin a\nnew\n# shared: end a\ntorch\n# shared: begin b\n# shared: end b\n")
    twin = tmp_path / TWIN.name
    twin.write_text("# shared: begin a\nold\n# shared: end a\nmlx\n# shared: begin b\n# shared: end b\n")
    assert sync_twins.main(["--check"]) == 1
    assert "old" in twin.read_text()
    assert sync_twins.main([]) == 0
    assert twin.read_text() == "# shared: begin a\nnew\n# shared: end a\nmlx\n# shared: begin b\n# shared: end b\n"
    assert sync_twins.main(["--check"]) == 0
    twin.write_text("# shared: begin b\n# shared: end b\n")
    with pytest.raises(SystemExit, match="give it the same markers"):
        sync_twins.main([])


def outline(path: Path) -> list[str]:
    """Section banners, classes, functions and public methods of a trainer, in order."""
    text = path.read_text(encoding="utf-8")
    lines = {n: line.strip("# =") for n, line in enumerate(text.splitlines(), 1) if re.fullmatch(r"# .+ =+", line)}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines[node.lineno] = node.name
    return [lines[n] for n in sorted(lines)]


def test_same_banners_classes_and_functions_in_the_same_order():
    assert len(outline(SOURCE)) > 60
    assert outline(SOURCE) == outline(TWIN)


def test_length_of_the_twin():
    assert len(TWIN.read_text(encoding="utf-8").splitlines()) <= 1500


# --------------------------------------------------------------------------------------------------------- both at once


@pytest.fixture(scope="module")
def both() -> tuple[ModuleType, ModuleType]:
    """(train_gpt, train_gpt_mlx)"""
    pytest.importorskip("torch", reason="torch is not installed, so the twins cannot be compared")
    pytest.importorskip("mlx.core", reason="mlx is not installed, so the twins cannot be compared: pip install -r requirements-mlx.txt")
    import mlx.core as mx

    import train_gpt
    import train_gpt_mlx

    mx.set_default_device(mx.cpu)
    return train_gpt, train_gpt_mlx


def test_backend_settings_that_differ_say_why(both):
    mine, its = ({x.name: x for x in trainer.BACKEND_SETTINGS} for trainer in both)
    assert set(mine) <= set(its)
    for name, setting in its.items():
        assert mine.get(name) == setting or "because" in setting.help, name


def test_configs_for_a_mac(both):
    def load(trainer, name):
        return trainer.load_settings(["--config", str(ROOT / "configs" / f"local_{name}.env")], {})

    free = {"DEVICE", "TRAIN_BATCH_TOKENS", "MICROBATCH_TOKENS", "EVAL_BATCH_TOKENS"}
    shorter = {"TRAIN_SEQ_LEN", "ATTN_WINDOW", "EVAL_SEQ_LEN", "CALIBRATION_TOKENS", "BALANCE_TOKENS", "TTT_LR", "TTT_DOC_LR"}
    for mine, its, differ in (("4090_baseline", "apple_mlx", free), ("4090_record", "apple_record", free | shorter)):
        full = load(both[1], its)
        assert {n for n, value in load(both[0], mine).values.items() if full.values[n] != value} <= differ
    smoke = load(both[1], "apple_smoke")
    assert smoke.MAX_WALLCLOCK_SECONDS <= 180 and smoke.DATA_PATH.endswith("embedded_sp1024")


class Pair:
    """Both models with the same weights, none of them zero, and what it takes to train them."""

    def __init__(self, both: tuple[ModuleType, ModuleType], *items: str):
        small = "NUM_LAYERS=3 MODEL_DIM=32 NUM_HEADS=4 NUM_KV_HEADS=2 TRAIN_SEQ_LEN=32 TRAIN_BATCH_TOKENS=128 DEVICE=cpu VOCAB_SIZE=64"
        self.trainers, self.settings = both, [trainer.load_settings([*small.split(), *items], {}) for trainer in both]
        self.runtimes = [trainer.resolve_device(s) for trainer, s in zip(both, self.settings)]
        self.models = [trainer.GPT(s, r) for trainer, s, r in zip(both, self.settings, self.runtimes)]
        self.rng, (torch_model, mlx_model) = np.random.default_rng(5), self.models
        start = both[0].initial_weights(self.settings[0], torch_model.weights())
        self.start = {n: (w + self.rng.normal(0, 0.3 * w.shape[-1] ** -0.5, w.shape)).astype(np.float32) for n, w in start.items()}
        torch_model.load_weights(self.start)
        mlx_model.load_weights(self.start)

    def tokens(self) -> np.ndarray:
        return self.rng.integers(0, 64, (4, 33), dtype=np.int32)


SHAPES = {
    "grouped heads, odd depth": ("NUM_LAYERS=5",),
    "one block": ("NUM_LAYERS=1", "NUM_KV_HEADS=4"),
    "lanes": tuple(
        "ATTN_WINDOW=7 MLP_LEAK=0.5 BIGRAM_ROWS=50 BIGRAM_DIM=8 SMEAR=1 HEAD_GATE=12 CONV_TAPS=3 KEY_SHIFT=1 VALUE_EMBED=1".split()
    ),
    "other head, softcap and width": ("NUM_LAYERS=2", "NUM_KV_HEADS=1", "MLP_MULT=3", "LOGIT_SOFTCAP=5", "ROPE_BASE=500"),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def pair(both, request) -> Pair:
    return Pair(both, *request.param)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_logits_loss_and_gradients(pair):
    import mlx.core as mx
    import torch
    from mlx import nn
    from mlx.utils import tree_flatten

    (torch_model, mlx_model), batch = pair.models, pair.tokens()
    x, y = torch.from_numpy(batch[:, :-1]).long(), torch.from_numpy(batch[:, 1:]).long()
    x_mlx, y_mlx = mx.array(batch[:, :-1]), mx.array(batch[:, 1:])

    logits = (torch_model.hidden(x) @ torch_model.embed.T).detach().numpy()
    np.testing.assert_allclose(np.array(mlx_model.hidden(x_mlx) @ mlx_model.embed.T), logits, rtol=0, atol=1e-4)
    for last in (32, 5):
        nats = torch_model.nats(x, y, last).detach().numpy()
        np.testing.assert_allclose(np.array(mlx_model.nats(x_mlx, y_mlx, last)), nats, rtol=0, atol=1e-4)

    torch_model.nats(x, y, 32).mean().backward()
    _, grads = nn.value_and_grad(mlx_model, lambda x, y: mlx_model.nats(x, y, 32).mean())(x_mlx, y_mlx)
    grads = dict(tree_flatten(grads))
    expected = {name: p.grad.numpy() for name, p in torch_model.named_parameters() if p.numel()}  # one block has no skips
    grads = {name: g for name, g in grads.items() if g.size}
    assert grads.keys() == expected.keys() == {name for name, w in pair.start.items() if w.size}
    assert all(np.any(g) for g in expected.values())
    worst = max((relative(np.array(grads[name]), g), name) for name, g in expected.items())
    assert worst[0] < 1e-3, worst


@pytest.mark.parametrize(
    "items",
    [
        (),
        SHAPES["lanes"],
        ("MICROBATCH_TOKENS=32", "GRAD_CLIP_NORM=0.05"),
        ("MUON_NS_STEPS=3", "ADAM_BETA1=0.8", "MUON_WEIGHT_DECAY=0.5", "GRAD_CLIP_NORM=0", "MUON_MOMENTUM_WARMUP_STEPS=5"),
    ],
    ids=["defaults", "lanes", "microbatches, clipped", "other optimizer settings"],
)
def test_ten_optimizer_steps(both, items):
    pair = Pair(both, *items)
    steppers = [t.Stepper(s, r, m) for t, s, r, m in zip(both, pair.settings, pair.runtimes, pair.models)]
    for step in range(10):
        batch = pair.tokens()
        losses = [x.finish(x.launch(step, x.prepare(batch), 0.5 + 0.05 * step)) for x in steppers]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    torch_weights, mlx_weights = (model.weights() for model in pair.models)
    change = {n: (mlx_weights[n] - w0, torch_weights[n] - w0) for n, w0 in pair.start.items()}
    worst = max((relative(*both_changes), name) for name, both_changes in change.items())
    assert worst[0] < 1e-3, worst
    assert steppers[1].state().keys() == steppers[0].state().keys()


def test_state_goes_on_from_where_it_was_saved(both):
    one, two = Pair(both), Pair(both)
    first, second = (both[1].Stepper(p.settings[1], p.runtimes[1], p.models[1]) for p in (one, two))
    batches = [one.tokens() for _ in range(4)]
    for step in range(4):
        if step == 2:
            second.load_state(first.state())
        first.launch(step, batches[step], 1.0)
        if step >= 2:
            second.launch(step, batches[step], 1.0)
    for name, value in first.state().items():
        np.testing.assert_array_equal(second.state()[name], value)


def test_state_that_a_step_makes_late_is_refused(both):
    """It would be in a checkpoint, and nothing would take it from there."""
    import torch

    pair = Pair(both)
    for twin, s, runtime, model, make in zip(both, pair.settings, pair.runtimes, pair.models, (torch.zeros, both[1].mx.zeros)):
        stepper = twin.Stepper(s, runtime, model)
        saved = stepper.state()
        stepper.optimizer.state["rows/late"] = make(3)
        for state in (saved, stepper.state() | {"first/other": np.zeros(3, np.float32)}):
            with pytest.raises(twin.UserError, match="(rows/late|first/other) would be lost on --resume: make all of Optimizer.state"):
                stepper.load_state(state)


@pytest.mark.parametrize("length,window", [(1, 0), (128, 0), (300, 0), (300, 40), (300, 128), (300, 200), (50, 60)])
def test_attention_in_blocks_is_that_of_a_mask(both, length, window):
    """A CPU goes through blocks of queries; the other tests are shorter than one block."""
    import mlx.core as mx
    import torch

    rng = np.random.default_rng(4)
    qkv = [rng.normal(size=(2, heads, length, 8)).astype(np.float32) for heads in (4, 2, 2)]
    gradient = rng.normal(size=(2, 4, length, 8)).astype(np.float32)
    age = np.arange(length)[:, None] - np.arange(length)
    mask = mx.array((age >= 0) & (age < (window or length)))

    def plain(q, k, v):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask=mask)

    def blocks(q, k, v):
        return both[1].attend(q, k, v, window)

    (mine, my_grads), (its, its_grads) = (mx.vjp(f, [mx.array(x) for x in qkv], [mx.array(gradient)]) for f in (blocks, plain))
    tensors = [torch.from_numpy(x).requires_grad_() for x in qkv]
    theirs = both[0].attend(*tensors, window)
    theirs.backward(torch.from_numpy(gradient))
    expected = [theirs.detach().numpy(), *(x.grad.numpy() for x in tensors)]
    for one, other, third in zip(mine + my_grads, its + its_grads, expected):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.array(one), third, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length,window", [(40, 0), (300, 0), (300, 40), (300, 128), (300, 200), (50, 60)])
def test_attention_of_a_gpu_is_that_of_a_cpu(both, monkeypatch, length, window):
    """The blocks that a GPU goes through, with MLX's own kernel for each; computed on the CPU, which says that it is a GPU."""
    import mlx.core as mx

    rng = np.random.default_rng(4)
    qkv = [mx.array(rng.normal(size=(2, heads, length, 8)).astype(np.float32)) for heads in (4, 2, 2)]
    gradient = [mx.array(rng.normal(size=(2, 4, length, 8)).astype(np.float32))]

    def both_ways():
        return [np.array(x) for part in mx.vjp(lambda q, k, v: both[1].attend(q, k, v, window), qkv, gradient) for x in part]

    expected, kernel, calls = both_ways(), mx.fast.scaled_dot_product_attention, []

    def counted(*args, **kw):
        calls.append(kw["mask"])
        return kernel(*args, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(both[1].mx, "default_device", lambda: SimpleNamespace(type=mx.gpu))
        patch.setattr(mx.fast, "scaled_dot_product_attention", counted)
        got = both_ways()
    assert len(calls) == -(-length // max(128, window or length))
    for one, other in zip(got, expected):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 999, 2**20])
def test_hashed_pairs_of_the_largest_ids(both, rows):
    """The products of ids near 65,536 pass 2**31. The table's gradient says which rows were read, and how often."""
    import mlx.core as mx
    import torch
    from mlx import nn

    tiny = "VOCAB_SIZE=65536 MODEL_DIM=8 NUM_HEADS=1 NUM_KV_HEADS=1 NUM_LAYERS=1 BIGRAM_DIM=1"
    pair = Pair(both, *tiny.split(), f"BIGRAM_ROWS={rows}")
    tokens = np.r_[pair.rng.integers(0, 65536, 20), [0, 65535, 65535, 59138, 65535, 0, 0, 32768]].astype(np.int32)[None]
    before, last = np.r_[0, tokens[0, :-1].astype(np.int64)], tokens[0].astype(np.int64)
    assert (before * 36313).max() > 2**31
    expected = np.unique((before * 36313 ^ last * 27191) % rows)
    torch_model, mlx_model = pair.models
    torch_model.hidden(torch.from_numpy(tokens).long()).square().mul(torch.arange(8)).sum().backward()
    grads = nn.value_and_grad(mlx_model, lambda x: (mlx_model.hidden(x).square() * mx.arange(8)).sum())(mx.array(tokens))[1]
    for g in (torch_model.bigram.grad.numpy(), np.array(grads["bigram"])):
        np.testing.assert_array_equal(np.flatnonzero(g), expected)


def test_dropout_is_for_training_alone_in_mlx_too(both, monkeypatch):
    pair, seen = Pair(both), []
    model, (_, s), (_, runtime) = pair.models[1], pair.settings, pair.runtimes
    real = type(model).nats
    monkeypatch.setattr(type(model), "nats", lambda self, *a: seen.append(self.blocks[0].training) or real(self, *a))
    stepper = both[1].Stepper(s, runtime, model)
    for step in range(2):
        assert not model.training
        stepper.launch(step, pair.tokens(), 1.0)
        both[1].squared_gradients(model, pair.tokens()[:1])
    assert seen == [True, False] * 2


def test_second_moments(both):
    pair = Pair(both, *SHAPES["lanes"])
    rows = np.concatenate([pair.tokens() for _ in range(2)])
    first, second = (t.second_moments(m, rows) for t, m in zip(both, pair.models))
    matrices = {n for n in pair.start if both[0].role_of(n) == "matrix"}
    assert first.keys() == second.keys() == matrices | {"embed"}
    assert max(relative(second[n], first[n]) for n in first) < 1e-5
    assert not both[0].WATCH and not both[1].WATCH


@pytest.mark.parametrize("shape", ["lanes", "one block"])
def test_squared_gradients(both, shape):
    pair = Pair(both, *SHAPES[shape])
    rows = np.concatenate([pair.tokens() for _ in range(2)])
    first, second = (t.squared_gradients(m, rows) for t, m in zip(both, pair.models))
    assert first.keys() == second.keys() == {n for n, w in pair.start.items() if w.size}
    assert second == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize("doc_rate", [0, 0.004])
def test_test_time_training(both, doc_rate):
    """Four windows, of which three are scored by a model that the ones before have changed; a document begins in the second."""
    log = both[0].Log(False)
    pair = Pair(both, *SHAPES["lanes"], "EVAL_SEQ_LEN=24", "EVAL_STRIDE=16", "TTT_LR=0.01", f"TTT_DOC_LR={doc_rate}")
    tokens = pair.rng.integers(2, 64, 73).astype(np.uint16)
    tokens[[0, 30]] = both[0].BOS
    scores = [
        [t.score(m, tokens, s, r, log, "x", 24, 16, ttt=ttt) for t, m, s, r in zip(both, pair.models, pair.settings, pair.runtimes)]
        for ttt in (0.01, 0.0)
    ]
    np.testing.assert_allclose(scores[0][1], scores[0][0], rtol=0, atol=2e-4)  # three steps carry rounding on
    np.testing.assert_allclose(scores[1][1], scores[1][0], rtol=0, atol=1e-4)
    assert np.abs(scores[0][0] - scores[1][0])[24:].max() > 0.1
    for model in pair.models:
        for name, w in model.weights().items():
            np.testing.assert_array_equal(w, pair.start[name])


@pytest.mark.parametrize("window", [0, 5, 24])
@pytest.mark.parametrize("n", [7, 31, 140])
def test_rows_read_one_after_the_other_score_as_in_one_pass(both, window, n):
    """Twin of the test in test_lanes.py, with the blocks of the CPU's attention crossed."""
    pair, t = Pair(both, *SHAPES["lanes"], f"ATTN_WINDOW={window}", "EVAL_SEQ_LEN=160"), both[1]
    model, tokens = pair.models[1], pair.rng.integers(1, 9, (1, 151)).astype(np.int32)
    in_one = np.array(model.nats(t.mx.array(tokens[:, :-1]), t.mx.array(tokens[:, 1:]), 150))
    learner, by_rows = t.Learner(model, 1e-12, 0.0, 150), []
    for first in range(0, 150, n):
        x = t.mx.array(tokens[:, first : min(first + n, 150)])
        model.logits(x[:, ::-1], 1, learner)  # a question that is not learned from leaves nothing
        by_rows.append(learner.learn(tokens[0, first : first + n + 1], lambda nats: (nats, np.ones_like(nats))))
    np.testing.assert_allclose(np.concatenate(by_rows), in_one, rtol=0, atol=1e-4)
    assert learner.at == 150


def test_learning_computes_each_window_once(both, monkeypatch):
    """Its gradient goes on from the scores, whatever the cache then says of the model's part in each mixture."""
    pair = Pair(both, "EVAL_SEQ_LEN=24", "EVAL_STRIDE=16", "NGRAM_CACHE=2", "TTT_LR=0.01", "TTT_DOC_LR=0.004")
    (_, trainer), (_, s), (_, runtime), (_, model) = both, pair.settings, pair.runtimes, pair.models
    tokens, calls, real = np.r_[1, pair.rng.integers(2, 9, 71), 1].astype(np.uint16), [], type(model).nats
    monkeypatch.setattr(type(model), "nats", lambda self, x, y, last, *learner: calls.append(last) or real(self, x, y, last, *learner))
    nats = trainer.score(model, tokens, s, runtime, trainer.Log(False), "x", 24, 16, ttt=0.01)
    assert calls == [24, 16, 16, 16] and np.isfinite(nats).all()
    its = both[0].score(pair.models[0], tokens, pair.settings[0], pair.runtimes[0], both[0].Log(False), "x", 24, 16, ttt=0.01)
    np.testing.assert_allclose(nats, its, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(3, 8, 6), (2, 6, 8)])
def test_newton_schulz_is_float32(both, shape):
    """In bf16 it gives nan in MLX. The reference is the other twin's in float64."""
    import mlx.core as mx
    import torch

    g = np.random.default_rng(3).normal(size=shape)
    expected = both[0].orthogonalize(torch.from_numpy(g), 5).numpy()
    np.testing.assert_allclose(np.array(both[1].orthogonalize(mx.array(g.astype(np.float32)), 5)), expected, rtol=0, atol=1e-4)


def test_products_of_float32_are_not_rounded_to_less(both):
    """On GPUs with units for it (M5, CUDA), MLX takes TF32 for float32 unless told otherwise, before the first product."""
    told = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); import train_gpt_mlx; print(os.environ['MLX_ENABLE_TF32'])"
    for own, want in (({}, "0"), ({"MLX_ENABLE_TF32": "1"}, "1")):
        env = {k: v for k, v in os.environ.items() if k != "MLX_ENABLE_TF32"} | own
        assert subprocess.run([sys.executable, "-c", told], env=env, capture_output=True, text=True, check=True).stdout.strip() == want


def test_weights_and_optimizer_are_float32_when_activations_are_bf16(both):
    pair = Pair(both, "PRECISION=bf16")
    stepper = both[1].Stepper(pair.settings[1], pair.runtimes[1], pair.models[1])
    assert np.isfinite([stepper.launch(step, pair.tokens(), 1.0).item() for step in range(3)]).all()
    assert {str(a.dtype) for a in stepper.optimizer.state.values()} == {"mlx.core.float32"}
    assert all(np.isfinite(w).all() and w.dtype == np.float32 for w in pair.models[1].weights().values())


@pytest.fixture
def without_fusing(both, monkeypatch):
    """mx.compile traces and captures as ever but builds no fused kernels, which on a CPU take a C++ compiler most of a minute."""
    import mlx.core as mx

    found = list(Path(mx.__file__).parent.glob("lib/libmlx.*"))
    mode = getattr(ctypes.CDLL(str(found[0])), "_ZN3mlx4core16set_compile_modeENS0_11CompileModeE", None) if found else None
    if not mode:
        pytest.skip("this MLX has no switch for fusing, and with it the test takes too long")
    monkeypatch.setattr(both[1].shutil, "which", lambda name: name)  # nor is a compiler needed
    mode(2)
    yield
    mode(3)


def test_compiled_steps_are_the_same_and_warming_up_leaves_no_trace(both, without_fusing):
    """Compilation is what a Mac's GPU runs with."""
    plain, compiled = (Pair(both, "NUM_LAYERS=2", "MICROBATCH_TOKENS=64", f"COMPILE={switch}") for switch in ("off", "on"))
    first, second = (both[1].Stepper(p.settings[1], p.runtimes[1], p.models[1]) for p in (plain, compiled))
    batches, said = [plain.tokens() for _ in range(3)], []
    before = second.state()
    second.warm_up(batches[0], said.append)
    assert not said and compiled.runtimes[1].compile
    assert all(np.array_equal(value, before[name]) for name, value in second.state().items())
    for step, batch in enumerate(batches):
        losses = [x.finish(x.launch(step, batch, 1.0)) for x in (first, second)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, value in first.state().items():
        np.testing.assert_allclose(second.state()[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_compiled_dropout_drops_other_units_each_time(both, without_fusing, monkeypatch):
    """And the same ones as without compiling, also when compiling has failed halfway: warming up leaves no trace."""
    from mlx import nn

    class Dropping(both[1].MLP):
        def __init__(self, s):
            super().__init__(s)
            self.drop = nn.Dropout(0.5)

        def __call__(self, x, scale):
            return self.drop(super().__call__(x, scale))

    def halfway(self, *args):
        real(self, *args)
        raise ValueError("not to be traced")

    monkeypatch.setattr(both[1], "MLP", Dropping)
    losses, real = [], both[1].GPT.nats
    for switch, broken in (("off", False), ("on", False), ("on", True)):
        pair = Pair(both, "NUM_LAYERS=1", "TRAIN_BATCH_TOKENS=32", f"COMPILE={switch}", "MATRIX_LR=0", "EMBED_LR=0", "VECTOR_LR=0")
        (_, s), (_, runtime), (_, model), batch, notes = pair.settings, pair.runtimes, pair.models, pair.tokens()[:1], []
        runtime.start(s.SEED)
        stepper = both[1].Stepper(s, runtime, model)
        with monkeypatch.context() as patch:
            if broken:
                patch.setattr(both[1].GPT, "nats", halfway)
            stepper.warm_up(batch, notes.append)
        assert runtime.compile == (switch == "on" and not broken) and len(notes) == broken
        losses.append([stepper.finish(stepper.launch(step, batch, 1.0)) for step in range(3)])
    assert len({round(x, 4) for x in losses[0]}) == 3
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_weights_that_do_not_fit_are_refused(both):
    pair = Pair(both)
    with pytest.raises(both[1].UserError, match=r"\[\('skips', .*does LATER_KEYS lack a setting"):
        pair.models[1].load_weights({n: w for n, w in pair.start.items() if n != "skips"})
    with pytest.raises(both[1].UserError, match=r"build: \[\('skips', .*\('skips', "):
        pair.models[1].load_weights(pair.start | {"skips": np.zeros((7, 7), np.float32)})


@pytest.mark.parametrize("items", [(), (*SHAPES["lanes"], "QUANT=step", "CODEC=rans", "CALIBRATION_TOKENS=128")])
def test_exports_are_the_same_bytes(both, items):
    pair = Pair(both, *items)
    guides = [f(pair.models[0], pair.tokens()[: None if items else 0]) for f in (both[0].second_moments, both[0].squared_gradients)]
    (steps, first), second = (t.fit_artifact(m.weights(), s, 0, *guides) for t, m, s in zip(both, pair.models, pair.settings))
    assert (steps, first) == second and len(steps) == (len([n for n in pair.start if both[0].role_of(n) != "vector"]) if items else 0)


# ------------------------------------------------------------------------------------------- whole runs on a tiny dataset


@pytest.fixture(scope="module")
def call(tiny: TinyData, tmp_path_factory):
    """call(trainer, *arguments, **settings): the trainer's main() in this process; returns (exit status, log). Keeps signal handlers."""
    from contextlib import redirect_stdout
    from io import StringIO

    runs = tmp_path_factory.mktemp("twins")

    def run(trainer: ModuleType, *args: object, **changes: object) -> tuple[int, str]:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        items = tiny.settings(RUNS_DIR=runs, ITERATIONS=STEPS, **changes)
        try:
            with redirect_stdout(StringIO()) as out, pytest.MonkeyPatch.context() as patch:
                patch.setattr("os.environ", {})
                code = trainer.main([*map(str, args), *items])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return code, out.getvalue()

    run.runs = runs
    return run


@pytest.fixture(scope="module")
def runs(both, call) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """(folder, log) of the same run by either twin: same seeds, same batches."""
    done = []
    for trainer, name in zip(both, ("torch", "mlx")):
        code, log = call(trainer, RUN_ID=name)
        assert code == 0, log
        done.append((call.runs / name, log))
    return tuple(done)


def test_loss_curves_stay_together(runs):
    curves = [[float(x) for x in re.findall(r"^step:\d+ train_loss:(\S+)", log, re.M)] for _, log in runs]
    assert len(curves[0]) == STEPS
    assert curves[0][-1] < curves[0][0] - 0.3  # it did learn
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)


def test_same_log_files_and_results(both, runs):
    (torch_folder, torch_log), (mlx_folder, mlx_log) = runs
    assert sorted(p.name for p in mlx_folder.iterdir()) == sorted(p.name for p in torch_folder.iterdir())
    assert (mlx_folder / "train_gpt.py").read_bytes() == TWIN.read_bytes()

    def shape(log: str) -> list[str]:
        """First word and keys of every line, without the notes and without the framework's version."""
        lines = [line for line in log.splitlines() if not line.startswith(("note:", "torch:", "mlx:"))]
        return [" ".join([line.split()[0].partition(":")[0], *pairs(line)]) for line in lines]

    assert shape(mlx_log) == shape(torch_log)
    assert "note: MLX runs on the CPU" in mlx_log
    results = [json.loads((folder / "result.json").read_text()) for folder, _ in runs]
    assert results[1].keys() ^ results[0].keys() == {"torch", "mlx"}
    same = ("lane", "seed", "steps", "train_tokens", "epochs", "scored_tokens", "scored_bytes", "data_hashes", "precision", "cap_bytes")
    assert {k: results[0][k] for k in same} == {k: results[1][k] for k in same}
    assert results[1]["lane"].startswith("open hardware") and not both[1].Runtime.cuda
    assert results[1]["peak_memory_bytes"] > 10**7


LANES = dict(ATTN_WINDOW=16, MLP_LEAK=0.5, BIGRAM_ROWS=100, BIGRAM_DIM=8, SMEAR=1, HEAD_GATE=12, CONV_TAPS=3, KEY_SHIFT=1)
LANES |= dict(VALUE_EMBED=1, QUANT="step", CODEC="rans", CALIBRATION_TOKENS=512)


@pytest.fixture(scope="module")
def lane_runs(both, call) -> list[tuple[Path, str]]:
    """As `runs`, with LANES."""
    return [(call.runs / f"lanes_{i}", call(t, RUN_ID=f"lanes_{i}", **LANES)[1]) for i, t in enumerate(both)]


@pytest.mark.parametrize("lanes", [False, True])
def test_either_twin_scores_the_others_artifact(both, runs, lane_runs, call, tmp_path, lanes):
    for (folder, log), other in zip(lane_runs if lanes else runs, reversed(both)):
        artifact = tmp_path / f"{folder.name}.bin"
        artifact.write_bytes((folder / "artifact.bin").read_bytes())
        code, out = call(other, "--eval-only", artifact)
        assert code == 0, out
        own, its = (float(line_of(text, "final_sliding_window_exact ")["val_bpb"]) for text in (log, out))
        assert its == pytest.approx(own, abs=1e-5)


def test_either_twin_learns_from_an_artifact_while_scoring_it(both, lane_runs, call):
    """Every step passes the rounding of the ones before on."""
    for folder, _ in lane_runs:
        scores = []
        for trainer in both:
            code, out = call(trainer, "--eval-only", folder / "artifact.bin", TTT_LR=0.0005, VAL_TOKENS=300)
            assert code == 0, out
            scores.append(float(line_of(out, "final_sliding_window_exact ")["val_bpb"]))
        assert scores[1] == pytest.approx(scores[0], abs=1e-5)
        code, out = call(both[1], "--eval-only", folder / "artifact.bin", TTT_LR=0, VAL_TOKENS=300)
        assert scores[1] < float(line_of(out, "final_sliding_window_exact ")["val_bpb"]) - 0.001


def test_interrupted_run_goes_on_to_the_same_artifact(both, runs, call, monkeypatch):
    twin, launch = both[1], both[1].Stepper.launch

    def interrupted_launch(self, step, batch, scale):
        if step == 20:
            signal.raise_signal(signal.SIGINT)
        return launch(self, step, batch, scale)

    with monkeypatch.context() as patch:
        patch.setattr(twin.Stepper, "launch", interrupted_launch)
        code, log = call(twin, RUN_ID="stopped")
    folder = call.runs / "stopped"
    assert code == 130, log
    assert "go on with" in log and (folder / "checkpoint.npz").is_file()
    code, log = call(twin, "--resume", folder, RUN_ID="stopped")
    assert code == 0, log
    assert float(line_of(log, "resumed ")["step"]) == 21
    assert (folder / "artifact.bin").read_bytes() == (runs[1][0] / "artifact.bin").read_bytes()


def test_check_runs(both, call):
    code, log = call(both[1], "--check", TRAIN_BATCH_TOKENS=128)
    assert code == 0, log
    assert float(line_of(log, "check step_s:")["tokens_per_s"]) > 0
    assert "forecast " in log and "warmdown_begins_at_step:" in log


def test_the_command_scores_again_in_a_fresh_process(runs):
    folder, log = runs[1]
    done = run_trainer("--eval-only", folder / "artifact.bin", command=(TWIN,))
    assert done.code == 0, done.err
    last = done.out.splitlines()[-1]
    assert last.startswith("final_sliding_window_exact ")
    assert float(pairs(last)["val_bpb"]) == pytest.approx(float(line_of(log, "final_sliding_window_exact ")["val_bpb"]), abs=1e-6)


@pytest.mark.parametrize("arguments", [["--help"], ["MODEL_DIM=33"], ["DEVICE=cuda"], ["MICROBATCH=1"]])
def test_the_command_explains_itself(both, arguments, capsys, monkeypatch):
    monkeypatch.setattr("os.environ", {})
    if arguments == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            both[1].main(arguments)
        assert "CACHE_LIMIT_MB" in capsys.readouterr().out
        return
    assert both[1].main(arguments) == 2
    text = {"MODEL_DIM=33": "not divisible", "DEVICE=cuda": "allowed: auto|gpu|cpu", "MICROBATCH=1": "did you mean MICROBATCH_TOKENS?"}
    assert text[arguments[0]] in capsys.readouterr().err


def test_gpu_asked_for_where_there_is_none(both, capsys):
    import mlx.core as mx

    if mx.is_available(mx.gpu):
        pytest.skip("MLX has a GPU here, so the message for machines without one cannot show")
    with pytest.raises(both[1].UserError, match="DEVICE=gpu, but MLX finds no GPU"):
        both[1].resolve_device(both[1].load_settings(["DEVICE=gpu"], {}))
