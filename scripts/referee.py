"""Score a record again: the referee. docs/referee.md says how it works and what it does and does not protect against.

    bash scripts/rescore.sh records/track_30min_2mb_local/2026-11-21_wider [--data DIR] [--tokenizer FILE] [--json OUT]

The submission's train_gpt.py runs in a child process, in a jail, and answers logits. This process owns the validation tokens, the
targets, the softmax, the bytes, the windows and the clock. Some answers are asked for again with tokens changed that come later, some
of a second process that has never seen what comes later; one that moves is a violation, named with its position. Ends with
`verified val_bpb` and the difference from the claim.

Exit status: 0 as claimed (the last line says whether that is a verification), 1 refused or not as claimed, 2 usage, no data, no
isolation to be had, or findings of the checker, which come first.
"""

from __future__ import annotations

import argparse
import ast
import glob
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

from golf import ROOT
from golf.interrupts import tool_main
from golf.jail import SYSTEM_PATHS
from golf.needs import refuse
from golf.records import digest, load_pins
from golf.rules import check_folder
from golf.runs import sha256_of
from golf.source import SourceError, edited_count, parse, readable
from golf.texts import TextError, read_json, safe
from golf.traces import python_paths

try:
    import numpy as np
    from golf.questions import PROBES, Referee
    from golf.submission import DEFAULT_LIMITS, NoReferee, Refusal
except ImportError as e:
    if {"-h", "--help"} & set(sys.argv):  # without a list of all options, whose defaults stand in those modules
        sys.exit(print(__doc__))
    refuse("the referee", str(e.name), "requirements-cuda.txt")

SAME_CARD_BPB, CPU_BPB, OTHER_BPB = 1e-5, 1e-4, 1e-3  # how far a verified score may be from the claim; logs do not say which CPU
# Two trainings differ by more than both of these in what a target costs, in the mean: as a share of the cost, and in nats. Seeds of one
# recipe differ by a share of 0.14 to 0.17 (0.11 after 40 steps), two records of one seed and like recipes by 0.12; one training that was
# exported by the calibration of three seeds by 0.04 to 0.06. One artifact with noise on its vectors differs by 0.014 to 0.025 nats.
SAME_RUN_SHARE, SAME_RUN_NATS = 0.08, 0.1
NAMES_LEFT = 200  # names looked up in vain that may be in the kernel's memory when the second process starts; honest runs left 9 to 30


def needs_mlx(code: bytes) -> bool:
    """Whether a trainer computes with MLX alone, and has no Scorer of its own. Raises NoReferee."""
    try:
        tree = parse(readable(code))
    except SourceError as e:
        raise NoReferee(f"train_gpt.py cannot be read: {e}") from None
    imported = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = any(isinstance(node, ast.ClassDef) and node.name == "Scorer" for node in tree.body)
    return "mlx" in imported and "torch" not in imported and not own


# The verdict ----------------------------------------------------------------------------------------------------------
def runs_to_score(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """(the claim of a folder that the checker finds clean, those of its runs that were asked for). Raises NoReferee."""
    report = check_folder(args.folder)
    if report.claim is None or (report.findings and not args.unchecked):
        listed = "".join(f"\n  {f.line()}" for f in report.findings)
        raise NoReferee(f"{safe(args.folder)} has findings, which come first (--unchecked goes on all the same):{listed}")
    if needs_mlx((args.folder / "train_gpt.py").read_bytes()) and not importlib.util.find_spec("mlx"):
        refuse("the referee", "MLX, with which this record computes", "requirements-mlx.txt")
    runs = report.claim["runs"]
    seeds = [run["seed"] for run in runs]
    if strange := set(args.seed or seeds) - set(seeds):
        raise NoReferee(f"--seed {min(strange)}: the runs of {safe(args.folder)} have the seeds {', '.join(map(str, seeds))}")
    return report.claim, [run for run in runs if run["seed"] in (args.seed or seeds)]


def check_hidden(paths: list[Path | str]) -> None:
    """Raises NoReferee where the jail would show one of these."""
    for path in paths:
        if shown := next((p for p in (*SYSTEM_PATHS, *python_paths()) if Path(os.path.realpath(path)).is_relative_to(p)), ""):
            raise NoReferee(f"{path} lies in {shown}, which a submission can read; move it, or the Python environment, elsewhere")


def is_smoke(data: str) -> bool:
    """Whether a dataset is the smoke corpus, whose text comes from installed packages, which a submission can read."""
    try:
        return bool(json.loads((Path(data) / "manifest.json").read_text(encoding="utf-8")).get("smoke"))
    except (OSError, ValueError, AttributeError):
        return False


def differing_claims(claim: dict, mine: dict, sha256: str, charged: int) -> list[dict]:
    """Violations by what a claim says of validation text and tokenizer.

    mine: of the text, counted here. sha256, charged: of the tokenizer here, and the bytes of it that come on top of total_bytes.
    """
    found, total = [], claim["total_bytes"] + charged
    if sha256 != claim["tokenizer_sha256"]:
        what = f"claims the tokenizer {claim['tokenizer_sha256'][:16]}; the one here, whose bytes would count, is {sha256[:16]}"
        found.append({"rule": "B3", "what": what})
    elif charged and total > claim["cap_bytes"]:
        what = f"{total} bytes with the {charged} of its own tokenizer; allowed: {claim['cap_bytes']}"
        found.append({"rule": "B4", "what": what})
    for key, rule in (("sha256", "S7"), ("targets", "S7"), ("bytes", "S6")):
        if mine[key] != claim["validation"][key]:
            found.append({"rule": rule, "what": f"claims {key} {claim['validation'][key]}; the validation stream here has {mine[key]}"})
    return found


def changed_text(table: object) -> str:
    """What a tokenizer, its ByteTable, makes of the English of docs/ where it does not keep it: the first line, and what becomes of it."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))).split("\n")
    for line in (line for line in lines if table.encode and line.isascii()):
        (kept,) = table.decode([table.encode(line)])
        if kept.split() != line.encode().split():
            return f"its tokenizer makes {kept.decode(errors='replace')!r} of {line!r}, so the bytes are not those of the text"
    return ""


def allowed_difference(trainer: ModuleType, device: str, claimed: str) -> float:
    """How far the score may be from the claim, by the device it was `claimed` for; `device`: what --device says."""
    cpu, on_cpu = claimed.startswith("CPU"), device == "cpu" or not os.path.exists("/dev/nvidiactl")  # as Child has it
    kinds = ["cpu"] if on_cpu else ["cpu", "auto"]
    here = {trainer.resolve_device(trainer.load_settings([f"DEVICE={kind}"], {})).about()["device"] for kind in kinds}
    near = claimed in here or (cpu and on_cpu)  # one CPU is as another, whatever a log calls it
    return OTHER_BPB if not near else CPU_BPB if cpu else SAME_CARD_BPB


def rescore(args: argparse.Namespace) -> dict:
    """The verdict on a folder. Raises NoReferee."""
    claim, runs = runs_to_score(args)
    claimed = claim["val_bpb"] if runs == claim["runs"] else round(sum(run["val_bpb"] for run in runs) / len(runs), 8)
    if not args.without_isolation:
        check_hidden([args.data, args.tokenizer, ROOT / "data", ROOT / "records"])
    sys.path.insert(0, str(ROOT))
    import train_gpt  # this repository's own, for its shards, byte table, audit and windows

    try:
        table = train_gpt.ByteTable.load(args.tokenizer)
        tokens = train_gpt.load_tokens(f"{glob.escape(args.data)}/*_val_[0-9]*.bin", claim["validation"]["targets"], len(table.base_bytes))
        total = train_gpt.audit_bytes(tokens, table)
    except train_gpt.UserError as e:
        raise NoReferee(f"{e}\n(--data and --tokenizer name the validation shards and their tokenizer)") from None
    validation = {"targets": len(tokens) - 1, "bytes": int(total), "sha256": train_gpt.sha256_of(tokens)}
    tokenizer = Path(args.tokenizer).read_bytes()
    charged = 0 if (tokenizer_sha256 := sha256_of(tokenizer)) == load_pins()["tokenizer"] else len(tokenizer)
    violations = differing_claims(claim, validation, tokenizer_sha256, charged)
    if charged and (what := changed_text(table)):
        violations.append({"rule": "S6", "what": what})
    target_bytes, allowed = table.target_bytes(tokens[:-1], tokens[1:]), allowed_difference(train_gpt, args.device, claim["device"])
    limits = DEFAULT_LIMITS | {"total_s": args.limit_s, "reply_s": args.reply_s, "memory_bytes": int(args.memory_gb * 2**30)}
    rows, scored = [], {}
    for run in [] if violations else runs:
        ask = (limits, args.probes, not args.without_isolation, args.device, lambda text: print(text, flush=True))
        row = {"seed": run["seed"], "artifact": run["artifact"], "claimed_val_bpb": run["val_bpb"], "verified_val_bpb": None}
        row["artifact_sha256"] = sha256_of((args.folder / run["artifact"]).read_bytes())
        rows.append(row)
        try:
            nats, found = Referee(tokens, train_gpt.window_batches, *ask).score(args.folder, run["artifact"])
        except Refusal as e:
            violations.append({"seed": run["seed"], "rule": e.rule, "what": safe(e.what, 500)})
            continue
        loss, bpb = train_gpt.bits_per_byte(nats, target_bytes)
        row |= {"verified_val_loss": round(loss, 8), "verified_val_bpb": round(bpb, 8), "difference": round(bpb - run["val_bpb"], 8)}
        row |= found | {"allowed_difference": allowed}
        for seed, others in scored.items():
            least = max(SAME_RUN_NATS, SAME_RUN_SHARE * float(nats.mean()))
            if (apart := float(np.abs(others - nats).mean())) < least:
                what = f"a target costs what it costs in the run of seed {seed} but for {apart:.4f} nats in the mean; two trainings differ"
                what += f" by {least:.2g} and more, and one run is one seed"
                violations.append({"seed": run["seed"], "rule": "E2", "what": what})
        scored[run["seed"]] = nats
        if abs(bpb - run["val_bpb"]) > allowed:
            what = f"verified val_bpb {bpb:.8f}, claimed {run['val_bpb']:.8f}; allowed difference {allowed:g}"
            if found["scorer"]["scorer"] != "Scorer":  # what score() does besides, nobody here has seen
                what += ". Served by its GPT, cache and Learner, with the settings in the artifact's header: others that scoring depends on"
                what += " belong in LATER_KEYS, and a score() that does more needs a class Scorer beside it (docs/referee.md); what only"
                what += " training does asks self.training, not whether gradients are on"
            violations.append({"seed": run["seed"], "rule": "E5", "what": what})
    scores = [row["verified_val_bpb"] for row in rows if row["verified_val_bpb"] is not None]
    names, edited = [row["probes"]["names_left"] for row in rows if "probes" in row], edited_count(ROOT)
    left = None if None in names else max(names, default=0)
    complete = len(scores) == len(claim["runs"])
    strict = args.probes >= PROBES and not args.without_isolation and not is_smoke(args.data) and not edited
    verdict = {
        "schema": "parameter-golf-local/verdict-1",
        "track": claim["track"],
        "name": claim["name"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "signed_off_by": args.sign,
        "submission_sha256": sha256_of((args.folder / "submission.json").read_bytes()),
        "code_sha256": sha256_of((args.folder / "train_gpt.py").read_bytes()),
        "claimed_val_bpb": claimed,  # of the runs that are scored
        "runs": rows,
        "violations": violations,
        "validation": validation,
        "tokenizer_bytes": charged,  # on top of total_bytes
        "verified_val_bpb": round(sum(scores) / len(scores), 8) if scores else None,
        "complete": complete,
        "isolated": not args.without_isolation,
        "names_left": left,
        "edited_sections": edited,
        "verified": complete and not violations and strict and left is not None and left <= NAMES_LEFT,
    }
    return verdict | {"digest": digest(verdict)}


# The command ----------------------------------------------------------------------------------------------------------
def say_verdict(verdict: dict) -> None:
    if which := ", ".join(verdict["edited_sections"]):
        print(f"note: {ROOT / 'train_gpt.py'}, by which the referee counts, and train_gpt_mlx.py differ in the sections {which}:")
        print("a maintainer's referee counts by the published ones, so put them back or try it in a fresh clone")
    for row in verdict["runs"]:
        for line in row.get("isolation", [])[:6]:
            print(f"isolation: {safe(line)}")
        if "probes" in row:
            print("probes: " + " ".join(f"{k}:{v:.3g}" if isinstance(v, float) else f"{k}:{v}" for k, v in row["probes"].items()))
            print(f"seed:{row['seed']} verified val_bpb:{row['verified_val_bpb']:.8f} claimed:{row['claimed_val_bpb']:.8f} "
                  f"difference:{row['difference']:+.8f} scoring_s:{row['scoring_s']}")  # fmt: skip
    for entry in verdict["violations"]:
        print(f"REFUSED {safe(entry['rule'], 8)}: {safe(entry['what'], 500)}" + (f" (seed {entry['seed']})" if "seed" in entry else ""))
    if verdict["verified_val_bpb"] is not None and not verdict["violations"]:
        why = "seeds or probes left out, no isolation, smoke corpus, names left, sections edited"
        word = "verified" if verdict["verified"] else f"scored again, not verified ({why}):"
        left = verdict["names_left"]
        if verdict["isolated"] and (left is None or left > NAMES_LEFT):
            print(
                f"names left: {'this kernel does not say how many' if left is None else left} were looked up in vain or forgotten while it "
                "ran, and one process can leave word for the next so;"
            )
            print(f"at most {NAMES_LEFT}. Try again on a quiet machine, or as root, who can clear the kernel's memory of them")
        difference = verdict["verified_val_bpb"] - verdict["claimed_val_bpb"]
        print(f"{word} val_bpb:{verdict['verified_val_bpb']:.8f} claimed:{verdict['claimed_val_bpb']:.8f} difference:{difference:+.8f}")


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--data", default=str(ROOT / "data" / "datasets" / "fineweb10B_sp1024"), help="folder with the *_val_*.bin shards")
    parser.add_argument("--tokenizer", default=str(ROOT / "data" / "tokenizers" / "fineweb_1024_bpe.model"), help="their tokenizer")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write the verdict there; records/verified/NAME.json is where the leaderboard looks"
    )
    parser.add_argument("--sign", default="", metavar="NAME", help="who signs the verdict off")
    parser.add_argument("--seed", type=int, action="append", help="score this seed only (no verification of the record)")
    parser.add_argument(
        "--device",
        default="",
        choices=["", "auto", "cpu", "cuda"],
        help="where the submission runs; default: as its settings say, but on the CPU where there is no GPU",
    )
    parser.add_argument("--probes", type=int, default=PROBES, help="how many batches are asked again; fewer verify nothing")
    parser.add_argument("--limit-s", type=float, default=DEFAULT_LIMITS["total_s"], help="seconds for each of an artifact's two processes")
    parser.add_argument("--reply-s", type=float, default=DEFAULT_LIMITS["reply_s"], help="seconds for one answer")
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=DEFAULT_LIMITS["memory_bytes"] / 2**30,
        help="memory of the submission's processes",
    )
    parser.add_argument("--unchecked", action="store_true", help="score a folder although the checker has findings")
    parser.add_argument("--without-isolation", action="store_true", help="run code you trust where the system offers no namespaces")
    args = parser.parse_args(argv)
    if args.probes < 0:
        parser.error("--probes is a number from 0")
    try:
        if not (args.folder / "submission.json").is_file():
            raise NoReferee(f"{safe(args.folder)}: no submission.json there; name the folder of a record, as records/track_non_record/NAME")
        claim = read_json(args.folder / "submission.json")
        if args.json and args.json.is_file():
            other = read_json(args.json)
            if any(other.get(key) != claim.get(key) for key in ("track", "name")):
                raise NoReferee(f"{args.json} is the verdict on another folder, of the track {safe(other.get('track'))}; name another file")
        verdict = rescore(args)
    except (NoReferee, TextError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    say_verdict(verdict)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    return int(bool(verdict["violations"]))


if __name__ == "__main__":
    sys.exit(tool_main(main))
