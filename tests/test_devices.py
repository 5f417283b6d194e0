"""Promise: two devices train and score what one does; what a machine lacks is replaced with a line that says why."""

import gc
import importlib.util
import json
import re
import shutil
import types
import weakref

import numpy as np
import pytest
import torch
from conftest import TRAINER, arrays, line_of, run_trainer, same_arrays, settings

import train_gpt
from train_gpt import UserError, resolve_device


@pytest.mark.parametrize(
    "cuda, world, seconds, record",
    [(True, 1, 1800, True), (True, 1, 0, False), (True, 1, 1801, False), (True, 2, 1800, False), (False, 1, 1800, False)],
)
def test_the_lane_that_a_log_names(tmp_path, cuda, world, seconds, record):
    run, machine = object.__new__(train_gpt.Run), {"cuda": cuda, "world": world, "rank": 1, "about": lambda: {"device": "x"}}
    run.s, run.log, run.folder = settings(f"MAX_WALLCLOCK_SECONDS={seconds}", "ITERATIONS=9"), train_gpt.Log(False), tmp_path
    run.runtime = types.SimpleNamespace(**machine)
    run.open_folder()
    assert run.about["lane"] == ("record" if record else "open hardware") and run.about["devices"] == world


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", TRAINER)


def test_two_processes_give_what_one_gives(finished, tiny, tmp_path):
    done = run_trainer(*tiny.settings(RUNS_DIR=tmp_path, RUN_ID="two"), command=TWO)
    assert done.code == 0, done.err
    assert done.out.count("devices:2\n") == 1
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (finished[0], tmp_path / "two"))
    assert two["devices"] == 2 and two["lane"].startswith("open hardware")
    for key in ("steps", "train_tokens", "scored_tokens", "scored_bytes", "data_hashes", "gap_tokens"):
        assert two[key] == one[key], key
    assert two["val_bpb"] == pytest.approx(one["val_bpb"], abs=5e-3)
    assert two["pre_export_val_bpb"] == pytest.approx(one["pre_export_val_bpb"], abs=5e-3)
    ours, theirs = arrays(tmp_path / "two/weights.npz"), arrays(finished[0] / "weights.npz")
    for name, w in theirs.items():
        np.testing.assert_allclose(ours[name], w, atol=2e-2 * np.abs(w).max(), err_msg=name)
    steps = [[line.split()[1] for line in out.splitlines() if line.startswith("step:")] for out in (done.out, finished[1].out)]
    assert len(steps[0]) == 12  # one process speaks
    for mine, other in zip(*steps):
        assert float(mine.split(":")[1]) == pytest.approx(float(other.split(":")[1]), abs=5e-3)


def test_two_processes_stop_on_the_clock_together(tiny, tmp_path):
    """Each has its own clock; if one stopped a step earlier, the other would wait for it for ever."""
    clock = dict(MAX_WALLCLOCK_SECONDS=2, ITERATIONS=0, VAL_TOKENS=200, VAL_LOSS_EVERY=5, CHECKPOINT_EVERY_SECONDS=0.2)
    done = run_trainer(*tiny.settings(RUNS_DIR=tmp_path, RUN_ID="clock", **clock), command=TWO)
    assert done.code == 0, done.err
    assert int(line_of(done.out, "trained ")["steps"]) > 0
    assert "final_sliding_window_exact " in done.out


# ----------------------------------------------------------------------------------------------------- fallbacks


@pytest.fixture
def machine(monkeypatch):
    """machine(capability, triton): make this machine look as if it had such a GPU; None: none at all."""

    def make(capability, triton=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: triton or None if name == "triton" else real(name, *a))

    return make


def resolved(**changes):
    runtime = resolve_device(settings(*(f"{k}={v}" for k, v in changes.items())))
    assert all("\n" not in note for note in runtime.notes)
    return runtime.device.type, str(runtime.dtype), runtime.compile, " | ".join(runtime.notes)


def test_modern_gpu_needs_no_note(machine):
    machine((8, 9))
    assert resolved() == ("cuda", "torch.bfloat16", True, "")
    assert resolved(PRECISION="fp32", COMPILE="off") == ("cuda", "torch.float32", False, "")
    assert resolved(DEVICE="cpu")[0] == "cpu"


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_old_gpu_runs_in_fp32(machine, precision):
    machine((7, 5))
    device, dtype, compiles, note = resolved(PRECISION=precision)
    assert (device, dtype, compiles) == ("cuda", "torch.float32", True)
    assert note.endswith("has no fast bf16: running in fp32")


def test_very_old_gpu_is_not_compiled_for(machine):
    machine((6, 1))
    device, dtype, compiles, notes = resolved()
    assert (device, dtype, compiles) == ("cuda", "torch.float32", False)
    assert "no fast bf16" in notes and "no Triton (capability" in notes


def test_no_triton(machine):
    machine((9, 0), triton=False)
    device, dtype, compiles, notes = resolved()
    assert (device, dtype, compiles) == ("cuda", "torch.bfloat16", False)
    assert notes.startswith("no Triton (capability") and notes.endswith("running without torch.compile")
    assert resolved(COMPILE="off")[3] == ""


def test_no_gpu(machine):
    machine(None)
    assert resolved() == ("cpu", "torch.float32", False, "no CUDA device: running on the CPU")
    with pytest.raises(UserError, match="configs/local_cpu_smoke.env"):
        resolved(DEVICE="cuda")


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16", "sve_bf16"])
def test_cpu_with_bf16_instructions(machine, monkeypatch, able):
    machine(None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "any", "avx2": True, "avx512_fp16": False, able: True})
    assert resolved(DEVICE="cpu", PRECISION="bf16") == ("cpu", "torch.bfloat16", False, "")
    assert resolved(DEVICE="cpu") == resolved(DEVICE="cpu", PRECISION="fp32") == ("cpu", "torch.float32", False, "")


def test_cpu_without_bf16_instructions_runs_in_fp32(machine, monkeypatch):
    machine(None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_f": True, "amx_bf16": False})
    device, dtype, compiles, note = resolved(DEVICE="cpu", PRECISION="bf16")
    assert (device, dtype) == ("cpu", "torch.float32") and note == "this CPU has no bf16 instructions, and is slow in it: running in fp32"
    assert resolved(DEVICE="cpu") == resolved(DEVICE="cpu", PRECISION="fp32") == ("cpu", "torch.float32", False, "")


def test_compiling_on_a_cpu_takes_a_compiler(machine, monkeypatch):
    machine(None)
    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/g++" if name == "g++" else None)
    assert resolved(DEVICE="cpu", COMPILE="on") == ("cpu", "torch.float32", True, "")
    monkeypatch.setattr(shutil, "which", lambda name, *a: None)
    note = "COMPILE=on, but there is no C++ compiler: running without torch.compile"
    assert resolved(DEVICE="cpu", COMPILE="on") == ("cpu", "torch.float32", False, note)


def test_cuda_graphs(machine):
    """The default on one CUDA device; not with microbatches, whose gradients they would overwrite, and not on a CPU."""
    machine((8, 9))
    for graphs, changes in ((True, {}), (False, {"COMPILE": "on"}), (False, {"COMPILE": "off"}), (False, {"MICROBATCH_TOKENS": 4096})):
        assert resolve_device(settings(*(f"{k}={v}" for k, v in changes.items()))).graphs == graphs, changes
    assert not resolve_device(settings("DEVICE=cpu", "COMPILE=on")).graphs
    machine((9, 0), triton=False)
    assert not resolve_device(settings()).graphs


def test_cuda_graphs_that_fail_are_gone_without(monkeypatch):
    """The run goes on compiled, and the warm-up leaves no trace."""
    modes, notes = [], []

    def broken(function, mode=None, **options):
        modes.append(mode)

        def compiled(*args):
            if mode == "reduce-overhead":
                raise RuntimeError("cannot capture")
            return function(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    s = settings("DEVICE=cpu", "NUM_LAYERS=1", "MODEL_DIM=16", "NUM_HEADS=2", "NUM_KV_HEADS=1", "TRAIN_SEQ_LEN=8")
    runtime = resolve_device(s)
    runtime.compile = runtime.graphs = True
    model = train_gpt.GPT(s, runtime)
    model.load_weights(train_gpt.initial_weights(s, model.weights()))
    before, stepper = model.weights(), train_gpt.Stepper(s, runtime, model)
    stepper.warm_up(np.arange(18).reshape(2, 9).astype(np.int32), notes.append)
    assert runtime.compile and not runtime.graphs
    assert [mode for mode in modes if mode] == ["reduce-overhead"] and modes[-1] is None
    assert notes == ["note: torch.compile failed, running without CUDA graphs: RuntimeError: cannot capture"]
    after = model.weights()
    assert all(np.array_equal(after[name], w) for name, w in before.items())


def test_what_a_failed_warm_up_compiled_is_let_go(monkeypatch):
    """It holds the memory that its graphs were recorded in: were it kept, nothing smaller would fit where graphs ran out of memory."""
    held, real, notes = [], torch.compile, []

    def crowded(function, mode=None, **options):
        def backend(graph, inputs):
            memory = torch.nn.Module()  # anything that can be told to be gone
            if mode == "reduce-overhead":
                held.append(weakref.ref(memory))

            def run(*args, memory=memory):
                if mode == "reduce-overhead":
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return graph.forward(*args)

            return run

        return real(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", crowded)
    s = settings("DEVICE=cpu", "NUM_LAYERS=1", "MODEL_DIM=16", "NUM_HEADS=2", "NUM_KV_HEADS=1", "TRAIN_SEQ_LEN=8")
    runtime = resolve_device(s)
    runtime.compile = runtime.graphs = True
    model = train_gpt.GPT(s, runtime)
    model.load_weights(train_gpt.initial_weights(s, model.weights()))
    stepper = train_gpt.Stepper(s, runtime, model)
    stepper.warm_up(np.arange(18).reshape(2, 9).astype(np.int32), notes.append)
    gc.collect()
    assert notes == ["note: torch.compile failed, running without CUDA graphs: OutOfMemoryError: CUDA out of memory"]
    assert runtime.compile and held and not any(memory() for memory in held)


def test_notes_and_warnings_reach_the_log(main, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, *a: None)
    monkeypatch.setenv("MATRIXLR", "0.1")
    done = main("--check", COMPILE="on")
    assert done.code == 0
    assert "note: COMPILE=on, but there is no C++ compiler" in done.out and "did you mean MATRIX_LR?" in done.out


def test_a_compiler_that_fails_is_gone_without(main, finished, monkeypatch, tmp_path):
    """The warm-up breaks down half-way, after it has changed weights; the run is the same as one that never compiled."""

    def broken(function, **options):
        calls = iter(range(100))

        def compiled(*args):
            if next(calls):
                raise RuntimeError("no such target\nand much more")
            return function(*args)

        return compiled

    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/c++")
    monkeypatch.setattr(torch, "compile", broken)
    done = main(RUN_ID="x", COMPILE="on")
    assert done.code == 0
    assert "note: torch.compile failed, running without it: RuntimeError: no such target\n" in done.out
    assert same_arrays(tmp_path / "runs/x/weights.npz", finished[0] / "weights.npz")


@torch._dynamo.config.patch(suppress_errors=False)  # monkeypatch would delete it in the end
def test_scoring_goes_without_a_compiler_that_fails(monkeypatch):
    """As --eval-only may: no warm-up has tried it. On a device that says it is CUDA, with batches enough to compile for."""

    def broken(graph, inputs):
        raise RuntimeError("no such target")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=broken, **options))
    s = settings(*"NUM_LAYERS=1 MODEL_DIM=16 NUM_HEADS=2 NUM_KV_HEADS=1 EVAL_SEQ_LEN=16 EVAL_STRIDE=16 EVAL_BATCH_TOKENS=32".split())
    plain = train_gpt.Runtime(torch.device("cpu"), torch.float32, False, [])
    like_cuda = type("LikeCuda", (train_gpt.Runtime,), {"cuda": True})(torch.device("cpu"), torch.float32, True, [])
    model, tokens = train_gpt.GPT(s, plain), np.random.default_rng(0).integers(2, 300, 2 * 16 * 300 + 1).astype(np.uint16)
    model.load_weights(train_gpt.initial_weights(s, model.weights()))
    ours, theirs = (train_gpt.score(model, tokens, s, r, train_gpt.Log(False), "", 16, 16) for r in (like_cuda, plain))
    assert torch._dynamo.config.suppress_errors and np.array_equal(ours, theirs)


def test_compile_warm_up_leaves_no_trace(main, finished, monkeypatch, tmp_path):
    """With a compiler that changes nothing, weights and score are those of an uncompiled run: all state is put back."""
    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/c++")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    done = main(RUN_ID="x", COMPILE="on")
    assert done.code == 0 and "note:" not in done.out
    assert same_arrays(tmp_path / "runs/x/weights.npz", finished[0] / "weights.npz")


def test_bf16_on_a_cpu_learns_too(main, finished, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # without, it is only slower
    done = main(PRECISION="bf16")
    assert done.code == 0
    score, usual = (float(line_of(out, "final_sliding_window_exact ")["val_loss"]) for out in (done.out, finished[1].out))
    assert score == pytest.approx(usual, abs=0.2) and score != usual


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: CUDA graphs are not compared with plain steps")
def test_graphs_step_as_plain_compilation_does(main):
    losses = []
    for run, wanted in (("plain", "on"), ("graphs", "auto")):
        done = main(RUN_ID=run, DEVICE="cuda", COMPILE=wanted, ITERATIONS=8, TRAIN_LOG_EVERY=1)
        assert done.code == 0 and "note:" not in done.out
        losses.append([float(value) for value in re.findall(r"train_loss:([0-9.]+)", done.out)])
    assert len(losses[0]) >= 5 and losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: the same run on a GPU is not tested")
def test_a_gpu_gives_what_the_cpu_gives(main, finished):
    done = main(DEVICE="cuda", PRECISION="fp32", COMPILE="off")
    assert done.code == 0
    score, usual = (float(line_of(out, "final_sliding_window_exact ")["val_loss"]) for out in (done.out, finished[1].out))
    assert score == pytest.approx(usual, abs=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: learning from what is scored is not repeated on a GPU")
def test_a_gpu_gives_the_same_while_it_learns_from_what_it_scores():
    """Twice, in the shape and precision of the record config: passes back add up in the same order."""
    s = train_gpt.load_settings(["--config", str(TRAINER.parent / "configs/local_4090_record.env")], {})
    r, tokens = resolve_device(s), np.random.default_rng(0).integers(2, 1024, 40 * s.EVAL_STRIDE + 1).astype(np.uint16)
    model = train_gpt.GPT(s, r)
    start = {n: w + 0.02 * (n.endswith((".out", ".down"))) for n, w in train_gpt.initial_weights(s, model.weights()).items()}
    model.load_weights(start)
    log = train_gpt.Log(False)
    first, again = (train_gpt.score(model, tokens, s, r, log, "", s.EVAL_SEQ_LEN, s.EVAL_STRIDE, ttt=1e-4) for _ in range(2))
    frozen = train_gpt.score(model, tokens, s, r, log, "", s.EVAL_SEQ_LEN, s.EVAL_STRIDE)
    assert np.array_equal(first, again) and np.abs(first - frozen)[s.EVAL_SEQ_LEN :].max() > 0.01
