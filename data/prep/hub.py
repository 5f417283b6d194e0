"""One file of the dataset repository: looked up, fetched, continued and checked."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from prep.console import Progress, ToolError
from prep.shards import sha256_file

REPO_ID = os.environ.get("MATCHED_FINEWEB_REPO_ID", "willdepueoai/parameter-golf")
ROOT_PREFIX = os.environ.get("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX", "datasets").strip("/")
MAX_WAIT_SECONDS = 60.0
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
NETWORK_PACKAGES = {"httpx2", "httpcore2", "httpx", "httpcore", "requests", "urllib3"}
NO_NETWORK = "Without a network: python3 data/build_embedded_corpus.py makes a smoke corpus, --from-bundle FILE restores a bundle"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
Result = TypeVar("Result")


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


def remote(path: str) -> str:
    """`path` below the repository's root prefix."""
    return f"{ROOT_PREFIX}/{path}" if ROOT_PREFIX else path
