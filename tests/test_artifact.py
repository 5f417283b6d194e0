"""Promise: what is written is read back the same, by us and by a reader of docs/artifact_format.md; anything else is refused."""

import functools
import hashlib
import json
import struct
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

from train_gpt import ArtifactError, UserError, decode_artifact, encode_artifact, pack_tensor, packed_bytes, quantize_rows, unpack_tensor

GOLDEN = ROOT / "tests" / "golden"
# sha256 over the decoded weights of each golden file: names in order, each followed by its float32 in little-endian order
GOLDEN_SHA256 = {
    "zlib_bits_6_8.bin": "08f9ff3353fec106d5108b6fdd7bc46b55ad1d9151484303afe4a83b1fb77cf4",
    "zstd_bits_2_5.bin": "f42752cdda8ec4e60a0337077514b6e58b39b42c442af1238661566e7a5240a4",
}
PREFIX = "<4sBBHIIQI"  # docs/artifact_format.md


def decode_by_the_page(data):
    """docs/artifact_format.md, read as it stands: NumPy, zlib and zstandard, and nothing of train_gpt.py."""
    magic, version, codec, zero, header_size, payload_size, raw_size, checksum = struct.unpack(PREFIX, data[:28])
    assert (magic, version, zero) == (b"PGLA", 1, 0)
    assert len(data) == 28 + header_size + payload_size
    header = json.loads(zlib.decompress(data[28 : 28 + header_size]))
    payload = data[28 + header_size :]
    raw = zlib.decompress(payload) if codec == 0 else zstandard.ZstdDecompressor().decompress(payload)
    assert len(raw) == raw_size and zlib.crc32(raw) == checksum
    weights, at = {}, 0
    for name, shape, bits in header["tensors"]:
        count = int(np.prod(shape))
        if bits == 16:
            weights[name] = np.frombuffer(raw, "<f2", count, at).astype(np.float32).reshape(shape)
            at += 2 * count
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


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
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


@pytest.mark.parametrize("name", GOLDEN_SHA256)
def test_golden_files_decode_to_the_same_weights_for_ever(name):
    """A change of the format needs a new version; to make new files, write `artifact(codec, matrix, embed)`."""
    data = (GOLDEN / name).read_bytes()
    codec, _, matrix, embed = name.removesuffix(".bin").split("_")
    for decode in (decode_artifact, decode_by_the_page):
        model, weights = decode(data)
        assert digest(weights) == GOLDEN_SHA256[name]
        assert model["VOCAB_SIZE"] == 40
    today = artifact(codec, int(matrix), int(embed))
    assert decode_artifact(today)[0].keys() >= model.keys()
    assert digest(decode_artifact(today)[1]) == GOLDEN_SHA256[name]  # the encoder still chooses the same symbols


def test_example_on_the_page_is_the_golden_file():
    page = (ROOT / "docs" / "artifact_format.md").read_text(encoding="utf-8").split("## An example by hand")[1]
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


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_same_weights_give_the_same_bytes(codec):
    weights = dict(reversed(some_weights().items()))  # in any order
    assert encode_artifact(weights, export_settings(CODEC=codec)) == artifact(codec)


def test_decoded_weights_are_a_fixed_point():
    """Encoding what was decoded gives the same weights again, up to a search for clips."""
    weights = decode_artifact(artifact("zlib", 8, 8))[1]
    again = decode_artifact(encode_artifact(weights, export_settings(BITS_MATRIX=8, BITS_EMBED=8)))[1]
    for name, w in weights.items():
        np.testing.assert_allclose(again[name], w, atol=2e-3 * np.abs(w).max(initial=0))


# --------------------------------------------------------------------------------------------------- quantization


@given(st.integers(2, 8), st.integers(0, 2**31), st.floats(-6, 2), st.integers(1, 40))
@examples(max_examples=80, deadline=None)
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


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (0, 4)])
def test_packed_size_is_as_foretold(bits, shape):
    w = np.ones(shape, np.float32)
    raw = pack_tensor(w, bits)
    assert len(raw) == packed_bytes(shape, bits)
    np.testing.assert_allclose(unpack_tensor(memoryview(raw), shape, bits), w, rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65_520.0, 1e20])
@pytest.mark.parametrize("name", ["embed", "blocks.0.mix"])
def test_weights_that_cannot_be_exported(name, bad):
    weights = some_weights()
    weights[name][1, 1] = bad
    with pytest.raises(UserError, match=f"cannot export {name}"):
        encode_artifact(weights, export_settings())


def test_a_tensor_without_a_role_cannot_be_exported():
    with pytest.raises(UserError, match="blocks.0.new has no role"):
        encode_artifact(some_weights() | {"blocks.0.new": np.ones((2, 2), np.float32)}, export_settings())


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


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_every_cut_is_refused(codec):
    data = artifact(codec)
    for size in range(len(data)):
        with pytest.raises(ArtifactError):
            decode_artifact(data[:size])
    for more in (b"\0", data):
        with pytest.raises(ArtifactError, match="announces"):
            decode_artifact(data + more)


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_no_flipped_bit_changes_a_weight(codec):
    data = artifact(codec)
    accepted = 0
    for at in range(len(data)):
        for bit in {0, 7, at % 8}:
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            accepted += not refused_or_the_same(bytes(damaged), data)
    assert accepted < len(data) // 50  # such as a compression level noted in a header


@given(st.binary(max_size=200), st.booleans())
@examples(max_examples=300, deadline=None)
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


def test_header_bombs_are_bounded(model_block):
    many = {"model": model_block, "tensors": [[str(i), [1], 16] for i in range(20_000)]}
    refused(forged(many, bytes(40_000)), "header")
    refused(forged(None, header_bytes=zlib.compress(b'"' + b"a" * (1 << 26) + b'"', 1)), "header", memory=20e6)
    refused(struct.pack(PREFIX, b"PGLA", 1, 0, 0, 1 << 21, 0, 0, 0) + bytes(1 << 21), "announces")




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
    decode_artifact(forged({"model": model_block, "tensors": tensors}, bytes(4)))


@pytest.mark.parametrize("field,value", [(0, b"PGLB"), (1, 0), (1, 2), (2, 2), (2, 255), (3, 1)])
def test_prefix_fields_are_checked(field, value):
    fields = list(struct.unpack(PREFIX, artifact()[:28]))
    fields[field] = value
    refused(struct.pack(PREFIX, *fields) + artifact()[28:], "not an artifact of version 1")


def test_no_pickle_is_read_anywhere():
    source = (ROOT / "train_gpt.py").read_text(encoding="utf-8")
    assert "import pickle" not in source and "torch.load" not in source and "allow_pickle=True" not in source
