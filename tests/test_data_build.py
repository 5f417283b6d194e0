"""Promise: own text becomes shards in the public layout, once each, split by hash, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import signal
import subprocess
import sys
from pathlib import Path

import audit_dataset
import build_dataset
import numpy as np
import pytest
import sentencepiece
import zstandard
from data_helpers import ROOT, ToolError, documents, failed, ok, read_shard, run_tool, sample_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from prep import dataset_writer, dedupe, encoders, reading


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A tokenizer of 512 pieces, trained by the tool's own function."""
    path = tmp_path_factory.mktemp("tokenizer") / "t512.model"
    encoders.train_tokenizer(sample_texts(300), 512, path)
    return path


def texts_in(folder: Path, split: str, model: Path) -> list[str]:
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokens = np.concatenate([read_shard(path) for path in sorted(folder.glob(f"*_{split}_*.bin"))])
    return sp.decode(documents(tokens))


def test_every_document_arrives_once_with_bos_and_true_totals(tmp_path, tokenizer):
    texts = sample_texts(400)
    source = write_jsonl(tmp_path / "in.jsonl", texts + texts[:50] + ["", "  \n "])
    out = ok(
        run_tool("build_dataset", source, "--name", "x", "--tokenizer", tokenizer, "--data-root", tmp_path / "data", "--val-fraction", 0.1)
    )
    assert "duplicates_dropped documents:51" in out  # 50 repeated, and "" and "  \n " are one text
    folder = tmp_path / "data" / "datasets" / "x_sp512"
    found = {split: texts_in(folder, split, tokenizer) for split in ("train", "val")}
    # NFKC leaves these texts alone, so what comes back is what went in.
    assert sorted(found["train"] + found["val"]) == sorted(texts)
    assert 10 < len(found["val"]) < 90

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "parameter-golf-local/dataset-1"
    assert manifest["smoke"] is False
    copied = folder / manifest["tokenizer"]["path"]
    assert copied.read_bytes() == tokenizer.read_bytes()
    assert manifest["tokenizer"]["sha256"] == hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    assert (manifest["tokenizer"]["vocab_size"], manifest["tokenizer"]["kind"]) == (512, "sentencepiece")
    for entry in manifest["files"]:
        data = (folder / entry["path"]).read_bytes()
        assert (entry["sha256"], entry["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert entry["tokens"] == len(read_shard(folder / entry["path"]))
    for split, total in manifest["splits"].items():
        size = sum(len(text.encode()) for text in found[split])
        expected = {"documents": len(found[split]), "text_bytes": size, "source_bytes": size}
        assert {key: total[key] for key in expected} == expected
        assert total["tokens"] == sum(len(read_shard(path)) for path in folder.glob(f"*_{split}_*.bin"))
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "x_train_000000.bin", "x_val_000000.bin"]


def test_bytes_before_and_after_normalisation_are_told_apart(tmp_path, tokenizer):
    texts = [f"half is \u00bd, tabs\tand\n\nlines, number {i}" for i in range(40)]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    ok(run_tool("build_dataset", source, "--name", "n", "--tokenizer", tokenizer, "--data-root", tmp_path, "--val-fraction", 0.3))
    folder = tmp_path / "datasets" / "n_sp512"
    splits = json.loads((folder / "manifest.json").read_text())["splits"]
    decoded = sum(len(t.encode()) for split in splits for t in texts_in(folder, split, tokenizer))
    assert sum(total["text_bytes"] for total in splits.values()) == decoded
    assert sum(total["source_bytes"] for total in splits.values()) == sum(len(t.encode()) for t in texts) != decoded


@pytest.mark.parametrize(
    "options", [{"add_dummy_prefix": True}, {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"}]
)
def test_tokenizers_of_other_conventions_are_counted_right_too(tmp_path, options):
    """A space put in front of the text, and text kept as it is, line ends included; the audit compares with decoding."""
    options = {"add_dummy_prefix": False, "byte_fallback": True, "minloglevel": 2, "vocab_size": 400, "model_type": "bpe"} | options
    texts = [f"  \n {text}\n and  spaces \n" for text in sample_texts(100, 14)]
    model = tmp_path / "other"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_texts(200)), model_prefix=str(model), bos_id=1, eos_id=2, **options
    )
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    ok(run_tool("build_dataset", source, "--name", "o", "--tokenizer", f"{model}.model", "--data-root", tmp_path, "--val-fraction", 0.2))
    folder = tmp_path / "datasets" / "o_sp400"
    report = audit_dataset.audit(folder, quiet=True)
    assert report.ok, report.checks
    decoded = [text for split in ("train", "val") for text in texts_in(folder, split, tmp_path / "other.model")]
    assert sum(total["text_bytes"] for total in report.split_totals().values()) == sum(len(text.encode()) for text in decoded)
    if "normalization_rule_name" in options:
        assert sorted(decoded) == sorted(text.strip() for text in texts)


def test_a_document_stays_in_its_split_whatever_is_added(tmp_path, tokenizer):
    few, many = sample_texts(150, 1), sample_texts(150, 2)
    split = {}
    for name, texts in (("few", few), ("all", many + few[::-1])):
        source = write_jsonl(tmp_path / f"{name}.jsonl", texts)
        ok(run_tool("build_dataset", source, "--name", name, "--tokenizer", tokenizer, "--data-root", tmp_path, "--val-fraction", 0.2))
        folder = tmp_path / "datasets" / f"{name}_sp512"
        split[name] = {text: part for part in ("train", "val") for text in texts_in(folder, part, tokenizer)}
    assert len(split["all"]) == 300
    assert split["few"].items() <= split["all"].items()


def test_copies_with_other_line_ends_are_one_document(tmp_path):
    texts = [text.replace(" ", "\n", 5) for text in sample_texts(100, 15)]
    copies = [text.replace("\n", end) for end in ("\n", "\r\n", "\r") for text in texts]
    source = write_jsonl(tmp_path / "in.jsonl", copies)
    out = ok(run_tool("build_dataset", source, "--name", "e", "--bytes", "--data-root", tmp_path, "--val-fraction", 0.3))
    assert "duplicates_dropped documents:200" in out
    folder = tmp_path / "datasets" / "e_byte260"
    found = [bytes(i - 4 for i in ids).decode() for path in sorted(folder.glob("*.bin")) for ids in documents(read_shard(path))]
    assert sorted(found) == sorted(texts)


def test_the_hash_of_a_text_is_the_same_for_ever():
    """Splits of datasets that stand must not change; only \r is seen as a line end."""
    text = " a\n b\t\x0bc\u2028d\x85 "
    assert dedupe.text_hash(text) == int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "big")
    assert dedupe.text_hash("a\r\n\rb") == dedupe.text_hash("a\n\nb") != dedupe.text_hash("a\nb")


def test_all_input_formats_give_the_same_shards(tmp_path, tokenizer):
    texts = sample_texts(60, 3)
    plain = write_jsonl(tmp_path / "a.jsonl", texts)
    data = plain.read_bytes()
    # two members in a row, as `cat a.gz b.gz` and parallel compressors write
    half = data.index(b"\n", len(data) // 2) + 1
    packers = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
    inputs = [plain]
    for suffix, pack in packers.items():
        inputs.append(tmp_path / f"b.jsonl{suffix}")
        inputs[-1].write_bytes(pack(data[:half]) + pack(data[half:]))
    inputs.append(tmp_path / "c.txt")
    inputs[-1].write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    hashes = set()
    for i, path in enumerate(inputs):
        options = ("--txt-documents", "paragraph", "--val-fraction", 0.3)
        ok(run_tool("build_dataset", path, "--name", "f", "--tokenizer", tokenizer, "--data-root", tmp_path / str(i), *options))
        folder = tmp_path / str(i) / "datasets" / "f_sp512"
        hashes.add(tuple(hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.bin"))))
    assert len(hashes) == 1


def test_bytes_as_tokens(tmp_path):
    texts = sample_texts(80, 4)
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    ok(run_tool("build_dataset", source, "--name", "b", "--bytes", "--data-root", tmp_path, "--val-fraction", 0.2))
    folder = tmp_path / "datasets" / "b_byte260"
    found = [bytes(i - 4 for i in ids).decode() for path in sorted(folder.glob("*.bin")) for ids in documents(read_shard(path))]
    assert sorted(found) == sorted(texts)
    manifest = json.loads((folder / "manifest.json").read_text())
    described = json.loads((folder / manifest["tokenizer"]["path"]).read_text())
    assert described == {"kind": "byte", "vocab_size": 260, "bos_id": 1, "byte_offset": 4}


def test_a_new_tokenizer_has_the_conventions_and_the_same_bytes_each_time(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(300, 5))
    models = []
    for name in ("one", "two"):
        root = tmp_path / name
        ok(run_tool("build_dataset", source, "--name", "n", "--train-tokenizer", 600, "--data-root", root, "--val-fraction", 0.1))
        models.append(root / "tokenizers" / "n_600_bpe.model")
        assert (root / "datasets" / "n_sp600" / "manifest.json").is_file()
    assert models[0].read_bytes() == models[1].read_bytes()
    sp = sentencepiece.SentencePieceProcessor(model_file=str(models[0]))
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    assert (len(pieces), sp.bos_id(), sum(sp.is_byte(i) for i in range(600))) == (600, 1, 256)
    assert "\u2581" in pieces
    assert not sp.id_to_piece(sp.encode("time")[0]).startswith("\u2581")  # no space is put in front
    assert sp.decode(sp.encode("東京 \U0001f980 1234 time")) == "東京 \U0001f980 1234 time"


def test_a_tokenizer_never_sees_validation_text(tmp_path):
    texts = sample_texts(200, 6)
    held_out = [t for t in texts if dedupe.split_of(dedupe.text_hash(t), 0.3) == "val"]
    sample = dedupe.sample_for_tokenizer(texts + texts, 0.3, 10**9)
    assert len(held_out) > 20
    assert sorted(sample) == sorted(set(texts) - set(held_out))
    some = dedupe.sample_for_tokenizer(reversed(texts), 0.3, 20_000)
    assert some == sample[: len(some)]
    assert 10_000 < sum(len(t.encode()) for t in some) <= 20_000


def test_full_shards_have_the_size_asked_for(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(200, 7))
    ok(run_tool("build_dataset", source, "--name", "s", "--tokenizer", tokenizer, "--data-root", tmp_path, "--shard-tokens", 3000))
    sizes = [len(read_shard(path)) for path in sorted((tmp_path / "datasets" / "s_sp512").glob("*_train_*.bin"))]
    assert len(sizes) > 3
    assert set(sizes[:-1]) == {3000} and 0 < sizes[-1] <= 3000
    train = texts_in(tmp_path / "datasets" / "s_sp512", "train", tokenizer)
    assert set(train) <= set(sample_texts(200, 7))  # documents that cross a seam are whole


def test_long_and_damaged_texts(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "MAX_DOCUMENT_CHARS", 50)
    text = "word " * 100 + "x" * 120
    parts = list(reading.bounded(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) == 50
    assert all(part.endswith(" ") for part in parts[:10])
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "lone \\ud800 surrogate"}\n' + "".join(json.dumps({"text": t}) + "\n" for t in sample_texts(50)))
    ok(run_tool("build_dataset", source, "--name", "d", "--tokenizer", tokenizer, "--data-root", tmp_path, "--val-fraction", 0.2))


def spoilt(packed: bytes) -> bytes:
    """A .gz file with its head and other bytes behind, which zlib itself refuses."""
    return packed[:10] + b"\xff" * (len(packed) - 10)


def spoiled_inputs(tmp_path: Path) -> list[tuple[str, bytes, tuple[str, ...]]]:
    good = json.dumps({"text": "fine"}).encode() + b"\n"
    return [
        ("a.jsonl", good + b"{oops\n", ("a.jsonl:2", "not JSON")),
        ("b.jsonl", good + b'{"body": "x"}\n', ("b.jsonl:2", "'body'", "--text-field")),
        ("c.jsonl", good + b"[1]\n", ("c.jsonl:2", "--text-field")),
        ("d.jsonl.gz", gzip.compress(good * 9000)[:-20], ("d.jsonl.gz", "to its end")),
        ("e.jsonl.xz", lzma.compress(good * 9000)[:-20], ("e.jsonl.xz", "to its end")),
        ("f.jsonl.zst", b"not zstd at all", ("f.jsonl.zst", "to its end")),
        ("f.jsonl.gz", spoilt(gzip.compress(good * 9000)), ("f.jsonl.gz", "to its end")),
        ("f.txt.gz", spoilt(gzip.compress(good * 9000)), ("f.txt.gz", "to its end")),
        ("f.jsonl", good + b"[" * 200_000 + b"\n", ("f.jsonl:2", "nested too deeply")),
        ("g.jsonl", good, ("the input gives 0", "--val-fraction")),
        ("h.jsonl", b"", ("the input gives 0 train tokens",)),
    ]


def refused(args: tuple, *words: str) -> None:
    """The tool, run in this process, refuses with a message that has all `words`."""
    with pytest.raises(ToolError) as error:
        build_dataset.run([str(arg) for arg in args])
    for word in words:
        assert word in str(error.value)


def test_bad_input_is_named_and_leaves_nothing(tmp_path, tokenizer):
    for name, data, words in spoiled_inputs(tmp_path):
        path = tmp_path / name
        path.write_bytes(data)
        refused((path, "--name", "x", "--tokenizer", tokenizer, "--data-root", tmp_path), *words)
        assert list((tmp_path / "datasets").glob("*sp512*/*")) == []


def test_bytes_that_are_not_utf8_are_counted_for_each_file(tmp_path):
    """Once, though a tokenizer's sample reads the files before the build does; text that holds U+FFFD itself is as it was."""
    lines = sample_texts(200)
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode() + b"\ncaf\xe9 and \xff\xfe here\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n\xe6\x9d"))
    (tmp_path / "c.txt").write_text("\n".join(sample_texts(200, 1)) + "\n\ufffd\n", encoding="utf-8")
    inputs = [tmp_path / name for name in ("a.txt", "b.txt.gz", "c.txt")]
    options = ("--name", "u", "--train-tokenizer", 512, "--data-root", tmp_path, "--txt-documents", "line", "--val-fraction", 0.1)
    done = run_tool("build_dataset", *inputs, *options)
    ok(done)
    warnings = [f"warning: {n} bytes of {path} are not UTF-8 and were replaced" for n, path in ((3, inputs[0]), (2, inputs[1]))]
    assert done.stderr.splitlines() == warnings


def test_a_json_array_is_no_text(tmp_path):
    for name, pack in (("a.json", bytes), ("a.json.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(json.dumps([{"text": text} for text in sample_texts(50)]).encode()))
        refused((tmp_path / name, "--name", "x", "--bytes", "--data-root", tmp_path), name, '{"text": "…"} on each line', ".jsonl")
    assert not (tmp_path / "datasets").exists()


def test_too_few_documents_are_counted(tmp_path):
    source, lines = tmp_path / "book.txt", sample_texts(50)
    source.write_text("\n".join(lines[:25]) + "\n\n" + "\n".join(lines[25:]), encoding="utf-8")
    options = ("--name", "x", "--bytes", "--data-root", tmp_path)
    refused((source, *options), "0 val tokens", "it has 1 document; --txt-documents paragraph or --txt-documents line makes more of a text")
    paragraphs = (*options, "--txt-documents", "paragraph", "--val-fraction", 1e-9)
    refused((source, *paragraphs), "it has 2 documents; --txt-documents line makes more of a text file")
    with pytest.raises(ToolError) as error:
        build_dataset.run([str(x) for x in (source, *options, "--txt-documents", "line", "--val-fraction", 1e-9)])
    assert "0 val tokens" in str(error.value) and "it has" not in str(error.value) and "--txt-documents" not in str(error.value)
    refused((write_jsonl(tmp_path / "x.jsonl", lines[:3]), *options), "it has 3 documents; give more text or change --val-fraction")


def test_bad_arguments_say_what_to_type(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(50))
    cases = [
        (("--tokenizer", source), "not a SentencePiece model"),
        (("--tokenizer", tokenizer, "--val-fraction", 2), "try 0.01"),
        (("--tokenizer", tokenizer, "--threads", 0), "--threads 0"),
        (("--train-tokenizer", 100), "try 1024"),
        (("--train-tokenizer", 60000), "Give more text"),
    ]
    for args, word in cases:
        refused((source, "--name", "x", "--data-root", tmp_path, *args), word)
    refused((source, "--name", "../x", "--bytes", "--data-root", tmp_path), "--name mine")
    for name, split, other in (("my_train_mix", "train", "my-train-mix"), ("big_val_set", "val", "big-val-set"), ("val", "val", "mine")):
        refused((source, "--name", name, "--bytes", "--data-root", tmp_path), f"'_{split}_' in a shard's name", f"try --name {other}")
    refused((tmp_path / "none.jsonl", "--name", "x", "--bytes"), "is not a file")
    for args in ({"bos_id": 2, "eos_id": 1}, {"byte_fallback": False}):
        model = tmp_path / "odd"
        options = {"byte_fallback": True, "minloglevel": 2, "hard_vocab_limit": False, "vocab_size": 400} | args
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts(100)), model_prefix=str(model), model_type="bpe", **options
        )
        word = "BOS id" if "bos_id" in args else "byte pieces"
        refused((source, "--name", "x", "--data-root", tmp_path, "--tokenizer", f"{model}.model"), word)


def test_a_name_may_have_the_word_of_a_split_within_a_word(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(50))
    for name in ("my-train-mix", "training_valid"):
        assert build_dataset.run([str(x) for x in (source, "--name", name, "--bytes", "--data-root", tmp_path, "--val-fraction", 0.2)]) == 0


def test_an_existing_dataset_is_kept_unless_told(tmp_path):
    options = ("--name", "x", "--bytes", "--data-root", tmp_path, "--val-fraction", 0.2)
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(50, 8))
    ok(run_tool("build_dataset", source, *options))
    folder = tmp_path / "datasets" / "x_byte260"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_jsonl(source, sample_texts(50, 9))
    failed(run_tool("build_dataset", source, *options), "--overwrite")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    source.write_text("{oops\n")
    failed(run_tool("build_dataset", source, *options, "--overwrite"), "not JSON")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before  # a failure keeps the old one too
    write_jsonl(source, sample_texts(50, 9))
    ok(run_tool("build_dataset", source, *options, "--overwrite"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} != before
    assert not list((tmp_path / "datasets").glob(".*.old")) + list((tmp_path / "datasets").glob(".*.building"))


def test_a_new_tokenizer_takes_its_name_with_the_new_shards(tmp_path, monkeypatch):
    """A failure at any time leaves old shards with their old tokenizer, and nothing else."""
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(200, 8))
    options = ("--name", "x", "--train-tokenizer", 512, "--data-root", tmp_path / "data", "--val-fraction", 0.2)

    def files() -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file() and p.suffix != ".lock"}

    refused((write_jsonl(tmp_path / "few.jsonl", sample_texts(200, 8)), *options[:-1], 1e-12), "0 val tokens")
    assert files() == {}
    ok(run_tool("build_dataset", source, *options))
    before = files()
    assert sorted(before)[-1] == "data/tokenizers/x_512_bpe.model" and len(before) == 4
    write_jsonl(source, sample_texts(200, 9))
    refused((source, *options[:-1], 1e-12, "--overwrite"), "0 val tokens")
    assert files() == before

    def broken(new: Path, folder: Path) -> None:
        assert files()["data/tokenizers/x_512_bpe.model"] != before["data/tokenizers/x_512_bpe.model"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset_writer, "replace_folder", broken)
        build_dataset.run([str(x) for x in (source, *options, "--overwrite")])
    assert files() == before
    ok(run_tool("build_dataset", source, *options, "--overwrite"))
    assert sorted(files()) == sorted(before) and all(files()[name] != before[name] for name in before)
    assert audit_dataset.audit(tmp_path / "data" / "datasets" / "x_sp512", quiet=True).ok


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_half_way_can_be_run_again(tmp_path, how):
    fifo = tmp_path / "in.jsonl"
    texts = sample_texts(3000, 10)
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts * 8 + sample_texts(3000, 11)).encode()
    fifo.write_bytes(data)
    # The same build, with a document stream that stops for ever half-way.
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "import build_dataset as b; from prep import console, dataset_writer; read = b.read_documents\n"
        "def stalled(*a):\n"
        "    for i, text in enumerate(read(*a)):\n"
        "        if i == 25000: print('stalled', flush=True); [time.sleep(0.05) for _ in range(1200)]\n"
        "        yield text\n"
        "b.read_documents = stalled; dataset_writer.BATCH_CHARS = 1 << 16; sys.exit(console.tool_main(lambda: b.run(sys.argv[2:])))"
    )
    options = [str(fifo), "--name", "k", "--bytes", "--data-root", str(tmp_path)]
    command = [sys.executable, "-c", code, str(ROOT / "data"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != "stalled":
        assert process.poll() is None
    shard = tmp_path / "datasets" / ".k_byte260.building" / "k_train_000000.bin"
    assert shard.stat().st_size > 100_000  # really half-way
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert not (tmp_path / "datasets" / "k_byte260").exists()
    if how == signal.SIGINT:
        assert "interrupted" in errors
        assert not shard.exists()
    ok(run_tool("build_dataset", *options))
    total = json.loads((tmp_path / "datasets" / "k_byte260" / "manifest.json").read_text())["splits"]
    assert total["train"]["documents"] + total["val"]["documents"] == 6000
    assert not shard.exists()


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit on file size makes the write fail part-way, as a full disk does."""
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(800, 12))
    code = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    tool = ROOT / "data" / "build_dataset.py"
    command = [sys.executable, "-c", code, str(tool), str(source), "--name", "x", "--bytes", "--data-root", str(tmp_path)]
    failed(subprocess.run(command, capture_output=True, text=True), "nothing half-written")
    assert not [p for p in (tmp_path / "datasets").iterdir() if p.suffix != ".lock"]


def test_two_builds_of_one_dataset_at_once(tmp_path):
    from filelock import FileLock

    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(50, 13))
    (tmp_path / "datasets").mkdir()
    with FileLock(tmp_path / "datasets" / ".x_byte260.lock"):
        failed(run_tool("build_dataset", source, "--name", "x", "--bytes", "--data-root", tmp_path), "another process")


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=120))
def test_seen_hashes_remembers_exactly(numbers):
    seen, known = dedupe.SeenHashes(), set()
    seen.RECENT = 7
    for digest in (number * (2**64 - 1) // 30 for number in numbers):
        assert seen.add(digest) == (digest not in known)
        known.add(digest)


def test_other_vocabularies_without_pytorch(tmp_path):
    """As on a Mac, whose environment has MLX in its place."""
    pytest.importorskip("mlx.core")
    (tmp_path / "torch.py").write_text("raise ImportError")
    assert "sp1024" in ok(run_tool("other_vocabularies", "--help", PYTHONPATH=str(tmp_path)))


def test_other_vocabularies_hold_the_same_text(tmp_path, tokenizer):
    """The settings it prints cover the same documents: bytes of validation alike, tokens as many as the vocabulary makes of them."""
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(400))
    ok(run_tool("build_dataset", source, "--name", "x", "--tokenizer", tokenizer, "--data-root", tmp_path, "--val-fraction", 0.1))
    (tmp_path / "tokenizers").mkdir(exist_ok=True)
    (tmp_path / "tokenizers" / "t512.model").write_bytes(tokenizer.read_bytes())
    known = ["--data-root", tmp_path, "--known", "x_sp512"]
    asked = [(), ("--known-tokenizer", "t512.model"), ("--known-tokenizer", tokenizer)]  # by the manifest, by name, by path
    size = ("--val-documents", 10, "--train-bytes", 60_000, "--steps", 100)
    out, *others = [ok(run_tool("other_vocabularies", 600, *known, *which, *size)) for which in asked]
    assert others == [out, out]
    lines = [dict(pair.replace(":", "=").split("=") for pair in line.split()) for line in out.splitlines() if "VOCAB_SIZE" in line]
    ours, other = ({k: float(v) for k, v in line.items()} for line in lines)
    assert (ours["VOCAB_SIZE"], ours["ITERATIONS"], other["VOCAB_SIZE"]) == (512, 100, 600)
    assert ours["val_bytes"] == other["val_bytes"] and other["VAL_TOKENS"] < ours["VAL_TOKENS"] and other["ITERATIONS"] < 100
    model = tmp_path / "tokenizers" / "decoded_600_bpe.model"
    was, now = texts_in(tmp_path / "datasets/x_sp512", "val", tokenizer), texts_in(tmp_path / "datasets/decoded_sp600", "val", model)
    assert now == was[:10]
    train = texts_in(tmp_path / "datasets/decoded_sp600", "train", model)
    assert train == texts_in(tmp_path / "datasets/x_sp512", "train", tokenizer)[: len(train)]
    assert 60_000 <= sum(len(x.encode()) for x in train) < 62_000
    assert model.stat().st_size < 20_000 < 240_000 < tokenizer.stat().st_size  # its bytes are charged, and the text is normalised already

    failed(run_tool("other_vocabularies", 600, *known[:2], "--known", "none", *asked[1]), "no shard fits")
    failed(run_tool("other_vocabularies", 600, *known, "--known-tokenizer", "none.model"), "none.model")
    failed(run_tool("other_vocabularies", 600, *known[:2], "--known", "none"), "fineweb_1024_bpe.model")
