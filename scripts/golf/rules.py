"""Every check of a record folder that needs neither data nor the running of a submission's code.

Rule ids are those of docs/track_spec.md. A Finding breaks a rule; a note tells a reviewer where to look and breaks none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from golf import artifacts, schema, source
from golf.records import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_FOLDER_BYTES,
    MAX_SETTING,
    MAX_SETTINGS_BYTES,
    NAME,
    NUMBERS_BEGIN,
    NUMBERS_END,
    QUESTIONS,
    REQUIRED,
    ROOT,
    TRACK,
    TYPED,
    Track,
    artifact_of,
    codec_names,
    derive,
    folder_files,
    is_date,
    load_pins,
    numbers_table,
    ordered_logs,
    settings_text,
)
from golf.results import Result, obstacles
from golf.runs import COUNTED_SPANS, FREE_SPANS, LogError, LogFacts, Step, parse_log, sha256_of
from golf.texts import TextError, read_json, read_text, safe, suspicious_lines

FASTER_CARDS = re.compile(
    r"(?<![A-Z0-9])(?:RTX ?)?(5090|A100|A800|H100|H200|H800|H20|GH200|B100|B200|B300|GB200|GB300|L40S|PRO 6000|MI2\d\d|MI3\d\d|TPU)(?!\d)",
    re.IGNORECASE,
)
LONG_SECONDS = 300.0  # of all spans outside the clock but scoring; compiling took 5 to 80 s in the project's own runs
SHARED_LOSSES = 3  # as many equal train losses, and half of all, make two logs one run; two seeds share one in about a thousand
# \u2713 is what leaderboard.py puts on what the referee verified; GitHub makes such signs of :white_check_mark: and &check; too, and
# an image can show anything.
SIGNS = "\u221a\u237b\u2611\u2705\u2713\u2714\U00010102\U0001f5f8\U0001f5f9\U0001fbb1"
MARKS = re.compile(rf"[{SIGNS}]|:\w{{0,30}}check\w{{0,30}}:|&#?\w{{1,30}};|!\[")
HTML = re.compile("<[a-z/!?]", re.IGNORECASE)
FIELD_RULES = {"total_bytes": "B4", "code_bytes": "B1", "model_bytes": "B1", "cap_bytes": "B1", "train_seconds": "C1", "validation": "S7"}


@dataclasses.dataclass
class Finding:
    """One broken rule: where, which, what was found, what is allowed, how to mend it."""

    file: str
    rule: str
    measured: str
    allowed: str
    fix: str

    def line(self) -> str:
        return f"{safe(self.file)}: {self.rule}: measured {safe(self.measured)}; allowed {safe(self.allowed)}; {safe(self.fix)}"


@dataclasses.dataclass
class Report:
    folder: Path
    findings: list[Finding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    claim: dict | None = None
    tokenizer_bytes: int = 0  # of a tokenizer that is not the default, where the log says it

    def find(self, file: str, rule: str, measured: object, allowed: object, fix: str) -> None:
        if len(self.findings) < 200:
            self.findings.append(Finding(file, rule, str(measured), str(allowed), fix))

    def as_json(self) -> dict:
        return {
            "folder": self.folder.as_posix(),
            "clean": not self.findings,
            "findings": [dataclasses.asdict(f) for f in self.findings],
            "notes": [safe(note) for note in self.notes],
        }


REMAKE = "make the folder again from the run: bash scripts/make_record.sh"


def check_folder(folder: Path, tracks: dict[str, Track] = TRACK, pins: dict | None = None) -> Report:
    """All checks. Nothing of the folder is executed, and nothing in it can raise."""
    report = Report(folder)
    pins = load_pins() if pins is None else pins
    if not check_files(report):
        return report
    claim = check_claim_shape(report)
    track = tracks[claim["track"]] if claim else tracks["track_non_record"]
    check_texts(report)
    code = (folder / "train_gpt.py").read_bytes()
    tree = check_source(report, code)
    logs = read_all_logs(report, "train")
    controls = read_all_logs(report, "control")
    codecs, declared = (codec_names(tree), source.setting_names(tree)) if tree else ((), set())
    weights: dict[int, str] = {}  # checksum -> the first artifact that has it
    for name, facts in logs.items():
        check_log(report, name, facts, track, code, pins)
        outside = check_artifact(report, name, facts, codecs, declared)
        if outside and (other := weights.setdefault(outside.crc, name)) != name:
            allowed, fix = "an artifact of its own for each seed", "run each seed; one run is one seed"
            report.find(name, "E2", f"weights with the checksum {outside.crc:08x}, as in {other}", allowed, fix)
    for name, facts in controls.items():
        check_log_arithmetic(report, name, facts)
    if logs:
        if len(logs) < track.seeds:
            fix = "run more seeds with the same source and settings"
            report.find("submission.json", "E2", f"{len(logs)} seeds", f"at least {track.seeds}", fix)
        check_seeds(report, logs, "train", "E2")
        check_settings(report, logs)
        if claim and len(logs) == len(ordered_logs(folder, "train")):
            check_claim(report, claim, track, logs, controls)
    if logs and controls:
        check_seeds(report, controls, "control", "E6")
        check_controls(report, *next(iter(logs.items())), controls)
    check_readme(report, claim)
    report.claim = claim
    return report


# Files ----------------------------------------------------------------------------------------------------------------
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


# submission.json ------------------------------------------------------------------------------------------------------
def check_claim_shape(report: Report) -> dict | None:
    """submission.json when it fits the schema and its place, else None."""
    name = "submission.json"
    try:
        claim = read_json(report.folder / name)
        spec = read_json(ROOT / "docs" / "submission_schema.json")
    except TextError as e:
        report.find(name, "E1", e, "JSON that fits docs/submission_schema.json", REMAKE)
        return None
    wrong = list(schema.violations(claim, spec))
    for where, found, allowed in wrong[:20]:
        report.find(name, "E1", f"{where}: {found}", allowed, REMAKE)
    if wrong:
        return None
    folder = report.folder.resolve()
    if folder.parent.name != claim["track"]:
        fix = f"move the folder to records/{claim['track']}/, or make it again for the other track"
        report.find(name, "L1", f"track {claim['track']} in folder {folder.parent.name}", "the track's own folder", fix)
    if not NAME.fullmatch(folder.name) or not is_date(folder.name[:10]):
        report.find(folder.name, "E1", "the folder's name", "YYYY-MM-DD_slug, in lower case", "rename it and make submission.json again")
    for field in TYPED:
        if not claim[field].strip() or "TODO" in claim[field]:
            report.find(name, "E1", f"{field} is empty", "a line of text", f"write your {field} into {name}")
    for field in (*TYPED, "device"):
        if m := MARKS.search(claim[field]):
            fix = f"write {field} without it; the leaderboard's mark comes from the referee's verdict"
            report.find(name, "E1", f"{m[0]} in {field}", "no check marks or images", fix)
    return claim


def check_date(report: Report, newest: str, today: datetime.date) -> None:
    """Of a folder that is proposed: not of the future, and in the record track later than `newest`, the newest other that stands."""
    folder = report.folder.resolve()
    day, tomorrow = folder.name[:10], (today + datetime.timedelta(days=1)).isoformat()  # it is tomorrow already in some time zones
    fix = "rename it to the day you propose it, and make submission.json again"
    if not is_date(day):
        return  # check_claim_shape has said it
    if day > tomorrow:
        report.find(folder.name, "E1", f"dated {day}", f"at most {tomorrow}", fix)
    if folder.parent.name in TRACK and TRACK[folder.parent.name].record and day <= newest:
        report.find(folder.name, "E3", f"dated {day}", f"later than {newest}, the date of the newest record that stands", fix)


def differences(derived: object, claimed: object, at: str = "") -> Iterator[tuple[str, object, object]]:
    """(where, what files and logs say, what is claimed) for every leaf that differs."""
    if isinstance(derived, dict) and isinstance(claimed, dict):
        for key in sorted(derived.keys() | claimed.keys()):
            yield from differences(derived.get(key, "nothing"), claimed.get(key, "nothing"), f"{at}.{key}" if at else key)
    elif isinstance(derived, list) and isinstance(claimed, list) and len(derived) == len(claimed):
        for i, (a, b) in enumerate(zip(derived, claimed)):
            yield from differences(a, b, f"{at}[{i}]")
    elif isinstance(derived, float) and isinstance(claimed, (int, float)) and abs(derived - claimed) < 1e-9:
        return
    elif derived != claimed or isinstance(derived, bool) != isinstance(claimed, bool):
        yield at, derived, claimed


def check_claim(report: Report, claim: dict, track: Track, logs: dict[str, LogFacts], controls: dict[str, LogFacts]) -> None:
    derived = derive(report.folder, claim["track"], logs, controls)
    known = {entry["path"] for entry in claim["files"]}
    there = {entry["path"] for entry in derived["files"]}
    if len(known) < len(claim["files"]):
        report.find("submission.json", "E1", "a file listed twice", "each file once", REMAKE)
    for name in sorted(there - known):
        report.find(name, "E1", "a file that submission.json does not list", "listed files only", "remove it, or make the folder again")
    for name in sorted(known - there):
        report.find(name, "E1", "listed in submission.json, but missing", "every listed file", REMAKE)
    if there == known:
        for a, b in zip(derived["files"], sorted(claim["files"], key=lambda entry: entry["path"])):
            if a != b:
                got, want = (f"{entry['bytes']} bytes, sha256 {entry['sha256'][:16]}" for entry in (a, b))
                report.find(a["path"], "E1", got, want, "it changed after submission.json was written; " + REMAKE)
    mine = {key: value for key, value in derived.items() if key != "files"}
    theirs = {key: value for key, value in claim.items() if key not in (*TYPED, "files")}
    for where, want, got in differences(mine, theirs):
        rule = FIELD_RULES.get(re.split(r"[.\[]", where)[0], "E1")
        report.find("submission.json", rule, f"{where} = {got}", f"{want}, as logs and files say", REMAKE)
    if track.record and not controls:
        report.notes.append("no control.log: a record is compared with a run that lacks only the change (make_record.sh --control …; E6)")


# Source ---------------------------------------------------------------------------------------------------------------
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
            report.find(
                beside.name,
                "B5",
                f"sha256 {sha256_of(beside.read_bytes())[:16]}",
                f"{sha256_of(readable)[:16]}, what {name} expands to",
                fix,
            )
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


# Logs and artifacts ---------------------------------------------------------------------------------------------------
def read_all_logs(report: Report, stem: str) -> dict[str, LogFacts]:
    found = {}
    for path in ordered_logs(report.folder, stem):
        try:
            text = read_text(path)
            found[path.name] = parse_log(text)
        except TextError:
            continue  # check_texts has said it
        except LogError as e:
            what = "a traceback" if "Traceback (most recent call last)" in text else str(e)
            report.find(path.name, "E2", what, "a complete log, from the settings to the final line", "copy the log of a finished run")
    return found


def close(a: float, b: float, relative: float = 1e-5, absolute: float = 0.0) -> bool:
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= max(absolute, relative * max(abs(a), abs(b)))


def check_log(report: Report, name: str, f: LogFacts, track: Track, code: bytes, pins: dict) -> None:
    find: Callable = report.find
    check_log_arithmetic(report, name, f)
    if f.size["code_bytes"] != len(code):
        find(
            name,
            "B1",
            f"code_bytes:{f.size['code_bytes']}",
            f"{len(code)}, the size of train_gpt.py",
            "ship the source that ran, byte for byte",
        )
    if f.about["code_sha256"] != sha256_of(code):
        find(
            name,
            "E4",
            f"code_sha256:{f.about['code_sha256'][:16]}",
            f"{sha256_of(code)[:16]}, that of train_gpt.py",
            "ship the source that made this log",
        )
    if f.size["cap_bytes"] != track.cap_bytes:
        find(name, "B1", f"cap_bytes:{f.size['cap_bytes']}", track.cap_bytes, "run with CAP_BYTES as the track has it")
    if f.size["total_bytes"] > track.cap_bytes:
        find(
            name,
            "B4",
            f"{f.size['total_bytes']} bytes",
            f"at most {track.cap_bytes}",
            "lower MODEL_DIM, NUM_LAYERS or the bits a weight; the worst seed counts",
        )
    if {f.hashes["val_tokens_sha256"], *(pin["sha256"] for pin in pins["validation"])} & set(f.train_shards.values()):
        find(name, "D1", "a training shard has the sha256 of validation tokens", "no shared tokens", "train on the train shards only")
    for shard in f.train_shards:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*_train_[0-9]+\.bin", shard):
            measured, allowed = f"{safe(shard, 80)} among the training shards", "names like fineweb_train_000000.bin"
            find(name, "D1", measured, allowed, "train on the train shards only, under names of letters, digits, _, . and -")
    if not f.train_shards:
        find(name, "E2", "no hash of a training shard", "one for each", "copy the log of a finished run, whole")
    if not f.steps:
        report.notes.append(f"{name}: no step line says how the training went; a run of few steps has none (C1)")
    free = {span: f.spans[span] for span in FREE_SPANS if span != "scoring" and span in f.spans}
    if sum(free.values()) > LONG_SECONDS:
        said = ", ".join(f"{span}_s:{seconds:g}" for span, seconds in free.items() if seconds > 1)
        whether = "whether nothing learns in it, or all is put back, is for readers (C2)"
        report.notes.append(f"{name}: {said} outside the clock is long; {whether}")
    known = {entry["sha256"]: entry for entry in pins["validation"]}
    if pin := known.get(f.hashes["val_tokens_sha256"]):
        for key, rule in (("targets", "S7"), ("bytes", "S6")):
            if f.data[f"val_{key}"] != pin[key]:
                fix = "count bytes as docs/scoring.md does: the decoded text's, each space once, a byte piece as one"
                find(name, rule, f"val_{key}:{f.data[f'val_{key}']}", f"{pin[key]}, the {key} of {pin['name']}", fix)
    elif track.record and pins["record_validation"]:
        fix = "fetch the published shards: python3 data/cached_challenge_fineweb.py --variant sp1024"
        find(
            name,
            "S7",
            f"val_tokens_sha256:{f.hashes['val_tokens_sha256'][:16]}",
            f"{pins['record_validation'][:16]}, the published tokens",
            fix,
        )
    elif not track.record:
        said = f"val_tokens_sha256:{f.hashes['val_tokens_sha256'][:16]}, {f.data['val_targets']} targets, {f.data['val_bytes']} bytes"
        report.notes.append(f"{name}: scored on text that is not pinned, {said}; its score compares with no pinned one (S7)")
    if pins["tokenizer"] and f.hashes["tokenizer_sha256"] != pins["tokenizer"]:
        check_tokenizer(report, name, f, track, code)
    if track.record and not pins["record_validation"]:
        report.notes.append(f"{name}: no published validation hash is pinned; the log says {f.hashes['val_tokens_sha256'][:16]} (S7)")
    if track.record:
        check_record_lane(report, name, f, track, pins)


def check_tokenizer(report: Report, name: str, f: LogFacts, track: Track, code: bytes) -> None:
    """Of a tokenizer that is not the default one: its file counts. How large it is the log says, and the referee looks."""
    said = f"tokenizer_sha256:{f.hashes['tokenizer_sha256'][:16]} is not the default tokenizer's, so it counts as model bytes"
    if (size := f.data.get("tokenizer_bytes", 0)) <= 0:
        report.notes.append(f"{name}: {said} (B3)")
        with contextlib.suppress(source.SourceError):
            if b"tokenizer_bytes=" in source.readable(code):  # trainers until 2026-11-25 did not say it
                report.find(name, "B3", f"tokenizer_bytes:{size}", "the size of the tokenizer's file", "copy the log as the run wrote it")
        return
    report.tokenizer_bytes = max(report.tokenizer_bytes, size)
    total = f.size["total_bytes"] + size
    report.notes.append(f"{name}: {said}: {total} with its {size} (B3)")
    if f.size["total_bytes"] <= track.cap_bytes < total:
        measured = f"{total} bytes, {size} of them the tokenizer's"
        report.find(name, "B4", measured, f"at most {track.cap_bytes}", "lower TARGET_BYTES by the size of the tokenizer's file")


def check_record_lane(report: Report, name: str, f: LogFacts, track: Track, pins: dict) -> None:
    find = report.find
    elsewhere = "hand it in under records/track_non_record/, where any device and budget is welcome"
    if f.about["devices"] != "1":
        find(name, "L1", f"devices:{f.about['devices']}", "1", elsewhere)
    device = f.about["device"]
    if "torch" not in f.about or re.search(r"\bCPU\b", device.upper()) or "APPLE" in device.upper():
        find(name, "L1", f"device:{device}", "one CUDA device comparable to an RTX 4090", elsewhere)
    elif m := FASTER_CARDS.search(device):
        find(name, "L3", f"device:{device}", f"a card not clearly faster than an RTX 4090; a {m[0]} is", elsewhere)
    if f.train_seconds > track.clock_s:
        find(
            name,
            "C1",
            f"{f.train_seconds:.1f} s of training and export",
            f"at most {track.clock_s:.0f} s",
            "leave more room for the export, or " + elsewhere,
        )
    limit = float(f.settings["MAX_WALLCLOCK_SECONDS"])
    if not 0 < limit <= track.clock_s:
        fix = f"run with MAX_WALLCLOCK_SECONDS={track.clock_s:.0f}; a step count may end training earlier, never later"
        find(name, "C3", f"MAX_WALLCLOCK_SECONDS={limit:g}", f"over 0, at most {track.clock_s:.0f}", fix)
    if f.data["val_targets"] != track.val_targets:
        find(
            name,
            "S7",
            f"val_targets:{f.data['val_targets']}",
            track.val_targets,
            f"run with VAL_TOKENS={track.val_targets} and the published shards",
        )
    for shard, value in f.train_shards.items():
        if pins["train_shards"] and pins["train_shards"].get(shard) != value:
            fix = "train on published shards: python3 data/cached_challenge_fineweb.py"
            find(name, "D2", f"{shard}:{value[:16]}", "the sha256 of a published train shard", fix)


def check_log_arithmetic(report: Report, name: str, f: LogFacts) -> None:
    """What must hold within any log, whatever the track."""

    def find(rule: str, measured: str, allowed: object, fix: str = "copy the log as the run wrote it, unedited") -> None:
        report.find(name, rule, measured, str(allowed), fix)

    if f.finals != 1:
        find("S4", f"{f.finals} final_sliding_window_exact lines", "one score of one run")
    for line in f.twice:
        find("E4", f"`{line}` stands there again or says otherwise than before", "one such line, and one more each time the run went on")
    for key in ("val_loss", "val_bpb"):
        if f.final[key] != f.scored[key]:
            find("E4", f"final {key}:{f.final[key]}", f"{f.scored[key]}, that of the scored line")
    targets, scored = f.data["val_targets"], f.scored["scored_tokens"]
    if scored != targets:
        rule, fix = ("S4", "score each target once") if scored > targets else ("S7", "score all of them")
        find(rule, f"scored_tokens:{scored}", f"{targets}, the val_targets of the data line", fix)
    if f.scored["scored_bytes"] != f.data["val_bytes"]:
        find(
            "S6", f"scored_bytes:{f.scored['scored_bytes']}", f"{f.data['val_bytes']}, the audited val_bytes", "divide by the audited bytes"
        )
    if f.scored["scored_bytes"] > 0:
        bpb = f.scored["val_loss"] / math.log(2) * scored / f.scored["scored_bytes"]
        if not close(bpb, f.scored["val_bpb"], 0.0, 5e-8):
            find("S6", f"val_bpb:{f.scored['val_bpb']:.8f}", f"{bpb:.8f}, from val_loss, tokens and bytes")
    if f.gap:
        gap = f.gap.get("post_export_val_bpb", math.nan) - f.gap.get("pre_export_val_bpb", math.nan)
        if not close(gap, f.gap.get("export_gap_bpb", math.nan), absolute=2e-8):
            find("E4", f"export_gap_bpb:{f.gap.get('export_gap_bpb')}", f"{gap:.8f}, the score after export less that before it")
    if "post_export_val_bpb" in f.gap and f.gap.get("gap_tokens") == targets and f.gap["post_export_val_bpb"] != f.final["val_bpb"]:
        find(
            "S1",
            f"val_bpb:{f.final['val_bpb']}",
            f"{f.gap['post_export_val_bpb']}, that of the exported weights",
            "score the artifact as shipped",
        )
    said = f.size["code_bytes"] + f.size["model_bytes"]
    if not f.size["total_bytes"] == said == f.said_total[1]:
        find("B1", f"total_bytes:{f.size['total_bytes']}, submission line {f.said_total[1]}", f"{said}, code and model together")
    if f.settings.get("CODEC", f.said_total[0]) != f.said_total[0]:
        find("B1", f"total_submission_size_quant_{f.said_total[0]}", f"the codec of setting CODEC={f.settings['CODEC']}")
    if f.settings["SEED"] != f.about["seed"]:
        find("E2", f"seed:{f.about['seed']}", f"SEED={f.settings['SEED']}, as the settings say")
    check_clock(report, name, f, find)


def check_clock(report: Report, name: str, f: LogFacts, find: Callable) -> None:
    if unknown := set(f.spans) - set(COUNTED_SPANS) - set(FREE_SPANS):
        fix = "book it under train or export: whatever shapes the weights is counted"
        find(
            "C1",
            ", ".join(f"{span}_s:{f.spans[span]:g}" for span in sorted(unknown)),
            f"spans {', '.join(COUNTED_SPANS + FREE_SPANS)}",
            fix,
        )
    for span, seconds in f.spans.items():
        if seconds < 0:
            find("C1", f"{span}_s:{seconds:g}", "at least 0")
    if not close(f.spans["train"], f.trained["train_s"], 1e-4):
        find("C1", f"trained train_s:{f.trained['train_s']}", f"{f.spans['train']}, the train_s of the last lines")
    limit = float(f.settings["MAX_WALLCLOCK_SECONDS"])
    if 0 < limit and f.spans["train"] > (most := 1.01 * limit + 60):  # room for a last step that is slow
        fix = "say the limit that the run had; a longer one is welcome in records/track_non_record/"
        find("C3", f"train_s:{f.spans['train']:g}", f"at most {most:g}, with MAX_WALLCLOCK_SECONDS={limit:g}", fix)
    batch = int(float(f.settings["TRAIN_BATCH_TOKENS"]))
    tokens, most = f.trained["tokens"], f.trained["steps"] * batch
    whole = tokens == most  # each step had a whole batch, so the speeds must fit; with a growing batch they are only bounded
    if not 0 <= tokens <= most:
        find("C1", f"tokens:{tokens}", f"at most {most}, steps times TRAIN_BATCH_TOKENS")
    elif not whole:
        said = f"tokens:{tokens} of {most}, steps times TRAIN_BATCH_TOKENS"
        report.notes.append(f"{name}: {said}; whether the code trains on smaller batches is for readers (C1)")
    went_on: list[Step] = []  # the lines so far, but for those of steps that a resumed run takes again
    lost = 0.0
    for now in f.steps:
        resumed = now.tokens_per_s is None
        lost += max(0.0, went_on[-1].train_s - now.train_s) if resumed and went_on else 0.0
        while went_on and went_on[-1].step >= now.step + resumed:
            went_on.pop()
        before = went_on[-1] if went_on else None
        if now.step < (0 if resumed else 1) or (before and now.train_s < before.train_s):
            earlier = f"after step {before.step} at {before.train_s} s" if before else "step 1 or later"
            find("C1", f"line {now.line}: step {now.step} at {now.train_s} s", earlier)
        elif before and not resumed:
            seconds = max(now.train_s - before.train_s, 1e-9)
            rate, coarse = (now.step - before.step) * batch / seconds, 2e-5 * now.train_s / seconds  # times are printed with 6 digits
            speed = now.tokens_per_s
            if speed and not close(rate, speed, 0.02 + coarse, 1.0) and (whole or speed > rate):
                allowed = f"{'about' if whole else 'at most'} {rate:.0f}, from steps and train_s"
                find("C1", f"line {now.line}: tokens_per_s:{speed:g}", allowed)
        went_on.append(now)
    if lost > LONG_SECONDS:
        report.notes.append(f"{name}: where the run went on, {lost:.0f} s of training were gone and are not counted (C4)")
    if f.steps and f.steps[-1].train_s > f.trained["train_s"] * 1.0001:
        find("C1", f"line {f.steps[-1].line}: train_s:{f.steps[-1].train_s}", f"at most {f.trained['train_s']}, the whole of training")
    if f.steps and f.steps[-1].step > f.trained["steps"]:
        find("C1", f"line {f.steps[-1].line}: step:{f.steps[-1].step}", f"at most {f.trained['steps']}, the steps trained")
    if 0 < float(f.settings["ITERATIONS"]) < f.trained["steps"]:
        find("C3", f"steps:{f.trained['steps']}", f"at most ITERATIONS={f.settings['ITERATIONS']}")


def check_artifact(report: Report, log_name: str, f: LogFacts, codecs: tuple, declared: set[str]) -> artifacts.Outside | None:
    """Its outside, None where that cannot be read. declared: the names of the source's settings, all of which a log says."""
    path = artifact_of(report.folder / log_name)
    if not path.is_file():
        report.find(path.name, "E4", "missing", f"the artifact that {log_name} scored", REMAKE)
        return None
    data = path.read_bytes()
    if len(data) != f.size["model_bytes"]:
        report.find(
            path.name,
            "B1",
            f"{len(data)} bytes",
            f"{f.size['model_bytes']}, the model_bytes of {log_name}",
            "ship the artifact of that very run",
        )
    elif (found := sha256_of(data)) != f.about["artifact_sha256"]:
        said = f"{f.about['artifact_sha256']}, as {log_name} says"
        report.find(path.name, "E4", f"sha256 {found}", said, "ship the artifact of that very run")
    try:
        outside = artifacts.read_outside(data)
    except artifacts.ArtifactProblem as e:
        report.find(path.name, "S1", e, "a whole artifact", "ship artifact.bin as the run wrote it")
        return None
    if outside is None:
        report.notes.append(f"{path.name}: a container of its own; its inside is the referee's to judge")
        return None
    for key, value in outside.model.items():
        said = f.settings.get(str(key))
        if said is None and key in declared:
            report.find(path.name, "E2", f"its header says {key}={value}", f"a line `setting {key}=…` in {log_name}", "copy the whole log")
        if said is None or said == str(value):
            continue
        try:
            same = float(said) == float(value)
        except (TypeError, ValueError, OverflowError):
            same = False
        if not same:
            report.find(
                path.name, "E4", f"its header says {key}={value}", f"{said}, as {log_name} says", "ship log and artifact of one run"
            )
    if outside.codec < len(codecs) and codecs[outside.codec] != f.said_total[0]:
        report.find(
            path.name,
            "B1",
            f"packed with {codecs[outside.codec]}",
            f"{f.said_total[0]}, as {log_name} says",
            "ship log and artifact of one run",
        )
    return outside


def check_seeds(report: Report, logs: dict[str, LogFacts], stem: str, rule: str) -> None:
    """That logs are those of different seeds of one source, with the same settings and data. stem: train or control."""
    first_name, first = next(iter(logs.items()))
    seeds = [f.about["seed"] for f in logs.values()]
    if len({int(seed) for seed in seeds}) < len(seeds):
        report.find("submission.json", rule, f"{stem} seeds {', '.join(seeds)}", "different seeds", "one log per seed")
    made: dict[str, str] = {}
    for name, f in logs.items():
        for of_its_own in (f"artifact_sha256:{f.about['artifact_sha256'][:16]}", f"val_loss:{f.final['val_loss']:.8f}"):
            if (other := made.setdefault(of_its_own, name)) != name:
                allowed = "an artifact and a score of its own for each seed"
                report.find(name, rule, f"{of_its_own}, as in {other}", allowed, "run each seed; one run is one seed")
                break
    curves = {name: f.curve for name, f in logs.items()}
    for (other, theirs), (name, mine) in itertools.combinations(curves.items(), 2):
        both = theirs.keys() & mine.keys()
        same = sum(theirs[step] == mine[step] for step in both)
        if same >= max(SHARED_LOSSES, len(both) / 2):
            measured = f"train_loss of {same} of {len(both)} steps as in {other}"
            report.find(name, rule, measured, "a training of its own for each seed", "run each seed; one run is one seed")
    for name, f in logs.items():
        if name not in (f"{stem}.log", f"{stem}_seed{f.about['seed']}.log"):
            report.find(name, rule, f"seed:{f.about['seed']}", "the seed of the file's name", REMAKE)
        for key in sorted(f.shared_settings().keys() | first.shared_settings().keys()):
            if f.settings.get(key) != first.settings.get(key):
                report.find(
                    name,
                    rule,
                    f"{key}={f.settings.get(key)}",
                    f"{first.settings.get(key)}, as in {first_name}",
                    "same settings for all seeds",
                )
        for what in ("device", "devices", "precision"):
            if f.about[what] != first.about[what]:
                fix = "run all seeds on one kind of device"
                report.find(name, rule, f"{what}:{f.about[what]}", f"{first.about[what]}, as in {first_name}", fix)
        if f.hashes != first.hashes:
            changed = ", ".join(key for key in sorted(f.hashes.keys() | first.hashes.keys()) if f.hashes.get(key) != first.hashes.get(key))
            report.find(name, rule, f"other hashes of {changed}", f"the data of {first_name}", "same data for all seeds")


def check_controls(report: Report, first_name: str, first: LogFacts, controls: dict[str, LogFacts]) -> None:
    """That controls are scored on what the record is scored on and ran on the same; a note says what else is different."""
    for name, f in controls.items():
        found = obstacles([Result(first_name, report.folder, first, None), Result(name, report.folder, f, None)])
        for field, of in (("tokenizer", lambda x: x.hashes["tokenizer_sha256"][:16]), ("cap", lambda x: f"{x.size['cap_bytes']} bytes")):
            if of(f) != of(first):
                found.append((field, f"{of(first)} ({first_name}) against {of(f)} ({name})"))
        differs = []
        for field, text in found:
            if field in ("clock", "data"):  # the change may be one of these
                differs.append(text)
            else:
                fix = "run the control as the record was run, or leave it out and compare in words in README.md"
                report.find(name, "E6", f"{field}: {text}", "the same for record and control", fix)
        if f.trained["tokens"] != first.trained["tokens"]:
            differs.append(f"{f.trained['tokens']} tokens for {first.trained['tokens']}")
        if f.about["code_sha256"] != first.about["code_sha256"]:
            differs.append(f"source {f.about['code_sha256'][:8]} for {first.about['code_sha256'][:8]}")
        ours, theirs = first.shared_settings(), f.shared_settings()
        changed = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
        differs += [f"{key}={safe(theirs.get(key, 'none'), 40)} for {safe(ours.get(key, 'none'), 40)}" for key in changed]
        if differs:
            report.notes.append(f"{name}: it lacks only the change, if that is all of this (E6): {', '.join(differs)}")


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


def check_readme(report: Report, claim: dict | None) -> None:
    try:
        text = read_text(report.folder / "README.md")
    except TextError:
        return
    if "TODO" in text:
        number = text[: text.index("TODO")].count("\n") + 1
        report.find(f"README.md:{number}", "E6", "a TODO of the skeleton", "your answer", "answer it; a sentence or two will do")
    for title in QUESTIONS:
        if not re.search(rf"^#+ *{re.escape(title)}\b", text, re.MULTILINE | re.IGNORECASE):
            report.find("README.md", "E6", f"no section `{title}`", "the sections of the skeleton", f"add `## {title}`")
    if claim:
        text = text.replace("\r\n", "\n")
        start, end = text.find(NUMBERS_BEGIN), text.find(NUMBERS_END)
        block = text[start : end + len(NUMBERS_END)] if 0 <= start < end else ""
        if block and (text[:start].strip("\n") != f"# {claim['title']}" or HTML.search(text[:start])):
            fix = f"let the first line be `# ` and the title of submission.json, and the next, after an empty one, {NUMBERS_BEGIN}"
            measured = f"{safe(text[:start].strip(), 120)} before the numbers"
            report.find("README.md", "E1", measured, "the title of submission.json alone, without HTML", fix)
        if block != numbers_table(claim):
            fix = f"put back what make_record.sh wrote between {NUMBERS_BEGIN} and {NUMBERS_END}"
            report.find(
                "README.md",
                "E1",
                "numbers that differ from submission.json" if block else "no numbers",
                "the numbers of submission.json",
                fix,
            )
