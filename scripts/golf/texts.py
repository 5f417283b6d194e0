"""Text that a stranger wrote: bounded reading, printing without side effects, words that address the reader."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

MAX_TEXT_BYTES = 8_000_000
# also bidirectional overrides, and letters that no font shows: tags and selectors that can spell whole sentences
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]")
JOINERS = re.compile("[\u200c\u200d]")
UNSEEN = re.compile("[\u00ad\u034f\u115f\u1160\u2800\u3164\ufe00-\ufe0f\uffa0]")  # may stand in honest text, and inside a word too

# Sentences that try to steer whoever, or whatever, reads a file. Whatever they say, nothing here acts on text.
STEERING = re.compile(
    r"\b(ignore|disregard|forget)\b.{0,30}\b(previous|prior|above|earlier|all)\s+(the\s+|of\s+)*(your\s+)?"
    r"(instruction|rule(?!s? of thumb)|check(?!point|s? of)|prompt)"
    r"|<\|(im_start|im_end|system|endoftext)\|>|\[/?INST\]"
    r"|^\s*(system|assistant|reviewer|judge)\s*(prompt|message|(?<!system )note|instructions?)\s*:"
    r"|\byou are an? (ai|language model|assistant|reviewer|judge)\b"
    r"|(^|[.!?:]\s+)(please\s+)?act as an? (ai|language model|assistant|reviewer|judge)\b|(^|[.!?:]\s+)as an ai\b(?!-)"
    r"|(^|[.!?:,]\s+)(please\s+)?(mark|treat|report|accept|approve)\b.{0,40}\b(this|the) (submission|record|folder|run|result)"
    r"\s+((as|is|was|to be|it is)\s+)?((now|already|fully)\s+)?(verified|valid|clean|passed|approved)\b"
    r"|\bcurl\s+\S+\s*\|\s*(ba)?sh\b|\brm\s+-rf\s+(?!~/\.cache/\w|/tmp/\w)[~/]",
    re.IGNORECASE | re.MULTILINE,
)


class TextError(Exception):
    """A file that is not the readable text it should be."""


def safe(text: object, limit: int = 300) -> str:
    """One printable line, whatever the text holds: control characters escaped, long text cut."""
    line = CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), str(text))
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= limit else line[: limit - 3] + "..."


def read_text(path: Path) -> str:
    """The file as UTF-8. Raises TextError when it is too large, no text, or cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise TextError(f"larger than {MAX_TEXT_BYTES} bytes")
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise TextError(f"not UTF-8 (byte {e.start})") from None
    except OSError as e:
        raise TextError(e.strerror or str(e)) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole, or as it was. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise OSError(e.errno, e.strerror, str(path)) from None


def read_json(path: Path) -> object:
    """The file as JSON, with repeated keys and nan refused. Raises TextError."""

    def unique(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise TextError("a key stands twice in one object")
        return found

    def refuse(word: str) -> None:
        raise TextError(f"{word} is not JSON")

    def whole(digits: str) -> int:
        if len(digits) > 19:  # as a float it could overflow
            raise TextError(f"{digits[:19]}… has too many digits")
        return int(digits)

    try:
        return json.loads(read_text(path), object_pairs_hook=unique, parse_constant=refuse, parse_int=whole)
    except (ValueError, RecursionError) as e:
        raise TextError(f"not JSON: {safe(e, 120)}") from None


def suspicious_lines(text: str, prose: bool = False) -> list[tuple[int, str]]:
    """(line number, what is wrong with it) for lines that hold control characters or steer the reader.

    prose: text in which letters and emoji may be joined, or kept apart, by U+200D and U+200C.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        line = JOINERS.sub("", line) if prose else line
        if CONTROL.search(line.rstrip("\r")):
            found.append((number, "control characters"))
        elif STEERING.search(line if line.isascii() else unicodedata.normalize("NFKC", UNSEEN.sub("", line))):
            found.append((number, "words addressed to whoever reads it"))
    return found
