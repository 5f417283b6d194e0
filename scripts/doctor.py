#!/usr/bin/env python3
"""What this machine can do here, what stands in the way, and what to type next. A minute or two; writes runs/calibration.json alone.

    python3 scripts/doctor.py                 checks, calibration, prediction
    python3 scripts/doctor.py --quick         no calibration, no prediction: a few seconds
    python3 scripts/doctor.py --config configs/local_cpu_smoke.env    predict this run instead of the one the doctor picks
    python3 scripts/doctor.py --json          the same as one JSON object

The calibration figure is tokens/s of a fixed workload: forward and backward of 6 plain attention and MLP blocks of width 192 over
sequences of 512 tokens with a head of 1024, in the type the device trains in, without an optimizer; the fastest of the batch sizes
tried counts. It is kept in runs/calibration.json, so that compare_runs and report can set runs of different devices side by side.

Standard library only, and any Python 3.6 or newer will do, so that it runs where nothing else does yet.
Exit status: 0 ready to train, 1 something has to be mended first, 2 bad input.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEEDED_PYTHON, CUDA_DRIVER = (3, 11), 580  # the driver that CUDA 13 takes
WORKLOAD = "6 blocks x 192, 512 tokens, head 1024, forward + backward"
CHECK_SECONDS, PROBE_SECONDS = 600, 240
BUSY_LOAD = 0.5  # of a core, over the last minute: above it something else is at work
RUN_BYTES, FINEWEB_BYTES = 200e6, 600e6  # disk for a few runs, and for validation with two train shards
CUDA, APPLE, CPU = "configs/local_4090_baseline.env", "configs/local_apple_mlx.env", "configs/local_cpu_baseline.env"
CPU_SMOKE, APPLE_SMOKE = "configs/local_cpu_smoke.env", "configs/local_apple_smoke.env"
TORCH, MLX = "scripts/run_cuda_baseline.sh", "scripts/run_mlx_baseline.sh"


class Report:
    """What was found, a line each, and the first thing to do about it."""

    def __init__(self, quiet):
        self.quiet, self.lines, self.facts, self.todo = quiet, [], {}, []

    def say(self, mark, name, text):
        """mark: ok, note, or MEND for what keeps a run from starting."""
        self.lines.append({"mark": mark, "name": name, "text": text})
        if not self.quiet:
            print(f"{mark:<4}  {name:<12} {text}")
            sys.stdout.flush()

    def mend(self, name, text, command):
        self.say("MEND", name, text)
        self.todo.append(command)


def run(command, seconds, **options):
    """(exit status or None when it could not run or took too long, what it printed, what it complained about)."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **options)
    except OSError as e:
        return None, "", str(e)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, "", f"took longer than {seconds} s"
    return process.returncode, out, err


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def give(count):
    """Bytes as a person reads them."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def rerun(python):
    return f"{python} scripts/doctor.py"


# Checks ================================================================================================================
def check_python(report):
    """True when this Python is new enough for the trainer."""
    version = platform.python_version()
    if sys.version_info >= NEEDED_PYTHON:
        report.say("ok", "Python", f"{version} on {platform.system()}, {platform.machine()}")
        return True
    for minor in (14, 13, 12, 11):
        name = f"python3.{minor}"
        if run([name, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], 20)[0] == 0:
            report.mend("Python", f"{version} is too old, 3.11 or newer is needed; {name} is there", rerun(name))
            return False
    install = {"Darwin": "brew install python", "Windows": "winget install Python.Python.3.13"}
    command = install.get(platform.system(), "sudo apt install python3.11 python3.11-venv")
    report.mend("Python", f"{version} is too old, 3.11 or newer is needed", command)
    return False


def pick_python():
    """The environment that the run scripts made, when there is one; else this Python."""
    for path in (os.path.join(ROOT, ".venv", "bin", "python"), os.path.join(ROOT, ".venv", "Scripts", "python.exe")):
        if os.path.exists(path) and not os.environ.get("PYTHON"):
            return path
    return sys.executable or "python3"


def check_packages(report, python, requirements):
    """True when all packages are there. scripts/missing_packages.py knows how to look without importing them."""
    status, out, err = run([python, os.path.join(ROOT, "scripts", "missing_packages.py"), os.path.join(ROOT, requirements)], 60)
    if status == 0:
        report.say("ok", "packages", f"all of {requirements}")
        for line in err.strip().splitlines():
            report.say("note", "packages", line.replace("warning: ", ""))
        return True
    script, config = (TORCH, CPU_SMOKE) if requirements == "requirements-cuda.txt" else (MLX, APPLE_SMOKE)
    found = f"missing: {out.strip()}" if status is not None and out.strip() else f"cannot be checked: {last_line(err)}"
    report.mend("packages", f"{found}; the run scripts install {requirements} into .venv", f"bash {script} {config}")
    return False


def probe(python, backend, calibrate):
    """What a framework says about the device; {"error": ...} when it cannot. In a process of its own, since it may end that one."""
    command = [python, os.path.join(ROOT, "scripts", "golf", "device_probe.py"), backend]
    status, out, err = run(command + (["--calibrate"] if calibrate else []), PROBE_SECONDS)
    try:
        return json.loads(out.strip().splitlines()[-1]) if status == 0 else {"error": last_line(err)}
    except (ValueError, IndexError):
        return {"error": last_line(err or out)}


def find_device(report, python, calibrate):
    """Facts about what to train on, or {}: MLX first on a Mac, torch first elsewhere."""
    backends = ["mlx", "torch"] if platform.system() == "Darwin" else ["torch", "mlx"]
    errors = []
    for backend in backends:
        facts = probe(python, backend, calibrate)
        if "kernels_for" in facts:
            card = "{device}, capability {capability[0]}.{capability[1]}: torch {version} has kernels for {kernels} only"
            text = card.format(kernels=", ".join(facts["kernels_for"]), **facts)
            report.mend("device", text + "; pytorch.org/get-started lists builds for other cards. On the CPU:", f"bash {TORCH} {CPU_SMOKE}")
            return {}
        if "error" not in facts:
            for name, error in errors:
                report.say("note", name, error)
            return facts
        errors.append((backend, facts["error"]))
    requirements = "requirements-mlx.txt" if backends[0] == "mlx" else "requirements-cuda.txt"
    report.mend(backends[0], f"cannot be used: {errors[0][1]}", f"{os.path.basename(python)} -m pip install -r {requirements}")
    return {}


def describe_device(report, facts):
    version = f"{facts['backend']} {facts['version']}"
    if "capability" in facts:
        memory = f"{give(facts['free_bytes'])} of {give(facts['memory_bytes'])} free"
        major, minor = facts["capability"]
        report.say("ok", "device", f"{facts['device']}, capability {major}.{minor}, {memory} ({version})")
        if facts["free_bytes"] < 0.5 * facts["memory_bytes"]:
            report.say("note", "device", "less than half of its memory is free; `nvidia-smi` shows what holds the rest")
        if facts.get("devices", 1) > 1:
            report.say("note", "device", f"{facts['devices']} of them; the record lane uses one")
    else:
        report.say("ok", "device", f"{facts['device']} ({version})")
        if facts["backend"] == "torch" and shutil.which("nvidia-smi"):
            text = "nvidia-smi is there, but this torch finds no CUDA device: a build without CUDA, or for a newer driver"
            report.say("note", "device", text + "; pytorch.org/get-started lists builds")
    report.say("ok", "precision", facts["precision"])
    if "triton" in facts:
        report.say("ok", "Triton", facts["triton"])
    elif "capability" in facts:
        report.say("note", "Triton", f"missing ({facts.get('triton_missing')}), so torch.compile is off and training is slower")
    if facts.get("compiling_lacks"):
        report.say("note", "compiling", f"COMPILE will fail, and training without it is slower: {facts['compiling_lacks']}")
    kernels = [name for name, works in sorted(facts.get("attention", {}).items()) if works]
    if facts.get("attention"):
        slow = "" if kernels != ["math"] else "; slow: no fused kernel works on this device"
        report.say("ok" if kernels else "note", "attention", (", ".join(kernels) or "no kernel works") + slow)


def runs_folder():
    """Where runs go, as the trainer has it: RUNS_DIR of the environment, or runs."""
    return os.path.join(ROOT, os.environ.get("RUNS_DIR") or "runs")


def check_folder(report, name, path):
    """True when a folder, or what it would be made in, can be written."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        handle, probe_file = tempfile.mkstemp(dir=path)
        os.close(handle)
        os.unlink(probe_file)
        return True
    except OSError as e:
        where = "copy the repository to a folder you own" if name == "data" else "set RUNS_DIR to a folder you may write to"
        report.mend("permissions", f"{name} cannot be written ({e.strerror})", where)
        return False


def check_disk(report):
    free = shutil.disk_usage(ROOT).free
    if free < RUN_BYTES:
        report.mend("disk", f"{give(free)} free; a run needs up to {give(RUN_BYTES)}", "free some disk space")
    elif free < FINEWEB_BYTES:
        report.say("note", "disk", f"{give(free)} free; FineWeb needs {give(FINEWEB_BYTES)}")
    else:
        report.say("ok", "disk", f"{give(free)} free")


def check_driver(report):
    """What nvidia-smi says, where there is one. A driver older than PyTorch's CUDA is the usual reason why it finds no card."""
    if not shutil.which("nvidia-smi"):
        return
    status, out, err = run(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"], 20)
    found = re.match(r"(\d+)[\d.]*, .+", out)
    if status != 0 or not found:
        report.say("note", "driver", f"nvidia-smi finds no card that works: {last_line(out + err)}")
    elif int(found.group(1)) < CUDA_DRIVER:
        text = f"{found.group()}: PyTorch for CUDA 13, which requirements-cuda.txt installs, takes {CUDA_DRIVER} or newer"
        report.say("note", "driver", text + ". Update it, or see pytorch.org/get-started for a build for its CUDA")
    else:
        report.say("ok", "driver", found.group())


def check_processor(report):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # a Mac lacks it
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        report.say("ok", "processor", f"{cores} cores, {give(memory)} of memory")
    except (AttributeError, ValueError, OSError):
        report.say("ok", "processor", f"{cores} cores")


def load_of_others():
    """(load average of the last minute, cores it is spread over); a load of 0 where the system does not say."""
    try:
        return os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):
        return 0.0, 1


def settings_of(config):
    """KEY=VALUE lines of a config, without their comments."""
    with open(os.path.join(ROOT, config)) as f:
        return dict(m.groups() for m in (re.match(r"(\w+)=(\S*)", line) for line in f) if m)


def missing_data(config):
    """What a config's DATA_PATH and TOKENIZER_PATH lack, in words; '' when nothing."""
    sys.path.insert(0, os.path.join(ROOT, "scripts"))
    from pathlib import Path

    import prepare_run

    settings = settings_of(config)
    paths = [Path(ROOT, settings.get(key, default)) for key, default in (
        ("DATA_PATH", "data/datasets/fineweb10B_sp1024"), ("TOKENIZER_PATH", "data/tokenizers/fineweb_1024_bpe.model"))]  # fmt: skip
    return prepare_run.missing_data(*paths).replace(ROOT + os.sep, "")


def check_data(report):
    """Which datasets are there."""
    for name, config, how in (
        ("FineWeb", CUDA, "python3 data/cached_challenge_fineweb.py --variant sp1024 --train-shards 2 (0.5 GB)"),
        ("embedded", CPU_SMOKE, "python3 data/build_embedded_corpus.py (no download; the run scripts do it too)"),
    ):
        missing = missing_data(config)
        report.facts["data_" + name.lower()] = not missing
        report.say("note" if missing else "ok", "data", f"{name}: there is no {missing}; {how}" if missing else f"{name}: complete")


# Advice ================================================================================================================
def pick_run(facts, have_fineweb):
    """(script, config, settings to add) that suit the device."""
    if facts.get("backend") == "mlx":
        return MLX, APPLE if have_fineweb and "CPU" not in facts["device"] else APPLE_SMOKE, []
    if "capability" not in facts:
        return TORCH, CPU if have_fineweb else CPU_SMOKE, []
    extra = []
    if facts["free_bytes"] < (7e9 if "triton" in facts else 14e9):  # the whole batch of 131,072 tokens took 5.1 GB compiled, on an H100
        extra.append(f"MICROBATCH_TOKENS={32768 if facts['free_bytes'] > 5e9 else 8192}")
        extra.append("EVAL_BATCH_TOKENS=16384")
    return TORCH, CUDA, extra


def pairs(line):
    return dict(re.findall(r"(\w+):(\S+)", line))


def accepts(report, python, trainer, config):
    """Whether the trainer takes a config on this device."""
    code = "\n".join((
        "import sys, " + trainer.replace(".py", " as t"),
        "try: t.resolve_device(t.load_settings(['--config', sys.argv[1]], {}))",
        "except t.UserError as e: sys.exit(str(e))"))  # fmt: skip
    status, _, err = run([python, "-c", code, config], CHECK_SECONDS, cwd=ROOT)
    if status != 0:
        why = (err.strip() or "without a word").splitlines()[0]
        report.mend("prediction", f"{trainer} refuses {config} here: {why}", "choose another config: ls configs")
    return status == 0


def predict(report, python, trainer, config, extra):
    """Let the trainer's own --check say what the run would do. True unless it refused."""
    begin = time.time()
    command = [python, trainer, "--config", config, "--check"] + extra
    status, out, err = run(command, CHECK_SECONDS, cwd=ROOT)
    if status != 0:
        words = err if err.strip() else out
        line = " ".join(command[1:])
        report.mend("prediction", f"`{line}` failed: {last_line(words)}", "mend what it says, then: " + rerun("python3"))
        return False
    found = {}
    for line in out.splitlines():
        if line.startswith(("check ", "forecast ")):
            found.update(pairs(line))
        if line.startswith(("warning: ", "note: ")):
            report.say("note", "prediction", line.partition(": ")[2][:300])
    report.facts["prediction"] = found
    get = found.get
    line = " ".join([config] + extra)
    report.say("ok", "prediction", f"{line}, looked at for {time.time() - begin:.0f} s:")
    steps, tokens, epochs, rate = (get(key, "?") for key in ("steps", "train_tokens", "epochs", "tokens_per_s"))
    report.say("ok", "  training", f"{steps} steps, {tokens} tokens, {epochs} passes over the data, {rate} tokens/s")
    first, steps = int(get("warmdown_begins_at_step", 0)), int(get("steps", 0))
    if steps > first:
        report.say("ok", "  warmdown", f"begins at step {first} of {steps}")
    else:
        report.say("note", "  warmdown", "NEVER BEGINS; raise MAX_WALLCLOCK_SECONDS or lower TRAIN_BATCH_TOKENS")
    report.say("ok", "  scoring", f"about {get('scoring_s', '?')} s")
    report.say("ok", "  bytes", f"about {get('total_bytes', '?')} of {get('cap_bytes', '?')}")
    return True


def keep_calibration(report, facts):
    """runs/calibration.json, one entry a device; where the runs are, since that is where trainer and tables look for it."""
    path = os.path.join(runs_folder(), "calibration.json")
    known = {}
    try:
        with open(path) as f:
            known = json.load(f)
    except (OSError, ValueError):
        pass
    if not isinstance(known, dict):
        known = {}
    entry = {"tokens_per_s": round(facts["calibration"]["tokens_per_s"], 1), "workload": WORKLOAD, "precision": facts["precision"]}
    entry.update(software=f"{facts['backend']} {facts['version']}", measured=time.strftime("%Y-%m-%d"))
    known[facts["device"]] = entry
    try:
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        with open(path + ".part", "w") as f:
            json.dump(known, f, indent=1)
        os.replace(path + ".part", path)
    except OSError as e:
        report.say("note", "calibration", f"not kept: {path} cannot be written ({e.strerror})")


def examine(args, report):
    """All checks in order; later ones only where they make sense."""
    load, cores = load_of_others()  # before the doctor adds to it
    new_enough = check_python(report)
    check_processor(report)
    check_disk(report)
    check_driver(report)
    writable = check_folder(report, os.environ.get("RUNS_DIR") or "runs", runs_folder())
    if not new_enough:
        return
    check_data(report)
    python = pick_python()
    if os.path.realpath(python) != os.path.realpath(sys.executable or ""):
        report.say("note", "Python", "checking the one in .venv, which the run scripts use")
    mac = platform.system() == "Darwin"
    if not check_packages(report, python, "requirements-mlx.txt" if mac else "requirements-cuda.txt"):
        return
    facts = find_device(report, python, not args.quick)
    if not facts:
        return
    report.facts["device"] = facts
    describe_device(report, facts)
    if "calibration" in facts:
        report.say("ok", "calibration", f"{facts['calibration']['tokens_per_s']:.0f} tokens/s ({WORKLOAD})")
        if load > BUSY_LOAD * cores:
            text = f"may be low, as something else is running: load {load:.1f} on {cores} cores before it"
            report.say("note", "calibration", f"{text}; once that has ended: {rerun('python3')}")
        keep_calibration(report, facts)
    script, config, extra = pick_run(facts, report.facts.get("data_fineweb"))
    if args.config:
        config, extra = args.config, []
        script = MLX if facts["backend"] == "mlx" else TORCH
    trainer = "train_gpt_mlx.py" if facts["backend"] == "mlx" else "train_gpt.py"
    if args.config and not accepts(report, python, trainer, config):
        return
    missing = missing_data(config)
    if missing:
        check_folder(report, "data", os.path.join(ROOT, "data"))
        report.say("note", "prediction", f"waits for the data of {config}, which the run fetches or builds: {missing}")
    elif not args.quick and writable and not predict(report, python, trainer, config, extra):
        return
    report.facts["next"] = " ".join(["bash", script, config] + extra)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no calibration and no prediction")
    parser.add_argument("--config", help="the run to predict, a file in configs/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.config and not os.path.isfile(os.path.join(ROOT, args.config)):
        print(f"error: --config {args.config}: there is no such file; `ls configs` shows those that come along", file=sys.stderr)
        return 2
    report = Report(args.json)
    try:
        examine(args, report)
    except KeyboardInterrupt:
        return 130
    except Exception as e:  # a doctor that falls ill helps nobody: say what was found so far, and what to send
        report.mend("doctor", f"could not finish: {type(e).__name__}: {e}", "report this line as a bug of scripts/doctor.py")
    steps = report.todo or [report.facts["next"]]
    if args.json:
        print(json.dumps({"ready": not report.todo, "next": steps, "lines": report.lines, "facts": report.facts}, indent=1))
    else:
        print("\n" + ("mend this first:" if report.todo else "ready. type:"))
        for step in steps:
            print("  " + step)
    return 1 if report.todo else 0


if __name__ == "__main__":
    sys.exit(main())
