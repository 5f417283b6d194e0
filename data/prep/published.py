"""Which files make a variant, from the manifest that the repository publishes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prep.console import ToolError
from prep.hub import RemoteFile, remote
from prep.shards import check_token_range, shard_tokens

DOCS_FILES = ("docs_selected.jsonl", "docs_selected.source_manifest.json")


@dataclass(frozen=True)
class Variant:
    """A tokenization of the corpus, as people type it: "sp1024", "byte260"."""

    name: str
    kind: str
    vocab_size: int

    @property
    def dataset(self) -> str:
        """Name of its dataset folder."""
        return f"fineweb10B_{self.name}"

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Raises ToolError unless `text` is byte260 or sp followed by a vocabulary size."""
        match = re.fullmatch(r"sp([1-9]\d{2,4})", text)
        if text == "byte260":
            return cls(text, "byte", 260)
        if match and int(match[1]) <= 1 << 16:
            return cls(text, "sentencepiece", int(match[1]))
        raise ToolError(f"--variant {text}: use sp<VOCAB> or byte260; try --variant sp1024")


def find_named(entries: Any, name: str, what: str) -> dict[str, Any]:
    """The entry called `name` of a list in the published manifest.

    Raises:
        ToolError: there is none; the message says which there are.
    """
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    for entry in entries:
        if entry.get("name") == name:
            return entry
    names = ", ".join(sorted(str(entry.get("name")) for entry in entries)) or "none"
    raise ToolError(f"the published manifest has no {what} {name}; it has: {names}")


def shard_count(dataset: dict[str, Any], key: str) -> int:
    """`stats.<key>` of a dataset in the published manifest, a number of files."""
    stats = dataset.get("stats")
    count = stats.get(key) if isinstance(stats, dict) else None
    if not isinstance(count, int) or not 0 < count < 1_000_000:
        raise ToolError(f"the published manifest says stats.{key}={count!r} for {dataset.get('name')}; a number of files was expected")
    return count


def tokenizer_paths(tokenizer: dict[str, Any]) -> list[str]:
    """Repository paths of a tokenizer's files, below the root prefix; the one to load comes first.

    Raises:
        ToolError: there is none, or one that leads out of the repository's folder.
    """
    paths = [tokenizer[key] for key in ("model_path", "path", "vocab_path") if tokenizer.get(key)]
    for path in paths:
        if not isinstance(path, str) or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ToolError(f"the published manifest names the tokenizer file {path!r}, which is no relative path")
    if not paths:
        raise ToolError(f"the published manifest gives no model_path, path or vocab_path for tokenizer {tokenizer.get('name')}")
    return list(dict.fromkeys(paths))


def read_published(path: Path) -> dict[str, Any]:
    """The published manifest at `path`. Raises ToolError if it is not a JSON object."""
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the published manifest is not JSON ({error})") from None
    if not isinstance(published, dict):
        raise ToolError(f"the published manifest is a JSON {type(published).__name__}, not an object")
    return published


def check_piece_count(path: Path, vocab_size: int) -> None:
    """Raises ToolError unless `path` is a SentencePiece model of `vocab_size` pieces."""
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
    except (RuntimeError, OSError) as error:
        raise ToolError(f"not a SentencePiece model ({str(error).strip()})") from None
    if pieces != vocab_size:
        raise ToolError(f"{pieces} pieces; this variant has {vocab_size}")


def check_shard(path: Path, vocab_size: int) -> None:
    """Raises ToolError unless `path` is a shard of the right size with all tokens below `vocab_size`."""
    shard_tokens(path)
    check_token_range(path, vocab_size)


def shard_names(split: str, count: int) -> list[str]:
    """File names of the first `count` shards of a split."""
    return [f"fineweb_{split}_{i:06d}.bin" for i in range(count)]


@dataclass
class Plan:
    """All files of a variant that were asked for."""

    shards: list[tuple[str, RemoteFile]]  # (split, file)
    tokenizers: list[RemoteFile]
    docs: list[RemoteFile]

    @property
    def files(self) -> list[RemoteFile]:
        return [file for _, file in self.shards] + self.tokenizers + self.docs


def make_plan(published: dict[str, Any], variant: Variant, train_shards: int, with_docs: bool, root: Path) -> Plan:
    """Which files to fetch, from the published manifest.

    Raises:
        ToolError: the manifest lacks the variant, or has fewer train shards.
    """
    dataset = find_named(published.get("datasets"), variant.dataset, "dataset")
    available = shard_count(dataset, "files_train")
    if train_shards > available:
        raise ToolError(f"--train-shards {train_shards}: {variant.dataset} has {available}")
    tokenizer = find_named(published.get("tokenizers"), dataset.get("tokenizer_name", ""), "tokenizer")
    folder = root / "datasets" / variant.dataset
    names = [("val", name) for name in shard_names("val", shard_count(dataset, "files_val"))]
    names += [("train", name) for name in shard_names("train", train_shards)]
    shards = [
        (split, RemoteFile(remote(f"datasets/{variant.dataset}/{name}"), folder / name, lambda p: check_shard(p, variant.vocab_size)))
        for split, name in names
    ]
    tokenizers = []
    for path in tokenizer_paths(tokenizer):
        file = RemoteFile(remote(path), root / "tokenizers" / PurePosixPath(path).name)
        if file.local.suffix == ".model":
            file.check = lambda p: check_piece_count(p, variant.vocab_size)
        tokenizers.append(file)
    docs = [RemoteFile(remote(name), root / name, optional=i > 0) for i, name in enumerate(DOCS_FILES)] if with_docs else []
    return Plan(shards, tokenizers, docs)
