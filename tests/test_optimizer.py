"""Promise: Muon and Adam are what they are called, every parameter has one of them, and the schedule reaches its end."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import TINY, SteppingTime, line_of, pairs, settings
from torch import nn

import train_gpt
from train_gpt import (
    GPT,
    ROLES,
    Optimizer,
    Runtime,
    UserError,
    initial_weights,
    lr_scale,
    muon_momentum,
    orthogonalize,
    progress_of,
    role_of,
)

CPU = Runtime(torch.device("cpu"), torch.float32, False, [])


def tiny_settings(**changes):
    return settings(*(f"{k}={v}" for k, v in (TINY | changes).items()))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 32), (2, 16, 48), (1, 5, 5)])
def test_newton_schulz_makes_singular_values_near_one_and_keeps_the_directions(shape):
    g = noise(*shape) * 1e-3
    x = orthogonalize(g, 5)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    rotated = u.mT @ x @ v.mT  # diagonal, with the new singular values on it
    diagonal = torch.diagonal(rotated, dim1=-2, dim2=-1)
    reached = s > 0.02 * s.max(-1, keepdim=True).values  # five steps lift what is not tiny
    assert (diagonal[reached] > 0.65).all() and (diagonal < 1.25).all()
    torch.testing.assert_close(rotated, torch.diag_embed(diagonal), atol=2e-3, rtol=0)


def test_newton_schulz_of_a_stack_is_that_of_each_matrix_and_of_any_scale():
    g = noise(4, 24, 16)
    stacked = orthogonalize(g, 5)
    for one, matrix in zip(stacked, g):
        torch.testing.assert_close(one, orthogonalize(matrix[None], 5)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(orthogonalize(g * 1e4, 5), stacked, atol=1e-4, rtol=1e-3)
    assert not orthogonalize(torch.zeros(2, 3, 4), 5).any()


def test_stacks_as_one_give_what_each_gives_alone():
    """On a GPU stacks of other shapes share one product: zeros fill them up, and tall ones lie on their side."""
    stacks = [noise(2, 24, 24, seed=1), noise(3, 8, 24, seed=2), noise(2, 48, 16, seed=3), noise(1, 24, 72, seed=4), noise(1, 1, 1, seed=5)]
    alone, as_one = (Optimizer.orthogonalize_stacks(stacks, 5, torch.float32, together) for together in (False, True))
    assert [x.shape for x in as_one] == [g.shape for g in stacks]
    for one, other in zip(as_one, alone):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_more_steps_come_no_closer_than_fewer_go_wrong():
    """The quintic trades exactness for speed: one step is far off, five are within 0.35 of orthogonal, and so are ten."""
    g = noise(1, 32, 32, seed=2)
    worst = {n: (torch.linalg.svdvals(orthogonalize(g, n)) - 1).abs().max().item() for n in (1, 5, 10)}
    assert worst[1] > 0.7 and worst[10] < 0.35


# ------------------------------------------------------------------------------------------- one step of each role


@pytest.fixture
def model():
    s = tiny_settings(GRAD_CLIP_NORM=0, BIGRAM_ROWS=40)
    model = GPT(s, CPU)
    model.load_weights(initial_weights(s, model.weights()))
    return model


def give_gradients(model, step):
    for i, p in enumerate(model.parameters()):
        p.grad = noise(*p.shape, seed=1000 * step + i)


def test_adam_is_torch_adam(model):
    """Embedding and vectors against torch.optim.Adam, with their learning rates and a changing scale."""
    s = tiny_settings(GRAD_CLIP_NORM=0, ADAM_BETA1=0.8, ADAM_EPS=1e-3)
    optimizer = Optimizer(model, s, CPU)
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in model.named_parameters() if role_of(n) != "matrix"}
    assert {"embed", "bigram", "skips"} < set(twins)
    groups = [{"params": [p], "lr": s.EMBED_LR if n in ("embed", "bigram") else s.VECTOR_LR} for n, p in twins.items()]
    reference = torch.optim.Adam(groups, betas=(s.ADAM_BETA1, s.ADAM_BETA2), eps=s.ADAM_EPS)
    rates = [g["lr"] for g in reference.param_groups]
    for step, scale in enumerate((1.0, 0.5, 1.0, 0.25)):
        give_gradients(model, step)
        for n, p in model.named_parameters():
            if n in twins:
                twins[n].grad = p.grad.clone()
        for group, rate in zip(reference.param_groups, rates):
            group["lr"] = rate * scale
        optimizer.step(step, scale)
        reference.step()
    for n, p in model.named_parameters():
        if n in twins:
            torch.testing.assert_close(p, twins[n], atol=1e-6, rtol=1e-5, msg=n)
        assert p.grad is None


def test_muon_is_nesterov_momentum_orthogonalized_with_decoupled_decay(model):
    """Each matrix by itself, from the definition: buffer, look-ahead, Newton-Schulz, the factor for tall ones, decay."""
    s = tiny_settings(GRAD_CLIP_NORM=0, MUON_WEIGHT_DECAY=0.1, MUON_MOMENTUM_WARMUP_STEPS=2)
    optimizer = Optimizer(model, s, CPU)
    want = {n: p.detach().clone() for n, p in model.named_parameters() if role_of(n) == "matrix"}
    buffers = {n: torch.zeros_like(w) for n, w in want.items()}
    assert len(want) == 13
    for step, scale in enumerate((1.0, 0.5, 0.3)):
        give_gradients(model, step)
        mu = s.MUON_MOMENTUM_START + min(1, step / 2) * (s.MUON_MOMENTUM - s.MUON_MOMENTUM_START)
        for n, p in model.named_parameters():
            if n in want:
                buffers[n] = mu * buffers[n] + (1 - mu) * p.grad
                update = orthogonalize((mu * buffers[n] + (1 - mu) * p.grad)[None], s.MUON_NS_STEPS)[0]
                rate = s.MATRIX_LR * scale
                rows, columns = p.shape
                want[n] = want[n] * (1 - rate * 0.1) - rate * max(1, rows / columns) ** 0.5 * update
        optimizer.step(step, scale)
    for n, w in want.items():
        torch.testing.assert_close(dict(model.named_parameters())[n], w, atol=2e-5, rtol=1e-4, msg=n)


def test_gradients_are_clipped_together(model):
    s = tiny_settings(GRAD_CLIP_NORM=0.5)
    give_gradients(model, 0)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    want = model.embed.grad * 0.5 / norm
    optimizer = Optimizer(model, s, CPU)
    optimizer.step(0, 1.0)
    seen = optimizer.state["first/embed"] / (1 - s.ADAM_BETA1)
    torch.testing.assert_close(seen, want, atol=1e-6, rtol=1e-3)


def test_every_parameter_is_in_exactly_one_optimizer_and_moves(model):
    optimizer = Optimizer(model, tiny_settings(), CPU)
    held = [n for names in optimizer.stacks.values() for n in names] + [n for names in optimizer.adam.values() for n in names]
    assert sorted(held) == sorted(n for n, _ in model.named_parameters())
    before = model.weights()
    give_gradients(model, 0)
    optimizer.step(0, 1.0)
    assert all((w != before[n]).any() for n, w in model.weights().items())
    assert set(ROLES.values()) == {"matrix", "embed", "table", "vector"} == {role_of(n) for n in before}


def test_a_parameter_that_is_a_single_number_goes_the_whole_way(model, monkeypatch):
    monkeypatch.setitem(ROLES, "share", "vector")
    model.share, s = nn.Parameter(torch.tensor(0.5)), tiny_settings(QUANT="step", CODEC="rans")
    weights = train_gpt.decode_artifact(train_gpt.encode_artifact(initial_weights(s, model.weights()), s))[1]
    nn.init.zeros_(model.share)
    model.load_weights(weights)
    assert model.share.item() == 0.5 and model.share.shape == ()


def test_a_parameter_that_nothing_uses_is_named(model, monkeypatch):
    monkeypatch.setitem(ROLES, "share", "vector")
    model.blocks[0].attn.share = nn.Parameter(torch.ones(1))  # of values with those of the first block, which has none before it
    assert train_gpt.squared_gradients(model, np.ones((1, 9), np.int32))["blocks.0.attn.share"] == 0
    stepper = train_gpt.Stepper(tiny_settings(), CPU, model)
    for world in (1, 2):  # with several devices before the gradients are summed over them
        monkeypatch.setattr(stepper.runtime, "world", world)
        with pytest.raises(UserError, match="blocks.0.attn.share gets no gradient: use it in each step, be it x 0, or make it no"):
            stepper.launch(0, torch.ones(1, 9, dtype=torch.int32), 1.0)


def test_dropout_is_for_training_alone(model, monkeypatch):
    """The switch that nn.Dropout looks at: off in a new model, as the referee makes one too, and on in the passes of a step only."""
    rows, seen = torch.ones(2, 9, dtype=torch.int32), []
    assert not model.training and not any(m.training for m in model.modules())
    monkeypatch.setattr(model, "nats", lambda *a, real=model.nats: seen.append(model.blocks[0].mlp.training) or real(*a))
    stepper = train_gpt.Stepper(tiny_settings(MICROBATCH_TOKENS=9), CPU, model)
    for step in range(2):
        stepper.launch(step, rows, 1.0)
        train_gpt.squared_gradients(model, np.ones((1, 9), np.int32))
    assert seen == [True, True, False] * 2


def test_a_role_of_ones_own_is_trained(model, monkeypatch):
    monkeypatch.setitem(ROLES, "head", "head")
    model.head = nn.Parameter(torch.ones(4, 3))
    optimizer = Optimizer(model, tiny_settings(), CPU)
    give_gradients(model, 0)
    optimizer.step(0, 1.0)
    assert (model.head != 1).all() and optimizer.adam["head"] == ["head"]
    for changes in ({}, {"QUANT": "step", "CODEC": "rans"}):  # and exported, as float16
        data = train_gpt.encode_artifact(model.weights(), tiny_settings(**changes))
        np.testing.assert_allclose(train_gpt.decode_artifact(data)[1]["head"], model.head.detach(), rtol=0.01)


def test_an_unknown_parameter_raises(model):
    model.blocks[0].attn.bias_of_mine = nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match="blocks.0.attn.bias_of_mine has no role.*add 'attn.bias_of_mine' to ROLES"):
        Optimizer(model, tiny_settings(), CPU)


def test_the_last_two_parts_of_a_name_come_first(model, monkeypatch):
    model.blocks[0].mlp.gate = nn.Parameter(torch.zeros(3, 3))  # the gate of a SwiGLU is no vector, as those of the heads are
    model.blocks[0].mlp.bend = nn.Linear(3, 3)
    assert role_of("blocks.0.attn.gate") == "vector"
    for name in ("mlp.gate", "bend.weight", "bend.bias"):
        with pytest.raises(UserError, match=f"{name} has no role.*add '{name}' to ROLES"):
            role_of(f"blocks.0.mlp.{name.removeprefix('mlp.')}")
        monkeypatch.setitem(ROLES, name, "vector" if name.endswith("bias") else "matrix")
    assert initial_weights(tiny_settings(), model.weights())["blocks.0.mlp.gate"].std() > 0.1
    monkeypatch.setitem(ROLES, "down.weight", "matrix")
    assert not initial_weights(tiny_settings(), {"mlp.down.weight": np.ones((3, 3))})["mlp.down.weight"].any()


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (), (4, 0)])
def test_a_matrix_of_another_shape_is_refused_before_training(model, monkeypatch, shape):
    monkeypatch.setitem(ROLES, "mine", "matrix")
    model.blocks[0].mine = nn.Parameter(torch.ones(shape))
    with pytest.raises(UserError, match=r"blocks.0.mine \(.*role matrix takes 2 dimensions"):
        initial_weights(tiny_settings(), model.weights())
    monkeypatch.setitem(ROLES, "mine", "vector")
    assert np.array_equal(initial_weights(tiny_settings(), model.weights())["blocks.0.mine"], np.ones(shape))


def test_one_layer_trains(main):
    done = main(NUM_LAYERS=1, ITERATIONS=2, VAL_TOKENS=100)
    assert done.code == 0, done.out + done.err


# ------------------------------------------------------------------------------------------------------ the start


def test_what_a_model_draws_by_itself_is_the_seeds(main, monkeypatch):
    """As the bias of an nn.Linear, which is a vector and starts as it is."""
    drawn, real = [], GPT.__init__
    monkeypatch.setattr(GPT, "__init__", lambda *args: drawn.append(torch.rand(()).item()) or real(*args))
    for seed in (1, 1, 2):
        assert main("--check", SEED=seed).code == 0
    assert drawn[0] == drawn[1] != drawn[2]


def test_initial_weights_are_the_seeds():
    s = tiny_settings(BIGRAM_ROWS=40)
    a, b, c = (initial_weights(x, GPT(x, CPU).weights()) for x in (s, s, tiny_settings(SEED=2, BIGRAM_ROWS=40)))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert all((a[n] != c[n]).any() for n in a if role_of(n) in ("matrix", "embed") and not n.endswith((".out", ".down")))
    assert not a["bigram"].any() and not a["blocks.1.attn.out"].any() and not a["blocks.0.mlp.down"].any()
    assert a["embed"].std() == pytest.approx(s.EMBED_INIT_STD, rel=0.05)
    assert a["blocks.0.mlp.up"].std() == pytest.approx(32**-0.5, rel=0.1)


def test_microbatches_give_the_gradient_of_the_whole_batch():
    """Four sequences at once, one at a time, and in unequal parts."""
    losses, weights = [], []
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (4, 33))).int()
    for micro in (0, 32, 96):
        s = tiny_settings(TRAIN_BATCH_TOKENS=96 * 4, MICROBATCH_TOKENS=micro)
        model = GPT(s, CPU)
        model.load_weights(initial_weights(s, model.weights()))
        stepper = train_gpt.Stepper(s, CPU, model)
        for step in range(3):
            losses.append(stepper.finish(stepper.launch(step, batch, 1.0)))
        weights.append(model.weights())
    for other in (losses[3:6], losses[6:]):
        assert losses[:3] == pytest.approx(other, abs=1e-3)
    assert losses[2] < losses[0] == pytest.approx(math.log(300), abs=0.01)
    for other in weights[1:]:
        for name, w in other.items():
            np.testing.assert_allclose(w, weights[0][name], atol=2e-3, err_msg=name)


# ------------------------------------------------------------------------------------------------------- schedule


def test_learning_rate_rises_stays_and_falls_to_the_end():
    s = tiny_settings(WARMUP_STEPS=4, WARMDOWN_FRAC=0.5)
    assert [lr_scale(s, step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert [lr_scale(s, 99, p) for p in (0.0, 0.5, 0.75, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0.2, 0])
    assert lr_scale(s, 0, 0.75) == pytest.approx(0.1)
    for frac, want in ((0.0, 1.0), (1.0, 0.25)):
        assert lr_scale(tiny_settings(WARMDOWN_FRAC=frac), 99, 0.75) == pytest.approx(want)


def test_momentum_rises():
    s = tiny_settings(MUON_MOMENTUM_WARMUP_STEPS=10, MUON_MOMENTUM_START=0.5, MUON_MOMENTUM=0.9)
    assert [muon_momentum(s, step) for step in (0, 5, 10, 99)] == pytest.approx([0.5, 0.7, 0.9, 0.9])
    assert muon_momentum(tiny_settings(MUON_MOMENTUM_WARMUP_STEPS=0), 0) == pytest.approx(0.95)


@pytest.mark.parametrize(
    "clock,iterations,step,seconds,reserve,want",
    [
        (0, 10, 4, 999, 5, 0.4),
        (100, 0, 4, 45, 10, 0.5),
        (100, 10, 4, 45, 10, 0.5),
        (100, 10, 6, 45, 10, 0.6),
        (100, 10, 10, 0, 0, 1.0),
        (100, 0, 5, 90, 10, 1.0),
        (100, 0, 5, 500, 10, 1.0),
        (10, 0, 0, 0.1, 20, 1.0),
    ],
)
def test_progress_by_clock_and_steps_whichever_is_further(clock, iterations, step, seconds, reserve, want):
    s = tiny_settings(MAX_WALLCLOCK_SECONDS=clock, ITERATIONS=iterations)
    assert progress_of(s, step, seconds, reserve) == pytest.approx(want)


def test_a_run_on_the_clock_warms_down_and_leaves_time_for_the_export(main, monkeypatch):
    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    done = main(MAX_WALLCLOCK_SECONDS=4, ITERATIONS=0, WARMUP_STEPS=0)
    assert done.code == 0, done.err
    lines = [pairs(line) for line in done.out.splitlines() if re.match(r"step:\d+ train_loss", line)]
    scales = [float(line["lr_scale"]) for line in lines]
    assert len(scales) > 20 and scales[0] == 1.0 and 0 < scales[-1] < 0.1
    assert scales == sorted(scales, reverse=True)
    spans = line_of(done.out, "peak_memory_bytes:")
    assert float(spans["train_s"]) + float(spans["export_s"]) <= 4
    assert float(line_of(done.out, "trained ")["train_s"]) > 2


def test_glances_at_validation_are_outside_the_clock_and_change_nothing(main, monkeypatch):
    runs = []
    for every in (0, 2):
        monkeypatch.setattr(train_gpt, "time", SteppingTime())
        runs.append(main(RUN_ID=f"every{every}", VAL_LOSS_EVERY=every, VAL_LOSS_TOKENS=200))
    without, with_glances = (line_of(done.out, "final_sliding_window_exact ") for done in runs)
    assert without == with_glances
    spans = line_of(runs[1].out, "peak_memory_bytes:")
    assert float(spans["validation_s"]) > 0 and "validation_s" not in line_of(runs[0].out, "peak_memory_bytes:")
    assert len(re.findall(r"^step:\d+ glance_targets:200 ", runs[1].out, re.M)) == 6
    steps = [float(line_of(done.out, "trained ")["train_s"]) for done in runs]
    assert steps[1] == pytest.approx(steps[0], abs=0.3)
