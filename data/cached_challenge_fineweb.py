#!/usr/bin/env python3
"""Fetch the challenge's FineWeb shards and tokenizer into the public layout under data/.

    python3 data/cached_challenge_fineweb.py --variant sp1024 --train-shards 2
    python3 data/cached_challenge_fineweb.py --variant sp1024 --verify
    python3 data/cached_challenge_fineweb.py --variant sp1024 --bundle fineweb_sp1024.tar
    python3 data/cached_challenge_fineweb.py --from-bundle fineweb_sp1024.tar

All of validation and the first N train shards (200 MB each) are fetched. A cut download continues where it
stopped, a second call does nothing. Every file is checked (the hub's sha256 where it gives one; header, size
and token range always) before it takes its name.

Environment: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE as huggingface_hub has them;
MATCHED_FINEWEB_REPO_ID and MATCHED_FINEWEB_REMOTE_ROOT_PREFIX for another repository in the same layout.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import glob
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from bundle import restore_bundle, write_bundle
from console import Interrupted, Progress, ToolError, amount_text, tool_main
from shards import (
    MANIFEST_NAME,
    check_token_range,
    exclusive,
    file_entry,
    hash_faults,
    read_manifest,
    sha256_file,
    shard_tokens,
    split_totals,
    tokenizer_entry,
    tokenizer_of,
    write_manifest,
)

DATA = Path(__file__).resolve().parent
REPO_ID = os.environ.get("MATCHED_FINEWEB_REPO_ID", "willdepueoai/parameter-golf")
ROOT_PREFIX = os.environ.get("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX", "datasets").strip("/")
DOCS_FILES = ("docs_selected.jsonl", "docs_selected.source_manifest.json")
DISK_MARGIN_BYTES = 100_000_000
MAX_WAIT_SECONDS = 60.0
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
NETWORK_PACKAGES = {"httpx2", "httpcore2", "httpx", "httpcore", "requests", "urllib3"}
NO_NETWORK = "Without a network: python3 data/build_embedded_corpus.py makes a smoke corpus, --from-bundle FILE restores a bundle"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Result = TypeVar("Result")


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


# --- one file from the hub ------------------------------------------------------------------------


class Stopped(Exception):
    """The person pressed Ctrl-C, or another file failed; a download in progress ends here."""


class WrongContent(Exception):
    """What arrived is not the file the hub announced; fetching it anew may help."""


@dataclass
class RemoteFile:
    """One file of the repository and where it goes.

    Attributes:
        remote: path in the repository.
        local: where it goes.
        check: called with the path of the complete, not yet renamed file; raises ToolError if it is wrong.
        optional: the repository may lack it.
        size, sha256, revision, cached: filled in by `Hub.look_up`.
    """

    remote: str
    local: Path
    check: Callable[[Path], None] = lambda path: None
    optional: bool = False
    size: int = 0
    sha256: str | None = None
    etag: str = ""
    revision: str = "main"
    cached: Path | None = None
    missing: bool = field(default=False, init=False)

    @property
    def part(self) -> Path:
        """Where the bytes gather. The content's name is in it, so no other version is ever continued."""
        return self.local.with_name(f".{self.local.name}.{self.etag[:16] or 'cached'}.part")


class CountedFile:
    """The part file as the download sees it: counts for `progress` and ends when `stop` is set."""

    def __init__(self, file: IO[bytes], progress: Progress, stop: threading.Event) -> None:
        self._file, self._progress, self._stop = file, progress, stop
        self._counted = file.tell()

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise Stopped
        written = self._file.write(data)
        self._count()
        return written

    def seek(self, *args: int) -> int:
        return self._file.seek(*args)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, *args: int) -> int:
        size = self._file.truncate(*args)
        self._count()
        return size

    def _count(self) -> None:
        position = self._file.tell()
        self._progress.add(position - self._counted)
        self._counted = position


class Hub:
    """The dataset repository, reached through huggingface_hub, with retries.

    Args:
        repo_id: dataset repository.
        revision: branch, tag or commit asked for; `pin` fixes the commit so that all files belong together.
        retries: how often one request is tried again.
        wait: seconds before the first retry; doubled each time, 60 at most.
    """

    def __init__(self, repo_id: str, revision: str, retries: int, wait: float) -> None:
        # Imported here because it takes most of a second, which a call with nothing to do need not spend.
        import huggingface_hub
        from huggingface_hub import constants, errors, file_download, utils

        utils.disable_progress_bars()
        self.repo_id, self.revision, self.retries, self.wait = repo_id, revision, retries, wait
        self.hub, self.errors, self.file_download, self.utils = huggingface_hub, errors, file_download, utils
        self.endpoint, self.offline = constants.ENDPOINT, constants.HF_HUB_OFFLINE
        self.stop = threading.Event()
        self.answered = False

    def look_up(self, file: RemoteFile) -> None:
        """Fill in size, sha256, revision and cached copy of `file`.

        Raises:
            ToolError: the hub does not have it, does not answer, or is off and there is no cached copy.
        """
        file.revision = self.revision
        if not self.offline:
            metadata = self._persist(file.remote, lambda: self.hub.get_hf_file_metadata(self._url(file)), file.optional)
            if metadata is None:
                file.missing = True
                return
            if not metadata.size:
                raise ToolError(f"{self.endpoint} gives no size for {file.remote}; check HF_ENDPOINT")
            file.size, file.etag = metadata.size, re.sub(r"\W", "", metadata.etag or "")
            file.sha256 = file.etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", file.etag) else None
            file.revision = metadata.commit_hash or self.revision
        cached = self.hub.try_to_load_from_cache(self.repo_id, file.remote, repo_type="dataset", revision=file.revision)
        if isinstance(cached, str):
            file.cached = Path(cached)
            file.size = file.size or file.cached.stat().st_size
        elif self.offline:
            if file.optional:
                file.missing = True
                return
            raise ToolError(
                f"HF_HUB_OFFLINE is set and {file.remote} is not in the local cache; unset it to download, "
                "or bring the data with --from-bundle FILE"
            )

    def pin(self, file: RemoteFile) -> None:
        """Look `file` up and take all later files from the same commit."""
        self.look_up(file)
        self.revision = file.revision

    def fetch(self, file: RemoteFile, progress: Progress) -> None:
        """Bring `file`, already looked up, to its place, checked; progress counts its bytes.

        Raises:
            ToolError: it cannot be had, is wrong each time, or the disk is full.
        """
        file.local.parent.mkdir(parents=True, exist_ok=True)
        self._persist(file.remote, lambda: self._transfer(file, progress), False)
        os.replace(file.part, file.local)

    def _transfer(self, file: RemoteFile, progress: Progress) -> None:
        with open(file.part, "ab") as out:
            have = out.tell()
            if have > file.size:
                out.truncate(0)
                have = 0
            counted = CountedFile(out, progress, self.stop)
            if file.cached is not None:
                out.truncate(0)
                with open(file.cached, "rb") as cached:
                    shutil.copyfileobj(cached, counted, 1 << 20)
            else:
                headers = self.utils.build_hf_headers()
                try:
                    self.file_download.http_get(self._url(file), counted, resume_size=have, headers=headers, expected_size=file.size)
                except OSError as error:
                    if "Consistency check" in str(error):
                        raise self._spoilt(file, f"the hub announced {file.size} bytes and sent {out.tell()}") from None
                    raise
            out.flush()
            os.fsync(out.fileno())
        self._check(file)

    def _check(self, file: RemoteFile) -> None:
        size = file.part.stat().st_size
        if size != file.size:
            raise self._spoilt(file, f"{size} bytes arrived, the hub announced {file.size}")
        if file.sha256 and sha256_file(file.part) != file.sha256:
            raise self._spoilt(file, f"its sha256 is not the hub's {file.sha256[:16]}…")
        try:
            file.check(file.part)
        except ToolError as error:
            raise self._spoilt(file, str(error)) from None

    def _spoilt(self, file: RemoteFile, why: str) -> WrongContent:
        file.part.unlink(missing_ok=True)
        file.cached = None if not self.offline else file.cached
        return WrongContent(why)

    def _url(self, file: RemoteFile) -> str:
        return self.hub.hf_hub_url(self.repo_id, file.remote, repo_type="dataset", revision=file.revision)

    def _persist(self, what: str, action: Callable[[], Result], optional: bool) -> Result | None:
        """`action()`, tried again after failures that may pass; None if `optional` and the hub has no such file."""
        for attempt in range(self.retries + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                result = action()
                self.answered = True
                return result
            except (Stopped, ToolError):
                raise
            except Exception as error:
                if optional and isinstance(error, self.errors.EntryNotFoundError):
                    return None
                why = self._passing(error)
                if why is None:
                    raise self._final(what, error) from None
                if attempt == self.retries:
                    advice = "" if self.answered else f". {NO_NETWORK}"
                    raise ToolError(
                        f"{what}: {why}, {attempt + 1} times; gave up. Run the same command again later: "
                        f"what has arrived is kept. Hub: {self.endpoint} (HF_ENDPOINT){advice}"
                    ) from None
                wait = min(max(self.wait * 2**attempt, asked_wait(error)), MAX_WAIT_SECONDS)
                print(f"{what}: {why}; retry {attempt + 1} of {self.retries} in {wait:.1f} s", flush=True)
                self.stop.wait(wait)
        raise AssertionError("unreachable")

    def _passing(self, error: Exception) -> str | None:
        """What went wrong, if it may pass by itself; else None."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in TRANSIENT_STATUS:
            self.answered = True
            return f"the hub answered {status}"
        if isinstance(error, WrongContent):
            return str(error)
        if not self.answered and unknown_host(error):  # later on, names that cannot be resolved for a while are a fault like others
            return None
        network = type(error).__module__.split(".")[0] in NETWORK_PACKAGES
        if status is None and (network or isinstance(error, ConnectionError | TimeoutError)):
            return f"no connection ({type(error).__name__}: {error})"
        return None

    def _final(self, what: str, error: Exception) -> ToolError:
        """What to tell the person about an error that will not pass."""
        place = f"{self.repo_id} at {self.endpoint}, revision {self.revision}"
        if getattr(error, "errno", None) in NO_SPACE:
            return ToolError(f"{what}: the disk is full ({error.strerror}). Free some space and run the same command again; it continues")
        if isinstance(error, self.errors.EntryNotFoundError):
            return ToolError(
                f"{what} is not in {place}; check --variant, --train-shards and MATCHED_FINEWEB_REMOTE_ROOT_PREFIX={ROOT_PREFIX}"
            )
        if isinstance(error, self.errors.RepositoryNotFoundError | self.errors.RevisionNotFoundError):
            return ToolError(f"no access to {place}; check MATCHED_FINEWEB_REPO_ID and --revision, and set HF_TOKEN if it is private")
        if unknown_host(error):
            return ToolError(f"{what}: the host of {self.endpoint} (HF_ENDPOINT) cannot be found ({error}). {NO_NETWORK}")
        first_line = (str(error).strip().splitlines() or [""])[0]
        return ToolError(f"{what} from {place}: {type(error).__name__}: {first_line}")


def unknown_host(error: BaseException | None) -> bool:
    """Did the request fail because the host's name could not be resolved?"""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def asked_wait(error: Exception) -> float:
    """Seconds that a refusing hub asks to wait, 0 where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        return float(headers.get("Retry-After", 0))
    except ValueError:
        return 0.0


# --- what to fetch --------------------------------------------------------------------------------


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


def remote(path: str) -> str:
    """`path` below the repository's root prefix."""
    return f"{ROOT_PREFIX}/{path}" if ROOT_PREFIX else path


# --- fetching -------------------------------------------------------------------------------------


def hub_source(manifest: dict[str, Any]) -> tuple[Any, Any]:
    """Repository and revision that a dataset manifest names; None for each it does not."""
    source = manifest.get("source")
    return (source.get("hub_repo"), source.get("revision")) if isinstance(source, dict) else (None, None)


def already_there(folder: Path, train_shards: int, docs: bool, root: Path, revision: str | None) -> bool:
    """Is everything asked for in place, by manifest and file sizes, from this repository and `revision` (None: any)? Needs no network."""
    if not (folder / MANIFEST_NAME).is_file() or (docs and not (root / DOCS_FILES[0]).is_file()):
        return False
    manifest = read_manifest(folder)
    repo, found = hub_source(manifest)
    if repo != REPO_ID or revision not in (None, found):
        print(f"{folder} is from {repo} revision {found}; looking whether {REPO_ID} revision {revision or 'main'} has the same", flush=True)
        return False
    present = {e["path"] for e in manifest["files"] if (folder / e["path"]).is_file() and (folder / e["path"]).stat().st_size == e["size"]}
    wanted = {e["path"] for e in manifest["files"] if e["split"] == "val"} | set(shard_names("train", train_shards))
    tokenizer = tokenizer_of(folder, manifest)
    return wanted <= present and tokenizer.is_file() and (root / MANIFEST_NAME).is_file()


def is_whole(file: RemoteFile) -> bool:
    """Is `file`, looked up, already in its place and right?"""
    if not file.local.is_file() or file.local.stat().st_size != file.size:
        return False
    if file.sha256 and sha256_file(file.local) != file.sha256:
        return False
    try:
        file.check(file.local)
    except ToolError:
        return False
    return True


def check_disk(files: list[RemoteFile], root: Path) -> None:
    """Raises ToolError unless the bytes still to come fit on the disk of `root`, with 100 MB to spare."""
    needed = sum(file.size - (file.part.stat().st_size if file.part.is_file() else 0) for file in files)
    free = shutil.disk_usage(root).free
    if needed and needed + DISK_MARGIN_BYTES > free:
        raise ToolError(
            f"{amount_text(needed)} to download and {amount_text(free)} free on the disk of {root}; "
            f"free {amount_text(needed + DISK_MARGIN_BYTES - free)}, or ask for fewer --train-shards"
        )


def in_parallel(hub: Hub, jobs: int, action: Callable[[RemoteFile], None], files: list[RemoteFile]) -> None:
    """`action` on every file, `jobs` at a time; the first failure, or Ctrl-C, stops the others."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(action, file) for file in files]):
            future.result()
    except BaseException as error:
        hub.stop.set()
        pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
        raise
    pool.shutdown()


def recorded(folder: Path, hub: Hub) -> list[dict[str, Any]] | None:
    """The manifest's entries of the shards in `folder`; None without a manifest, or with one of another source."""
    if not (folder / MANIFEST_NAME).is_file():
        return None
    manifest = read_manifest(folder)
    repo, revision = hub_source(manifest)
    return manifest["files"] if repo == REPO_ID and (revision == hub.revision or hub.offline) else None


def other_shards(plan: Plan, variant: Variant, folder: Path, hub: Hub) -> list[tuple[str, RemoteFile]]:
    """Shards in `folder` that were not asked for and that no manifest of this very source lists: (split, file) each.

    They count as part of the dataset only where they are what the repository has.
    """
    known = {file.local.name for _, file in plan.shards} | {entry["path"] for entry in recorded(folder, hub) or []}
    found = [(path, re.fullmatch(r"fineweb_(train|val)_\d{6}\.bin", path.name)) for path in sorted(folder.glob("*.bin"))]
    place = f"datasets/{variant.dataset}"
    return [
        (match[1], RemoteFile(remote(f"{place}/{path.name}"), path, lambda p: check_shard(p, variant.vocab_size), optional=True))
        for path, match in found
        if match and path.name not in known
    ]


def fetch(variant: Variant, args: argparse.Namespace) -> None:
    """Bring everything asked for into place and write the dataset's manifest. Raises ToolError."""
    root, folder = args.data_root, args.data_root / "datasets" / variant.dataset
    hub = Hub(REPO_ID, args.revision or "main", args.retries, args.retry_wait)
    listing = RemoteFile(remote(MANIFEST_NAME), root / MANIFEST_NAME, lambda path: (read_published(path), None)[1])
    hub.pin(listing)
    if not (listing.sha256 and is_whole(listing)):
        hub.fetch(listing, Progress("manifest", None, quiet=True))
    plan = make_plan(read_published(root / MANIFEST_NAME), variant, args.train_shards, args.with_docs, root)
    others = other_shards(plan, variant, folder, hub)
    in_parallel(hub, args.jobs, hub.look_up, plan.files + [file for _, file in others])
    if differing := [file.local.name for _, file in others if file.missing or not is_whole(file)]:
        raise ToolError(
            f"{folder} has {', '.join(differing)} of another source than {REPO_ID} revision {hub.revision}; "
            "delete what is named here, or ask for as many --train-shards, and run the same command again"
        )
    files = [file for file in plan.files if not file.missing and not is_whole(file)]
    check_disk(files, root)
    total = sum(file.size for file in files)
    if files and recorded(folder, hub) is None:  # else a fetch cut short would leave a mixture under the manifest of the old source
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
    print(f"fetching files:{len(files)} bytes:{total} from {REPO_ID} revision {hub.revision}", flush=True)
    with Progress("fetching", total) as progress:
        progress.add(sum(file.part.stat().st_size for file in files if file.part.is_file()))
        in_parallel(hub, args.jobs, lambda file: hub.fetch(file, progress), files)
    plan.shards += others
    record(variant, plan, folder, hub.revision)
    for stale in [*folder.glob(".*.part"), *parts_of([listing, *plan.tokenizers, *plan.docs])]:  # parts of other versions
        stale.unlink(missing_ok=True)


def parts_of(files: list[RemoteFile]) -> list[Path]:
    """The parts of these files, of any version, as `RemoteFile.part` names them; others may build under names like theirs."""
    found = [(file, path) for file in files for path in file.local.parent.glob(f".{glob.escape(file.local.name)}.*.part")]
    return [path for file, path in found if len(path.name) != len(f".{file.local.name}.12345678.part")]


def what_is_kept(folder: Path, root: Path) -> str:
    """For the person who pressed Ctrl-C during a fetch."""
    sizes = []
    for part in (part for place in (root, root / "tokenizers", folder) for part in place.glob(".*.part")):
        with contextlib.suppress(OSError):  # a thread may just have given it its name
            sizes.append(part.stat().st_size)
    kept = f" and {len(sizes)} unfinished file{'s'[: len(sizes) != 1]} ({amount_text(sum(sizes))}, named .*.part)" if sizes else ""
    return f"files that are complete{kept} are kept; run the same command again and it continues"


def record(variant: Variant, plan: Plan, folder: Path, revision: str) -> None:
    """Write the dataset manifest of what is in `folder`; shards from earlier calls stay listed."""
    entries = {file.local.name: file_entry(file.local, split) for split, file in plan.shards}
    if (folder / MANIFEST_NAME).is_file():
        for entry in read_manifest(folder)["files"]:
            if (folder / entry["path"]).is_file():
                entries.setdefault(entry["path"], entry)
    files = [entries[name] for name in sorted(entries)]
    write_manifest(
        folder,
        name=variant.dataset,
        note="The challenge's FineWeb shards, as published.",
        smoke=False,
        tokenizer=tokenizer_entry(plan.tokenizers[0].local, folder, variant.vocab_size, variant.kind),
        files=files,
        splits={split: split_totals(files, split) for split in ("train", "val")},
        source={"hub_repo": REPO_ID, "revision": revision},
    )


def verify(folder: Path) -> None:
    """Hash everything in `folder` again and read all tokens. Raises ToolError that lists what is wrong."""
    manifest = read_manifest(folder)
    with Progress("verifying", sum(entry["size"] for entry in manifest["files"])) as progress:
        faults = hash_faults(folder, manifest, progress)
        for entry in manifest["files"]:
            path = folder / entry["path"]
            try:
                if path.is_file():
                    check_shard(path, manifest["tokenizer"]["vocab_size"])
            except ToolError as error:
                faults.append(str(error))
    if faults:
        raise ToolError("; ".join(faults) + ". Delete what is named here and run the same command without --verify to fetch it again")
    print(f"verified {folder}: {len(manifest['files'])} shards and the tokenizer are as recorded")


# --- command line ---------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="sp1024", help="sp<VOCAB> or byte260 (default: sp1024)")
    parser.add_argument("--train-shards", type=int, default=2, metavar="N", help="train shards of 100,000,000 tokens (default: 2)")
    parser.add_argument("--with-docs", action="store_true", help="also the documents' text (tens of GB)")
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="files at a time (default: 4)")
    parser.add_argument("--retries", type=int, default=6, metavar="N", help="how often a failed request is tried again (default: 6)")
    parser.add_argument(
        "--retry-wait", type=float, default=1.0, metavar="S", help="seconds before the first retry, doubled each time (default: 1)"
    )
    parser.add_argument("--data-root", type=Path, default=DATA, metavar="DIR", help="where datasets/ and tokenizers/ go (default: data)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--verify", action="store_true", help="hash again what is there; fetch nothing")
    mode.add_argument("--bundle", type=Path, metavar="FILE", help="pack what is there for a machine without network")
    mode.add_argument("--from-bundle", type=Path, metavar="FILE", help="restore a bundle")
    args = parser.parse_args(argv)
    for option, low in (("train_shards", 0), ("jobs", 1), ("retries", 0), ("retry_wait", 0)):
        if getattr(args, option) < low:
            raise ToolError(f"--{option.replace('_', '-')} {getattr(args, option)} is below {low}")
    return args


def run(argv: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    args = parse_arguments(argv)
    variant = Variant.parse(args.variant)
    folder = args.data_root / "datasets" / variant.dataset
    if args.verify:
        verify(folder)
        return 0
    if args.bundle is not None:
        verify(folder)
        write_bundle(folder, args.data_root, args.bundle)
        return 0
    busy = f"another download into {args.data_root} is running; waiting for it to end"
    with exclusive(args.data_root / ".fetch.lock", busy, wait=True):
        if args.from_bundle is not None:
            restore_bundle(args.from_bundle, args.data_root)
        elif already_there(folder, args.train_shards, args.with_docs, args.data_root, args.revision):
            print(f"{folder} is complete: nothing to do (--verify hashes it again)")
        else:
            try:
                fetch(variant, args)
            except KeyboardInterrupt:
                raise Interrupted(what_is_kept(folder, args.data_root)) from None
            print(f"{folder} is complete")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(run))
