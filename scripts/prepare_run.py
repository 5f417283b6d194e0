"""What the run scripts do before training: check settings, device and data, and fetch or build missing data.

    python3 scripts/prepare_run.py train_gpt [--train [--packed | --readable]] --config configs/local_cpu_smoke.env [KEY=VALUE ...]
    python3 scripts/prepare_run.py train_gpt --train --resume runs/ID [KEY=VALUE ...]

All other arguments are the trainer's own. In this order, so that nothing is fetched for a run that could not start: settings,
device, compiler, data. Silent when all is there. Exit status 2 when something has to be mended first. Run it in the repository root.

With --train, this process then becomes the trainer. It trains with a self-extracting copy of the source where TARGET_BYTES is set, since
there each byte less of code is one more for the weights; --readable: with the source as it is; --packed: with the copy anyway.
With --resume, the run goes on at once by the source and the settings in its folder: a --config is not read, and nothing is packed anew.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from golf import ROOT, source
from golf.needs import compiling_lacks

EMBEDDED = "embedded_sp1024"
FINEWEB = "fineweb10B_"
REFERENCE_TRAIN_SHARDS = 2


def import_trainer(name):
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise SystemExit(
            f"error: {name}.py cannot be loaded with {sys.executable}: {e}\n"
            "       A package of that Python is broken. To choose another one: PYTHON=/path/to/python3 bash scripts/..."
        ) from None


def missing_data(data_path, tokenizer_path):
    """What DATA_PATH and TOKENIZER_PATH lack for a run, in words; empty when nothing is missing."""
    shards = [f"*_{split}_[0-9]*.bin" for split in ("train", "val")]
    missing = [str(data_path / name) for name in shards if not any(data_path.glob(name))]
    if not tokenizer_path.is_file():
        missing.append(str(tokenizer_path))
    return ", ".join(missing)


def command_for(data_path):
    """The command that makes the data of DATA_PATH, or None: only the folders that data/*.py write to have one."""
    data_path = data_path.resolve()
    if data_path.parent != ROOT / "data" / "datasets":
        return None
    if data_path.name == EMBEDDED:
        return ["data/build_embedded_corpus.py"]
    if data_path.name.startswith(FINEWEB):
        variant = data_path.name.removeprefix(FINEWEB)
        return ["data/cached_challenge_fineweb.py", "--variant", variant, "--train-shards", str(REFERENCE_TRAIN_SHARDS)]
    return None


def prepare(trainer, argv):
    """The settings of a run. Raises trainer.UserError for whatever keeps it from starting."""
    settings = trainer.load_settings(argv)
    runtime = trainer.resolve_device(settings)
    torch_compiles = not hasattr(trainer, "mx") and getattr(runtime, "compile", False)  # an edited trainer may not say
    if torch_compiles and (lacks := compiling_lacks()):
        print(f"warning: torch.compile will fail, and training without it is slower: {lacks}", file=sys.stderr)
    data_path, tokenizer_path = Path(settings.DATA_PATH), Path(settings.TOKENIZER_PATH)
    missing = missing_data(data_path, tokenizer_path)
    if not missing:
        return settings
    command = command_for(data_path)
    if command is None:
        raise trainer.UserError(
            f"DATA_PATH={data_path} and TOKENIZER_PATH={tokenizer_path} lack {missing}; put that there, or take "
            f"DATA_PATH=data/datasets/{FINEWEB}sp1024 (gets fetched) or DATA_PATH=data/datasets/{EMBEDDED} (gets built)"
        )
    line = " ".join(["python3", *command])
    print(f"data: there is no {missing}; running {line}", flush=True)
    status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
    if status:
        raise trainer.UserError(f"{line} ended with exit status {status}; mend what it says, then run this again")
    missing = missing_data(data_path, tokenizer_path)
    if missing:
        raise trainer.UserError(f"{line} ran, but there still is no {missing}; check DATA_PATH and TOKENIZER_PATH")
    return settings


def warn_of_refusals(name):
    """Say before the training what the checker will say after it: the source of a record is the one that trained, and cannot be mended."""
    code = (ROOT / f"{name}.py").read_bytes()
    why = "no record can be made of such a source (B2 and B5 of docs/track_spec.md)"
    for line, what in source.misleading(code) + source.reaches(source.parse(code), source.required_packages(ROOT)):
        print(f"warning: {name}.py:{line}: {what}; {why}", file=sys.stderr)


def packed_copy(name):
    """Write packed/NAME.py, the trainer as one self-extracting file, and return its path from the repository root."""
    readable, path = (ROOT / f"{name}.py").read_bytes(), Path("packed") / f"{name}.py"
    packed = source.pack(readable)
    part = ROOT / path.with_suffix(f".{os.getpid()}")  # replaced whole, since two runs may start at once
    try:
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(packed)
        part.replace(ROOT / path)
    except OSError as e:
        advice = "copy the repository to a folder you own, or train with the source as it is: --readable"
        raise source.SourceError(f"cannot write {path}, the self-extracting copy of {name}.py: {e.strerror}; {advice}") from None
    print(f"{path}: {len(readable)} bytes of code as {len(packed)}, lines numbered as in {name}.py; --readable goes without", flush=True)
    return str(path)


def command_line():
    """What is ours, wherever it stands among the trainer's own arguments."""
    usage = "%(prog)s CONFIG [--packed | --readable] [--resume RUN] [KEY=VALUE ...]"  # that of the run scripts
    parser = argparse.ArgumentParser(prog=Path(sys.argv[0]).name, usage=usage, allow_abbrev=False, add_help=False)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--readable", action="store_true")
    parser.add_argument("--config", metavar="FILE.env")
    parser.add_argument("--resume", metavar="RUN_FOLDER")
    return parser


def go_on(name, folder, config, rest):
    """Become the trainer that a run began with. Where there is none, the one here says so."""
    own = Path(folder) / "train_gpt.py"
    if own.is_file() and config:
        print(f"{folder} goes on by its own source and settings; {config} is not read", flush=True)
    os.execv(sys.executable, [sys.executable, str(own) if own.is_file() else f"{name}.py", "--resume", folder, *rest])


def main(argv):
    if not argv or argv[0].startswith("-"):
        print(__doc__)
        return 0 if {"-h", "--help"} & {*argv} else 2
    sys.argv[0] = os.environ.get("PGL_SCRIPT") or sys.argv[0]  # what was typed, for usage lines, the trainer's included
    name, (args, rest) = argv[0], command_line().parse_known_args(argv[1:])
    if args.packed and args.readable:
        print("error: --packed and --readable exclude each other; type one of them", file=sys.stderr)
        return 2
    if args.resume == "":
        print("error: --resume is empty; name a run folder, `ls runs` shows them", file=sys.stderr)
        return 2
    if args.train and args.resume:
        go_on(name, args.resume, args.config, rest)
    argv = rest if args.config is None else ["--config", args.config, *rest]
    argv = argv if args.resume is None else ["--resume", args.resume, *argv]
    trainer, file = import_trainer(name), f"{name}.py"
    try:
        if not {"-h", "--help"} & {*argv}:  # the trainer prints it
            settings = prepare(trainer, argv)
            if args.train:
                warn_of_refusals(name)
            wants_bytes = getattr(settings, "TARGET_BYTES", 0) and not args.readable  # an edited trainer may have no such setting
            if args.train and (wants_bytes or args.packed):
                file = packed_copy(name)
    except (trainer.UserError, source.SourceError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if args.train:
        os.execv(sys.executable, [sys.executable, file, *argv])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
