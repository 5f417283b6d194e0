"""The log of a run, as train_gpt.py and its MLX twin write it, and the run folder round it."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from golf.texts import TextError, read_json, read_text, safe

ABOUT = ("run_id", "seed", "lane", "devices", "device", "precision", "python", "numpy", "code_sha256")
COUNTED_SPANS = ("train", "export")
FREE_SPANS = ("setup", "warmup", "validation", "scoring", "auxiliary", "gap")
PRIVATE_SETTINGS = ("RUN_ID", "RUNS_DIR", "DATA_PATH", "TOKENIZER_PATH", "SEED")  # may differ between the seeds of a record
FREE_TEXT = re.compile(r"(note|warning|failed|diverged|interrupted|OVER THE CAP|Lower )")
PAIR = re.compile(r"([A-Za-z_][\w./-]*):(.*)")
NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?(e[+-]?[0-9]{1,2})?")  # not \d, which takes the digits of every script
NUMERIC_SETTINGS = ("SEED", "MAX_WALLCLOCK_SECONDS", "TRAIN_BATCH_TOKENS", "VAL_TOKENS", "ITERATIONS")
FINAL = "final_sliding_window_exact"
# what a run says once, and once more each time it goes on
ONCE = re.compile(r"(trained steps|size code_bytes|total_submission_size|scored val_loss|peak_memory_bytes)(?=[:_ ])")
DATA_NUMBERS = ("train_tokens", "val_targets", "val_bytes", "val_documents", "tokenizer_bytes")  # a trainer may say more of its data


class LogError(Exception):
    """The log lacks a line that every finished run has."""


@dataclasses.dataclass
class Step:
    line: int
    step: int
    train_s: float
    tokens_per_s: float | None  # None: where a resumed run went on
    train_loss: float | None = None


@dataclasses.dataclass
class LogFacts:
    """What a complete log says. Numbers are as printed."""

    settings: dict[str, str]
    about: dict[str, str]
    data: dict[str, int]  # train_tokens, val_targets, val_bytes, val_documents, in later logs tokenizer_bytes
    hashes: dict[str, str]  # val_tokens_sha256, tokenizer_sha256, and one per train shard
    size: dict[str, int]  # code_bytes, model_bytes, total_bytes, cap_bytes
    said_total: tuple[str, int]  # codec and bytes of the total_submission_size line
    trained: dict[str, float]
    scored: dict[str, float]
    gap: dict[str, float]
    spans: dict[str, float]
    final: dict[str, float]
    finals: int  # how many final lines there are
    steps: list[Step]
    auxiliary: dict[str, float]
    twice: list[str]  # how lines begin that stand there again, more often than the run went on, or disagree with one before them

    @property
    def train_seconds(self) -> float:
        """The training clock: all that is counted."""
        return sum(seconds for name, seconds in self.spans.items() if name not in FREE_SPANS)

    @property
    def train_shards(self) -> dict[str, str]:
        return {name: value for name, value in self.hashes.items() if name.endswith(".bin")}

    @property
    def curve(self) -> dict[int, float]:
        """train_loss by step, without that of the first step, at which all seeds guess alike."""
        return {now.step: now.train_loss for now in self.steps if now.train_loss is not None and now.step > 1}

    def shared_settings(self) -> dict[str, str]:
        return {k: v for k, v in self.settings.items() if k not in PRIVATE_SETTINGS}


def differing(*tables: dict) -> list[str]:
    """The keys, in order, whose values are not the same in all; one that a table lacks differs too."""
    return [key for key in sorted(set().union(*tables)) if len({str(table.get(key)) for table in tables}) > 1]


def pairs(text: str) -> dict[str, str]:
    """`key:value key:value` to a dict; words without a colon belong to the value before them."""
    found: dict[str, list[str]] = {}
    key = ""
    for word in text.split():
        if m := PAIR.fullmatch(word):
            key, found[m[1]] = m[1], [m[2]]
        elif key:
            found[key].append(word)
    return {key: " ".join(words).strip() for key, words in found.items()}


def numbers(text: str) -> dict[str, float]:
    """The pairs whose values are finite numbers."""
    found = {}
    for key, value in pairs(text).items():
        if re.fullmatch("-?[0-9]{1,18}", value):
            found[key] = int(value)
        elif re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,2})?", value):
            found[key] = float(value)
    return found


def parse_log(text: str) -> LogFacts:
    """Raises LogError when the log is not that of a finished run."""
    settings: dict[str, str] = {}
    about: dict[str, str] = {}
    by_label: dict[str, dict[str, float]] = {}
    hashes: dict[str, str] = {}
    spans: dict[str, float] = {}
    auxiliary: dict[str, float] = {}
    steps: list[Step] = []
    said_total, finals, resumed, times, disagree, reset, devices = None, 0, 0, collections.Counter(), set(), set(), {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if FREE_TEXT.match(line):
            continue
        times.update(ONCE.findall(line))
        resumed += line.startswith("resumed ")
        if m := re.fullmatch(r"setting (\w+)=(.*) from:.*", line):
            if settings.setdefault(m[1], m[2]) != m[2]:
                reset.add(f"setting {m[1]}")
            settings[m[1]] = m[2]
        elif m := re.fullmatch(r"total_submission_size_quant_(\w+): ([0-9]+) bytes", line):
            said_total = m[1], int(m[2])
        elif line.startswith("step:"):
            row = numbers(line)
            if {"step", "train_s", "tokens_per_s"} <= row.keys():
                steps.append(Step(number, int(row["step"]), row["train_s"], row["tokens_per_s"], row.get("train_loss")))
        elif line.startswith("peak_memory_bytes:"):
            row = {key.removesuffix("_s"): value for key, value in numbers(line).items() if key.endswith("_s")}
            spans = row | {key: max(row.get(key, 0.0), spans[key]) for key in spans.keys() & set(COUNTED_SPANS)}
        elif line.startswith("auxiliary "):
            row = pairs(line.removeprefix("auxiliary "))
            if re.fullmatch(r"[0-9]+\.[0-9]+", row.get("val_bpb", "")):
                auxiliary[row.get("name", "")] = float(row["val_bpb"])
        elif m := re.match(r"(data|size|trained|scored|export|resumed|" + FINAL + r") (?=[^\s:]+:)", line):
            rest = line[m.end() :]
            row = numbers(rest)
            before = by_label.setdefault(m[1], {})
            if m[1] == "data" and any(before.get(k, row[k]) != row[k] for k in row if k in DATA_NUMBERS):
                disagree.add("data")
            before.update(row)
            if m[1] == "resumed" and {"step", "train_s"} <= row.keys():
                steps.append(Step(number, int(row["step"]), row["train_s"], None))
            finals += m[1] == FINAL
            hexes = {k: v.lower() for k, v in re.findall(r"(\S+):([0-9a-fA-F]{64})(?!\S)", rest)}  # a file's name can begin with anything
            if m[1] == "data":
                disagree |= {f"data {k}" for k, v in hexes.items() if hashes.setdefault(k, v) != v}
            elif m[1] == "size":
                about |= hexes
        elif m := PAIR.fullmatch(line):
            value, before = m[2].strip(), about.get(m[1], "")
            if m[1] == "device":
                devices[value] = None
            elif m[1] == "devices" and value.isdecimal() and before.isdecimal():
                value = max(value, before, key=int)
            elif m[1] in ("seed", "code_sha256") and before not in ("", value):
                disagree.add(m[1])
            about[m[1]] = value
    if devices:  # a run that went on elsewhere names every device it had
        about["device"] = ", then ".join(devices)
    wanted = {
        **{f"setting {key}=<number>": NUMBER.fullmatch(settings.get(key, "")) for key in NUMERIC_SETTINGS},
        "data val_targets": {"val_targets", "val_bytes"} <= by_label.get("data", {}).keys(),
        "data val_tokens_sha256": {"val_tokens_sha256", "tokenizer_sha256"} <= hashes.keys(),
        **{name: about.get(name) for name in ABOUT},
        **{f"{name}:<number>": re.fullmatch("[0-9]{1,15}", about.get(name, "")) for name in ("seed", "devices")},
        "trained": {"steps", "tokens", "train_s"} <= by_label.get("trained", {}).keys(),
        "size": {"code_bytes", "model_bytes", "total_bytes", "cap_bytes"} <= by_label.get("size", {}).keys(),
        "size artifact_sha256": "artifact_sha256" in about,
        "total_submission_size_quant_<codec>": said_total is not None,
        "scored": {"val_loss", "val_bpb", "scored_tokens", "scored_bytes", "scoring_s"} <= by_label.get("scored", {}).keys(),
        "peak_memory_bytes … train_s export_s": set(COUNTED_SPANS) <= spans.keys(),
        FINAL: {"val_loss", "val_bpb"} <= by_label.get(FINAL, {}).keys(),
    }
    for name, there in wanted.items():
        if not there:
            raise LogError(f"no `{name}` line")
    labels = (by_label.get(name, {}) for name in ("data", "size", "trained", "scored", "export", FINAL))
    data, size, trained, scored, gap, final = labels
    disagree |= set() if resumed else reset  # a run that goes on may have some settings changed
    twice = sorted(disagree) + [line for line, n in times.items() if n > 1 + resumed]
    return LogFacts(settings, about, data, hashes, size, said_total, trained, scored, gap, spans, final, finals, steps, auxiliary, twice)


def import_trainer(path: Path) -> ModuleType:
    """Run the code of a trainer file, as a module under a name of its own. Raises RunError."""
    name = "trainer_" + sha256_of(str(path.resolve()).encode())[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:  # code that somebody is at work on can fail in any way, a missing package first of all
        raise RunError(f"{path} cannot be loaded with {sys.executable}: {type(e).__name__}: {e}") from None
    return module


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class RunError(Exception):
    """A run folder that no record can be made of."""


@dataclasses.dataclass
class RunFolder:
    path: Path
    facts: LogFacts
    source: bytes
    artifact: bytes


def read_run(path: Path) -> RunFolder:
    """A finished run. Raises RunError."""
    if not path.is_dir():
        raise RunError(f"{path} is no folder; `ls runs` shows the runs")
    absent = [name for name in ("train_gpt.py", "settings.env") if not (path / name).is_file()]
    for name in ("train.log", "train_gpt.py", "artifact.bin", "result.json"):
        if not (path / name).is_file():
            if absent:
                raise RunError(f"{path} is no run folder: it has no {' and no '.join(absent)}; `ls runs` shows the runs")
            raise RunError(f"{path} has no {name}: the run is not finished; go on with it: python3 {path / 'train_gpt.py'} --resume {path}")
    try:
        facts = parse_log(read_text(path / "train.log"))
    except (TextError, LogError) as e:
        raise RunError(f"{path}: train.log: {e}; the log of a finished run is needed") from None
    try:
        result = read_json(path / "result.json")
    except TextError as e:
        raise RunError(f"{path}: result.json: {e}; put the run's own file back") from None
    if not isinstance(result, dict):
        raise RunError(f"{path}: result.json holds no object of names and values, as a finished run writes it; put its own file back")
    same = {key: (facts.final[key], result.get(key)) for key in ("val_loss", "val_bpb")} | {
        key: (facts.size[key], result.get(key)) for key in ("code_bytes", "model_bytes", "total_bytes")
    }
    for key, (said, kept) in same.items():
        if not isinstance(kept, (int, float)) or abs(said - kept) > 1e-8:
            raise RunError(f"{path}: {key} is {said} in train.log and {safe(kept, 40)} in result.json; they are not of the same run")
    return RunFolder(path, facts, (path / "train_gpt.py").read_bytes(), (path / "artifact.bin").read_bytes())
