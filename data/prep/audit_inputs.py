"""What an audit reads: the trainer that scores, the token streams, the tokenizer by itself."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prep.console import ToolError
from prep.shards import BOS_ID, MANIFEST_NAME, tokenizer_of

CHUNK_TOKENS = 1 << 22
BARE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def load_trainer() -> Any:
    """The module that scores: train_gpt, or its MLX twin where PyTorch is missing. Raises ToolError."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    for name in ("train_gpt", "train_gpt_mlx"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = error
    raise ToolError(f"neither train_gpt.py nor train_gpt_mlx.py can be imported ({reason}); install the requirements")


class Stream:
    """The shards of one split, one after the other.

    Attributes:
        paths: the files, in order.
        shards: their tokens, memory-mapped uint16 arrays of shape (n,).
    """

    def __init__(self, paths: list[Path], shards: list[np.ndarray]) -> None:
        self.paths, self.shards = paths, shards
        self.tokens = sum(map(len, shards))

    def chunks(self, before: int) -> Iterator[np.ndarray]:
        """The tokens in chunks; each starts with the last `before` tokens of the one before it, where there are any."""
        kept = np.empty(0, np.uint16)
        for shard in self.shards:
            for start in range(0, len(shard), CHUNK_TOKENS):
                chunk = np.concatenate([kept, shard[start : start + CHUNK_TOKENS]])
                yield chunk
                kept = chunk[max(len(chunk) - before, 0) :] if before else kept

    def documents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Whole documents in batches: (tokens, starts), where starts is 0, …, len(tokens), of shape (documents + 1,).

        Tokens before the first BOS are left out.
        """
        rest = np.empty(0, np.uint16)
        for chunk in self.chunks(0):
            tokens = np.concatenate([rest, chunk])
            starts = np.flatnonzero(tokens == BOS_ID)
            if len(starts) > 1:
                yield tokens[starts[0] : starts[-1]], starts - starts[0]
            rest = tokens[starts[-1] :] if len(starts) else tokens[:0]
        if len(rest):
            yield rest, np.array([0, len(rest)])


class Tokenizer:
    """The tokenizer, apart from the trainer's view of it.

    Attributes:
        size: number of ids.
        faults: what is wrong with its vocabulary.
        piece_bytes: int64 of shape (size,), bytes each id adds in the middle of a text, from its piece.
        forbidden: bool of shape (size,), ids that have no place in a stream: control pieces but BOS, and unknown.
        is_byte: bool of shape (size,), ids that stand for one byte.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[str] = []
        if path.suffix == ".json":
            self._load_bytes()
        else:
            self._load_pieces()

    def _load_bytes(self) -> None:
        try:
            described = json.loads(self.path.read_text(encoding="utf-8"))
            self.size = int(described["vocab_size"])
            offset = int(described.get("byte_offset", self.size - 256))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ToolError(f"{self.path} does not describe a byte tokenizer ({error!r})") from None
        ids = np.arange(self.size)
        self.is_byte = (ids >= offset) & (ids < offset + 256)
        if self.is_byte.sum() != 256 or offset <= BOS_ID:
            self.faults.append(f"{self.size} ids with bytes from {offset} on leave no room for 256 bytes and BOS id {BOS_ID}")
        self.piece_bytes = self.is_byte.astype(np.int64)
        self.forbidden = ~self.is_byte & (ids != BOS_ID)
        self.decode = lambda documents: [bytes(i - offset for i in ids if offset <= i < offset + 256) for ids in documents]

    def _load_pieces(self) -> None:
        import sentencepiece

        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except (OSError, RuntimeError) as error:
            raise ToolError(f"{self.path} is not a SentencePiece model ({str(error).strip()})") from None
        self.size = model.get_piece_size()
        ids = range(self.size)
        pieces = [model.id_to_piece(i) for i in ids]
        self.is_byte = np.array([model.is_byte(i) for i in ids])
        silent = np.array([model.is_control(i) or model.is_unused(i) or model.is_unknown(i) for i in ids])
        lengths = [len(piece.replace(BARE_SPACE, " ").encode("utf-8")) for piece in pieces]
        self.piece_bytes = np.where(silent, 0, np.where(self.is_byte, 1, lengths))
        self.forbidden = silent & (np.arange(self.size) != BOS_ID)
        if model.bos_id() != BOS_ID:
            self.faults.append(f"BOS id is {model.bos_id()}, shards use {BOS_ID}")
        if BARE_SPACE not in pieces:
            self.faults.append("no bare '▁' piece, so a space before a rare character is counted wrong")
        if self.is_byte.sum() != 256:
            self.faults.append(f"{self.is_byte.sum()} byte pieces instead of 256, so rare text is lost")
        threads = os.cpu_count() or 1
        self.decode = lambda documents: [text.encode("utf-8") for text in model.decode(documents, num_threads=threads)]


def find_tokenizer(folder: Path, given: Path | None, manifest: dict[str, Any] | None) -> Path:
    """The tokenizer's file: as given, as in the manifest, or the only one in ../../tokenizers. Raises ToolError."""
    if given is None and manifest is not None:
        given = tokenizer_of(folder, manifest)
    if given is None:
        beside = Path(os.path.abspath(folder)).parents[1] / "tokenizers"
        found = [path for path in sorted(beside.glob("*")) if path.suffix in (".model", ".json")]
        if len(found) != 1:
            raise ToolError(f"{folder} has no {MANIFEST_NAME} and {beside} has {len(found)} tokenizers; add --tokenizer FILE")
        given = found[0]
    if not given.is_file():
        raise ToolError(f"tokenizer {given} is missing; add --tokenizer FILE")
    return given
