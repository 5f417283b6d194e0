"""Promise: a shard is what its header says or is refused, and the order of training data depends on SEED alone."""

import numpy as np
import pytest
from conftest import settings, write_shard
from data_helpers import read_shard
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from train_gpt import DataError, TrainSequences, UserError, load_tokens, open_shard, prefetch


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "x_val_000000.bin", [1, 5, 6, 7] * 50)


def test_a_good_shard_reads_as_written(shard):
    tokens = open_shard(shard)
    assert tokens.dtype == np.uint16 and isinstance(tokens, np.memmap)
    assert np.array_equal(tokens, read_shard(shard))


def other_int32(position: int, value: int):
    def damage(data: bytearray) -> bytearray:
        data[4 * position : 4 * position + 4] = value.to_bytes(4, "little", signed=True)
        return data

    return damage


@pytest.mark.parametrize(
    "damage,words",
    [
        (lambda data: b"", "0 bytes are less than a shard's header"),
        (lambda data: data[:1023], "1023 bytes are less"),
        (lambda data: data[:1024], "announces 200 tokens, so 1424 bytes"),
        (lambda data: data[:-1], "1423 bytes, but its header announces 200 tokens, so 1424"),
        (lambda data: data[:-2], "1422 bytes"),
        (lambda data: data + b"\0", "1425 bytes"),
        (other_int32(0, 20240521), "magic 20240521 version 1"),
        (other_int32(1, 2), "version 2, not 20240520 version 1"),
        (other_int32(2, 0), "announces 0 tokens"),
        (other_int32(2, -1), "announces -1 tokens"),
        (other_int32(2, 201), "announces 201 tokens"),
        (lambda data: b"<html>not found</html>" * 100, "not a token shard"),
        (lambda data: bytes(reversed(data[:4])) + data[4:], "not a token shard"),
    ],
)
def test_bad_shards_are_named_and_refused(shard, damage, words):
    shard.write_bytes(damage(bytearray(shard.read_bytes())))
    with pytest.raises(DataError) as e:
        open_shard(shard)
    assert str(shard) in str(e.value) and words in str(e.value)


def test_no_file_no_shards_and_a_folder(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(DataError, match="cannot read the shard"):
            open_shard(path)
    with pytest.raises(DataError, match="no shard fits .*cached_challenge_fineweb.py.*build_embedded_corpus.py"):
        load_tokens(f"{tmp_path}/*_val_*.bin", 10, 300)


def test_validation_stream_is_cut_after_its_targets_and_runs_over_shards(tmp_path):
    write_shard(tmp_path / "x_val_000001.bin", range(11, 21))
    write_shard(tmp_path / "x_val_000000.bin", [1, *range(2, 11)])
    for limit, count in ((2, 3), (9, 10), (10, 11), (15, 16), (19, 20), (99, 20)):
        tokens = load_tokens(f"{tmp_path}/x_val_*.bin", limit, 300)
        assert tokens.tolist() == list(range(1, 21))[:count]


@pytest.mark.parametrize("tokens,words", [([1, 300], "token 300 .* VOCAB_SIZE=300"), ([5, 1], "starts with BOS"), ([1], "2 tokens")])
def test_validation_tokens_are_checked(tmp_path, tokens, words):
    write_shard(tmp_path / "x_val_000000.bin", tokens)
    with pytest.raises(DataError, match=words):
        load_tokens(f"{tmp_path}/*.bin", 10, 300)


def test_a_train_token_out_of_range_is_found_wherever_it_is(main, tiny, tmp_path):
    for path in tiny.folder.glob("*.bin"):
        (tmp_path / path.name).symlink_to(path)
    bad = sorted(tmp_path.glob("*_train_*.bin"))[-1]
    tokens = read_shard(bad)
    bad.unlink()
    write_shard(bad, [*tokens[:-1], 300])
    done = main(DATA_PATH=tmp_path)
    assert done.code == 2 and done.err.startswith(f"error: {bad}: token 300 is not one of VOCAB_SIZE=300")
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------------- training order

SEQ, PER_STEP = 8, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of 100, 9 (no room for a sequence and a shift), 57 and 200 tokens; each token is its own number."""
    path, start = tmp_path_factory.mktemp("train"), 0
    for i, count in enumerate((100, 9, 57, 200)):
        write_shard(path / f"x_train_{i:06d}.bin", range(start, start + count))
        start += count
    return path


def sequences(folder, seed=1, rank=0, world=1, **changes):
    changes = {"TRAIN_SEQ_LEN": SEQ, "TRAIN_BATCH_TOKENS": SEQ * PER_STEP} | changes
    return TrainSequences(settings(f"DATA_PATH={folder}", f"SEED={seed}", *(f"{k}={v}" for k, v in changes.items())), rank, world)


def test_each_sequence_is_a_run_of_one_shard_and_comes_once_an_epoch(folder):
    order = sequences(folder)
    assert order.per_epoch == 11 + 0 + 6 + 24
    ends = np.cumsum([100, 9, 57, 200])
    for epoch in range(4):
        first = [int(order.sequence(epoch * order.per_epoch + i)[0]) for i in range(order.per_epoch)]
        assert len(set(first)) == order.per_epoch and first != sorted(first)
        assert min(np.diff(sorted(first))) == SEQ  # no two overlap
        for i, token in enumerate(first):
            tokens = order.sequence(epoch * order.per_epoch + i)
            assert tokens.tolist() == list(range(token, token + SEQ + 1))
            assert np.searchsorted(ends, token, "right") == np.searchsorted(ends, token + SEQ, "right")


def starts(order, epoch):
    return [int(order.sequence(epoch * order.per_epoch + i)[0]) for i in range(order.per_epoch)]


def test_epochs_cut_at_other_offsets(folder):
    order = sequences(folder)
    offsets = [min(starts(order, epoch)) for epoch in range(12)]
    assert offsets[0] == 0 and len(set(offsets)) > 4 and max(offsets) < SEQ


def test_order_follows_the_seed_and_nothing_else(folder):
    a, again, b = sequences(folder, 1), sequences(folder, 1), sequences(folder, 2)
    late = [again.batch(step) for step in (30, 7, 0, 7)]  # in any order: a resumed run starts anywhere
    assert all(np.array_equal(a.batch(step), batch) for step, batch in zip((30, 7, 0, 7), late))
    assert starts(a, 0) != starts(b, 0) and sorted(starts(a, 0)) == sorted(starts(b, 0))
    assert starts(a, 1) != starts(a, 2)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_devices_share_the_same_batch(folder, world):
    whole, shared = sequences(folder), [sequences(folder, rank=rank, world=world) for rank in range(world)]
    for step in range(20):  # over two epochs
        parts = [share.batch(step) for share in shared]
        assert np.array_equal(np.concatenate(parts), whole.batch(step))
        assert parts[0].shape == (PER_STEP // world, SEQ + 1) and parts[0].dtype == np.int32


def test_batch_that_devices_cannot_share(folder):
    with pytest.raises(UserError, match="TRAIN_BATCH_TOKENS=48 cannot be shared evenly by 4 devices; try 32 or 64"):
        sequences(folder, world=4)


def test_too_little_data_for_a_sequence(folder):
    with pytest.raises(DataError, match="TRAIN_SEQ_LEN=256"):
        sequences(folder, TRAIN_SEQ_LEN=256, TRAIN_BATCH_TOKENS=256)
    assert sequences(folder, TRAIN_SEQ_LEN=99, TRAIN_BATCH_TOKENS=99).per_epoch == 1


def test_epoch_counts_sequences(folder):
    order = sequences(folder)
    assert order.epoch(0) == 0.0
    assert order.epoch(41) == pytest.approx(PER_STEP)


@given(st.lists(st.integers(1, 120), min_size=1, max_size=4), st.integers(8, 40), st.integers(0, 99))
@examples(max_examples=25)
def test_any_shards_give_whole_sequences(tmp_path_factory, counts, seq_len, seed):
    folder = tmp_path_factory.mktemp("any")
    for i, count in enumerate(counts):
        write_shard(folder / f"x_train_{i:06d}.bin", range(1000 * i, 1000 * i + count))
    if not any(count >= 2 * seq_len for count in counts):
        with pytest.raises(DataError, match="no shard holds two sequences"):
            sequences(folder, seed, TRAIN_SEQ_LEN=seq_len, TRAIN_BATCH_TOKENS=seq_len)
        return
    order = sequences(folder, seed, TRAIN_SEQ_LEN=seq_len, TRAIN_BATCH_TOKENS=seq_len)
    assert all(np.array_equal(np.diff(order.sequence(i).astype(int)), np.ones(seq_len)) for i in range(3 * order.per_epoch))


# ------------------------------------------------------------------------------------------------------ prefetch


def test_prefetch_keeps_the_order_and_hands_errors_over():
    made = []

    def make(i):
        made.append(i)
        if i == 8:
            raise DataError("cannot")
        return i

    batches = prefetch(make, 5, depth=3)
    assert not made and [next(batches) for _ in range(3)] == [5, 6, 7]
    with pytest.raises(DataError, match="cannot"):
        next(batches)
    batches = prefetch(make, 9, depth=3)
    assert next(batches) == 9
    batches.close()
    assert made == list(range(5, 12)) + list(range(9, 13))  # three ahead, in order, and no more once it is closed
