"""What the framework says about this device, and its calibration figure, as one line of JSON. The doctor runs it in a process of its own.

    python3 scripts/golf/device_probe.py torch|mlx [--calibrate]

The figure is tokens/s of forward and backward of 6 plain attention and MLP blocks of width 192 over sequences of 512 tokens, with a
head of 1024, in the type the device trains in, without optimizer and compilation. The fastest of the batch sizes tried counts.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

WIDTH, LENGTH, VOCAB, LAYERS, HEAD = 192, 512, 1024, 6, 32
SHAPES = ((WIDTH, WIDTH), (WIDTH // 2, WIDTH), (WIDTH // 2, WIDTH), (WIDTH, WIDTH), (2 * WIDTH, WIDTH), (WIDTH, 2 * WIDTH))
SECONDS_A_SIZE, LONGEST_STEP = 1.0, 2.0  # a step that takes longer is the last, so that slow devices are measured in seconds too


def tokens_per_second(step_of: Callable[[int], Callable[[], None]]) -> dict[str, object]:
    """Time steps of more and more sequences until that no longer helps. step_of(rows): a step that returns when it is done."""
    rates: dict[int, float] = {}
    for rows in (1, 4, 16, 64, 256):
        best = max(rates.values(), default=0.0)
        try:
            step = step_of(rows)
            step()
            count, begin = 0, time.perf_counter()
            while count < 1 or time.perf_counter() - begin < SECONDS_A_SIZE:
                step()
                count += 1
        except RuntimeError:  # out of memory
            break
        rates[rows * LENGTH] = count * rows * LENGTH / (time.perf_counter() - begin)
        if rates[rows * LENGTH] < 1.05 * best or time.perf_counter() - begin > LONGEST_STEP * count:
            break
    return {"tokens_per_s": max(rates.values()), "by_batch": rates}


def probe_torch(calibrate: bool) -> dict[str, object]:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the trainer has it, and before torch looks
    import torch
    import torch.nn.functional as F

    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.float32
    out: dict[str, object] = {"backend": "torch", "version": torch.__version__}
    if cuda:
        p = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        out |= {"device": p.name, "capability": [p.major, p.minor], "memory_bytes": total, "free_bytes": free}
        out["devices"] = torch.cuda.device_count()
        if not has_kernels(torch.cuda.get_arch_list(), p.major, p.minor):
            return out | {"kernels_for": torch.cuda.get_arch_list()}
        dtype = torch.bfloat16 if p.major >= 8 else dtype
    else:
        out["device"] = f"CPU, {torch.get_num_threads()} threads"
    try:
        import triton

        out["triton"] = triton.__version__
    except Exception as e:
        out["triton_missing"] = type(e).__name__
    sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it has only its own folder there
    from golf.needs import compiling_lacks

    out["compiling_lacks"] = compiling_lacks()
    out["precision"] = str(dtype).removeprefix("torch.")
    out["attention"] = {name: attention_works(name.upper(), device, dtype) for name in ATTENTION}
    if not calibrate:
        return out

    def weight(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, device=device) * columns**-0.5).requires_grad_()

    def heads(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(x, w.to(dtype)).unflatten(-1, (-1, HEAD)).transpose(1, 2)

    embed, blocks = weight(VOCAB, WIDTH), [[weight(*shape) for shape in SHAPES] for _ in range(LAYERS)]

    def step_of(rows: int) -> Callable[[], None]:
        tokens = torch.randint(0, VOCAB, (rows, LENGTH), device=device)

        def step() -> None:
            x = F.embedding(tokens, embed).to(dtype)
            for q, k, v, o, up, down in blocks:
                h = F.rms_norm(x, (WIDTH,))
                k_all, v_all = (heads(h, w).repeat_interleave(2, 1) for w in (k, v))
                y = F.scaled_dot_product_attention(heads(h, q), k_all, v_all, is_causal=True)
                x = x + F.linear(y.transpose(1, 2).flatten(2), o.to(dtype))
                x = x + F.linear(F.relu(F.linear(F.rms_norm(x, (WIDTH,)), up.to(dtype))).square(), down.to(dtype))
            logits = F.linear(x, embed.to(dtype)).float()
            F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
            if cuda:
                torch.cuda.synchronize()

        return step

    return out | {"calibration": tokens_per_second(step_of)}


def has_kernels(built_for: list[str], major: int, minor: int) -> bool:
    """Whether a card of capability major.minor runs kernels built for these: `sm_86` for its own major and a lower minor or the same,
    `compute_86`, which the driver translates, for all later cards (CUDA C++ Programming Guide, binary and PTX compatibility)."""
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)", x) for x in built_for]
    parts = [(x[1], int(x[2]), int(x[3])) for x in known if x]
    return any((kind == "compute" or m == major) and (m, n) <= (major, minor) for kind, m, n in parts)


ATTENTION = ("flash_attention", "efficient_attention", "cudnn_attention", "math")


def attention_works(name: str, device: object, dtype: object) -> bool:
    """Whether one kernel of scaled_dot_product_attention runs forward and backward here, with grouped heads as the model has them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    try:
        q = torch.randn(1, 6, 64, HEAD, device=device, dtype=dtype, requires_grad=True)
        k = torch.randn(1, 3, 64, HEAD, device=device, dtype=dtype)
        with sdpa_kernel([getattr(SDPBackend, name)]):
            torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True).sum().backward()
    except Exception:  # unknown to this torch, or refused by the device
        return False
    return True


def probe_mlx(calibrate: bool) -> dict[str, object]:
    import mlx.core as mx
    import mlx.nn as nn

    gpu = mx.default_device() == mx.Device(mx.gpu)
    dtype = mx.bfloat16 if gpu else mx.float32  # as the trainer's PRECISION=auto
    info = mx.device_info(mx.default_device())
    out: dict[str, object] = {"backend": "mlx", "version": mx.__version__, "precision": str(dtype).removeprefix("mlx.core.")}
    name = str(info.get("device_name", mx.default_device().type))  # as the trainer's log names it
    out["device"] = name if gpu else f"{name}, CPU"
    out |= {"memory_bytes": int(info["memory_size"])} if info.get("memory_size") else {}
    if not calibrate:
        return out

    def weight(rows: int, columns: int) -> mx.array:
        return mx.random.normal((rows, columns)) * columns**-0.5

    def heads(x: mx.array, w: mx.array) -> mx.array:
        return (x @ w.astype(dtype).T).reshape(*x.shape[:2], -1, HEAD).transpose(0, 2, 1, 3)

    params = {"embed": weight(VOCAB, WIDTH), "blocks": [[weight(*shape) for shape in SHAPES] for _ in range(LAYERS)]}

    def loss(p: dict, tokens: mx.array) -> mx.array:
        x = p["embed"][tokens].astype(dtype)
        for q, k, v, o, up, down in p["blocks"]:
            h = mx.fast.rms_norm(x, None, 1e-6)
            parts = heads(h, q), heads(h, k), heads(h, v)
            y = mx.fast.scaled_dot_product_attention(*parts, scale=HEAD**-0.5, mask="causal")
            x = x + y.transpose(0, 2, 1, 3).reshape(x.shape) @ o.astype(dtype).T
            x = x + mx.square(nn.relu(mx.fast.rms_norm(x, None, 1e-6) @ up.astype(dtype).T)) @ down.astype(dtype).T
        logits = (x @ p["embed"].astype(dtype).T).astype(mx.float32)
        return nn.losses.cross_entropy(logits, tokens, reduction="mean")

    gradient = mx.value_and_grad(loss)

    def step_of(rows: int) -> Callable[[], None]:
        tokens = mx.random.randint(0, VOCAB, (rows, LENGTH))
        return lambda: mx.eval(gradient(params, tokens))

    return out | {"calibration": tokens_per_second(step_of)}


if __name__ == "__main__":
    probe = {"torch": probe_torch, "mlx": probe_mlx}[sys.argv[1]]
    print(json.dumps(probe("--calibrate" in sys.argv)))
