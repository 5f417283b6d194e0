#!/usr/bin/env python3
"""Profile one steady training step: where its time goes, what the device could do at best, and how idle it is.

    python3 scripts/profile_step.py --config configs/local_4090_baseline.env [KEY=VALUE ...] [inductor.NAME=VALUE ...]

Takes the trainer's own command line and prints a Markdown table for docs/hardware.md, then the kernels that take longest.
Runs on CUDA and on the CPU; about a minute. `inductor.combo_kernels=True` tries an option of PyTorch's compiler that the
trainer does not set. The device's rates are measured here, with a large matrix product in the type of the activations and a
large copy.
Roofline: each operation takes at least the larger of FLOPs / rate and bytes / bandwidth (Williams et al., CACM 2009); the
bytes are those of operations that read their inputs and write their outputs once, elementwise chains fused into one.
"""

from __future__ import annotations

import ast
import statistics
import sys
import time

from golf import ROOT, needs
from golf.interrupts import interrupted, tool_main

sys.path.insert(0, str(ROOT))
try:
    import torch
    import torch._inductor.config
    from torch.profiler import ProfilerActivity, profile

    import train_gpt
except ImportError as e:
    needs.refuse("profile_step.py", e.name, "requirements-cuda.txt")
except KeyboardInterrupt:
    sys.exit(interrupted())

STEPS, REPEATS, LONGEST = 10, 5, 40
KINDS = {  # by the names of kernels and CPU operators, first match wins: a fused kernel's name lists products and attention beside it
    "elementwise and rest": ("triton_poi", "triton_per", "triton_red", "cpp_fused", "compiledfxgraph", "multi_tensor"),
    "attention": ("flash", "fmha", "attention", "sdpa", "cudnn::fusion"),
    "matrix products": ("gemm", "gemv", "mm", "cutlass", "nvjet", "splitk", "sm90_", "sm80_", "ampere_", "dot"),
}


def kind_of(name: str) -> str:
    return next((kind for kind, marks in KINDS.items() if any(mark in name.lower() for mark in marks)), "elementwise and rest")


def seconds_of(work, runtime, repeat: int) -> float:
    """Wall seconds of one call of `work`, after one call to warm up."""
    work()
    runtime.synchronize()
    begin = time.perf_counter()
    for _ in range(repeat):
        work()
    runtime.synchronize()
    return (time.perf_counter() - begin) / repeat


def measured_rates(runtime) -> tuple[float, float]:
    """(FLOP/s of a large matrix product, bytes/s read and written by a large copy)."""
    n, size = (8192, 2**30) if runtime.cuda else (1024, 2**27)
    a = torch.randn(n, n, device=runtime.device, dtype=runtime.dtype)
    flops = 2 * n**3 / seconds_of(lambda: a @ a, runtime, 10)
    source = torch.randn(size // 4, device=runtime.device)
    target = torch.empty_like(source)
    return flops, 2 * size / seconds_of(lambda: target.copy_(source), runtime, 10)


def operations(s, element_bytes: int) -> list[tuple[str, float, float]]:
    """(kind, FLOPs, bytes) of the operations of forward and backward over a whole batch; backward is twice the forward."""
    tokens, width, kv = s.TRAIN_BATCH_TOKENS, s.MODEL_DIM, s.MODEL_DIM // s.NUM_HEADS * s.NUM_KV_HEADS
    hidden, pairs = s.MLP_MULT * width, s.BIGRAM_DIM if s.BIGRAM_ROWS else 0
    products = [(width, width), (width, kv), (width, kv), (width, width), (width, hidden), (hidden, width)] * s.NUM_LAYERS
    rows = []
    for n_in, n_out in products + [(width, s.VOCAB_SIZE)] + [(pairs, width)] * bool(pairs):
        traffic = element_bytes * (tokens * (n_in + n_out) + n_in * n_out)
        rows.append(("matrix products", 3 * 2 * tokens * n_in * n_out, 3 * traffic))
    # causal scores and their use, over the keys that a query sees on average; backward computes the scores again: 3.5 times the forward
    window = min(s.ATTN_WINDOW or s.TRAIN_SEQ_LEN, s.TRAIN_SEQ_LEN)
    keys = window * (1 - window / (2 * s.TRAIN_SEQ_LEN))
    attention = ("attention", 3.5 * 4 * tokens * keys * width, 3 * element_bytes * tokens * 2 * (width + kv))
    # numbers read and written for a token by each block: mix and norm, norm of queries and keys with rotation, residual and norm,
    # squared activation, two convolutions, gates, the value embedding's sum; outside of the blocks: skips, smear, what the tables give
    block = 3 * width + 2 * (width + kv) + 3 * width + 2 * hidden + 2 * width * (2 * bool(s.CONV_TAPS) + bool(s.HEAD_GATE))
    block += 3 * kv * s.VALUE_EMBED
    once = 3 * width * (s.NUM_LAYERS // 2) + 2 * width * bool(s.SMEAR) + (pairs + 2 * width) * bool(pairs) + 2 * kv * s.VALUE_EMBED
    rows += [attention] * s.NUM_LAYERS
    rows.append(("elementwise and rest", 0.0, 3 * element_bytes * tokens * (s.NUM_LAYERS * block + once)))
    rows.append(("elementwise and rest", 0.0, 2 * element_bytes * tokens * s.VOCAB_SIZE))  # softcap and cross-entropy
    return rows


def device_work(prof, runtime) -> list[tuple[float, int, str]]:
    """(busy seconds, calls, name) of the kernels on CUDA, of the operators on the CPU (their own time), longest first."""
    events = [e for e in prof.key_averages() if (e.device_type.name == "CUDA") == runtime.cuda]
    spent = [((e.self_device_time_total if runtime.cuda else e.self_cpu_time_total) / 1e6, e.count, e.key) for e in events]
    return sorted(spent, reverse=True)


def by_kind(work: list[tuple[float, int, str]]) -> dict[str, float]:
    """Busy seconds by kind."""
    busy: dict[str, float] = {}
    for seconds, _, name in work:
        busy[kind_of(name)] = busy.get(kind_of(name), 0.0) + seconds
    return busy


def set_compiler_options(options: list[str]) -> None:
    """Set what each `inductor.NAME=VALUE` says, after Runtime.start, which sets some of its own. Raises UserError."""
    for option in options:
        name, _, value = option.removeprefix("inductor.").partition("=")
        try:
            setattr(torch._inductor.config, name, ast.literal_eval(value))
        except (AttributeError, ValueError, SyntaxError):
            advice = "no option of torch._inductor.config, or no Python value; try inductor.combo_kernels=True"
            raise train_gpt.UserError(f"{option}: {advice}") from None


def main() -> int:
    try:
        if {"-h", "--help"} & set(sys.argv):
            print(__doc__)
            return 0
        options = [item for item in sys.argv[1:] if item.startswith("inductor.")]
        s = train_gpt.load_settings([item for item in sys.argv[1:] if item not in options])
        runtime = train_gpt.resolve_device(s)
        runtime.start()
        if not runtime.cuda:  # a graph called from C++ is a single operator to the profiler
            torch._inductor.config.cpp_wrapper = False
        set_compiler_options(options)
        model = train_gpt.GPT(s, runtime)
        model.load_weights(train_gpt.initial_weights(s, model.weights()))
        order, stepper = train_gpt.TrainSequences(s), train_gpt.Stepper(s, runtime, model)
    except train_gpt.UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return train_gpt.EXIT_BAD_INPUT
    stepper.warm_up(order.batch(0), print)
    batches = [stepper.prepare(order.batch(i)) for i in range(STEPS)]

    def steps() -> None:
        for batch in batches:
            launched = stepper.launch(0, batch, 0.0)  # at rates of 0, so that hundreds of such steps do no harm to the weights
        stepper.finish(launched)

    def busy_work() -> list[tuple[float, int, str]]:
        with profile(activities=[ProfilerActivity.CUDA if runtime.cuda else ProfilerActivity.CPU]) as prof:
            steps()
            runtime.synchronize()
        return [(seconds / STEPS, calls // STEPS, name) for seconds, calls, name in device_work(prof, runtime)]

    def wall_seconds() -> float:
        return statistics.median(seconds_of(steps, runtime, 1) for _ in range(REPEATS if runtime.cuda else 1)) / STEPS

    full, work = wall_seconds(), busy_work()
    if runtime.cuda:
        whole = sum(seconds for seconds, _, _ in work)
        begin = time.perf_counter()
        for batch in batches[:2]:  # few, so that the device's queue does not fill up and make the host wait
            stepper.launch(0, batch, 0.0)
        launching = (time.perf_counter() - begin) / 2
        runtime.synchronize()
    stepper.optimizer.step = lambda *_: model.zero_grad(set_to_none=True)  # from here on without the update
    busy = by_kind(busy_work())
    if runtime.cuda:
        optimizer = whole - sum(busy.values())
    else:  # the profiler slows a CPU down: take its shares, not its seconds
        passes = wall_seconds()
        optimizer = full - passes
        busy = {kind: passes * spent / sum(busy.values()) for kind, spent in busy.items()}

    flop_rate, byte_rate = measured_rates(runtime)
    floor: dict[str, float] = {}
    for kind, flops, traffic in operations(s, torch.finfo(runtime.dtype).bits // 8):
        floor[kind] = floor.get(kind, 0.0) + max(flops / flop_rate, traffic / byte_rate)
    idle = max(0.0, full - sum(busy.values()) - optimizer)
    print(" ".join(f"{k}: {v}" for k, v in runtime.about().items()))
    print(f"measured rates: {flop_rate / 1e12:.3g} TFLOP/s, {byte_rate / 1e9:.3g} GB/s; batch of {s.TRAIN_BATCH_TOKENS} tokens\n")
    print("| part of the step | ms | share | roofline ms |\n|---|---|---|---|")
    for kind, spent in sorted(busy.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {1e3 * spent:.2f} | {spent / full:.1%} | {1e3 * floor.get(kind, 0.0):.2f} |")
    print(f"| optimizer | {1e3 * optimizer:.2f} | {optimizer / full:.1%} | |")
    print(f"| idle | {1e3 * idle:.2f} | {idle / full:.1%} | 0 |")
    total = f"| whole step | {1e3 * full:.2f} | {s.TRAIN_BATCH_TOKENS / full:.0f} tokens/s | {1e3 * sum(floor.values()):.2f} |"
    print(f"{total}\n\nThe step takes {full / sum(floor.values()):.2f} times its roofline time.")
    if runtime.cuda:
        print(f"The host takes {1e3 * launching:.2f} ms to launch it.")
    what = f"the {LONGEST} longest of {len(work)} {'kernels' if runtime.cuda else 'operators'}"
    print(f"\n| {what} | calls | ms a step | counted as |\n|---|---|---|---|")
    for seconds, calls, name in work[:LONGEST]:
        print(f"| {name[:120].replace('|', '/')} | {calls} | {1e3 * seconds:.3f} | {kind_of(name)} |")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(main))
