"""Reading documents from JSON lines and plain text, packed or not."""

from __future__ import annotations

import functools
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from prep.console import Progress, ToolError, amount_text

MAX_DOCUMENT_CHARS = 1 << 20
MAX_LINE_BYTES = 1 << 26
PACKED = (".gz", ".xz", ".zst")


class CountingFile(io.RawIOBase):
    """A binary file that tells `progress` how many bytes of it were read."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._file, self._progress = open(path, "rb"), progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._progress.add(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def open_text_file(path: Path, progress: Progress) -> BinaryIO:
    """`path` as a stream of plain bytes, unpacked by its suffix (.gz, .xz, .zst or none)."""
    raw = io.BufferedReader(CountingFile(path, progress), 1 << 20)
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if path.suffix == ".xz":
        return lzma.LZMAFile(raw)
    if path.suffix == ".zst":
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True), 1 << 20)
    return raw


def text_suffix(path: Path) -> str:
    """The suffix that says what a file holds, once it is unpacked."""
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix


def is_json_lines(path: Path) -> bool:
    return text_suffix(path) in (".jsonl", ".ndjson")


@functools.cache  # a file is read twice where a tokenizer is trained on it
def warn_once(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def lines_of(stream: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) pairs, refusing a line that would not fit in memory."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ToolError(f"{path}:{number}: a line over {amount_text(MAX_LINE_BYTES)}; put one document on a line")
        yield number, line


def json_documents(stream: BinaryIO, path: Path, field: str) -> Iterator[str]:
    """The string under `field` of every JSON line.

    Raises:
        ToolError: a line that is not a JSON object with that string, with its number.
    """
    for number, line in lines_of(stream, path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except RecursionError:
            raise ToolError(f'{path}:{number}: nested too deeply; each line is one object such as {{"text": "…"}}') from None
        except ValueError as error:
            raise ToolError(f'{path}:{number}: not JSON ({error}); each line is one object such as {{"text": "…"}}') from None
        text = value.get(field) if isinstance(value, dict) else None
        if not isinstance(text, str):
            keys = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ToolError(f"{path}:{number}: no string under {field!r} (found {keys}); name it with --text-field KEY")
        yield text


def plain_documents(stream: BinaryIO, path: Path, unit: str) -> Iterator[str]:
    """Documents of a plain text file: the whole "file", each "paragraph" (ended by a blank line) or each "line"."""
    lines: list[bytes] = []
    held = replaced = 0

    def decoded() -> str:
        nonlocal replaced
        data = b"".join(lines)
        text = data.decode("utf-8", "replace")
        if "\ufffd" in text:
            replaced += len(data) - len(data.decode("utf-8", "ignore").encode("utf-8"))
        return text

    for _, line in lines_of(stream, path):
        if unit == "line" or (unit == "paragraph" and not line.strip()):
            lines.append(line)
            yield decoded()
            lines, held = [], 0
            continue
        lines.append(line)
        held += len(line)
        if held > MAX_LINE_BYTES:
            raise ToolError(
                f"{path}: a document over {amount_text(MAX_LINE_BYTES)}; say where documents end with "
                "--txt-documents paragraph or --txt-documents line"
            )
    yield decoded()
    if replaced:
        warn_once(f"{replaced} bytes of {path} are not UTF-8 and were replaced")


def read_documents(paths: list[Path], field: str, txt_unit: str, progress: Progress) -> Iterator[str]:
    """The texts in `paths`, in order, with damaged Unicode replaced and over-long documents cut at white space."""
    for path in paths:
        try:
            with open_text_file(path, progress) as stream:
                if is_json_lines(path):
                    texts = json_documents(stream, path, field)
                else:
                    texts = plain_documents(stream, path, txt_unit)
                for text in texts:
                    yield from bounded(text.encode("utf-8", "replace").decode("utf-8"))
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise ToolError(f"{path}: cannot be read to its end ({error})") from None
        except Exception as error:
            if type(error).__module__.startswith("zstandard"):
                raise ToolError(f"{path}: cannot be read to its end ({error})") from None
            raise


def bounded(text: str) -> Iterator[str]:
    """`text`, or its parts of at most MAX_DOCUMENT_CHARS, cut at white space where there is any.

    A tokenizer's memory grows with the longest document; without a bound one book could take gigabytes.
    """
    while len(text) > MAX_DOCUMENT_CHARS:
        cut = max(text.rfind(" ", 0, MAX_DOCUMENT_CHARS), text.rfind("\n", 0, MAX_DOCUMENT_CHARS)) + 1
        cut = cut or MAX_DOCUMENT_CHARS
        yield text[:cut]
        text = text[cut:]
    yield text
