"""Record folders: their files, and submission.json derived from logs and files alone.

A record folder holds README.md, submission.json, train_gpt.py, settings.env, and for each seed a log and an artifact: train.log and
artifact.bin for the first, train_seed7.log and artifact_seed7.bin for the others. A packed trainer has train_gpt_source.py beside
it; logs of a control run are control.log, control_seed7.log. Nothing else.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import functools
import json
import re
from pathlib import Path

from golf.runs import LogFacts, parse_log, sha256_of
from golf.stats import mean, sd
from golf.texts import read_text

SCHEMA = "parameter-golf-local/submission-1"
TYPED = ("title", "author", "summary")  # the only fields a person writes
NAME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})_[a-z0-9]([a-z0-9._-]{0,78}[a-z0-9_-])?")  # Windows takes no dot at the end
MAX_FILE_BYTES, MAX_FILES, MAX_FOLDER_BYTES = 16_000_000, 64, 48_000_000
MAX_SETTINGS_BYTES, MAX_SETTING = 8192, 200  # settings.env is not counted in the bytes, so there must be no room in it
REQUIRED = ("README.md", "submission.json", "train.log", "train_gpt.py")
UNHASHED = ("README.md", "submission.json")
NUMBERS_BEGIN, NUMBERS_END = "<!-- numbers: begin -->", "<!-- numbers: end -->"


@dataclasses.dataclass
class Track:
    """What a track demands; the numbers of docs/track_spec.md."""

    cap_bytes: int = 2_000_000
    clock_s: float | None = None  # None: any, but named
    val_targets: int | None = None
    seeds: int = 1
    record: bool = False  # the record lane: one CUDA device


TRACK = {
    "track_30min_2mb_local": Track(clock_s=1800.0, val_targets=4_194_304, seeds=3, record=True),
    "track_non_record": Track(),
}


def log_name(stem: str, seed: int, first: bool) -> str:
    """Of a seed's log. `stem`: train or control."""
    return f"{stem}.log" if first else f"{stem}_seed{seed}.log"


def folder_files(folder: Path) -> list[str]:
    """Relative names of everything in the folder, however deep, links and hidden files included, at most a thousand."""
    names = []
    for path in folder.rglob("*"):
        names.append(path.relative_to(folder).as_posix())
        if len(names) >= 1000:
            break
    return sorted(names)


def settings_text(facts: LogFacts) -> str:
    """settings.env, as the trainer writes one: a value that would lose something when read back stands in quotes."""
    shared = facts.shared_settings()
    odd = {key: f'"{value}"' for key, value in shared.items() if re.search(r"""^[\s"']|[\s"']$|\s#""", value)}
    return "".join(f"{key}={value}\n" for key, value in (shared | odd).items())


def ordered_logs(folder: Path, stem: str) -> list[Path]:
    """train.log, then train_seed<N>.log by N. `stem`: train or control."""
    others = [(int(m[1]), p) for p in folder.glob(f"{stem}_seed*.log") if (m := re.fullmatch(rf"{stem}_seed([0-9]{{1,15}})\.log", p.name))]
    first = folder / f"{stem}.log"
    return ([first] if first.is_file() else []) + [p for _, p in sorted(others)]


def artifact_of(log: Path) -> Path:
    """The artifact that belongs to a log."""
    return log.with_name(log.name.replace("train", "artifact", 1).removesuffix(".log") + ".bin")


def rounded(value: float | None, digits: int = 8) -> float | None:
    return None if value is None else round(value, digits)


def spread(runs: list[dict]) -> dict[str, object]:
    """Means and standard deviations of the scores of runs, each with val_loss and val_bpb."""
    losses, bpbs = [run["val_loss"] for run in runs], [run["val_bpb"] for run in runs]
    return {
        "n": len(runs),
        "val_bpb": rounded(mean(bpbs)),
        "val_bpb_sd": rounded(sd(bpbs)),
        "val_loss": rounded(mean(losses)),
        "val_loss_sd": rounded(sd(losses)),
    }


def one_run(log: Path, facts: LogFacts) -> dict[str, object]:
    artifact = artifact_of(log)
    return {
        "seed": int(facts.about["seed"]),
        "log": log.name,
        "artifact": artifact.name if artifact.is_file() else None,
        "val_loss": facts.final["val_loss"],
        "val_bpb": facts.final["val_bpb"],
        "pre_export_val_bpb": facts.gap.get("pre_export_val_bpb"),
        "export_gap_bpb": facts.gap.get("export_gap_bpb"),
        "model_bytes": facts.size["model_bytes"],
        "total_bytes": facts.size["total_bytes"],
        "steps": facts.trained["steps"],
        "train_tokens": facts.trained["tokens"],
        "train_seconds": rounded(facts.train_seconds, 4),
        "scoring_seconds": facts.scored["scoring_s"],
        "auxiliary_bpb": facts.auxiliary,
    }


def derive(folder: Path, track: str, logs: dict[str, LogFacts], controls: dict[str, LogFacts]) -> dict[str, object]:
    """Every field of submission.json that is not typed by a person, from the parsed logs and the files of the folder.

    logs, controls: by file name, the first seed first.
    """
    facts = list(logs.values())
    first = facts[0]
    worst = max(facts, key=lambda f: f.size["total_bytes"])
    control = None
    if controls:
        theirs = list(controls.values())
        control = spread([f.final for f in theirs]) | {"code_sha256": theirs[0].about["code_sha256"], "device": theirs[0].about["device"]}
        control["gain_nats"] = rounded(mean([f.final["val_loss"] for f in theirs]) - mean([f.final["val_loss"] for f in facts]))
    files = [name for name in folder_files(folder) if name not in UNHASHED and (folder / name).is_file()]
    return {
        "schema": SCHEMA,
        "track": track,
        "name": folder.name,
        "date": folder.name[:10],
        "seeds": [int(f.about["seed"]) for f in facts],
        **spread([f.final for f in facts]),
        "total_bytes": worst.size["total_bytes"],
        "code_bytes": worst.size["code_bytes"],
        "model_bytes": worst.size["model_bytes"],
        "cap_bytes": first.size["cap_bytes"],
        "codec": first.said_total[0],
        "packed_code": (folder / "train_gpt_source.py").is_file(),
        "code_sha256": first.about["code_sha256"],
        "train_seconds": rounded(max(f.train_seconds for f in facts), 4),
        "clock_limit_seconds": float(first.settings["MAX_WALLCLOCK_SECONDS"]),
        "scoring_seconds": max(f.scored["scoring_s"] for f in facts),
        "train_tokens": round(mean([f.trained["tokens"] for f in facts])),
        "device": first.about["device"],
        "devices": int(first.about["devices"]),
        "lane": first.about["lane"],
        "precision": first.about["precision"],
        "versions": {k: first.about[k] for k in ("python", "numpy", "torch", "mlx") if k in first.about},
        "validation": {"targets": first.data["val_targets"], "bytes": first.data["val_bytes"], "sha256": first.hashes["val_tokens_sha256"]},
        "tokenizer_sha256": first.hashes["tokenizer_sha256"],
        "train_shards": first.train_shards,
        "control": control,
        "runs": [one_run(folder / name, f) for name, f in logs.items()],
        "files": [{"path": n, "bytes": (folder / n).stat().st_size, "sha256": sha256_of((folder / n).read_bytes())} for n in files],
    }  # fmt: skip


def numbers_table(claim: dict) -> str:
    """The numbers of a record as they stand in its README."""
    sd_text = "" if claim["val_bpb_sd"] is None else f" (sd {claim['val_bpb_sd']:.8f})"
    rows = [
        ("val_bpb", f"{claim['val_bpb']:.8f}{sd_text}, n={claim['n']}"),
        ("val_loss", f"{claim['val_loss']:.8f} nats per token"),
        ("bytes", f"{claim['total_bytes']:,} = code {claim['code_bytes']:,} + model {claim['model_bytes']:,}; cap {claim['cap_bytes']:,}"),
        ("device", f"{claim['devices']} x {claim['device']}"),
        ("training", f"{claim['train_seconds']:.1f} s, {claim['train_tokens']:,} tokens"),
        ("scoring", f"{claim['scoring_seconds']:.1f} s, {claim['validation']['targets']:,} targets"),
    ]
    if control := claim["control"]:
        rows.append(("control", f"val_bpb {control['val_bpb']:.8f}, n={control['n']}: {control['gain_nats']:+.5f} nats per token gained"))
    head = ["| seed | val_bpb | export gap | bytes | steps | seconds |", "|---:|---:|---:|---:|---:|---:|"]
    for run in claim["runs"]:
        gap = "" if run["export_gap_bpb"] is None else f"{run['export_gap_bpb']:.5f}"
        head.append(
            f"| {run['seed']} | {run['val_bpb']:.8f} | {gap} | {run['total_bytes']:,} | {run['steps']} | {run['train_seconds']:.1f} |"
        )
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), "", *head]
    return "\n".join([NUMBERS_BEGIN, *lines, NUMBERS_END])


QUESTIONS = {
    "What changed": "what differs from the control or from the record before, as a reader of the source would see it",
    "Why": "the idea, its source, and what made you expect a gain",
    "Evidence": "against a control that lacks only the change, on the same hardware: numbers, seeds, noise",
    "What failed": "what else was tried and did not help, with numbers where there are any",
}


def readme_text(claim: dict) -> str:
    """A README to be filled in: each TODO line is a question."""
    parts = [f"# {claim['title'] or 'TODO: title'}", numbers_table(claim)]
    parts += [f"## {title}\n\nTODO: {question}" for title, question in QUESTIONS.items()]
    return "\n\n".join(parts) + "\n"


def read_logs(folder: Path, stem: str) -> dict[str, LogFacts]:
    """Raises TextError, LogError."""
    return {path.name: parse_log(read_text(path)) for path in ordered_logs(folder, stem)}


@functools.lru_cache(8)
def codec_names(tree: ast.Module) -> tuple[str, ...]:
    """The CODECS that a source declares, read from its syntax tree; () when it does not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Tuple, ast.Name)):
            names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else [node.targets[0]]
            values = node.value.elts if isinstance(node.value, ast.Tuple) and len(names) > 1 else [node.value]
            for name, value in zip(names, values):
                if isinstance(name, ast.Name) and name.id == "CODECS":
                    try:
                        return tuple(ast.literal_eval(value))
                    except (ValueError, TypeError):
                        return ()
    return ()


def load_pins() -> dict:
    """Data that are known for sure: the default tokenizer, val_tokens_sha256 with its totals, and train shards with theirs.

    `record_validation` is the val_tokens_sha256 of the first 4,194,304 targets of the published shards (VAL_TOKENS=4194304), and
    `train_shards` holds file name -> sha256 of the published ones, both as the log prints them. Until they are filled in, the
    checker cannot hold a record against them, and only notes what the log says.
    """
    return json.loads(Path(__file__).with_name("pins.json").read_text(encoding="utf-8"))


def digest(verdict: dict) -> str:
    """What signs a referee's verdict off: the sha256 of everything in it but this."""
    rest = {key: value for key, value in verdict.items() if key != "digest"}
    return sha256_of(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True
