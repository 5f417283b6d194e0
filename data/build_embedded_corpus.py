#!/usr/bin/env python3
"""Build the embedded smoke corpus from documentation that is already on this machine.

    python3 data/build_embedded_corpus.py          # does nothing when the corpus is there
    python3 data/build_embedded_corpus.py --force  # builds it again

English prose from Python's language reference topics, docstrings and comments, NumPy's, and PyTorch's where it
is installed: cleaned, without repetitions, split into train and validation by document hash. It needs no network
and takes about half a minute on two cores. It is there to try the whole path from text to scored artifact; a score on
it is no FineWeb score. Two small validation sets of other domains, source code and reference prose (licences,
package descriptions, manuals), are built beside it with the same tokenizer.

The same versions of Python, NumPy, PyTorch and SentencePiece give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import prep.console  # noqa: F401  first, as it says what to type where packages are missing

# isort: split
import numpy as np
from build_dataset import DATA
from prep.console import tool_main
from prep.dataset_writer import report, write_dataset
from prep.dedupe import text_hash
from prep.encoders import PieceEncoder, tool_versions, train_tokenizer
from prep.overlap import HashSet, window_hashes
from prep.shards import MANIFEST_NAME, hash_faults, read_manifest

NAME = "embedded_sp1024"
VOCAB = 1024
VAL_CHARS = 300_000
DOCUMENT_CHARS = 3000  # docstrings of one file are gathered up to about this length
MIN_DOCUMENT_CHARS = 200
SHARED_CHARS = 50  # train text that has this many characters in a row in common with validation text is dropped
TOKENIZER_SAMPLE_CHARS = 2_000_000
AUX_CHARS = 160_000
MIN_TOKENS = {"train": 1_000_000, "val": 64_000}
NOTE = "Smoke corpus from installed documentation: for trying the tools only. A score on it is no FineWeb score."
REMEDY = "install the packages of requirements-cuda.txt, or a Python whose standard library has its .py files"
SKIPPED_FOLDERS = {"test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages", "ensurepip", "_vendor"}
DOCUMENTING_CALLS = {"add_docstr", "add_newdoc", "_add_docstr"}


@dataclass(frozen=True)
class Source:
    """One installed package: its name and the folder of its .py files."""

    name: str
    root: Path


def sources() -> list[Source]:
    """The packages whose documentation is used, in a fixed order."""
    found = [Source("python", Path(sysconfig.get_paths()["stdlib"]))]
    for name in ("numpy", "torch"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Source(name, Path(spec.origin).parent))
    return found


def python_files(source: Source) -> list[Path]:
    """The source's .py files, tests and vendored code left out, sorted by path."""
    found = []
    for folder, subfolders, names in os.walk(source.root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=Path.as_posix)


# --- docstrings without importing anything --------------------------------------------------------


def docstrings(text: str) -> list[str]:
    """The docstrings in Python source `text`, and the strings given to add_docstr and add_newdoc; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in DOCUMENTING_CALLS:
            strings = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            found.append(inspect.cleandoc(max(strings, key=len, default="")))
    return found


_COMMENT = re.compile(r"(?:^[ \t]*#[^\n]*\n){2,}", re.MULTILINE)
_COMMENT_MARK = re.compile(r"^[ \t]*#+:?", re.MULTILINE)


def comments(text: str) -> list[str]:
    """The comments of two lines or more in Python source `text`, without their marks."""
    return [_COMMENT_MARK.sub("", block) for block in _COMMENT.findall(text)]


def file_paragraphs(path: Path) -> list[str]:
    """The clean prose paragraphs of a file's docstrings and comments."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [paragraph for found in docstrings(text) + comments(text) for paragraph in prose_paragraphs(found)]


def reference_topics() -> list[str]:
    """Python's language reference, as the texts that `help()` prints; none where this Python ships without."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [topics[key] for key in sorted(topics)]


def ufunc_docstrings() -> list[str]:
    """Docstrings of NumPy's universal functions, which its .py files do not hold."""
    return [inspect.cleandoc(getattr(np, name).__doc__ or "") for name in sorted(dir(np)) if isinstance(getattr(np, name), np.ufunc)]


# --- cleaning -------------------------------------------------------------------------------------

_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]\w*\}")
_MARKS = re.compile(r"``|`|\*\*")
_RULE = re.compile(r"^[ \t]*(?:[-=~^\"'#*+]{3,}|\.\. .*|:[\w ]+:)[ \t]*(?:\n|\Z)", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_PROSE_CHARS = re.compile(r"[A-Za-z ,.;:'()-]")


def prose_paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of `text` that read as prose, each on one line without markup.

    Examples at the prompt, tables, formulas and fragments of fewer than five words are left out.
    """
    for block in re.split(r"\n\s*\n", _RULE.sub("", text)):
        if ">>>" in block or "::" in block and "\n" not in block.strip():
            continue
        block = _MARKS.sub("", _ROLE.sub(r"\1", _PLACEHOLDER.sub("", block)))
        block = _SPACE.sub(" ", block).strip()
        if block.count(" ") >= 4 and len(_PROSE_CHARS.findall(block)) >= 0.88 * len(block) and block.isprintable():
            yield block


def new_paragraphs(groups: Iterable[list[str]]) -> Iterator[list[str]]:
    """`groups` without the paragraphs that came before, compared by their letters and digits alone."""
    seen: set[str] = set()
    for group in groups:
        kept = []
        for paragraph in group:
            key = re.sub(r"[^a-z0-9]+", "", paragraph.lower())
            if key not in seen:
                seen.add(key)
                kept.append(paragraph)
        yield kept


def gather(groups: Iterable[list[str]]) -> list[list[str]]:
    """Documents: paragraphs of one group in order, about DOCUMENT_CHARS together; scraps are dropped."""
    documents = []
    for group in groups:
        document: list[str] = []
        for paragraph in group:
            document.append(paragraph)
            if sum(map(len, document)) >= DOCUMENT_CHARS:
                documents.append(document)
                document = []
        documents.append(document)
    return [document for document in documents if sum(map(len, document)) >= MIN_DOCUMENT_CHARS]


# --- train and validation without common stretches ------------------------------------------------


def text_windows(text: str) -> np.ndarray:
    """A hash of each SHARED_CHARS characters of `text`, letter case and runs of white space ignored; uint64 of shape (windows,)."""
    text = " ".join(text.lower().split())
    return window_hashes(np.frombuffer(text.encode("utf-32-le"), "<u4"), SHARED_CHARS)


def without_shared(document: list[str], held_out: HashSet) -> list[str]:
    """`document` without the paragraphs that touch a stretch found in `held_out`."""
    while document:
        hits = np.flatnonzero(held_out.contains(text_windows(" ".join(document))))
        if not len(hits):
            return document
        kept, start = [], 0
        for paragraph in document:
            end = start + len(paragraph)
            first = np.searchsorted(hits, start - SHARED_CHARS + 1)
            if first == len(hits) or hits[first] >= end:
                kept.append(paragraph)
            start = end + 1
        # A stretch may now cross a seam that the dropped paragraph had kept apart, so look again.
        document = kept
    return document


def split_documents(documents: list[list[str]], held_out: list[str]) -> list[tuple[str, str]]:
    """(split, text) in the order of the texts' hashes: first VAL_CHARS of validation, then train.

    Train shares no stretch with validation or with the `held_out` texts.
    """
    by_hash = sorted(documents, key=lambda document: text_hash(" ".join(document)))
    val = up_to(VAL_CHARS, [" ".join(document) for document in by_hash])
    windows = HashSet(np.concatenate([text_windows(text) for text in val + held_out]))
    train = [" ".join(without_shared(document, windows)) for document in by_hash[len(val) :]]
    return [("val", text) for text in val] + [("train", text) for text in train if len(text) >= MIN_DOCUMENT_CHARS]


# --- auxiliary texts ------------------------------------------------------------------------------


def code_documents() -> list[str]:
    """Standard library source files, chosen by hash, AUX_CHARS in total, each cut at DOCUMENT_CHARS x 3."""
    source = sources()[0]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in python_files(source) if path.stat().st_size < 100_000)
    return up_to(AUX_CHARS, sorted((text[: 3 * DOCUMENT_CHARS] for text in texts if len(text) > 1000), key=text_hash))


def reference_documents() -> list[str]:
    """Licences, package descriptions and manuals that came with the pinned packages, AUX_CHARS in total."""
    stdlib = sources()[0].root
    paths = [stdlib / "LICENSE.txt", *sorted(stdlib.glob("idlelib/*.txt")), *sorted(stdlib.glob("idlelib/*.html"))]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
    for package in ("numpy", "torch", "sentencepiece", "huggingface_hub", "tqdm", "zstandard"):
        try:
            files = importlib.metadata.files(package) or []
            texts.append(importlib.metadata.metadata(package).get_payload())
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in sorted(files, key=str):
            if "dist-info" in str(file) and "LICENSE" in file.name:
                texts.append(Path(file.locate()).read_text(encoding="utf-8", errors="replace"))
    groups = (list(prose_paragraphs(html.unescape(re.sub(r"<[^>]*>", "", text)))) for text in texts)
    documents = [" ".join(document) for document in gather(new_paragraphs(groups))]
    return up_to(AUX_CHARS, sorted(documents, key=text_hash))


def up_to(limit: int, texts: list[str]) -> list[str]:
    """The first of `texts`, until they have `limit` characters together."""
    kept, held = [], 0
    for text in texts:
        if held >= limit:
            break
        kept.append(text)
        held += len(text)
    return kept


AUX_KINDS = {"code": code_documents, "reference": reference_documents}


# --- building -------------------------------------------------------------------------------------


def prose_documents() -> list[list[str]]:
    """All documents of the main corpus as lists of paragraphs, no paragraph twice."""
    files = [path for source in sources() for path in python_files(source)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        groups = list(pool.map(file_paragraphs, files, chunksize=64))
    groups += [list(prose_paragraphs(text)) for text in [*reference_topics(), *ufunc_docstrings()]]
    return gather(new_paragraphs(groups))


def is_built(data_root: Path) -> bool:
    """Are all three datasets there and whole, as their manifests say?"""
    folders = [data_root / "datasets" / name for name in (NAME, *(aux_name(kind) for kind in AUX_KINDS))]
    return all((folder / MANIFEST_NAME).is_file() and not hash_faults(folder, read_manifest(folder)) for folder in folders)


def aux_name(kind: str) -> str:
    """Dataset name of an auxiliary set."""
    return f"embedded_aux_{kind}_sp{VOCAB}"


def build(data_root: Path) -> None:
    """Build tokenizer, corpus and auxiliary sets under `data_root`.

    Raises:
        ToolError: the installed documentation is too little; no corpus is left then.
    """
    versions = tool_versions()
    for source in sources()[1:]:
        versions[source.name] = importlib.metadata.version(source.name)
    print(f"reading documentation of {', '.join(source.name for source in sources())}", flush=True)
    aux = {kind: documents() for kind, documents in AUX_KINDS.items()}
    documents = split_documents(prose_documents(), sum(aux.values(), []))
    train = [text for split, text in documents if split == "train"]
    tokenizer = data_root / "tokenizers" / "embedded_1024_bpe.model"
    print(f"training_tokenizer pieces:{VOCAB} documents:{len(train)} characters:{sum(map(len, train))}", flush=True)
    train_tokenizer(up_to(TOKENIZER_SAMPLE_CHARS, train), VOCAB, tokenizer)
    encoder = PieceEncoder(tokenizer, os.cpu_count() or 1)
    for name, texts in aux.items():
        folder = data_root / "datasets" / aux_name(name)
        pairs = [("val", text) for text in texts]
        write = dict(prefix=f"embedded_aux_{name}", note=NOTE, smoke=True, source=versions)
        report(folder, write_dataset(folder, pairs, encoder, least={"val": 1}, **write))
    # The main dataset comes last: when it is there, all is there.
    folder = data_root / "datasets" / NAME
    write = dict(prefix="embedded", note=NOTE, smoke=True, source=versions, least=MIN_TOKENS, remedy=REMEDY)
    report(folder, write_dataset(folder, documents, encoder, **write))
    print(NOTE)


def run(argv: list[str] | None = None) -> int:
    """Build the corpus unless it is there; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="build again even if the corpus is there")
    parser.add_argument("--data-root", type=Path, default=DATA, metavar="DIR", help="where datasets/ and tokenizers/ go (default: data)")
    args = parser.parse_args(argv)
    if not args.force and is_built(args.data_root):
        print(f"{args.data_root / 'datasets' / NAME} is there and whole; --force builds it again")
        return 0
    build(args.data_root)
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(run))
