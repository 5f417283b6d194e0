"""Promise: what is written is read back the same, by us and by a reader of docs/artifact_format.md; anything else is refused."""

import functools
import hashlib
import json
import lzma
import re
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import zstandard
from conftest import settings
from data_helpers import ROOT
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import train_gpt
from train_gpt import (
    LATER_KEYS,
    MODEL_KEYS,
    ArtifactError,
    UserError,
    balanced_steps,
    check_settings,
    decode_artifact,
    encode_artifact,
    fit_artifact,
    forecast_bytes,
    grid_step,
    pack_tensor,
    quantize_rows,
    rans_decode,
    rans_encode,
    round_to_grid,
    sections,
    unpack_tensor,
)

sys.path.insert(0, str(ROOT / "scripts"))
from golf import artifacts  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
PAGE = (ROOT / "docs" / "artifact_format.md").read_text(encoding="utf-8")
# sha256 over the decoded weights of each golden file: names in order, each followed by its float32 in little-endian order
GOLDEN_SHA256 = {
    "zlib_bits_6_8.bin": "08f9ff3353fec106d5108b6fdd7bc46b55ad1d9151484303afe4a83b1fb77cf4",
    "zstd_bits_2_5.bin": "f42752cdda8ec4e60a0337077514b6e58b39b42c442af1238661566e7a5240a4",
    "rans_step_40_8.bin": "ccff353657d310802a2d9d5b648bf4a59fce72d9e3ba4b1377ef86a7577ec17a",
    "rans_bits_6_8.bin": "08f9ff3353fec106d5108b6fdd7bc46b55ad1d9151484303afe4a83b1fb77cf4",
    "zstd_step_150_20.bin": "7da3132e515e6ba8a063a54259dd614cb50698799839476fce441ea85daf6eb2",
}
PREFIX = "<4sBBHIIQI"  # docs/artifact_format.md


def rans_by_the_page(payload, tensors):
    """Codec 2 of docs/artifact_format.md, one number after another, in Python's whole numbers."""
    parts = []
    for _, shape, bits in tensors:
        parts.append((int(np.prod(shape)) if bits == 16 else shape[0] if bits else 1, 2, 1))
        if bits < 16:
            parts.append((*shape, 1 if bits else 2))
    size = int.from_bytes(payload[:4], "little")
    side = zlib.decompress(payload[4 : 4 + size])
    low, at, tables = int.from_bytes(side[:4], "little", signed=True), 4, []
    for rows, columns, _ in parts:
        row, column = side[at : at + rows], side[at + rows : at + rows + columns]
        tables += [(r + c) % 64 for r in row for c in column]
        at += rows + columns
    width, rest = divmod(len(side) - at, 3 * 64)
    assert rest == 0
    planes = [side[at + i * 64 * width : at + (i + 1) * 64 * width] for i in range(3)]
    frequency = [[sum(planes[i][t * width + e] << 8 * i for i in range(3)) for e in range(width)] for t in range(64)]
    assert all(sum(f) == 65536 for f in frequency)
    at = 4 + size
    states = list(struct.unpack("<64q", payload[at : at + 512]))
    words = iter(struct.unpack(f"<{(len(payload) - at - 512) // 2}H", payload[at + 512 :]))
    numbers = []
    for i, table in enumerate(tables):
        x, e, before = states[i % 64], 0, 0
        slot = x % 65536
        while before + frequency[table][e] <= slot:
            before += frequency[table][e]
            e += 1
        numbers.append(low + e)
        x = frequency[table][e] * (x // 65536) + slot - before
        states[i % 64] = x * 65536 + next(words) if x < 2**24 else x
    assert states == [2**24] * 64 and next(words, None) is None
    raw, numbers = b"", iter(numbers)
    for rows, columns, width in parts:
        raw += b"".join((next(numbers) % 256**width).to_bytes(width, "little") for _ in range(rows * columns))
    return raw


def decode_by_the_page(data):
    """docs/artifact_format.md, read as it stands: NumPy, zlib and zstandard, and nothing of train_gpt.py."""
    magic, version, codec, zero, header_size, payload_size, raw_size, checksum = struct.unpack(PREFIX, data[:28])
    assert (magic, zero) == (b"PGLA", 0) and version in (1, 2)
    assert len(data) == 28 + header_size + payload_size
    header = json.loads(zlib.decompress(data[28 : 28 + header_size]))
    payload = data[28 + header_size :]
    if codec == 2 and version == 2:
        raw = rans_by_the_page(payload, header["tensors"])
    else:
        raw = zlib.decompress(payload) if codec == 0 else zstandard.ZstdDecompressor().decompress(payload)
    assert len(raw) == raw_size and zlib.crc32(raw) == checksum
    assert version == (2 if codec == 2 or any(bits == 0 for _, _, bits in header["tensors"]) else 1)
    weights, at = {}, 0
    for name, shape, bits in header["tensors"]:
        count = int(np.prod(shape))
        if bits == 16:
            weights[name] = np.frombuffer(raw, "<f2", count, at).astype(np.float32).reshape(shape)
            at += 2 * count
        elif bits == 0:
            step = np.frombuffer(raw, "<f2", 1, at).astype(np.float32)
            weights[name] = np.frombuffer(raw, "<i2", count, at + 2).reshape(shape) * step
            at += 2 + 2 * count
        else:
            scales = np.frombuffer(raw, "<f2", shape[0], at).astype(np.float32)
            symbols = np.frombuffer(raw, np.int8, count, at + 2 * shape[0]).reshape(shape)
            assert np.abs(symbols.astype(int)).max(initial=0) <= 2 ** (bits - 1) - 1
            weights[name] = symbols * scales[:, None]
            at += 2 * shape[0] + count
    assert at == raw_size
    return header["model"], weights


def digest(weights):
    sha = hashlib.sha256()
    for name, w in weights.items():
        assert w.dtype == np.float32
        sha.update(name.encode() + w.astype("<f4").tobytes())
    return sha.hexdigest()


def some_weights():
    """Weights of several shapes from whole numbers, so that they are the same everywhere and always."""

    def wave(*shape):
        i = np.arange(int(np.prod(shape)))
        return (((7919 * i * i + 31 * i) % 2003 - 1001) / 3000).reshape(shape).astype(np.float32)

    weights = {"embed": wave(40, 8), "blocks.0.attn.q": wave(8, 8), "blocks.0.attn.k": wave(4, 8) * np.float32(0.125)}
    weights |= {"blocks.0.attn.out": np.zeros((8, 8), np.float32), "blocks.0.mlp.up": wave(16, 8)}
    weights |= {"blocks.0.mix": wave(2, 8), "skips": wave(0, 8)}
    weights["blocks.0.mlp.up"][3] *= 100
    return weights


def export_settings(**changes):
    changes = {"VOCAB_SIZE": 40, "MODEL_DIM": 8, "NUM_LAYERS": 1, "NUM_HEADS": 2, "NUM_KV_HEADS": 1} | changes
    return settings(*(f"{k}={v}" for k, v in changes.items()))


@functools.cache
def artifact(codec="zlib", matrix=6, embed=8):
    return encode_artifact(some_weights(), export_settings(CODEC=codec, BITS_MATRIX=matrix, BITS_EMBED=embed))


@functools.cache
def step_artifact(codec="rans", matrix=40, embed=8):
    """On the grids of QUANT=step, the steps in hundredths."""
    s = export_settings(CODEC=codec, QUANT="step", STEP_MATRIX=matrix / 100, STEP_EMBED=embed / 100)
    return encode_artifact(some_weights(), s)


def some_artifact(kind):
    codec, _, step = kind.partition("-")
    return step_artifact(codec) if step else artifact(codec)


KINDS = ["zlib", "zstd", "rans", "rans-step", "zstd-step"]


@pytest.mark.parametrize("shape, bits", [((4, 6), 10), ((4, 6), 1), ((4, 6, 2), 4), ((2, 1, 1, 1, 2), 16)])
def test_what_no_artifact_can_hold_is_refused_before_training(shape, bits, monkeypatch):
    """When its size is foretold, and not after the run, when it is read again."""
    monkeypatch.setattr(train_gpt, "bits_of", lambda s, name: bits)
    with pytest.raises(UserError, match=re.escape(f"embed {shape}: {bits} bits, not 16 or (matrix) 0, 2-8")):
        forecast_bytes({"embed": np.ones(shape, np.float32)}, settings())


@pytest.mark.parametrize("codec", ["zlib", "zstd", "rans"])
@pytest.mark.parametrize("matrix,embed", [(6, 8), (2, 5), (8, 2), (4, 3)])
def test_round_trip_and_independent_reader_agree(codec, matrix, embed):
    data = artifact(codec, matrix, embed)
    model, weights = decode_artifact(data)
    by_page, weights_by_page = decode_by_the_page(data)
    assert model == by_page and model["MODEL_DIM"] == 8 and model["EVAL_STRIDE"] == 64
    assert digest(weights) == digest(weights_by_page)
    for name, w in some_weights().items():
        if name in ("skips", "blocks.0.mix"):
            assert np.array_equal(weights[name], w.astype(np.float16))
        else:
            bits = embed if name == "embed" else matrix
            step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
            assert (np.sqrt(np.mean((weights[name] - w) ** 2, 1)) <= 0.51 * step[:, 0] + 3.2e-5).all(), name


@pytest.mark.parametrize("codec", ["zlib", "zstd", "rans"])
@pytest.mark.parametrize("matrix,embed", [(40, 8), (200, 1), (1, 100)])
def test_grids_round_trip_and_independent_reader_agrees(codec, matrix, embed):
    data = step_artifact(codec, matrix, embed)
    model, weights = decode_artifact(data)
    by_page, weights_by_page = decode_by_the_page(data)
    assert model == by_page and digest(weights) == digest(weights_by_page)
    for name, w in some_weights().items():
        if name in ("skips", "blocks.0.mix"):
            assert (np.abs(weights[name] - w) <= np.abs(w) * 0.0085).all()  # 7 significant bits
        else:
            step = grid_step(w, (embed if name == "embed" else matrix) / 100)
            assert np.abs(weights[name] - w).max() <= step * 0.5001
            np.testing.assert_array_equal(np.rint(weights[name] / step) * step, weights[name])


@pytest.mark.parametrize("name", GOLDEN_SHA256)
def test_golden_files_decode_to_the_same_weights_for_ever(name):
    """A change of the format needs a new version; to make new files, write `artifact(...)` or `step_artifact(codec, matrix, embed)`."""
    data = (GOLDEN / name).read_bytes()
    codec, quant, matrix, embed = name.removesuffix(".bin").split("_")
    for decode in (decode_artifact, decode_by_the_page):
        model, weights = decode(data)
        assert digest(weights) == GOLDEN_SHA256[name]
        assert model["VOCAB_SIZE"] == 40
    today = (step_artifact if quant == "step" else artifact)(codec, int(matrix), int(embed))
    assert decode_artifact(today)[0].keys() >= model.keys()
    assert digest(decode_artifact(today)[1]) == GOLDEN_SHA256[name]  # the encoder still chooses the same symbols


def test_example_on_the_page_is_the_golden_file():
    page = PAGE.split("## An example by hand")[1]
    data = (GOLDEN / "zlib_bits_6_8.bin").read_bytes()
    *_, header_size, payload_size, raw_size, checksum = struct.unpack(PREFIX, data[:28])
    raw = zlib.decompress(data[28 + header_size :])
    scales, symbols = np.frombuffer(raw[:8], "<f2").astype(float), np.frombuffer(raw[8:16], np.int8).tolist()
    for text in (
        f"`{data[:28].hex(' ')}`",
        f"{header_size} header bytes, {payload_size} payload bytes, {raw_size} of them decompressed, and the checksum 0x{checksum:08x}",
        f"`{json.dumps(json.loads(zlib.decompress(data[28 : 28 + header_size]))['tensors'][0])}`",
        f"`{raw[:8].hex(' ')}`\n\nare {', '.join(f'{x:.6g}' for x in scales)}.",
        f"`{raw[8:16].hex(' ')}`\n\nor {', '.join(map(str, symbols))}.",
        f"The first weight is {scales[0]:.6g} x {symbols[0]} = {scales[0] * symbols[0]:.6g}.",
    ):
        assert text in page
    data = (GOLDEN / "rans_step_40_8.bin").read_bytes()
    header_size = struct.unpack(PREFIX, data[:28])[4]
    tensors = json.loads(zlib.decompress(data[28 : 28 + header_size]))["tensors"]
    raw = rans_by_the_page(data[28 + header_size :], tensors)
    step, symbols = float(np.frombuffer(raw[:2], "<f2")[0]), np.frombuffer(raw[2:18], "<i2").tolist()
    for text in (
        f"`{json.dumps(tensors[0])}`: `{raw[:2].hex(' ')}`, or {step:.6g}.",
        f"`{raw[2:18].hex(' ')}`\n\nor {', '.join(map(str, symbols))}.",
        f"The first weight is {step:.6g} x {symbols[0]} = {step * symbols[0]:.6g}.",
    ):
        assert text in page


@pytest.mark.parametrize("quant", ["clip", "step"])
def test_a_codec_of_ones_own_is_written_and_read(monkeypatch, quant):
    s = export_settings(QUANT=quant)
    want, s.values["CODEC"] = decode_artifact(encode_artifact(some_weights(), s))[1], "lzma"
    monkeypatch.setattr(train_gpt, "CODECS", (*train_gpt.CODECS, "lzma"))
    monkeypatch.setattr(train_gpt, "compress", lambda raw, codec, parts: {"lzma": lzma.compress}[codec](raw))
    monkeypatch.setattr(train_gpt, "decompress", lambda data, codec, size, parts: {"lzma": lzma.decompress}[codec](data))
    data = encode_artifact(some_weights(), s)
    assert data[4:6] == bytes([2, 3]) and all(np.array_equal(w, want[n]) for n, w in decode_artifact(data)[1].items())


@pytest.mark.parametrize("codec", ["zlib", "zstd", "rans"])
def test_same_weights_give_the_same_bytes(codec):
    weights = dict(reversed(some_weights().items()))  # in any order
    assert encode_artifact(weights, export_settings(CODEC=codec)) == artifact(codec)
    assert encode_artifact(weights, export_settings(CODEC=codec, QUANT="step", STEP_EMBED=0.08)) == step_artifact(codec)


def test_decoded_weights_are_a_fixed_point():
    """Encoding what was decoded gives the same weights again, up to a search for clips."""
    weights = decode_artifact(artifact("zlib", 8, 8))[1]
    again = decode_artifact(encode_artifact(weights, export_settings(BITS_MATRIX=8, BITS_EMBED=8)))[1]
    for name, w in weights.items():
        np.testing.assert_allclose(again[name], w, atol=2e-3 * np.abs(w).max(initial=0))


# --------------------------------------------------------------------------------------------------- quantization


@given(st.integers(2, 8), st.integers(0, 2**31), st.floats(-6, 2), st.integers(1, 40))
@examples(max_examples=80)
def test_quantization_error_is_at_most_that_of_plain_rounding(bits, seed, magnitude, columns):
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((5, columns)) * 10**magnitude).astype(np.float32)
    w[0] = 0
    w[1, 0] *= 50  # an outlier
    scales, symbols = quantize_rows(w, bits)
    top = 2 ** (bits - 1) - 1
    assert symbols.dtype == np.int8 and scales.dtype == np.float16 and np.isfinite(scales).all() and (scales > 0).all()
    assert np.abs(symbols.astype(int)).max() <= top
    error = np.square(w - scales.astype(np.float32)[:, None] * symbols).sum(1)
    step = np.maximum(np.abs(w).max(1) / top, 6.2e-5) * (1 + 2**-10)
    assert (error <= columns * np.square(step / 2) * 1.01).all()
    if bits == 8:
        assert (np.abs(w - scales.astype(np.float32)[:, None] * symbols) <= 0.51 * step[:, None]).all()


def test_clip_search_helps_rows_of_few_bits():
    w = np.random.default_rng(0).standard_normal((50, 200)).astype(np.float32)
    for bits, gain in ((3, 0.7), (4, 0.85), (5, 0.97)):
        scales, symbols = quantize_rows(w, bits)
        step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        plain = np.square(w - step * np.rint(w / step)).sum(1)
        ours = np.square(w - scales.astype(np.float32)[:, None] * symbols).sum(1)
        assert (ours <= plain * 1.01).all() and ours.sum() < gain * plain.sum()


@pytest.mark.parametrize("bits", [0, 2, 5, 8, 16])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (0, 4)])
def test_packed_size_is_as_foretold(bits, shape):
    w = np.ones(shape, np.float32)
    raw = pack_tensor(w, bits, export_settings(), 0.25)
    assert len(raw) == sum(rows * columns * int(kind[-1]) for kind, rows, columns in sections([("", shape, bits)]))
    np.testing.assert_allclose(unpack_tensor(memoryview(raw), shape, bits), w, rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65_300.0, 65_520.0, 1e20])
@pytest.mark.parametrize("name", ["embed", "blocks.0.mix"])
def test_weights_that_cannot_be_exported(name, bad):
    weights = some_weights()
    weights[name][1, 1] = bad
    with pytest.raises(UserError, match=f"cannot export {name}"):
        encode_artifact(weights, export_settings())


def test_a_tensor_without_a_role_cannot_be_exported():
    with pytest.raises(UserError, match="blocks.0.new has no role"):
        encode_artifact(some_weights() | {"blocks.0.new": np.ones((2, 2), np.float32)}, export_settings())


def inputs_and_weights(rows=24, columns=48, seed=0):
    """Inputs whose coordinates go together, as hidden states do, and weights of a matrix that reads them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4000, 12)) @ rng.standard_normal((12, columns)) + 0.3 * rng.standard_normal((4000, columns))
    return x.astype(np.float32), (rng.standard_normal((rows, columns)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("step", [0.1, 0.4, 1.5])
def test_gptq_lowers_the_error_of_the_outputs(step):
    x, w = inputs_and_weights()
    hessian, grid = x.T @ x / len(x), grid_step(w, step)

    def error(symbols):
        assert symbols.dtype == np.int16 and symbols.shape == w.shape
        return np.square(x @ (w - grid * symbols).T).mean()

    nearest = round_to_grid(w, grid, None)
    np.testing.assert_array_equal(nearest, np.rint(w / grid))
    assert error(round_to_grid(w, grid, hessian)) < 0.5 * error(nearest)
    independent = round_to_grid(w, grid, np.diag(np.diag(hessian)))  # nothing to make good elsewhere
    np.testing.assert_array_equal(independent, nearest)


def test_a_dead_zone_rounds_down_past_the_half():
    """By DEAD_ZONE x step, at most 0.3 of a step, on either side of 0, with a hessian as without one."""
    x, w = inputs_and_weights()
    down = np.sign(w) * np.floor(np.abs(w / (grid := grid_step(w, 2.0))) + 0.5 - 0.2)
    assert np.count_nonzero(down != np.rint(w / grid)) > 20
    for hessian in (None, np.diag(np.square(x).mean(0))):
        np.testing.assert_array_equal(round_to_grid(w, grid, hessian, 0.2), down)
    for share, step, lean in ((0.0, 2.0, 0.0), (0.1, 2.0, 0.2), (0.1, 8.0, 0.3)):
        raw, grid = pack_tensor(w, 0, export_settings(QUANT="step", DEAD_ZONE=share), step), grid_step(w, step)
        want = grid * np.sign(w) * np.ceil(np.abs(w / grid) - np.float32(0.5 + lean))
        np.testing.assert_array_equal(unpack_tensor(np.frombuffer(raw, np.uint8), w.shape, 0), want)


def test_a_dead_zone_costs_fewer_bits_for_the_same_error():
    """Of Laplacian weights, coded: at equal bytes the error is lower than of rounding to nearest."""
    w = np.random.default_rng(3).laplace(size=(512, 512)).astype(np.float32)

    def at(step, share):
        s = export_settings(CODEC="rans", QUANT="step", DEAD_ZONE=share)
        data = encode_artifact({"blocks.0.attn.q": w}, s, None, {"blocks.0.attn.q": step})
        return len(data), np.square(decode_artifact(data)[1]["blocks.0.attn.q"] - w).mean()

    size, error = at(1.5, 0.118)
    nearest = [at(step, 0.0) for step in np.geomspace(1.4, 2.2, 9)]
    assert nearest[0][0] > size > nearest[-1][0]
    assert error < 0.98 * np.interp(size, *zip(*reversed(nearest)))


def test_gptq_is_the_column_by_column_update_of_the_paper():
    """Against the textbook form: round a column, then move all that follow by the inverse Hessian of what is left."""
    x, w = inputs_and_weights(rows=5, columns=9)
    h = (x.T @ x / len(x)).astype(np.float64)
    h += 0.05 * np.trace(h) / 9 * np.eye(9)
    left, grid = w.astype(np.float64), 0.05
    want = np.zeros(w.shape)
    for i in range(9):
        inverse = np.linalg.inv(h[i:, i:])
        want[:, i] = np.rint(left[:, i] / grid)
        left[:, i:] -= np.outer((left[:, i] - grid * want[:, i]) / inverse[0, 0], inverse[0])
    np.testing.assert_array_equal(round_to_grid(w, np.float32(grid), (x.T @ x / len(x))), want)


def test_hessians_reach_the_matrix_they_belong_to():
    s = export_settings(CODEC="rans", QUANT="step")
    hessian = inputs_and_weights(columns=8)[0]
    hessian = hessian.T @ hessian / len(hessian)
    plain, weights = (decode_artifact(encode_artifact(some_weights(), s, h))[1] for h in (None, {"blocks.0.mlp.up": hessian}))
    assert [n for n in weights if not np.array_equal(weights[n], plain[n])] == ["blocks.0.mlp.up"]
    with pytest.raises(UserError, match="cannot export embed"):
        encode_artifact(some_weights(), s, {"embed": hessian * np.nan})


@pytest.mark.parametrize("w", [np.zeros((3, 4)), np.full((3, 4), 1e-9), np.full((3, 4), 60_000.0), np.zeros((0, 4))], ids=repr)
def test_grids_of_odd_matrices(w):
    w = w.astype(np.float32)
    for hessian in (None, np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)):
        for step in (0.001, 8.0):
            grid = grid_step(w, step)
            assert grid >= 6.1e-5 and np.isfinite(round_to_grid(w, grid, hessian) * grid).all()


def normal_weights(times=1):
    rng, wide = np.random.default_rng(1), 64 * times
    shapes = {"embed": (200 * times, 64), "blocks.0.attn.q": (wide, wide), "blocks.0.mlp.up": (4 * wide, wide), "blocks.0.mix": (2, 64)}
    return {n: (rng.standard_normal(shape) * 0.05).astype(np.float32) for n, shape in shapes.items()}


@pytest.mark.parametrize("codec", ["rans", "zstd"])
@pytest.mark.parametrize("target,times", [(14_000, 1), (32_000, 1), (40_000, 2), (62_000, 2), (90_000, 2)])
def test_the_target_is_met_from_below(codec, target, times):
    s = export_settings(CODEC=codec, QUANT="step", STEP_EMBED=0.04, TARGET_BYTES=target + 5000)
    weights = normal_weights(times)
    steps, data = fit_artifact(weights, s, 5000)
    assert (0.998 if codec == "rans" else 0.98) * target <= len(data) <= target  # sizes of zstd jump
    assert data == encode_artifact(weights, s, None, steps)
    assert steps["embed"] / steps["blocks.0.attn.q"] == pytest.approx(s.STEP_EMBED / s.STEP_MATRIX) and len(steps) == 3
    assert forecast_bytes(weights, s, 5000) == len(data)


@pytest.mark.parametrize("target,factor", [(1000, 8), (10**6, 0.125), (5000, 8), (3, 8)])
def test_targets_out_of_reach(target, factor):
    s = export_settings(CODEC="rans", QUANT="step", TARGET_BYTES=target)
    steps = {n: step * factor for n, step in balanced_steps(normal_weights(), s, {}).items()}
    assert fit_artifact(normal_weights(), s, 0) == (steps, encode_artifact(normal_weights(), s, None, steps))


@pytest.mark.parametrize("factor", np.geomspace(0.2, 6, 7))
def test_a_size_that_jumps_over_the_target_ends_below_it(monkeypatch, factor):
    """However near the search comes: the finest steps whose artifact is small enough, not those it tried last."""
    s = export_settings(QUANT="step", TARGET_BYTES=1000)
    edge = factor * s.STEP_EMBED
    monkeypatch.setattr(train_gpt, "encode_artifact", lambda w, s, h, steps: bytes(600 if steps["embed"] >= edge else 1400))
    steps, data = fit_artifact({"embed": np.ones((4, 4), np.float32)}, s, 0)
    assert len(data) == 600 and edge <= steps["embed"] < 1.01 * edge


def test_without_a_target_the_steps_stay():
    s = export_settings(CODEC="rans", QUANT="step")
    steps = {"embed": s.STEP_EMBED} | dict.fromkeys([f"blocks.0.{n}" for n in ("attn.q", "attn.k", "attn.out", "mlp.up")], s.STEP_MATRIX)
    assert balanced_steps(some_weights(), s, {}) == steps
    assert fit_artifact(some_weights(), s, 10**9) == (steps, encode_artifact(some_weights(), s))


def test_balanced_steps_go_with_the_root_of_the_power():
    """And of the share of weights that are not 0; absolute steps, so that a tensor's own size does not matter. The bits of all stay."""
    s, weights = export_settings(QUANT="step", STEP_MATRIX=0.01, STEP_EMBED=0.01), normal_weights()
    weights["blocks.0.mlp.up"] *= 8
    weights["embed"][::2] = 0
    powers = {"embed": 4.0, "blocks.0.attn.q": 16.0, "blocks.0.mlp.up": 1.0, "blocks.0.mix": 1e9}
    steps = balanced_steps(weights, s, powers)
    size = {n: steps[n] * float(grid_step(weights[n], 1.0)) for n in steps}
    assert size["embed"] == pytest.approx(2 * 0.5**0.5 * size["blocks.0.attn.q"], rel=0.02)
    assert size["blocks.0.mlp.up"] == pytest.approx(4 * size["blocks.0.attn.q"], rel=0.02)
    bits = sum(np.count_nonzero(weights[n]) * np.log2(step / 0.01) for n, step in steps.items())
    assert abs(bits) < 1e-3 * sum(w.size for w in weights.values()) and "blocks.0.mix" not in steps


def test_balanced_steps_are_the_cheapest_at_equal_bytes():
    """The loss being sum(power * error^2), no other share of the bytes is better, and that of equal powers is far worse."""
    s = export_settings(CODEC="rans", QUANT="step", STEP_MATRIX=0.5, STEP_EMBED=0.5, TARGET_BYTES=16_000)
    weights, powers = normal_weights(), {"embed": 1.0, "blocks.0.attn.q": 40.0, "blocks.0.mlp.up": 6.0}

    def loss(shares):
        decoded = decode_artifact(fit_artifact(weights, s, 0, None, shares)[1])[1]
        return sum(powers[n] * np.square(decoded[n] - weights[n]).sum() for n in powers)

    best = loss(powers)
    assert loss({}) > 1.5 * best
    for name in powers:
        for other in (0.25, 4.0):
            assert loss(powers | {name: other * powers[name]}) > 1.01 * best


def test_odd_tensors_keep_the_usual_step():
    """All zero, too coarse to be alive, or of no known power; and none moves by more than a factor of e^3."""
    s, weights = export_settings(QUANT="step", STEP_MATRIX=0.4), normal_weights()
    usual = balanced_steps(weights, s, {})
    weights |= {"blocks.0.attn.out": np.zeros((64, 64), np.float32), "blocks.0.attn.k": np.zeros((0, 64), np.float32)}
    powers = {"embed": 1e-12, "blocks.0.attn.q": 0.0, "blocks.0.mlp.up": 1e12, "blocks.0.attn.out": 1.0, "blocks.0.attn.k": 1.0}
    steps = balanced_steps(weights, s, powers)
    assert [steps[f"blocks.0.attn.{n}"] for n in ("q", "out", "k")] == [0.4] * 3
    assert all(balanced_steps(weights, s, dict.fromkeys(weights, odd)) == balanced_steps(weights, s, {}) for odd in (np.nan, np.inf))
    assert steps["embed"] == pytest.approx(usual["embed"] * np.e**3) and steps["blocks.0.mlp.up"] == pytest.approx(0.4 / np.e**3)
    assert balanced_steps(weights, export_settings(QUANT="step", STEP_MATRIX=8.0), powers)["blocks.0.attn.out"] == 8.0
    assert encode_artifact(weights, s, None, steps) != encode_artifact(weights, s)


@pytest.mark.parametrize("codec, limit", [("rans", "MAX_RANS_BYTES"), ("zstd", "MAX_RAW_BYTES")])
def test_no_artifact_is_written_that_would_not_be_read(monkeypatch, codec, limit):
    weights = {"up": np.ones((100, 100), np.float32)}
    s = settings("QUANT=step", f"CODEC={codec}")
    size = len(train_gpt.pack_tensor(weights["up"], 0, s, 0.4))
    monkeypatch.setattr(train_gpt, limit, size)
    assert decode_artifact(encode_artifact(weights, s))[1].keys() == weights.keys()
    monkeypatch.setattr(train_gpt, limit, size - 1)
    with pytest.raises(train_gpt.UserError, match=f"{size} bytes before CODEC={codec}, which takes {size - 1}; lower"):
        encode_artifact(weights, s)


@pytest.mark.parametrize("name", ["TARGET_BYTES", "CALIBRATION_TOKENS", "BALANCE_TOKENS", "DEAD_ZONE"])
def test_settings_of_grids_need_grids(name):
    with pytest.raises(UserError, match=rf"{name}=1(\.0)? needs QUANT=step"):
        export_settings(**{name: 1})
    check_settings(export_settings(QUANT="step", **{name: 1}))


# ------------------------------------------------------------------------------------------------------------ rANS


LAWS = {
    "flat": lambda rng, top, size: rng.integers(-top - 1, top + 1, size),
    "normal": lambda rng, top, size: np.clip(np.rint(rng.standard_normal(size) * top / 30), -top, top),
    "skewed": lambda rng, top, size: rng.geometric(0.9, size) - 1,
    "one": lambda rng, top, size: np.full(size, top),
    "wide": lambda rng, top, size: rng.choice([-top - 1, 0, top], size, p=[0.01, 0.98, 0.01]),
}


@given(st.integers(0, 2**31), st.sampled_from(["i1", "<i2"]), st.sampled_from(sorted(LAWS)), st.data())
@examples(max_examples=40)
def test_rans_gives_back_any_matrices(seed, kind, law, data):
    rng = np.random.default_rng(seed)
    parts, raw = [], b""
    for _ in range(data.draw(st.integers(1, 4))):
        rows, columns = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
        a = LAWS[law](rng, np.iinfo(kind).max, (rows, columns))
        parts += [("u1", rows, 2), (kind, rows, columns)]
        raw += rng.integers(0, 256, (rows, 2)).astype(np.uint8).tobytes() + a.astype(kind).tobytes()
    coded = rans_encode(raw, parts)
    assert rans_decode(coded, parts) == raw


def entropy_bytes(a):
    counts = np.unique(a, return_counts=True)[1]
    return -(counts * np.log2(counts / a.size)).sum() / 8


@pytest.mark.parametrize("spread", [0.3, 2.5, 40])
def test_rans_is_near_the_entropy(spread):
    normal = np.random.default_rng(0).standard_normal((400, 300)) * spread
    a = np.rint(normal).astype("<i2")
    coded = len(rans_encode(a.tobytes(), [("<i2", 400, 300)]))
    assert 0.98 * entropy_bytes(a) < coded < 1.005 * entropy_bytes(a) + 1500  # lanes, scales and tables
    for scales in (np.arange(400)[:, None] // 100, np.arange(300) // 100):  # the scale of a row or column is worth knowing
        a = np.rint(normal * 3.0**scales).astype("<i2")
        assert len(rans_encode(a.tobytes(), [("<i2", 400, 300)])) < 0.95 * entropy_bytes(a) or spread == 40  # large tables


# --------------------------------------------------------------------------------------- cut, damaged and hostile


def refused_or_the_same(data, good):
    """True if refused; whatever is accepted must mean exactly what the good bytes mean."""
    try:
        model, weights = decode_artifact(data)
    except ArtifactError:
        return True
    want_model, want = decode_artifact(good)
    assert model == want_model and digest(weights) == digest(want)
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_refused(kind):
    data = some_artifact(kind)
    assert len(data) > 600
    for size in range(len(data)):
        with pytest.raises(ArtifactError):
            decode_artifact(data[:size])
    for more in (b"\0", data):
        with pytest.raises(ArtifactError, match="announces"):
            decode_artifact(data + more)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_changes_a_weight(kind):
    data = some_artifact(kind)
    accepted = 0
    for at in range(0, len(data), 11 if kind.startswith("rans") else 1):
        for bit in {0, 7, at % 8}:
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            accepted += not refused_or_the_same(bytes(damaged), data)
    assert accepted < len(data) // 50  # such as a compression level noted in a header


@given(st.binary(max_size=200), st.booleans())
@examples(max_examples=300)
def test_noise_is_refused(noise, behind_a_good_prefix):
    with pytest.raises(ArtifactError):
        decode_artifact((artifact()[:28] if behind_a_good_prefix else b"") + noise)


def forged(header, raw=b"", codec=0, raw_size=None, payload=None, header_bytes=None):
    """An artifact around any header and payload, with lengths and checksum that are right unless given."""
    header_bytes = zlib.compress(json.dumps(header).encode()) if header_bytes is None else header_bytes
    payload = zlib.compress(raw) if payload is None else payload
    rest = len(header_bytes), len(payload), len(raw) if raw_size is None else raw_size, zlib.crc32(raw)
    return struct.pack(PREFIX, b"PGLA", 1, codec, 0, *rest) + header_bytes + payload


@pytest.fixture(scope="module")
def model_block():
    return decode_artifact(artifact())[0]


def refused(data, words=None, memory=2.1 * (1 << 28)):
    """ArtifactError, in twice the memory that an artifact may take when decompressed, or in less."""
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=words):
            decode_artifact(data)
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def test_a_forged_artifact_that_is_right_is_read(model_block):
    header = {"model": model_block, "tensors": [["a", [2, 1], 8], ["b", [], 16]]}
    weights = decode_artifact(forged(header, b"\0\x3c\0\x3c\1\2" + b"\0\x3c"))[1]
    assert weights["a"].tolist() == [[1.0], [2.0]] and weights["b"] == 1.0


def zlib_bomb():
    """512 MB of zeros in half a megabyte: a block that flushes its dictionary, again and again."""
    compressor = zlib.compressobj(1)
    first, again = (compressor.compress(bytes(1 << 24)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 31


def zstd_bomb(stated):
    """512 MB of zeros in a frame that states its size, or does not."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 29 if stated else -1)
    return b"".join(compressor.compress(bytes(1 << 24)) for _ in range(32)) + compressor.flush()


@pytest.mark.parametrize("codec,bomb", [(0, zlib_bomb), (1, lambda: zstd_bomb(True)), (1, lambda: zstd_bomb(False))])
def test_decompression_bombs_are_bounded(model_block, codec, bomb):
    """Half a gigabyte of zeros under a prefix that announces little, the most that is allowed, all of it, or more."""
    payload = bomb()
    for announced in (10, 1 << 28, 1 << 29, 2**64 - 2):
        header = {"model": model_block, "tensors": [["a", [announced // 2], 16]]}
        refused(forged(header, codec=codec, raw_size=announced, payload=payload))


def test_zstd_frames_of_the_wrong_kind(model_block):
    raw = bytes(100)
    header = {"model": model_block, "tensors": [["a", [50], 16]]}
    frame = zstandard.ZstdCompressor().compress(raw)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    assert decode_artifact(forged(header, raw, 1, payload=frame))[1]["a"].shape == (50,)
    for payload in (b"", unsized, frame + frame, frame + b"x", frame[:-1], b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + frame, zlib.compress(raw)):
        refused(forged(header, raw, 1, payload=payload), "zstd data")
    for payload in (b"", zlib.compress(raw) + b"x", zlib.compress(raw)[:-1], zlib.compress(raw[1:]), zlib.compress(raw + b"x"), frame):
        refused(forged(header, raw, 0, payload=payload), "zlib data")


def rans_payload(side, states=None, words=b""):
    side = zlib.compress(side, 9)
    states = struct.pack("<64q", *[1 << 24] * 64) if states is None else states
    return len(side).to_bytes(4, "little") + side + states + words


def rans_side(scales, width=2, frequency=None, low=0):
    frequency = np.tile([65536, *[0] * (width - 1)], (64, 1)) if frequency is None else np.broadcast_to(frequency, (64, width))
    return struct.pack("<i", low) + scales + b"".join((frequency >> 8 * i & 255).astype(np.uint8).tobytes() for i in range(3))


def test_rans_of_the_wrong_kind(model_block):
    """Two values of 16 bits, that is 4 numbers, which are 0 for certain, and what a stranger may write in their place."""
    header, scales = {"model": model_block, "tensors": [["a", [2], 16]]}, bytes(4)

    def made(payload, raw=bytes(4)):
        return struct.pack("<4sB", b"PGLA", 2) + forged(header, raw, 2, payload=payload)[5:]

    good = rans_payload(rans_side(scales))
    assert decode_artifact(made(good))[1]["a"].tolist() == [0, 0]
    assert decode_artifact(made(rans_payload(rans_side(b"\xff" * 4, low=60)), b"<<<<"))[1]["a"].tolist() == [1.05859375] * 2
    one, end = [1 << 24] * 63, len(good) - 512
    for payload in (
        *(b"", good[:3], good[:20], good[:-1], good + b"x", good + b"xx", zlib.compress(bytes(4))),
        b"\xff\xff\xff\xff" + good[4:],
        (len(good) + 9).to_bytes(4, "little") + good[4:],
        (end - 4 + 1).to_bytes(4, "little") + good[4:end] + b"x" + good[end:],  # side information with more behind it, or cut
        (end - 4 - 1).to_bytes(4, "little") + good[4 : end - 1] + good[end:],
        *(rans_payload(rans_side(scales, 2, f)) for f in ([65535, 0], [65535, 2], [1 << 23, 1], [65536, 65536], [0, 0])),
        rans_payload(rans_side(bytes(3))),
        rans_payload(rans_side(bytes(5))),
        rans_payload(rans_side(scales)[:8]),  # tables of no width
        rans_payload(b""),
        rans_payload(rans_side(scales, 2, [1, 65535])),  # lanes that do not end where they must
        *(rans_payload(rans_side(scales), struct.pack("<64q", x, *one)) for x in (0, -1, -(2**63), 2**63 - 1, 1 << 40, (1 << 24) - 1)),
        *(rans_payload(rans_side(scales, 2, [1, 65535]), struct.pack("<64q", x, *one), bytes(50)) for x in (0, -(2**63), 2**63 - 1)),
        rans_payload(rans_side(scales, low=2**31 - 1)),  # wraps, and then the checksum is wrong
        rans_payload(rans_side(scales, low=1 - 2**31)),
    ):
        with pytest.raises(ArtifactError):
            decode_artifact(made(payload))
    refused(forged(header, bytes(4), 2, payload=good), "version 1 or 2")  # version 1 knows no codec 2


@pytest.mark.parametrize(
    "tensors,raw_size",
    [
        ([["a", [1 << 26], 16]], 1 << 27),
        ([["a", [1 << 24], 16]], 1 << 25),
        ([["a", [1 << 28, 0], 0]], 2),
        ([[str(i), [1 << 28, 0], 0] for i in range(9000)], 18_000),
        ([["a", [1, 1 << 24], 0]], 2 + (1 << 25)),
        ([["a", [4000, 4000], 0]], 2 + 32_000_000),
    ],
    ids=["large", "large-allowed", "rows-of-nothing", "many-of-these", "just-too-large", "large-matrix"],
)
def test_rans_bombs_are_bounded(model_block, tensors, raw_size):
    """Side information of zeros without end, and announced sizes of every kind."""
    for side in (zlib.compress(bytes(1 << 28), 9), zlib_bomb()):
        payload = len(side).to_bytes(4, "little") + side + bytes(512)
        data = forged({"model": model_block, "tensors": tensors}, b"", 2, raw_size, payload)
        refused(data[:4] + b"\2" + data[5:])


@pytest.mark.parametrize("bits,shape", [(0, [2]), (0, [1, 2, 1]), (0, []), (1, [1, 2])])
def test_grids_are_of_matrices(model_block, bits, shape):
    data = forged({"model": model_block, "tensors": [["a", shape, bits]]}, bytes(6))
    refused(data[:4] + b"\2" + data[5:], "version does not know")


def test_version_1_knows_no_grids(model_block):
    data = forged({"model": model_block, "tensors": [["a", [1, 2], 0]]}, b"\0\x3c" + b"\1\0\2\0")
    refused(data, "version does not know")
    assert decode_artifact(data[:4] + b"\2" + data[5:])[1]["a"].tolist() == [[1, 2]]


def test_header_bombs_are_bounded(model_block):
    many = {"model": model_block, "tensors": [[str(i), [1], 16] for i in range(20_000)]}
    refused(forged(many, bytes(40_000)), "header")
    refused(forged(None, header_bytes=zlib.compress(b'"' + b"a" * (1 << 26) + b'"', 1)), "header", memory=20e6)
    refused(struct.pack(PREFIX, b"PGLA", 1, 0, 0, 1 << 21, 0, 0, 0) + bytes(1 << 21), "announces")


def test_headers_that_are_cut_or_too_long(model_block):
    """By a byte of their checksum, or by one behind it, where all that they say is there."""
    whole = zlib.compress(json.dumps({"model": model_block, "tensors": [["a", [2], 16]]}).encode())
    assert decode_artifact(forged(None, bytes(4), header_bytes=whole))[0] == model_block
    for header in (whole[:-1], whole + b"x"):
        refused(forged(None, bytes(4), header_bytes=header), "header")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="nested"),
        pytest.param('{"model": MODEL, "tensors": [["a", [1e999], 16]]}', id="infinite"),
        pytest.param('{"model": MODEL, "tensors": [["a", [2], 1e999]]}', id="infinite-bits"),
        pytest.param('{"model": KEYS, "tensors": [["a", [2], 16]]}', id="keys-in-a-list"),
        pytest.param('{"model": MODEL, "tensors": [["a", [NaN], 16]]}', id="nan"),
    ],
)
def test_odd_json_is_refused(model_block, text):
    text = text.replace("MODEL", json.dumps(model_block)).replace("KEYS", json.dumps(list(model_block)))
    refused(forged(None, bytes(4), header_bytes=zlib.compress(text.encode())))


@pytest.mark.parametrize(
    "tensors",
    [
        [["a", [2], 8]],  # rows need two dimensions
        [["a", [1, 2], 9]],
        [["a", [1, 2], 1]],
        [["a", [1, 2], 32]],
        [["a", [-1, -2], 16]],
        [["a", [2, -1], 8]],
        [["a", [1, 1, 1, 1, 2], 16]],
        [["a", [1 << 62], 16]],
        [["a", [1 << 62, 0], 16], ["b", [2], 16]],
        [["a", [1], 16], ["a", [1], 16]],
        [["a", [3], 16]],
        [],
        {},
        [["a", [2]]],
        [["a", 2, 16]],
        [["a", [2], None]],
        [["a", ["two"], 16]],
        None,
        5,
    ],
    ids=str,
)
def test_impossible_tensors_are_refused(model_block, tensors):
    refused(forged({"model": model_block, "tensors": tensors}, bytes(4)))


@pytest.mark.parametrize(
    "header", [None, [], 5, "text", {}, {"tensors": []}, {"model": {}, "tensors": []}, {"model": None, "tensors": []}], ids=str
)
def test_headers_without_the_model_are_refused(header):
    refused(forged(header), "header")


def test_model_keys_must_be_exactly_ours(model_block):
    tensors = [["a", [2], 16]]
    less = {k: v for k, v in model_block.items() if k != "MODEL_DIM"}
    for model in (less, model_block | {"RUNS_DIR": "/"}):
        refused(forged({"model": model, "tensors": tensors}, bytes(4)), "header")
    first = {k: model_block[k] for k in MODEL_KEYS}  # as all files had it once; the other keys may be missing, one by one
    former = model_block | {"MUON_NS_STEPS": 5, "ADAM_EPS": 1e-8}  # as files had it until 2026-11-27
    for model in (model_block, first, first | {"TTT_LR": 0.01}, former):
        assert decode_artifact(forged({"model": model, "tensors": tensors}, bytes(4)))[0] == model


def test_the_page_names_every_key_of_the_header(model_block):
    assert list(model_block) == MODEL_KEYS + LATER_KEYS
    required, later = PAGE.split("- `model`:")[1].split("- `tensors`:")[0].split("Since then:")
    assert re.findall(r"`([A-Z_0-9]+)`", required) == MODEL_KEYS
    assert re.findall(r"`([A-Z_0-9]+)`", later) == LATER_KEYS


@pytest.mark.parametrize("field,value", [(0, b"PGLB"), (1, 0), (1, 3), (2, 2), (2, 255), (3, 1)])
def test_prefix_fields_are_checked(field, value):
    fields = list(struct.unpack(PREFIX, artifact()[:28]))
    fields[field] = value
    refused(struct.pack(PREFIX, *fields) + artifact()[28:], "not an artifact of version 1 or 2")


def test_no_pickle_is_read_anywhere():
    source = (ROOT / "train_gpt.py").read_text(encoding="utf-8")
    assert "import pickle" not in source and "torch.load" not in source and "allow_pickle=True" not in source


def test_the_checker_unpacks_what_zlib_packed():
    """So that the checksum, by which it tells one seed's weights from another's, is theirs; of zstd it looks at the first bytes."""
    prefix, body = list(struct.unpack(PREFIX, artifact()[:28])), artifact()[28:]
    assert artifacts.read_outside(struct.pack(PREFIX, *prefix) + body).crc == prefix[7]
    for field, change, data in ((7, 1, body), (6, 1, body), (6, -1, body), (5, -1, body[:-1]), (2, 1, body)):
        other = prefix.copy()
        other[field] += change
        with pytest.raises(artifacts.ArtifactProblem, match="zstd frame" if field == 2 else "size or checksum"):
            artifacts.read_outside(struct.pack(PREFIX, *other) + data)


@pytest.mark.parametrize("name", GOLDEN_SHA256)
def test_the_checker_reads_the_outside_of_every_version(name):
    outside = artifacts.read_outside((GOLDEN / name).read_bytes())
    assert outside.version == (2 if "step" in name or "rans" in name else 1)
    assert outside.codec == ("zlib", "zstd", "rans").index(name.partition("_")[0])
    assert outside.model == decode_artifact((GOLDEN / name).read_bytes())[0]
