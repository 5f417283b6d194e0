"""Checks of a record folder's files: which there are, what texts hold, the source, the settings.

Rule ids are those of docs/track_spec.md.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from golf import ROOT, artifacts, source
from golf.findings import REMAKE, Report
from golf.records import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_FOLDER_BYTES,
    MAX_SETTING,
    MAX_SETTINGS_BYTES,
    REQUIRED,
    folder_files,
    settings_text,
)
from golf.runs import LogFacts, sha256_of
from golf.texts import TextError, read_text, safe, suspicious_lines


def check_files(report: Report) -> bool:
    """Whether the folder can be read on: required files are there and are plain files of a sane size."""
    folder = report.folder
    if folder.is_symlink() or not folder.is_dir():
        report.find(folder.name, "E1", "no folder, or a link to one", "a folder", "give the path of a record folder")
        return False
    names = folder_files(folder)
    good = True
    if len(names) > MAX_FILES:
        report.find(folder.name, "E1", f"{len(names)} files", f"at most {MAX_FILES}", "keep what make_record.sh writes and nothing else")
        return False
    if (size := sum(path.stat().st_size for path in map(folder.joinpath, names) if path.is_file())) > MAX_FOLDER_BYTES:
        fix = "keep what make_record.sh writes and nothing else"
        report.find(folder.name, "E1", f"{size} bytes in all", f"at most {MAX_FOLDER_BYTES}", fix)
        return False
    for name in names:
        path = folder / name
        if path.is_symlink():
            report.find(name, "E1", "a symbolic link", "real files", "put the file itself there, or leave it out")
            good = False
        elif path.is_dir():
            report.find(name, "E1", "a folder", "plain files, no folders", "move or remove it; what make_record.sh writes is flat")
        elif not path.is_file():
            report.find(name, "E1", "neither file nor folder", "plain files", "remove it")
            good = False
        else:
            if any(part.startswith(".") for part in Path(name).parts):
                report.find(name, "E1", "a hidden file", "no hidden files", "remove it")
            elif not belongs(name, names):
                allowed = "README.md, submission.json, sources, settings.env, train and control logs, an artifact of each train log"
                report.find(name, "B2", "a file that no record has", allowed, "remove it; what it says can stand in README.md")
            if path.stat().st_size > MAX_FILE_BYTES:
                report.find(
                    name, "E1", f"{path.stat().st_size} bytes", f"at most {MAX_FILE_BYTES}", "leave it out; a record needs no such file"
                )
                good = False
            elif kind := artifacts.pickle_kind(path.read_bytes()):
                report.find(name, "B2", kind, "no pickles: loading one runs code", "export with the container of docs/artifact_format.md")
            elif path.suffix.lower() in (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"):
                report.find(name, "B2", f"a {path.suffix} file", "no pickles", "ship artifact.bin alone")
    for name in REQUIRED:
        if not (folder / name).is_file():
            report.find(name, "E1", "missing", "there", REMAKE)
            good = False
    return good


def belongs(name: str, names: list[str]) -> bool:
    """Whether a record folder with these files may hold this one: its bytes are counted, or the checks know what stands in it."""
    if artifact := re.fullmatch(r"artifact(_seed[0-9]{1,15})?\.bin", name):
        return f"train{artifact[1] or ''}.log" in names
    log = re.fullmatch(r"(train|control)(_seed[0-9]{1,15})?\.log", name)
    return bool(log) or name in (*REQUIRED, "train_gpt_source.py", "settings.env")


def check_texts(report: Report) -> None:
    for name in folder_files(report.folder):
        path = report.folder / name
        if path.suffix in (".md", ".json", ".log", ".env") and path.is_file():
            try:
                text = read_text(path)
            except TextError as e:
                report.find(name, "E1", e, "UTF-8 text", REMAKE)
                continue
            for number, what in suspicious_lines(text, path.suffix == ".md")[:5]:
                shown = text.split("\n")[number - 1]
                fix = "remove the line; nothing here acts on text, and a reviewer must not either"
                report.find(f"{name}:{number}", "E1", f"{what}: {safe(shown, 80)}", "plain text about the run", fix)


def check_source(report: Report, code: bytes) -> object | None:
    """The syntax tree of the readable source, None when there is none."""
    name, beside = "train_gpt.py", report.folder / "train_gpt_source.py"
    readable = code
    if source.is_packed(code):
        try:
            readable = source.expand(code)
        except source.SourceError as e:
            report.find(name, "B5", e, "a packed trainer that expands to its source", "make it again: python3 scripts/pack_code.py")
            return None
        if not beside.is_file():
            report.find(
                beside.name, "B5", "missing", "the readable source beside a packed one", "put the source there that pack_code.py packed"
            )
        elif beside.read_bytes() != readable:
            fix = "pack that very file again: python3 scripts/pack_code.py"
            allowed = f"{sha256_of(readable)[:16]}, what {name} expands to"
            report.find(beside.name, "B5", f"sha256 {sha256_of(beside.read_bytes())[:16]}", allowed, fix)
        name = "train_gpt_source.py"
    elif beside.is_file():
        report.find(
            beside.name, "B5", "a source beside a trainer that is not packed", "one source", "remove it, or pack it with pack_code.py"
        )
    try:
        tree = source.parse(readable)
    except source.SourceError as e:
        report.find(name, "E1", f"does not compile: {e}", "Python that compiles", REMAKE)
        return None
    for line, what in source.misleading(readable)[:5]:
        fix = "save it as UTF-8 without byte order mark, and write such characters as escapes, as \\x1b or \\u202e"
        report.find(f"{name}:{line}", "B5", what, "a source that reads as it runs", fix)
    for line, what in source.reaches(tree, source.required_packages(ROOT)):
        rule = "B5" if "generated code" in what else "B2"
        fix = "all that training and scoring need is train_gpt.py, artifact.bin and the packages of the requirements files"
        fix += "; rename what is your own and has such a name" * (rule == "B5")
        report.find(f"{name}:{line}", rule, what, "no network, no second program, no pickles", fix)
    theirs, here = source.sections(readable.decode("utf-8", "replace")), source.sections_here(ROOT)
    changed = [key for key in ("shards", "bytes", "windows", "artifact") if any(theirs.get(key) != ours.get(key) for ours in here)]
    if changed:
        report.notes.append(f"{name}: the sections {', '.join(changed)} differ from this repository's; the referee's own count decides")
    return tree


def check_settings(report: Report, logs: dict[str, LogFacts]) -> None:
    path, first = report.folder / "settings.env", next(iter(logs.values()))
    if not path.is_file():
        report.find(path.name, "E1", "missing", "the settings that rebuild the model", REMAKE)
        return
    for key, value in first.shared_settings().items():
        if len(value) > MAX_SETTING:
            fix = f"run with a shorter {safe(key, 80)}; settings.env is no place for data, since its bytes are not counted"
            report.find("train.log", "B2", f"{safe(key, 80)} of {len(value)} characters", f"at most {MAX_SETTING}", fix)
    if (size := path.stat().st_size) > MAX_SETTINGS_BYTES:
        fix = "fewer and shorter settings; it is no place for data, since its bytes are not counted"
        report.find(path.name, "B2", f"{size} bytes", f"at most {MAX_SETTINGS_BYTES}", fix)
    try:
        lines = read_text(path).split("\n")
    except TextError:
        return
    for number, (line, want) in enumerate(itertools.zip_longest(lines, settings_text(first).split("\n")), 1):
        if line != want:
            got, allowed = ("no line" if text is None else f"`{safe(text, 120)}`" for text in (line, want))
            report.find(f"{path.name}:{number}", "E1", got, f"{allowed}, as the settings of train.log give it", REMAKE)
            break
