"""Promise: the audit passes sound data and finds each planted fault, by the check that is there for it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import audit_dataset
import numpy as np
import pytest
import sentencepiece
from data_helpers import ROOT, ToolError, failed, ok, overlap, read_shard, run_tool, sample_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from prep import audit_checks, audit_inputs, dataset_writer, encoders, shards

BARE_SPACE_PIECE = b"\n\x03\xe2\x96\x81"  # how a model file spells the piece "▁"
FINEWEB = "datasets/fineweb10B_sp1024/fineweb_val_000000.bin", "tokenizers/fineweb_1024_bpe.model"
TRAINER = audit_inputs.load_trainer()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A data folder with one dataset of a few shards, built by the tools."""
    root = tmp_path_factory.mktemp("sound")
    texts = sample_texts(500, 1)
    tokenizer = root / "tokenizers" / "a_512_bpe.model"
    encoders.train_tokenizer(texts, 512, tokenizer)
    folder = root / "datasets" / "a_sp512"
    documents = [("val" if i % 10 == 0 else "train", text) for i, text in enumerate(texts)]
    encoder = encoders.PieceEncoder(tokenizer, 2)
    dataset_writer.write_dataset(folder, documents, encoder, prefix="a", note="", smoke=True, source={}, shard_limit=20_000)
    return root


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of the dataset to plant a fault in."""
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data" / "datasets" / "a_sp512"


def test_only_numbered_shards_are_a_split(folder):
    """As for the trainers: a validation shard whose name has `_train_` in it is not train."""
    for path in folder.glob("a_val_*.bin"):
        path.rename(path.with_name(path.name.replace("a_val", "my_train_mix_val")))
    report = audit_checks.Report(str(folder))
    streams = audit_checks.open_streams(folder, TRAINER, report)
    assert all("_val_" not in path.name for path in streams["train"].paths)
    assert [path.name for path in streams["val"].paths] == ["my_train_mix_val_000000.bin"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.pop("files"), "files is missing, not a list"),
        (lambda m: m["tokenizer"].pop("path"), "tokenizer.path is missing, not a text"),
        (lambda m: m.update(tokenizer=[1]), "tokenizer is [1], not an object"),
        (lambda m: m["files"][1].pop("size"), "files[1].size is missing, not a number"),
        (lambda m: m["files"][1].update(size="1"), "files[1].size is '1', not a number"),
        (lambda m: m["files"][0].pop("split"), "files[0].split is missing, not a text"),
        (lambda m: m["files"][0].update(split="test"), "is 'test', not 'train' or 'val'"),
        (lambda m: m["files"].insert(0, 7), "files[0] is 7, not an object"),
        (lambda m: m["files"][0].update(path="../x.bin"), "'../x.bin' is not the name of a file"),
        (lambda m: m.pop("splits"), "splits is missing, not an object"),
        (lambda m: m["splits"].update(val=3), "splits.val is 3, not an object"),
    ],
)
def test_a_manifest_that_lacks_something_is_refused(folder, spoil, words):
    manifest = json.loads((folder / "manifest.json").read_text())
    spoil(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ToolError, match=re.escape(words)) as error:
        audit_dataset.audit(folder, quiet=True)
    assert "build or fetch the dataset again" in str(error.value)


def test_a_manifest_that_is_nested_too_deeply_is_refused(folder):
    (folder / "manifest.json").write_text("[" * 200_000)
    failed(run_tool("audit_dataset", folder), "manifest.json is not JSON")


def write_tokens(path: Path, tokens: np.ndarray) -> None:
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, len(tokens)
    path.write_bytes(head.tobytes() + tokens.astype("<u2").tobytes())


def renew_manifest(folder: Path, **splits: dict) -> None:
    """Make hashes, sizes and token counts true again, so that only the planted fault is left to be found."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        path = folder / entry["path"]
        entry |= shards.file_entry(path, entry["split"])
    tokenizer = folder / manifest["tokenizer"]["path"]
    manifest["tokenizer"]["sha256"] = shards.sha256_file(tokenizer)
    for split, total in manifest["splits"].items():
        total["tokens"] = sum(e["tokens"] for e in manifest["files"] if e["split"] == split)
        total.update(splits.get(split, {}))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def failures(folder: Path, **options) -> dict[str, str]:
    """Names and details of the checks that fail."""
    report = audit_dataset.audit(folder, quiet=True, **options)
    return {check.name: check.detail for check in report.checks if check.status == "FAIL"}


def val_document(folder: Path, number: int) -> np.ndarray:
    """One validation document with its BOS."""
    tokens = read_shard(folder / "a_val_000000.bin")
    starts = np.flatnonzero(tokens == 1)
    return tokens[starts[number] : starts[number + 1]]


def add_to_train(folder: Path, *documents: np.ndarray) -> None:
    """Append documents to the last train shard and make the manifest true for everything but the overlap."""
    path = sorted(folder.glob("a_train_*.bin"))[-1]
    write_tokens(path, np.concatenate([read_shard(path), *documents]))
    renew_manifest(folder, train={"documents": None, "text_bytes": None})


# --- sound data -----------------------------------------------------------------------------------


def test_sound_data_passes_with_true_totals(sound):
    folder = sound / "datasets" / "a_sp512"
    report = json.loads(ok(run_tool("audit_dataset", folder, "--json")))
    assert report["ok"] is True
    assert {check["status"] for check in report["checks"]} == {"ok"}
    texts = sample_texts(500, 1)
    assert len(list(folder.glob("a_train_*.bin"))) > 1
    for split, wanted in (("val", texts[::10]), ("train", [t for i, t in enumerate(texts) if i % 10])):
        totals = report["splits"][split]
        assert totals["documents"] == len(wanted)
        assert totals["text_bytes"] == sum(len(text.encode()) for text in wanted)
        assert totals["tokens"] == sum(len(read_shard(path)) for path in folder.glob(f"a_{split}_*.bin"))


def test_small_chunks_give_the_same_report(folder, monkeypatch):
    """Documents and stretches that cross the seams of chunks and shards are seen whole."""
    add_to_train(folder, val_document(folder, 3))
    whole = audit_dataset.audit(folder, quiet=True)
    monkeypatch.setattr(audit_inputs, "CHUNK_TOKENS", 97)
    monkeypatch.setattr(audit_checks, "CHUNK_TOKENS", 97)
    monkeypatch.setattr(audit_checks, "DECODE_DOCUMENTS", 3)
    assert audit_dataset.audit(folder, quiet=True) == whole
    assert not whole.ok


def test_byte_shards_pass(tmp_path):
    encoder = encoders.ByteEncoder(tmp_path / "tokenizers" / "byte260.json")
    documents = [("val" if i % 5 == 0 else "train", text) for i, text in enumerate(sample_texts(50, 2))]
    folder = tmp_path / "datasets" / "b_byte260"
    dataset_writer.write_dataset(folder, documents, encoder, prefix="b", note="", smoke=True, source={})
    assert failures(folder) == {}


def test_a_validation_stream_cut_inside_a_character_passes(folder):
    """As the challenge's first N tokens may be; a cut that loses other bytes does not."""
    tokens = read_shard(folder / "a_val_000000.bin")
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "../../tokenizers/a_512_bpe.model"))
    inside = np.concatenate([tokens, [1], sp.encode("time 🦀")]).astype("<u2")[:-2]
    assert sp.is_byte(int(inside[-1]))
    write_tokens(folder / "a_val_000000.bin", inside)
    renew_manifest(folder, val={"documents": None, "text_bytes": None})
    assert failures(folder) == {}


# --- planted faults -------------------------------------------------------------------------------


def test_finds_a_single_document_in_both_splits(folder):
    add_to_train(folder, val_document(folder, 7))
    found = failures(folder)
    assert set(found) == {"overlap_documents", "overlap_stretches"}
    assert "1 validation documents are in train too" in found["overlap_documents"]
    assert failures(folder, allow_overlap=1, max_shared_percent=10) == {}
    failed_run = run_tool("audit_dataset", folder)
    assert failed_run.returncode == 1
    assert "audit FAILED" in failed_run.stdout


def test_finds_a_document_that_was_changed_a_little_or_sits_inside_another(folder):
    copy = val_document(folder, 7).copy()
    copy[len(copy) * 3 // 4] = 300
    add_to_train(folder, copy[:1], read_shard(folder / "a_train_000000.bin")[1:50], copy[5:])
    found = failures(folder, max_shared_percent=100)
    assert set(found) == {"overlap_stretches"}
    assert "1 validation documents are at least half in train, the first is number 7" in found["overlap_stretches"]


def test_finds_boilerplate_shared_by_many_documents(folder):
    add_to_train(folder, *[val_document(folder, i)[:45] for i in range(30)])
    assert set(failures(folder, allow_overlap=100)) == {"overlap_stretches"}
    assert failures(folder, allow_overlap=100, max_shared_percent=100) == {}


@pytest.mark.parametrize("fault", ["shifted", "space_twice", "bytes_as_three"])
def test_finds_a_wrong_byte_table(folder, monkeypatch, fault):
    """The table that scores is the one that is checked."""
    load = TRAINER.ByteTable.load

    def spoiled(path):
        table = load(path)
        if fault == "shifted":
            table.base_bytes = np.roll(table.base_bytes, 1)
        elif fault == "space_twice":
            table.base_bytes = table.base_bytes + table.leading_space
        else:
            table.base_bytes = np.where(np.arange(512) < 260, 3 * table.base_bytes, table.base_bytes)
        return table

    monkeypatch.setattr(TRAINER.ByteTable, "load", spoiled)
    assert {"byte_table", "bytes"} <= set(failures(folder))


def test_finds_a_table_that_forgets_the_boundary(folder, monkeypatch):
    """Every piece counted right in the middle of a text, but the space after BOS counted too."""
    load = TRAINER.ByteTable.load

    def spoiled(path):
        table = load(path)
        table.boundary = np.zeros_like(table.boundary)
        return table

    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "../../tokenizers/a_512_bpe.model"))
    space = next(i for i in range(512) if sp.id_to_piece(i).startswith("\u2581") and len(sp.id_to_piece(i)) > 1)
    tokens = read_shard(folder / "a_val_000000.bin")
    write_tokens(folder / "a_val_000000.bin", np.concatenate([tokens, [1, space, space]]))
    renew_manifest(folder, val={"documents": None, "text_bytes": None})
    assert failures(folder) == {}
    monkeypatch.setattr(TRAINER.ByteTable, "load", spoiled)
    assert "bytes" in failures(folder)


def test_finds_a_vocabulary_without_the_bare_space(folder):
    model = folder / "../../tokenizers/a_512_bpe.model"
    data = model.read_bytes()
    assert data.count(BARE_SPACE_PIECE) == 1
    model.write_bytes(data.replace(BARE_SPACE_PIECE, b"\n\x03\xe2\x96\x82"))
    renew_manifest(folder)
    found = failures(folder)
    assert "no bare '▁' piece" in found["vocabulary"]


def test_finds_a_missing_first_bos(folder):
    tokens = read_shard(folder / "a_val_000000.bin")
    write_tokens(folder / "a_val_000000.bin", tokens[1:])
    renew_manifest(folder, val={"documents": None, "text_bytes": None})
    assert "a_val_000000.bin starts with id" in failures(folder)["bos"]


def test_finds_a_missing_bos_between_documents(folder):
    tokens = read_shard(folder / "a_train_000000.bin")
    write_tokens(folder / "a_train_000000.bin", np.delete(tokens, np.flatnonzero(tokens == 1)[4]))
    renew_manifest(folder)
    assert "train documents: 449 found, the manifest says 450" in failures(folder)["totals"]


def test_finds_empty_documents(folder):
    tokens = read_shard(folder / "a_val_000000.bin")
    write_tokens(folder / "a_val_000000.bin", np.concatenate([[1], tokens, [1]]))
    renew_manifest(folder, val={"documents": None, "text_bytes": None})
    found = failures(folder)["bos"]
    assert "1 documents are empty" in found and "ends with BOS" in found


def test_finds_tokens_that_stand_for_nothing(folder):
    tokens = read_shard(folder / "a_val_000000.bin").copy()
    tokens[10], tokens[20] = 3, 2
    write_tokens(folder / "a_val_000000.bin", tokens)
    renew_manifest(folder)
    found = failures(folder)["vocabulary"]
    assert "1 times id 2" in found and "1 times id 3" in found
    tokens[30] = 512
    write_tokens(folder / "a_val_000000.bin", tokens)
    renew_manifest(folder)
    assert "above the last id 511" in failures(folder)["vocabulary"]


def test_finds_changed_files_and_false_manifests(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = folder / "a_train_000000.bin"
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(data)
    assert "a_train_000000.bin: sha256" in failures(folder)["hashes"]
    shutil.copy(shard, folder / "a_train_000099.bin")
    assert "a_train_000099.bin is not in the manifest" in failures(folder)["hashes"]
    (folder / "a_train_000099.bin").unlink()
    shard.rename(folder / "elsewhere")
    assert "a_train_000000.bin is missing" in failures(folder)["hashes"]
    (folder / "elsewhere").rename(shard)
    manifest["tokenizer"]["vocab_size"] = 1024
    manifest["splits"]["val"]["text_bytes"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = failures(folder)
    assert "the manifest says 1024 ids" in found["vocabulary"]
    assert "val text_bytes" in found["totals"]


@pytest.mark.parametrize("cut", [1, 2, 2000])
def test_finds_cut_shards(folder, cut):
    shard = folder / "a_val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-cut])
    assert "a_val_000000.bin" in failures(folder)["headers"]


def test_what_cannot_be_audited_is_said(folder, tmp_path):
    with pytest.raises(ToolError, match="is not a folder"):
        audit_dataset.audit(tmp_path / "none")
    (folder / "manifest.json").unlink()
    assert failures(folder) == {}  # the only tokenizer beside it is taken
    statuses = {check.name: check.status for check in audit_dataset.audit(folder, quiet=True).checks}
    assert statuses["hashes"] == statuses["totals"] == "skipped"
    shutil.copy(folder / "../../tokenizers/a_512_bpe.model", folder / "../../tokenizers/b.model")
    with pytest.raises(ToolError, match="add --tokenizer FILE"):
        audit_dataset.audit(folder)
    with pytest.raises(ToolError, match="not a SentencePiece model"):
        audit_dataset.audit(folder, folder / "a_val_000000.bin")
    (folder / "manifest.json").write_text("{}")
    failed(run_tool("audit_dataset", folder), "not a dataset manifest")


# --- shared stretches -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=80), st.integers(1, 12))
def test_equal_windows_are_found_and_no_others(left, right, width):
    """Against a plain comparison of all windows."""
    windows = {tuple(left[i : i + width]) for i in range(len(left) - width + 1)}
    expected = [tuple(right[i : i + width]) in windows for i in range(len(right) - width + 1)]
    held = overlap.HashSet(overlap.window_hashes(np.array(left, np.uint16), width))
    assert held.contains(overlap.window_hashes(np.array(right, np.uint16), width)).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_hash_set_contains_exactly_what_was_put_in(held, asked):
    found = overlap.HashSet(np.array(held, np.uint64)).contains(np.array(asked + held, np.uint64))
    assert found.tolist() == [value in held for value in asked] + [True] * len(held)


# --- real validation text -------------------------------------------------------------------------


def test_totals_of_the_real_validation_slice(tmp_path):
    """The first 524,288 targets of FineWeb's validation stream, where it was fetched, stand for 1,256,691 bytes."""
    shard, tokenizer = (ROOT / "data" / name for name in FINEWEB)
    if not shard.is_file() or not tokenizer.is_file():
        pytest.skip("FineWeb is not in data/ (python3 data/cached_challenge_fineweb.py --variant sp1024)")
    folder = tmp_path / "datasets" / "fineweb10B_sp1024"
    folder.mkdir(parents=True)
    write_tokens(folder / shard.name, np.fromfile(shard, "<u2", 524_289, offset=1024))
    report = audit_dataset.audit(folder, tokenizer, quiet=True)
    assert report.ok, report.checks
    assert report.split_totals()["val"] == {"tokens": 524_289, "documents": 465, "text_bytes": 1_256_691}
