#!/usr/bin/env python3
"""Run a list of settings with several seeds each, one run after another, and hold them against a control.

    python3 scripts/campaign.py configs/campaigns/example_cpu.toml --dry-run   the list, forecast sizes, time
    python3 scripts/campaign.py configs/campaigns/example_cpu.toml             run what is not finished, then the table
    python3 scripts/campaign.py configs/campaigns/example_cpu.toml --table     the table of what is there
    python3 scripts/campaign.py configs/campaigns/gpu_first.toml --devices 0,1 a run on each of two CUDA devices
    python3 scripts/campaign.py FILE DATA_PATH=other/data VAL_TOKENS=65536     settings for all runs, as the trainer takes them

Runs land in RUNS_DIR/<name of FILE>/<run>_s<seed>. Type the same command again after any stop: finished runs are kept,
interrupted ones go on, broken ones are named and left alone until `--retry` moves them aside. What FILE may hold is in
docs/local_loop.md.

Exit status: 0 all runs finished, 1 some did not (--dry-run: something is in the way), 2 bad input or refused, 130/143 interrupted
(type the same to go on).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import prepare_run
from golf import ROOT, needs
from golf.campaign_table import Table, markdown
from golf.campaign_work import Place, Times, Worker
from golf.campaigns import (
    BROKEN,
    FINISHED,
    INTERRUPTED,
    NEW,
    NO_SETTINGS,
    Campaign,
    CampaignError,
    Planned,
    Row,
    Seen,
    changes,
    load_trainer,
    look,
    read_campaign,
    set_aside,
    settings_in,
)
from golf.interrupts import tool_main
from golf.places import Cluster, LocalJob, resume_arguments
from golf.results import CALIBRATION_FILE
from golf.texts import write_whole

try:
    from filelock import FileLock, Timeout
except ImportError:
    needs.refuse("campaign.py", "the trainer's packages", "requirements-cuda.txt")

RESULTS = "results.md"


# Where runs go =========================================================================================================
def local_job(env: dict[str, str]) -> Callable[[Planned, Path], LocalJob]:
    def start(p: Planned, console: Path) -> LocalJob:
        kept = {k: v for k, v in os.environ.items() if k not in (*NO_SETTINGS, "RUNS_DIR")} | env
        data = {"DATA_PATH": p.settings.DATA_PATH, "TOKENIZER_PATH": p.settings.TOKENIZER_PATH}
        arguments = resume_arguments(p.folder, data) if p.folder.exists() else [str(p.row.trainer), *p.argv]
        return LocalJob(arguments, kept, ROOT, console)

    return start


def ray_job(cluster: Cluster) -> Callable[[Planned, Path], object]:
    def start(p: Planned, console: Path) -> object:
        given = (k for k, source in p.settings.sources.items() if source != "default" and k not in ("RUNS_DIR", "RUN_ID"))
        items = [f"{k}={p.settings.values[k]}" for k in given]
        data, tokenizer = Path(p.settings.DATA_PATH), Path(p.settings.TOKENIZER_PATH)
        return cluster.start(p.name, p.row.trainer, items, data, tokenizer, p.folder, console)

    return start


def threads_here() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places_for(args: argparse.Namespace, campaign: Campaign) -> list[Place]:
    """Raises CampaignError."""
    kinds = {p.settings.DEVICE for p in campaign.plan}
    asked = " and ".join(f"DEVICE={kind}" for kind in sorted(kinds))
    if args.devices:
        if not re.fullmatch(r"[\w-]+(,[\w-]+)*", args.devices) or len(set(args.devices.split(","))) < len(args.devices.split(",")):
            raise CampaignError(f"--devices {args.devices}: give CUDA device numbers, each once, such as --devices 0,1")
        if kinds != {"cuda"}:  # DEVICE=auto would take the CPU, without a word, where a number is wrong
            raise CampaignError(f"--devices is for CUDA devices, and the file asks for {asked}; add DEVICE=cuda, or --jobs N for a CPU")
        names = args.devices.split(",")
        shared = f"{len(names)} CUDA devices of one machine at once" if len(names) > 1 else ""
        return [Place(f"on device {name}", shared, local_job({"CUDA_VISIBLE_DEVICES": name})) for name in names]
    if args.ray:
        drop = {name for p in campaign.plan for name in p.settings.table} | set(NO_SETTINGS)
        cpus = args.ray_cpus or (1 if kinds == {"cpu"} else 0)
        try:
            cluster = Cluster(args.ray, cpus, drop)
        except ImportError:
            raise CampaignError("--ray needs Ray; type: python3 -m pip install -r requirements-ray.txt") from None
        except (ConnectionError, ValueError, RuntimeError) as e:
            reason = str(e).strip().splitlines()[0]
            raise CampaignError(f"--ray {args.ray}: {reason}; `ray status` shows a cluster that runs here") from None
        room = cluster.room()
        unit = f"{cpus} CPU{'s'[: cpus > 1]}" if cpus else "1 GPU"
        if not room:
            raise CampaignError(f"--ray {args.ray}: no node has {unit} for a run; --ray-cpus N runs on N CPUs instead")
        shared = f"on a Ray cluster, {unit} a run"
        return [Place(f"on Ray, {i + 1} of {room}", shared, ray_job(cluster)) for i in range(room)]
    if args.jobs > 1:
        if kinds != {"cpu"}:
            raise CampaignError(f"--jobs is for CPUs, and the file asks for {asked}; add DEVICE=cpu, or --devices 0,1 for GPUs")
        threads = max(1, threads_here() // args.jobs)
        shared = f"{args.jobs} jobs of {threads} thread{'s'[: threads > 1]} at once, so speeds are those of a shared machine"
        return [Place(f"as job {i + 1}", shared, local_job({"OMP_NUM_THREADS": str(threads)})) for i in range(args.jobs)]
    return [Place("", "", local_job({}))]


# The command ===========================================================================================================
def forecast(row: Row, plan: list[Planned]) -> tuple[int, int] | None:
    """(bytes that code and model will take, the cap), as the trainer forecasts it; None when it cannot."""
    trainer, p = load_trainer(row.trainer), next(p for p in plan if p.row is row)
    try:
        s = trainer.load_settings([*p.argv, "DEVICE=cpu"], {})
        model = trainer.GPT(s, trainer.resolve_device(s))
        weights = trainer.initial_weights(s, model.weights())
        code_bytes = row.trainer.stat().st_size
        return code_bytes + trainer.forecast_bytes(weights, s, code_bytes), s.CAP_BYTES
    except Exception as e:  # it is somebody's work in progress; the run itself will say more
        print(f"note: no forecast for {row.name}: {type(e).__name__}: {e}", file=sys.stderr)
        return None


def dry_run(campaign: Campaign, seen: dict[str, tuple[Planned, Seen]], places: int) -> int:
    sizes = {row.name: forecast(row, campaign.plan) for row in campaign.rows}
    times, rows = Times(seen), ["#|run|state|bytes|seconds|settings".split("|")]
    for number, p in enumerate(campaign.plan, 1):
        size, spent = sizes[p.row.name], times.of(p)
        seconds = "?" if spent is None else f"{spent[0]:,.0f}" + ("" if spent[1] else " +")
        bytes_text = "?" if size is None else f"{size[0]:,}" + (" OVER" if size[0] > size[1] else "")
        rows.append([str(number), p.name, seen[p.name][1].state, bytes_text, seconds, " ".join(p.row.own)])
    print("\n".join([campaign.title, campaign.question, "", *markdown(rows), ""]))
    todo = [p for p in campaign.plan if seen[p.name][1].state in (NEW, INTERRUPTED)]
    print(f"{len(campaign.plan)} runs in {campaign.folder}, {len(todo)} of them to do; time left: {times.left(todo, places)}")
    if any(" +" in row[4] for row in rows):
        print("+: training alone; scoring is not measured yet")
    missing = {prepare_run.missing_data(Path(p.settings.DATA_PATH), Path(p.settings.TOKENIZER_PATH)) for p in campaign.plan}
    for text in sorted(missing - {""}):
        print(f"data: there is no {text}; it is fetched or built first, where the repository knows how")
    try:
        check_unchanged(seen, campaign.folder)
        refused = ""
    except CampaignError as e:
        refused = str(e)
        print(f"error: {refused}", file=sys.stderr)
    over = [name for name, size in sizes.items() if size and size[0] > size[1]]
    if over:
        print(f"error: over the cap, by the trainer's forecast: {', '.join(over)}; lower MODEL_DIM or NUM_LAYERS", file=sys.stderr)
    return 1 if over or refused else 0


def prepare_data(campaign: Campaign, todo: list[Planned], here: bool) -> None:
    """Check device and data, and fetch or build data, once for each kind. Raises CampaignError."""
    kinds = {(p.row.trainer, p.settings.DATA_PATH, p.settings.TOKENIZER_PATH, p.settings.DEVICE): p for p in reversed(todo)}
    for p in kinds.values():
        trainer = load_trainer(p.row.trainer)
        try:
            prepare_run.prepare(trainer, [*p.argv, *([] if here else ["DEVICE=cpu"])])
        except trainer.UserError as e:
            raise CampaignError(str(e)) from None


def check_unchanged(seen: dict[str, tuple[Planned, Seen]], folder: Path) -> None:
    """Raises CampaignError when what is there was made with something else than what is asked for now."""
    lines = []
    for p, s in seen.values():
        if s.state in (FINISHED, INTERRUPTED) and (changed := changes(p)):
            lines.append(f"  {p.name} ({s.state}): {'; '.join(changed)}")
    if lines:
        raise CampaignError(
            f"runs in {folder} were made with other settings or source than are asked for now:\n" + "\n".join(lines) + "\n"
            "One table of both would mislead. Put file and source back, or give the file a new name, which begins a new folder; "
            "--mix goes on all the same, and the table says so"
        )


def write_table(campaign: Campaign) -> Table:
    table = Table(campaign)
    text, path = table.text(), campaign.folder / RESULTS
    print(f"\n{text}", flush=True)
    write_whole(path, text)
    print(f"written to {path}", flush=True)
    return table


def run_campaign(args: argparse.Namespace, campaign: Campaign) -> int:
    """Raises CampaignError."""
    if args.retry:
        for p in campaign.plan:
            if look(p.folder).state == BROKEN:
                print(f"{p.name} is set aside: {set_aside(campaign, p)}")
    seen = {p.name: (p, look(p.folder)) for p in campaign.plan}
    if not args.mix:
        check_unchanged(seen, campaign.folder)
    todo = [p for p in campaign.plan if seen[p.name][1].state in (NEW, INTERRUPTED)]
    for p, s in seen.values():
        if s.state == BROKEN:
            print(f"{p.name} is broken and left alone ({s.why}); --retry moves it aside and runs it again")
    stopped, refused = 0, ""
    if todo:
        prepare_data(campaign, todo, here=not args.ray)
        if (known := campaign.folder.parent / CALIBRATION_FILE).is_file():  # trainer and tables look for it beside the runs
            shutil.copy(known, campaign.folder / CALIBRATION_FILE)
        print(f"{campaign.title}: {len(todo)} of {len(campaign.plan)} runs to do in {campaign.folder}", flush=True)
        worker = Worker(campaign, seen, places_for(args, campaign))
        stopped, refused = worker.work(todo), worker.refused
    table = write_table(campaign)
    if stopped:
        print(f"interrupted; {'once the file is put back ' if refused else ''}the same command goes on", flush=True)
        return 128 + stopped
    if refused:
        raise CampaignError(
            f"{refused}.\nPut the file back and type the same command, or give the campaign's file a new name, which begins a new folder; "
            "--mix goes on with the file as it is now, and the table says so"
        )
    return 0 if all(s.state == FINISHED for _, s in table.seen) else 1


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="the campaign, a .toml file")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of all runs")
    parser.add_argument("--dry-run", action="store_true", help="print the list, forecast sizes and time; run nothing")
    parser.add_argument("--table", action="store_true", help="write and print the table of what is there; run nothing")
    parser.add_argument("--retry", action="store_true", help="move broken runs aside and run them again")
    parser.add_argument("--mix", action="store_true", help="go on although source or settings changed since the runs that are there")
    parser.add_argument("--runs-dir", type=Path, metavar="DIR", help="folder for the campaign's folder (default: RUNS_DIR or runs)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--devices", default="", metavar="0,1", help="one run at a time on each of these CUDA devices")
    how.add_argument("--jobs", type=int, default=1, metavar="N", help="N runs at once on a CPU, which share its threads")
    how.add_argument("--ray", default="", metavar="ADDRESS", help="run on a Ray cluster; auto: the one that runs here")
    parser.add_argument("--ray-cpus", type=int, default=0, metavar="N", help="with --ray: N CPUs a run in place of one GPU")
    return parser


def campaign_command(args: argparse.Namespace) -> int:
    """Raises CampaignError."""
    if args.jobs < 1 or args.ray_cpus < 0:
        raise CampaignError("--jobs and --ray-cpus take whole numbers from 1")
    if args.ray_cpus and not args.ray:
        raise CampaignError("--ray-cpus goes with --ray ADDRESS")
    file = args.file.resolve() if args.file.is_file() else ROOT / args.file
    runs_dir = args.runs_dir.absolute() if args.runs_dir else Path(os.environ.get("RUNS_DIR") or "runs")
    os.chdir(ROOT)  # settings name files from there, as in the run scripts
    campaign = read_campaign(file, runs_dir, args.settings)
    if strays := settings_in(os.environ, campaign.plan):
        raise CampaignError(f"the environment sets {', '.join(strays)}; unset that, or type it behind FILE, where it is seen")
    if args.dry_run:
        places = len(args.devices.split(",")) if args.devices else args.jobs
        return dry_run(campaign, {p.name: (p, look(p.folder)) for p in campaign.plan}, places)
    if args.table:
        if not campaign.folder.is_dir():
            raise CampaignError(f"there is no {campaign.folder}; run the campaign first, without --table")
        write_table(campaign)
        return 0
    campaign.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(campaign.folder / ".lock", timeout=0):
            return run_campaign(args, campaign)
    except Timeout:
        raise CampaignError(f"another campaign is at work in {campaign.folder}; wait for it, or stop it where it runs") from None


def main(argv: list[str] | None = None) -> int:
    try:
        return campaign_command(command_line().parse_intermixed_args(argv))
    except CampaignError as e:
        print("error: " + str(e).replace("\n", "\n       "), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(tool_main(main))
