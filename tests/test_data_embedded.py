"""Promise: on any machine with the pinned packages there is a smoke corpus of real prose, the same each time, that says what it is."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import audit_dataset
import pytest
import sentencepiece
from data_helpers import ROOT, ToolError, documents, ok, read_shard, run_tool
from data_helpers import build_embedded_corpus as embedded

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture(scope="module")
def datasets() -> Path:
    """The real corpus where the trainer looks for it; built if this checkout has none yet."""
    ok(run_tool("build_embedded_corpus"))
    return ROOT / "data" / "datasets"


@pytest.fixture(scope="module")
def texts(datasets) -> dict[str, list[str]]:
    """Decoded documents by split."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(datasets / "../tokenizers/embedded_1024_bpe.model"))
    folder = datasets / "embedded_sp1024"
    return {split: sp.decode(documents(read_shard(folder / f"embedded_{split}_000000.bin"))) for split in ("train", "val")}


def test_the_corpus_is_large_enough_and_passes_its_audit(datasets):
    report = audit_dataset.audit(datasets / "embedded_sp1024", max_shared_percent=0.01, quiet=True)
    assert report.ok, report.checks
    totals = report.split_totals()
    assert totals["train"]["tokens"] >= 1_000_000
    assert totals["val"]["tokens"] >= 64_000
    assert totals["val"]["documents"] >= 50


def test_the_manifest_says_that_it_is_a_smoke_corpus(datasets):
    manifest = json.loads((datasets / "embedded_sp1024" / "manifest.json").read_text())
    assert manifest["smoke"] is True
    assert "smoke corpus" in manifest["note"].lower()
    assert "no FineWeb score" in manifest["note"]
    assert {"python", "numpy", "sentencepiece"} <= set(manifest["source"])
    assert manifest["tokenizer"]["path"] == "../../tokenizers/embedded_1024_bpe.model"


def test_the_tokenizer_has_the_conventions_of_the_public_one(datasets):
    sp = sentencepiece.SentencePieceProcessor(model_file=str(datasets / "../tokenizers/embedded_1024_bpe.model"))
    assert (sp.get_piece_size(), sp.bos_id()) == (1024, 1)
    assert sum(sp.is_byte(i) for i in range(1024)) == 256
    assert sp.piece_to_id("\u2581") != sp.unk_id()


def test_train_and_validation_share_no_run_of_words(texts):
    """By other means than the builder's and the audit's: sets of 12-word runs of at least 60 letters."""

    def runs(text: str) -> set[str]:
        words = text.lower().split()
        found = (" ".join(words[i : i + 12]) for i in range(len(words) - 11))
        return {run for run in found if len(run) >= 60}

    val = set().union(*map(runs, texts["val"]))
    assert len(val) > 20_000
    assert [run for text in texts["train"] for run in runs(text) & val] == []


def test_the_text_is_prose(texts):
    sample = " ".join(texts["val"])
    letters = sum(c.isalpha() or c == " " for c in sample)
    assert letters > 0.9 * len(sample)
    assert ">>>" not in sample and "``" not in sample
    common = sum(sample.lower().count(f" {word} ") for word in ("the", "of", "a", "is", "to", "in", "and"))
    assert common > 0.15 * sample.count(" ")


def test_the_auxiliary_sets_are_of_other_domains(datasets, texts):
    known = {document[i : i + 100] for document in texts["train"] for i in range(0, len(document) - 100, 50)}
    for kind, mark in (("code", "import "), ("reference", "license")):
        folder = datasets / f"embedded_aux_{kind}_sp1024"
        report = audit_dataset.audit(folder, quiet=True)
        assert report.ok, report.checks
        assert report.split_totals()["val"]["tokens"] >= 32_000
        sp = sentencepiece.SentencePieceProcessor(model_file=str(datasets / "../tokenizers/embedded_1024_bpe.model"))
        found = sp.decode(documents(read_shard(folder / f"embedded_aux_{kind}_val_000000.bin")))
        assert sum(mark in text.lower() for text in found) >= len(found) // 4
        assert not [text for text in found for i in range(0, len(text) - 100) if text[i : i + 100] in known]


def test_a_second_call_does_nothing_and_a_spoilt_corpus_is_built_again(tmp_path, monkeypatch, capsys, small_sources):
    assert embedded.run(["--data-root", str(tmp_path)]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    assert len(before) == 4
    assert embedded.run(["--data-root", str(tmp_path)]) == 0
    assert "is there and whole" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")} == before
    shard = tmp_path / "datasets" / "embedded_sp1024" / "embedded_val_000000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    assert embedded.run(["--data-root", str(tmp_path)]) == 0
    assert shard.read_bytes() == data  # and the same bytes as the first time


@pytest.fixture
def small_sources(monkeypatch):
    """A few folders of the standard library stand for everything, so that a build takes a second."""
    folders = [embedded.Source("python", STDLIB / "asyncio"), embedded.Source("numpy", STDLIB / "email")]
    monkeypatch.setattr(embedded, "sources", lambda: folders)
    monkeypatch.setattr(embedded, "reference_topics", lambda: [])
    monkeypatch.setattr(embedded, "VAL_CHARS", 30_000)
    monkeypatch.setattr(embedded, "MIN_TOKENS", {"train": 1, "val": 1})


def test_too_little_documentation_is_said_and_leaves_no_corpus(tmp_path, monkeypatch, small_sources):
    monkeypatch.setattr(embedded, "MIN_TOKENS", {"train": 10**9})
    with pytest.raises(ToolError, match="requirements-cuda.txt"):
        embedded.run(["--data-root", str(tmp_path)])
    assert not (tmp_path / "datasets" / "embedded_sp1024").exists()


def test_docstrings_are_read_without_running_the_module():
    source = '''"""Of the module."""
raise SystemExit("this file was run")
class A:
    """Of the class."""
    async def f(self):
        """Of the method."""
# A comment of one line is left.
# This one has
#   two lines.
add_newdoc("numpy", "ndarray", ("sort", """
    Of a method
    in C."""))
add_docstr(torch.abs, r"""abs(input) -> Tensor

Of a {function} in C.""".format(**common))
'''
    found = embedded.docstrings(source)
    assert sorted(found) == [
        "Of a method\nin C.",
        "Of the class.",
        "Of the method.",
        "Of the module.",
        "abs(input) -> Tensor\n\nOf a {function} in C.",
    ]
    assert [" ".join(text.split()) for text in embedded.comments(source)] == ["A comment of one line is left. This one has two lines."]
    assert embedded.docstrings("def broken(:") == []


def test_only_prose_is_kept_and_markup_is_gone():
    text = """Return the :class:`~numpy.ndarray` with ``x`` and `y` in **sorted** order
    over two lines.

    >>> print("the sorted array in order to see what comes out of it")
    the sorted array in order

    Parameters
    ----------
    axis : int, the axis along which to sort the given array.

    ====  ====
    1 2   3 4
    0.11  0.22

    Too few words.
    """
    assert list(embedded.prose_paragraphs(text)) == [
        "Return the numpy.ndarray with x and y in sorted order over two lines.",
        "Parameters axis : int, the axis along which to sort the given array.",
    ]


def test_a_text_that_two_modules_share_is_kept_once():
    one = ["Sort the array in place, please.", "First one."]
    two = ["sort the array  in place please", "Second one."]
    assert list(embedded.new_paragraphs([one, two])) == [one, ["Second one."]]


def test_train_drops_the_paragraphs_that_touch_validation_text():
    shared = "this sentence of more than fifty characters stands in both of the documents"
    train = ["An opening of its own, quite long enough to stay where it is.", f"Before, {shared}, after.", "A closing."]
    held_out = embedded.HashSet(embedded.text_windows(f"Other words, {shared.upper()}; other words."))
    assert embedded.without_shared(train, held_out) == [train[0], train[2]]
    # a stretch over the seam of two paragraphs, each part alone too short to be found
    seam = embedded.HashSet(embedded.text_windows("x y z stretch that begins in one paragraph and goes on in the next one a b c"))
    pair = ["It has a stretch that begins in one", "paragraph and goes on in the next one", "Something else that stays here"]
    assert embedded.without_shared(pair, seam) == [pair[2]]
    # dropping a paragraph can bring two others together into a stretch that was not there before
    ends = ["Alpha beta gamma delta epsilon zeta", "eta theta iota kappa lambda my nu"]
    both = embedded.HashSet(embedded.text_windows(f"{' '.join(ends)}. {shared}"))
    assert embedded.without_shared([ends[0], shared, ends[1]], both) == []
