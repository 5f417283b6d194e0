"""Tokenizers as encoders of documents, and training one."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from prep.console import ToolError
from prep.reading import MAX_DOCUMENT_CHARS
from prep.shards import BOS_ID, MAX_VOCAB, atomic_path, write_text

BYTE_OFFSET = 4
BYTE_VOCAB = BYTE_OFFSET + 256


class PieceEncoder:
    """A SentencePiece model as an encoder of documents.

    Attributes:
        path, vocab_size, kind: of the tokenizer, for the manifest.
        token_bytes: int64 of shape (vocab_size,), UTF-8 bytes of each piece with "▁" as one space.
    """

    kind = "sentencepiece"

    def __init__(self, path: Path, threads: int) -> None:
        """Load the model at `path`.

        Raises:
            ToolError: it is no SentencePiece model, its BOS id is not 1, its ids do not fit in 16 bits, or
                text outside its vocabulary would be lost.
        """
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError, TypeError) as error:
            raise ToolError(f"--tokenizer {path}: not a SentencePiece model ({str(error).strip()})") from None
        self.path, self.threads = path, threads
        self.vocab_size = self.model.get_piece_size()
        ids = range(self.vocab_size)
        if self.model.bos_id() != BOS_ID:
            raise ToolError(
                f"{path}: its BOS id is {self.model.bos_id()}; shards need BOS id {BOS_ID}. Train one with --train-tokenizer VOCAB"
            )
        if self.vocab_size > MAX_VOCAB:
            raise ToolError(f"{path}: {self.vocab_size} pieces; shards hold 16-bit ids, at most {MAX_VOCAB}")
        self.is_byte = np.array([self.model.is_byte(i) for i in ids])
        if self.is_byte.sum() != 256:
            raise ToolError(
                f"{path}: {self.is_byte.sum()} byte pieces, not 256, so rare text would be lost. "
                "Use a model trained with byte fallback, or --train-tokenizer VOCAB"
            )
        silent = np.array([self.model.is_control(i) or self.model.is_unused(i) for i in ids])
        pieces = [self.model.id_to_piece(i).replace("\N{LOWER ONE EIGHTH BLOCK}", " ") for i in ids]
        lengths = np.array([len(piece.encode("utf-8")) for piece in pieces], np.int64)
        self.token_bytes = np.where(silent, 0, np.where(self.is_byte, 1, lengths))
        # The space in front of a document's first word is not text: decoding drops it, and scoring does not count it.
        self.opens_with_space = np.array([piece.startswith(" ") for piece in pieces]) & ~silent

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, without BOS: int arrays of shape (n,)."""
        try:
            return self.model.encode(texts, num_threads=self.threads, return_type="numpy")
        except TypeError:  # older releases know lists only, at half the speed
            return [np.array(ids, np.int32) for ids in self.model.encode(texts, num_threads=self.threads)]

    def text_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text that `ids` of shape (n,), without BOS, decode to."""
        return int(self.token_bytes[ids].sum()) - int(self.opens_with_space[ids[0]])


class ByteEncoder:
    """Bytes as tokens: byte b is id 4 + b; ids 0 to 3 are pad, BOS, EOS and unknown."""

    kind = "byte"
    vocab_size = BYTE_VOCAB

    def __init__(self, path: Path) -> None:
        """Describe the tokenizer in a small JSON file at `path`."""
        described = {"kind": "byte", "vocab_size": BYTE_VOCAB, "bos_id": BOS_ID, "byte_offset": BYTE_OFFSET}
        write_text(path, json.dumps(described) + "\n")
        self.path = path

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, without BOS: uint16 arrays of shape (bytes,)."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16) + BYTE_OFFSET for text in texts]

    def text_bytes(self, ids: np.ndarray) -> int:
        """UTF-8 bytes of the text that `ids` of shape (n,) decode to."""
        return len(ids)


Encoder = PieceEncoder | ByteEncoder


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path, normalize: bool = True) -> None:
    """Train a SentencePiece BPE of exactly `vocab_size` pieces on `texts` and put it at `path`.

    Same conventions as the public sp1024: pad 0, BOS 1, EOS 2, unknown 3, all 256 bytes as fallback, single
    digits, no space added in front. One thread, so the model depends on the texts alone. `normalize`: Unicode NFKC, as there, whose
    table is 240 kB of the file; texts that were normalised before need none.

    Raises:
        ToolError: `vocab_size` cannot be had from these texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            add_dummy_prefix=False,
            character_coverage=0.999,
            normalization_rule_name="nmt_nfkc" if normalize else "identity",
            pad_id=0,
            bos_id=BOS_ID,
            eos_id=2,
            unk_id=3,
            max_sentence_length=4 * MAX_DOCUMENT_CHARS,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rsplit("] ", 1)[-1]  # in front of it stands a place in SentencePiece's source
        raise ToolError(f"--train-tokenizer {vocab_size}: {reason} Give more text or another size") from None
    with atomic_path(path) as part:
        part.write_bytes(model.getvalue())


def tool_versions() -> dict[str, str]:
    """Versions that the token ids depend on, for the manifest."""
    return {"python": platform.python_version(), "sentencepiece": sentencepiece.__version__}
