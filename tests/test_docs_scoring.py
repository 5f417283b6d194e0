"""docs/scoring.md promises: its worked example and its picture of windows are what train_gpt.py computes."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

import train_gpt

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scoring.md").read_text(encoding="utf-8")
SENTENCE = "The café is €5."
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # piece types of a SentencePiece model


def rows(first_column):
    """The rows of the page's table whose header starts with `first_column`, each a list of cells without backquotes."""
    table = PAGE.split(f"| {first_column} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" ").strip("`") for cell in line.strip("|").split("|")] for line in table]


def field(number, payload):
    """One protobuf field: bytes, a float or an int."""
    if isinstance(payload, bytes):
        assert len(payload) < 128
        return bytes([number << 3 | 2, len(payload)]) + payload
    if isinstance(payload, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", payload)
    key = number << 3
    return bytes([key]) + bytes([payload]) if key < 128 else bytes([key & 127 | 128, key >> 7, payload])


@pytest.fixture(scope="module")
def pieces():
    """(piece, type) by id: the page's pieces and the byte pieces that it leaves out."""
    listed = {int(id_): (piece, kind) for id_, piece, kind, *_ in rows("id")}
    types = {"unknown": UNKNOWN, "control (BOS)": CONTROL, "byte": BYTE, "normal": NORMAL}
    full = [(f"<0x{i - 2:02X}>", BYTE) for i in range(258)] + [("", NORMAL)] * (max(listed) - 257)
    for id_, (piece, kind) in listed.items():
        if types[kind] == BYTE:
            assert full[id_] == (piece, BYTE)
        full[id_] = (piece, types[kind])
    return full


@pytest.fixture(scope="module")
def tokenizer(pieces, tmp_path_factory):
    """The page's tokenizer as a SentencePiece model file (unigram, with byte fallback)."""
    path = tmp_path_factory.mktemp("tokenizer") / "page.model"
    model = b"".join(
        field(1, field(1, piece.encode()) + field(2, -1.0 if type_ == NORMAL else 0.0) + field(3, type_))
        for piece, type_ in pieces
    )
    path.write_bytes(model + field(2, field(3, 1) + field(35, 1)))
    return path


@pytest.fixture(scope="module")
def table(tokenizer):
    return train_gpt.ByteTable.load(tokenizer)


@pytest.fixture(scope="module")
def tokens(pieces):
    """The example's ids, from the BOS of the sentence to the BOS behind it."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    example = rows("token before")
    assert [row[0] for row in example[1:]] == [row[1] for row in example[:-1]]
    return np.array([ids[example[0][0]]] + [ids[row[1]] for row in example])


def test_piece_table(table):
    yes = {"yes": True, "no": False}
    for id_, piece, _, base, space, boundary in rows("id"):
        got = (table.base_bytes[int(id_)], table.leading_space[int(id_)], table.boundary[int(id_)])
        assert got == (int(base), yes[space], yes[boundary]), piece


def test_sentence_is_tokenized_as_printed(tokenizer, tokens):
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    assert sp.encode(SENTENCE) == tokens[1:-1].tolist()
    assert f"`{SENTENCE}`" in PAGE


def test_bytes_of_each_target(table, tokens):
    got = table.target_bytes(tokens[:-1], tokens[1:])
    for row, base, count in zip(rows("token before"), table.base_bytes[tokens[1:]], got, strict=True):
        assert [base, count - base, count] == [int(cell) for cell in row[3:6]], row[1]
    assert got.sum() == len(SENTENCE.encode()) == 18
    assert train_gpt.audit_bytes(tokens, table) == 18


def test_audit_refuses_a_table_that_counts_the_space_after_bos(tokenizer, tokens):
    wrong = train_gpt.ByteTable.load(tokenizer)
    wrong.boundary = np.zeros_like(wrong.boundary)
    with pytest.raises(train_gpt.DataError, match="18 bytes.* 19"):
        train_gpt.audit_bytes(tokens, wrong)


def test_loss_and_bpb(table, tokens):
    nats = np.array([float(row[6]) for row in rows("token before")])
    counts = table.target_bytes(tokens[:-1], tokens[1:])
    loss, bpb = train_gpt.bits_per_byte(nats, counts)
    assert f"= {loss:.8f}" in PAGE and f"= {bpb:.8f}" in PAGE
    assert f"add up to {nats.sum():.2f} over {len(nats)} targets" in " ".join(PAGE.split())
    for wrong in (19, 24):
        assert f"{bpb * 18 / wrong:.4f}" in PAGE


def test_picture_of_windows():
    n, seq_len, stride = map(
        int, re.search(r"(\d+) targets with EVAL_SEQ_LEN=(\d+)\s+and\s+EVAL_STRIDE=(\d+)", PAGE).groups()
    )
    drawn = []
    for line in re.findall(r"^    window \d (.*)$", PAGE, re.M):
        marks = [line[1 + 3 * i : 4 + 3 * i].strip() for i in range(n)]
        held = [i for i, mark in enumerate(marks) if mark]
        assert held == list(range(held[0], held[-1] + 1))
        drawn.append((held[0], held[-1] + 1, marks.index("S")))
    assert drawn == list(train_gpt.score_windows(n, seq_len, stride))
