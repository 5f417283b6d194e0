"""Promise: the bytes in val_bpb are those of the text, whatever the tokenizer, or scoring refuses."""

import dataclasses
import json
import math

import numpy as np
import pytest
import sentencepiece

from train_gpt import ByteTable, DataError, audit_bytes, bits_per_byte, document_bounds, load_tokens

TEXTS = ["Hello, naïve café!", "東京 is 🚀 here", "", "a", "  two  spaces ", "🚀", "ﬁne ½ print"]


@pytest.fixture(scope="module")
def sp(tiny):
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny.tokenizer))


@pytest.fixture(scope="module")
def table(tiny):
    return ByteTable.load(tiny.tokenizer)


@pytest.fixture(scope="module")
def stream(tiny):
    return load_tokens(f"{tiny.folder}/*_val_*.bin", 10**6, 300)


def tokens_of(sp, texts):
    return np.array([i for text in texts for i in [1, *sp.encode(text)]], np.uint16)


def test_bytes_are_those_of_the_texts(tiny, sp, table, stream):
    """Against the texts from before tokenization, not against what the decoder makes of the tokens."""
    assert audit_bytes(stream, table) == sum(len(text.encode()) for text in tiny.val_texts)
    bounds = document_bounds(stream)
    assert len(bounds) == len(tiny.val_texts) + 1
    counted = np.concatenate([[0], table.target_bytes(stream[:-1], stream[1:])])
    for text, a, b in zip(tiny.val_texts, bounds[:-1], bounds[1:], strict=True):
        assert counted[a:b].sum() == len(text.encode())
    assert any(sp.is_byte(int(t)) for t in stream)  # the fallback is used


def test_rare_characters_spaces_and_empty_documents(sp, table):
    normal = [sp.decode(sp.encode(text)) for text in TEXTS]  # NFKC and squeezed spaces, as the data hold them
    assert audit_bytes(tokens_of(sp, TEXTS), table) == sum(len(text.encode()) for text in normal)


def test_empty_document_first_and_last(sp, table):
    for texts in (["", "a"], ["a", ""], ["", "", ""]):
        assert audit_bytes(tokens_of(sp, texts), table) == len("".join(texts))


def test_kinds_of_pieces(sp, table):
    for i in range(sp.get_piece_size()):
        special = sp.is_control(i) or sp.is_unknown(i)
        assert table.boundary[i] == special and table.byte_piece[i] == sp.is_byte(i)
        alone = 0 if special else 1 if sp.is_byte(i) else len(sp.id_to_piece(i).replace("▁", " ").encode())
        assert table.base_bytes[i] + table.leading_space[i] == alone


def test_pieces_of_several_words(tmp_path):
    """Of a tokenizer that does not split at spaces: each inside a piece is one byte, as the one before it is."""
    texts = [f"the cat and the dog of the house in the rain {w}" for w in "one two three four five six seven eight".split()] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "s"), vocab_size=330, model_type="bpe", byte_fallback=True,
        split_by_whitespace=False, minloglevel=2,
    )  # fmt: skip
    sp, table = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "s.model")), ByteTable.load(tmp_path / "s.model")
    assert max(piece.count("▁") for piece in sp.encode_as_pieces(texts[0])) > 2
    assert audit_bytes(tokens_of(sp, texts), table) == sum(map(len, texts))


def shifted(table):
    return dataclasses.replace(table, base_bytes=np.roll(table.base_bytes, 1))


def spaces_twice(table):
    return dataclasses.replace(table, base_bytes=table.base_bytes + table.leading_space)


def space_after_bos(table):
    return dataclasses.replace(table, boundary=np.zeros_like(table.boundary))


def no_spaces(table):
    return dataclasses.replace(table, leading_space=np.zeros_like(table.leading_space))


def byte_pieces_as_three(table):
    return dataclasses.replace(table, base_bytes=np.where(table.byte_piece, 3, table.base_bytes))


def bos_counts(table):
    return dataclasses.replace(table, base_bytes=table.base_bytes + (np.arange(len(table.base_bytes)) == 1))


@pytest.mark.parametrize("wrong", [shifted, spaces_twice, space_after_bos, no_spaces, byte_pieces_as_three, bos_counts])
def test_wrong_tables_are_refused(table, stream, wrong):
    with pytest.raises(DataError, match=r"byte audit, DATA_PATH: document \d+, .*but the table counts"):
        audit_bytes(stream, wrong(table))


@pytest.mark.parametrize("wrong", [0, 4095, 4096, 5000])
def test_the_wrong_document_is_named(table, sp, wrong):
    """Wherever it stands: they are decoded 4,096 at a time."""
    texts = ["a b c"] * 5010
    texts[wrong] = "🚀 and more"
    tokens = tokens_of(sp, texts)
    assert audit_bytes(tokens, table) == sum(len(text.encode()) for text in texts)
    at = len(tokens_of(sp, texts[:wrong]))
    with pytest.raises(DataError, match=rf"document {wrong}, tokens {at} to .*: 13 bytes .* counts 21"):
        audit_bytes(tokens, byte_pieces_as_three(table))


def test_tokens_of_another_tokenizer_are_refused(table):
    """Same vocabulary size, other pieces: a control id, a broken character or an unknown piece turns up soon."""
    foreign = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint16)
    foreign[0] = 1
    with pytest.raises(DataError, match="byte audit"):
        audit_bytes(foreign, table)


def test_tokens_of_another_tokenizer_that_decode_well_are_refused(table, stream, tmp_path):
    """Same size, ordinary pieces, counted rightly: but no document's text gives its tokens again."""
    texts = [" ".join(t.split()[::2]).upper() for t in table.decode([stream.tolist()])[0].decode(errors="ignore").split("\n") * 4]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "o"), vocab_size=300, model_type="bpe", byte_fallback=True, minloglevel=2
    )
    other = ByteTable.load(tmp_path / "o.model")
    ordinary = np.where(stream >= 280, stream, 280)  # pieces of whole letters in both
    ordinary[stream == 1] = 1
    with pytest.raises(DataError, match="another tokenizer than TOKENIZER_PATH made DATA_PATH"):
        audit_bytes(ordinary.astype(np.uint16), other)


@pytest.mark.parametrize("foreign", [2, 3])
def test_most_documents_must_be_this_tokenizers(table, sp, foreign):
    """Of five, so many have byte pieces for the letter a, which make the same text; short ones do not count."""
    text = "again and again the same words come and go and come again " * 3
    whole = sp.encode(text)
    apart = [sp.piece_to_id("<0x61>") if sp.id_to_piece(i) == "a" else i for i in whole]
    assert table.decode([apart]) == table.decode([whole]) and apart != whole and len(whole) > 80
    tokens = np.array([i for ids in [apart] * foreign + [whole] * (5 - foreign) + [sp.encode("short")] * 9 for i in [1, *ids]], np.uint16)
    if foreign < 3:
        assert audit_bytes(tokens, table) == 5 * len(text.strip()) + 9 * len("short")
    else:
        with pytest.raises(DataError, match="another tokenizer than TOKENIZER_PATH made DATA_PATH"):
            audit_bytes(tokens, table)


@pytest.mark.parametrize("where", [1, 5, -1])
def test_unknown_pieces_are_refused(table, stream, where):
    tokens = stream[: document_bounds(stream)[1]].copy()
    tokens[where] = 0  # decodes to U+2047, of no known length
    with pytest.raises(DataError, match="document 0"):
        audit_bytes(tokens, table)


def test_a_control_piece_inside_a_document_is_refused(table, sp):
    ids = sp.encode("one two")
    with pytest.raises(DataError, match="document 0"):
        audit_bytes(np.array([1, *ids, 2, *sp.encode("three"), 1]), table)


def test_a_broken_character_inside_is_refused_but_cut_at_the_end_is_fine(sp, table):
    tokens = tokens_of(sp, ["see 🚀"])
    fallback = np.flatnonzero(table.byte_piece[tokens])
    assert len(fallback) == 4
    whole = audit_bytes(tokens, table)
    for cut in range(1, len(tokens) - 1):
        got = audit_bytes(tokens[:-cut], table)
        assert got == whole - int(table.target_bytes(tokens[:-1], tokens[1:])[-cut:].sum())
    broken = np.delete(tokens, fallback[1])
    with pytest.raises(DataError, match="document 0"):
        audit_bytes(np.append(broken, [1]), table)


def test_every_cut_of_the_stream_passes(tiny, table):
    for limit in range(2, 400, 7):
        tokens = load_tokens(f"{tiny.folder}/*_val_*.bin", limit, 300)
        assert audit_bytes(tokens, table) == table.target_bytes(tokens[:-1], tokens[1:]).sum()


def test_byte260(tmp_path):
    path = tmp_path / "byte260.json"
    path.write_text(json.dumps({"vocab_size": 260, "bos_id": 1, "byte_offset": 4}))
    table = ByteTable.load(path)
    assert len(table.base_bytes) == 260 and table.boundary.sum() == 4
    texts = ["naïve", "", "東京🙂"]
    tokens = np.array([t for text in texts for t in [1, *(b + 4 for b in text.encode())]], np.uint16)
    assert audit_bytes(tokens, table) == len("".join(texts).encode())
    assert table.target_bytes(tokens[:-1], tokens[1:]).tolist() == [int(t > 3) for t in tokens[1:]]
    with pytest.raises(DataError, match="document 0"):
        audit_bytes(np.append(tokens, 1), dataclasses.replace(table, base_bytes=table.base_bytes * 3))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 100])
def test_files_that_are_no_tokenizer(tmp_path, content):
    path = tmp_path / "t.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match="TOKENIZER_PATH=.* is not a SentencePiece model"):
        ByteTable.load(path)


def test_tokenizer_that_does_not_fit_ends_with_status_2(main, tmp_path):
    for done, words in (
        (main(TOKENIZER_PATH=tmp_path / "none.model"), "none.model is not there"),
        (main(VOCAB_SIZE=1024), "has 300 pieces, not VOCAB_SIZE=1024; set VOCAB_SIZE=300?"),
    ):
        assert done.code == 2 and words in done.err and done.err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


def test_bits_per_byte_by_hand():
    nats = np.array([math.log(2), 3 * math.log(2), 2 * math.log(2)], np.float32)
    loss, bpb = bits_per_byte(nats, np.array([1, 2, 0]))
    assert loss == pytest.approx(2 * math.log(2), rel=1e-6)
    assert bpb == pytest.approx(2.0, rel=1e-6)


def test_sums_do_not_lose_digits():
    """Four million targets added up in float32 would be off by 1e-4 and more."""
    nats = np.full(4_194_304, 2.1, np.float32)
    loss, bpb = bits_per_byte(nats, np.full(len(nats), 2))
    assert loss == pytest.approx(float(np.float32(2.1)), abs=1e-9)
    assert bpb == pytest.approx(float(np.float32(2.1)) / math.log(2) / 2, abs=1e-9)
