"""The outside of artifact.bin: prefix and header, and whether zlib's weights have the checksum announced (docs/artifact_format.md)."""

from __future__ import annotations

import json
import struct
import zlib
from typing import NamedTuple

PREFIX = struct.Struct("<4sBBHIIQI")  # magic, version, codec, 0, header bytes, payload bytes, raw bytes, crc32 of raw
MAGIC = b"PGLA"
MAX_HEADER_BYTES, MAX_RAW_BYTES = 1 << 20, 1 << 28
MAX_INFLATE_BYTES = 1 << 25  # weights that zlib unpacks to check the checksum; larger ones and other codecs are left to the referee


class ArtifactProblem(Exception):
    """Something the artifact claims that its bytes do not bear out."""


class Outside(NamedTuple):
    version: int
    codec: int
    model: dict  # settings that rebuild the model
    crc: int  # of the weights before compression


def pickle_kind(data: bytes) -> str:
    """How a file is recognised as one that loads by unpickling; '' for others."""
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05" and data.rstrip(b"\0").endswith(b"."):
        return "a pickle"
    if data[:4] == b"PK\x03\x04" and (b".pkl" in data or b"pickle" in data):
        return "a zip that holds a pickle (torch.save)"
    if data[:6] == b"\x93NUMPY" and b"'|O'" in data[:256]:
        return "a NumPy file of pickled objects"
    return ""


def read_outside(data: bytes) -> Outside | None:
    """The header of a PGLA artifact; None for another container. Raises ArtifactProblem."""
    if data[:4] != MAGIC:
        return None
    if len(data) < PREFIX.size:
        raise ArtifactProblem(f"{len(data)} bytes are too few")
    _, version, codec, _, header_size, payload_size, raw_size, crc = PREFIX.unpack_from(data)
    want = PREFIX.size + header_size + payload_size
    if len(data) != want:
        raise ArtifactProblem(f"{len(data)} bytes, but its prefix announces {want}: cut, damaged, or something is appended")
    if header_size > MAX_HEADER_BYTES or raw_size > MAX_RAW_BYTES:
        raise ArtifactProblem(f"announces {raw_size} bytes of weights; at most {MAX_RAW_BYTES} are unpacked (decompression bomb)")
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data[PREFIX.size : PREFIX.size + header_size], MAX_HEADER_BYTES)
        if not stream.eof:
            raise ArtifactProblem(f"its header unpacks to more than {MAX_HEADER_BYTES} bytes (decompression bomb), or is cut")
        model = json.loads(text)["model"]
        if not isinstance(model, dict):
            raise TypeError("model is no object")
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as e:
        raise ArtifactProblem(f"its header is damaged: {type(e).__name__}") from None
    payload = data[PREFIX.size + header_size :]
    if codec == 0 and raw_size <= MAX_INFLATE_BYTES:
        stream = zlib.decompressobj()
        try:
            raw = stream.decompress(payload, raw_size + 1)
        except zlib.error:
            raise ArtifactProblem("its weights are damaged") from None
        if len(raw) != raw_size or not stream.eof or zlib.crc32(raw) != crc:
            raise ArtifactProblem("its weights do not unpack to what its prefix announces (size or checksum)")
    if codec == 1 and payload[:4] != b"\x28\xb5\x2f\xfd":
        raise ArtifactProblem("it says zstd, but its payload is no zstd frame")
    return Outside(version, codec, model, crc)
