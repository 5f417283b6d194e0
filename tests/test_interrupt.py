"""Promise: whatever stops a run, what was reached is on disk, nothing half-written looks whole, and --resume goes on."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import types

import numpy as np
import pytest
from conftest import TRAINER, SteppingTime, line_of, same_arrays, start_trainer
from prep import console

import train_gpt
from train_gpt import Interrupt, Log, Stepper, check_resumable


class Killed(BaseException):
    """Stands for kill -9: nothing in the trainer handles it."""


@pytest.fixture
def during(monkeypatch):
    """during(object, "name", act, when): while the block runs, the function acts before its real work if `when` of its arguments."""

    @contextlib.contextmanager
    def block(owner, name, act, when=lambda *args: True):
        real = getattr(owner, name)

        def wrapped(*args, **kw):
            if when(*args):
                act()
            return real(*args, **kw)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrapped)
            yield

    return block


def send(number):
    return lambda: os.kill(os.getpid(), number)


def die():
    raise Killed


def at_step(step):
    return lambda stepper, now, *rest: now == step


def same_as_uninterrupted(folder, finished):
    """Weights, artifact and score are the same bits as those of a run that nothing stopped."""
    whole = finished[0]
    assert same_arrays(folder / "weights.npz", whole / "weights.npz")
    assert (folder / "artifact.bin").read_bytes() == (whole / "artifact.bin").read_bytes()
    a, b = (json.loads((path / "result.json").read_text()) for path in (folder, whole))
    for key in ("val_bpb", "val_loss", "steps", "train_tokens", "epochs", "model_bytes", "data_hashes", "export_gap_bpb"):
        assert a[key] == b[key], key
    assert not (folder / "checkpoint.npz").exists() and not list(folder.glob("*.part"))


# ------------------------------------------------------------------------------------------------------ signals


def test_stopped_twice_and_resumed_is_the_same_run(main, finished, tmp_path, during):
    folder = tmp_path / "runs" / "x"
    with during(Stepper, "launch", send(signal.SIGINT), at_step(4)):
        done = main(RUN_ID="x")
    assert done.code == 130 and f"python3 {folder / 'train_gpt.py'} --resume {folder}" in done.out
    assert {path.name for path in folder.iterdir()} == {"train.log", "settings.env", "train_gpt.py", "checkpoint.npz"}
    with during(Stepper, "launch", send(signal.SIGTERM), at_step(8)):
        done = main("--resume", folder, bare=True)
    assert done.code == 143 and line_of(done.out, "resumed ")["step"] == "5"
    done = main("--resume", folder, bare=True)
    assert done.code == 0 and line_of(done.out, "resumed ")["step"] == "9"
    same_as_uninterrupted(folder, finished)
    log = (folder / "train.log").read_text()
    for step in range(1, 13):
        assert log.count(f"\nstep:{step} train_loss:") == 1


@pytest.mark.parametrize("why, advised", [("CUDA out of memory. Tried to allocate", True), ("a bug", False)])
def test_a_crash_says_how_to_go_on_and_what_to_lower(main, tmp_path, monkeypatch, why, advised):
    def crash(*args):
        raise RuntimeError(why)

    monkeypatch.setattr(Stepper, "launch", crash)
    with pytest.raises(RuntimeError, match=why[:5]):
        main(RUN_ID="x", RUNS_DIR=tmp_path / "my runs")
    log = (tmp_path / "my runs/x/train.log").read_text()
    assert f"\nfailed: RuntimeError: {why}" in log and ("lower MICROBATCH_TOKENS" in log) == advised
    assert f"go on with: python3 '{tmp_path}/my runs/x/train_gpt.py' --resume '{tmp_path}/my runs/x'" in log


def test_what_was_changed_at_a_resume_holds_at_the_next(main, tmp_path, during):
    """Twelve steps, made twenty at the first resume: the second, as the log says to type it, goes on to twenty and lets the rates fall."""
    folder = tmp_path / "runs" / "x"
    with during(Stepper, "launch", send(signal.SIGINT), at_step(4)):
        assert main(RUN_ID="x").code == 130
    with during(Stepper, "launch", send(signal.SIGINT), at_step(8)):
        assert main("--resume", folder, bare=True, ITERATIONS=20).code == 130
    done = main("--resume", folder, bare=True)
    assert done.code == 0 and line_of(done.out, "trained ")["steps"] == "20"
    assert json.loads((folder / "result.json").read_text())["settings"]["ITERATIONS"] == 20


@pytest.mark.parametrize("step", [0, 11])
def test_stopped_at_the_first_or_last_step(main, finished, tmp_path, during, step):
    with during(Stepper, "launch", send(signal.SIGTERM), at_step(step)):
        assert main(RUN_ID="x").code == 143
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    same_as_uninterrupted(tmp_path / "runs/x", finished)


@pytest.mark.parametrize("where, name", [(train_gpt.Run, "calibrate"), (Stepper, "warm_up")])
def test_stopped_before_the_first_step_is_stopped_at_once(main, finished, tmp_path, during, where, name):
    """The forecast and compiling can take minutes: a signal does not wait for the first step."""
    with during(where, name, send(signal.SIGTERM)), during(Stepper, "launch", lambda: pytest.fail("a step was taken")):
        done = main(RUN_ID="x")
    assert done.code == 143 and "interrupted, nothing is lost; go on with:" in done.out
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    same_as_uninterrupted(tmp_path / "runs/x", finished)


def test_what_a_resume_changes_is_said(main, tmp_path, during):
    with during(Stepper, "launch", send(signal.SIGINT), at_step(4)):
        assert main(RUN_ID="x").code == 130
    done = main("--resume", tmp_path / "runs/x", bare=True, ITERATIONS=6)
    assert done.code == 0 and "note: ITERATIONS was 12, is 6 now\n" in done.out and done.out.count(" now\n") == 1


def test_a_signal_from_outside(tiny, main, tmp_path):
    process = start_trainer(*tiny.settings(RUNS_DIR=tmp_path, RUN_ID="x", ITERATIONS=10**9))
    for line in process.stdout:
        if line.startswith("step:3 "):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=100)
    assert process.returncode == 143 and err == "" and f"--resume {tmp_path}/x" in out
    with np.load(tmp_path / "x/checkpoint.npz") as z:
        step = json.loads(str(z["meta"]))["step"]
    done = main("--resume", tmp_path / "x", bare=True, ITERATIONS=step + 2)
    assert done.code == 0 and line_of(done.out, "trained ")["steps"] == str(step + 2)


@pytest.mark.parametrize("phase,there", [("export", False), ("load_artifact", True), ("export_gap", True)])
def test_stopped_after_training(main, finished, tmp_path, during, phase, there):
    with during(train_gpt.Run, phase, send(signal.SIGINT)):
        done = main(RUN_ID="x")
    folder = tmp_path / "runs/x"
    assert done.code == 130 and (folder / "weights.npz").exists() and (folder / "artifact.bin").exists() == there
    assert main("--resume", folder, bare=True).code == 0
    same_as_uninterrupted(folder, finished)


def test_stopped_while_the_weights_are_written(main, finished, tmp_path, during):
    with during(train_gpt, "atomic_write", send(signal.SIGTERM), lambda path, write: path.name == "weights.npz"):
        assert main(RUN_ID="x").code == 143
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    same_as_uninterrupted(tmp_path / "runs/x", finished)


def test_a_second_signal_of_another_kind_changes_nothing(main, finished, tmp_path, during):
    """As torchrun sends one after Ctrl-C: what ends the run goes on to its last line."""
    with during(train_gpt.Run, "export", send(signal.SIGINT)), during(Log, "__call__", send(signal.SIGTERM), lambda log, x: "interr" in x):
        done = main(RUN_ID="x")
    assert done.code == 143 and "interrupted, nothing is lost; go on with:" in done.out
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    same_as_uninterrupted(tmp_path / "runs/x", finished)


def test_stopped_while_the_result_is_written(main, tmp_path, during):
    with during(train_gpt, "atomic_write", send(signal.SIGTERM), lambda path, write: path.name == "result.json"):
        assert main(RUN_ID="x").code == 143


def test_stopped_while_the_model_is_built_compiles_nothing(main, tmp_path, during, monkeypatch):
    monkeypatch.setattr(Stepper, "warm_up", lambda *args: pytest.fail("went on to the warm-up"))
    with during(train_gpt.Run, "build", send(signal.SIGTERM)):
        assert main(RUN_ID="x").code == 143


def test_first_signal_asks_second_kills():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupt = Interrupt()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(train_gpt.Interrupted):
            interrupt.raise_from_now()
        with pytest.raises(train_gpt.Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -------------------------------------------------------------------------------------------------- clock, crash


def test_clock_goes_on_where_it_stopped(main, tmp_path, during, monkeypatch):
    """On a clock that ticks when looked at: as many steps as without a stop, and no more training seconds than allowed."""
    steps = {}
    for run in ("whole", "stopped"):
        monkeypatch.setattr(train_gpt, "time", SteppingTime())
        if run == "stopped":
            with during(Stepper, "launch", send(signal.SIGINT), at_step(20)):
                assert main(RUN_ID=run, MAX_WALLCLOCK_SECONDS=4, ITERATIONS=0).code == 130
            monkeypatch.setattr(train_gpt, "time", SteppingTime())
            done = main("--resume", tmp_path / "runs" / run, bare=True)
            assert float(line_of(done.out, "resumed ")["train_s"]) > 0.5
        else:
            done = main(RUN_ID=run, MAX_WALLCLOCK_SECONDS=4, ITERATIONS=0)
        assert done.code == 0
        result = json.loads((tmp_path / "runs" / run / "result.json").read_text())
        steps[run] = result["steps"]
        assert result["train_seconds"] <= 4
    assert steps["whole"] > 40 and steps["stopped"] == pytest.approx(steps["whole"], abs=3)


@pytest.mark.parametrize("stop", [None, 6])
@pytest.mark.parametrize("in_flight, every", [(0, 4), (2, 4), (2, 2)])
def test_the_clock_is_kept_with_steps_in_flight(main, tmp_path, monkeypatch, in_flight, every, stop):
    """A device that takes half a second a step and works while the host runs ahead: training ends within one step of its budget, in one
    go or resumed, and each log line has a loss."""
    clock, start = SteppingTime(1e-6), train_gpt.Runtime.start
    free, launched = [0.0], []  # when the device is done with all that was launched

    def launch(stepper, step, batch, scale):
        free[0] = max(free[0], clock.now) + 0.5
        launched.append(step)
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)
        return free[0]

    def finish(stepper, done_at):
        clock.now = max(clock.now, done_at)
        return 1.0

    def start_with_flights(runtime, seed):
        start(runtime, seed)
        runtime.steps_in_flight = in_flight

    monkeypatch.setattr(train_gpt, "time", clock)
    monkeypatch.setattr(Stepper, "launch", launch)
    monkeypatch.setattr(Stepper, "finish", finish)
    monkeypatch.setattr(train_gpt.Runtime, "start", start_with_flights)
    assert main(RUN_ID="x", MAX_WALLCLOCK_SECONDS=7.2, ITERATIONS=0, TRAIN_LOG_EVERY=every).code == (130 if stop else 0)
    if stop:
        clock.now = free[0] + 60  # by then the device is done: what was not waited for before the stop would not be on the clock
        assert main("--resume", tmp_path / "runs" / "x", bare=True).code == 0
    seconds = json.loads((tmp_path / "runs" / "x" / "result.json").read_text())["train_seconds"]
    assert 5.5 <= seconds <= 6.2 and launched == list(range(12))  # a second is kept for the export
    losses = re.findall("train_loss:([^ ]+)", (tmp_path / "runs" / "x" / "train.log").read_text())
    assert set(losses) == {"1"} and len(losses) == 1 + 12 // every


def test_the_reserve_for_the_export_is_of_the_clock_it_goes_on_with(main, tmp_path, during, monkeypatch):
    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    with during(Stepper, "launch", send(signal.SIGINT), at_step(3)):
        assert main(RUN_ID="x", ITERATIONS=20).code == 130
    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    done = main("--resume", tmp_path / "runs" / "x", bare=True, ITERATIONS=0, MAX_WALLCLOCK_SECONDS=4)
    assert done.code == 0
    assert float(line_of(done.out, "trained ")["train_s"]) <= 3  # a second at least is kept free


def test_killed_between_checkpoints(main, finished, tmp_path, during, monkeypatch):
    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    with during(Stepper, "launch", die, at_step(9)), pytest.raises(Killed):
        main(RUN_ID="x", CHECKPOINT_EVERY_SECONDS=0.1)
    done = main("--resume", tmp_path / "runs/x", bare=True)
    assert done.code == 0 and 0 < int(line_of(done.out, "resumed ")["step"]) <= 9
    same_as_uninterrupted(tmp_path / "runs/x", finished)


def test_checkpoints_are_so_many_seconds_apart(main, monkeypatch):
    """On a clock that ticks when looked at, and each with the seconds of training until then."""
    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    saved, real = [], train_gpt.save_arrays
    monkeypatch.setattr(train_gpt, "save_arrays", lambda *args: saved.append(args[2]["seconds"]["train"]) or real(*args))
    assert main(CHECKPOINT_EVERY_SECONDS=0.5, MAX_WALLCLOCK_SECONDS=3.5, ITERATIONS=0).code == 0
    gaps = np.diff([0, *saved[:-1]])  # the last are the weights
    assert len(gaps) >= 3 and gaps.min() >= 0.5 and gaps.max() < 0.8


def test_killed_before_any_checkpoint_starts_again(main, finished, tmp_path, during):
    with during(Stepper, "launch", die, at_step(5)), pytest.raises(Killed):
        main(RUN_ID="x", CHECKPOINT_EVERY_SECONDS=0)
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    same_as_uninterrupted(tmp_path / "runs/x", finished)


@pytest.mark.parametrize("name", ["artifact.bin", "result.json"])
def test_killed_after_training_loses_nothing(main, finished, tmp_path, during, name):
    with during(train_gpt, "atomic_write", die, lambda path, write: path.name == name), pytest.raises(Killed):
        main(RUN_ID="x")
    folder = tmp_path / "runs/x"
    assert (folder / "weights.npz").exists() and not (folder / name).exists()
    done = main("--resume", folder, bare=True)
    assert done.code == 0 and line_of(done.out, "resumed ") == {"after": "training", "steps": "12"}
    same_as_uninterrupted(folder, finished)


def test_killed_between_weights_and_checkpoint(main, finished, tmp_path, during):
    """Both files are there; the finished weights count."""
    with during(train_gpt.Path, "unlink", die, lambda path, *a: path.name == "checkpoint.npz"), pytest.raises(Killed):
        main(RUN_ID="x")
    assert main("--resume", tmp_path / "runs/x", bare=True).code == 0
    assert same_arrays(tmp_path / "runs/x/weights.npz", finished[0] / "weights.npz")


# --------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("name", ["settings.env", "train_gpt.py", "weights.npz", "artifact.bin", "result.json"])
def test_disk_full_at_the_end_of_each_file(main, finished, tmp_path, monkeypatch, name):
    real = os.fsync

    def fsync(handle):
        if os.readlink(f"/proc/self/fd/{handle}").endswith(f"/{name}.part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here to tell which file is being written")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        done = main(RUN_ID="x")
    folder = tmp_path / "runs/x"
    assert done.code == 2 and f"could not write {folder / name}: the disk is full" in done.err
    assert not (folder / name).exists() and not list(folder.glob("*.part"))
    if name == "weights.npz":
        assert "x holds settings.env, train.log, train_gpt.py (steps taken are in checkpoint.npz or weights.npz)" in done.out
    if name == "train_gpt.py":
        assert not folder.exists()  # so that the same command works when there is room
    if name not in ("settings.env", "train_gpt.py"):
        assert main("--resume", folder, bare=True).code == 0
        same_as_uninterrupted(folder, finished)


@contextlib.contextmanager
def largest_file(size):
    """Files of this process grow to `size` bytes at most, as on a disk that fills up half-way through one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name,share,stop", [("train_gpt.py", 0.5, None), ("weights.npz", 0.97, None), ("checkpoint.npz", 1.5, 3)])
def test_disk_full_in_the_middle_of_a_file(main, tmp_path, during, name, share, stop):
    """At half of the source; at most of the weights; at half of the checkpoint, when stopped."""
    weights = 4 * (24232 + 1024 * 32)  # bytes, more than the source has: that one is written first
    bytes_before = {"train_gpt.py": TRAINER.stat().st_size, "weights.npz": weights, "checkpoint.npz": weights}[name]
    with during(Stepper, "launch", send(signal.SIGTERM), at_step(stop)), largest_file(int(share * bytes_before)):
        done = main(RUN_ID="x", CHECKPOINT_EVERY_SECONDS=0, BIGRAM_ROWS=1024, BIGRAM_DIM=32)
    folder = tmp_path / "runs/x"
    assert done.code == 2 and f"could not write {folder / name}: the disk is full" in done.err
    assert not (folder / name).exists() and not list(folder.glob("*.part"))


def test_disk_full_at_a_checkpoint_does_not_stop_the_run(main, finished, tmp_path, monkeypatch):
    """The clock's own checkpoints are a precaution: without one of them the run goes on, and says so."""
    real = train_gpt.atomic_write

    def full(path, write):
        if path.name == "checkpoint.npz":
            raise train_gpt.UserError(f"could not write {path}: the disk is full")
        real(path, write)

    monkeypatch.setattr(train_gpt, "time", SteppingTime())
    monkeypatch.setattr(train_gpt, "atomic_write", full)
    done = main(RUN_ID="x", CHECKPOINT_EVERY_SECONDS=0.1)
    assert done.code == 0 and "checkpoint.npz: the disk is full; training goes on without this checkpoint" in done.out
    same_as_uninterrupted(tmp_path / "runs/x", finished)


def test_nobody_listening_does_not_stop_the_run(tmp_path, monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    log = Log()
    log.open(tmp_path / "train.log")
    monkeypatch.setattr("sys.stdout", Gone())
    log("one")
    monkeypatch.setattr("sys.stdout", None)  # what Python makes of a closed one
    log("two")
    assert (tmp_path / "train.log").read_text() == "one\ntwo\n"


def test_a_closed_stderr_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with Log().progress("scoring", 1, "s") as bar, console.Progress("reading", 1) as progress:
        bar(1)
        progress.add(1)
    assert progress.bar is None and progress.done == 1


def test_a_hangup_asks_too_unless_it_is_ignored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        interrupt = Interrupt()
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.signal == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
        interrupt = Interrupt()
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.signal == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_log_that_cannot_be_written_does_not_stop_the_run(tmp_path, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Log()
    log.open(tmp_path / "train.log")
    log("one")
    log.file.close()
    log.file = types.SimpleNamespace(write=full, flush=full)
    log("two")
    log("three")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n" and err.count("warning: the log file cannot be written any more (No space left") == 1
    assert (tmp_path / "train.log").read_text() == "one\n"


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def stopped(main, tmp_path, during):
    """Folder of a run that was stopped at step 3."""
    with during(Stepper, "launch", send(signal.SIGINT), at_step(3)):
        assert main(RUN_ID="x").code == 130
    return tmp_path / "runs" / "x"


def test_a_changed_source_is_refused(main, stopped):
    copy = stopped / "train_gpt.py"
    check_resumable(stopped)  # its own source goes on
    copy.write_text(copy.read_text() + "\n# an edit\n")
    done = main("--resume", stopped, bare=True)
    assert done.code == 2 and "the source has changed" in done.err and f"python3 {copy} --resume {stopped}" in done.err
    copy.unlink()  # as where the disk was full when the folder was made
    done = main("--resume", stopped, bare=True)
    assert done.code == 2 and "no run began there" in done.err and "`ls runs`" in done.err


@pytest.mark.parametrize("name", ["checkpoint.npz", "weights.npz"])
@pytest.mark.parametrize("keep", [pytest.param(0, id="empty"), pytest.param(1000, id="cut"), pytest.param(-1, id="text")])
def test_damaged_files_are_named(main, stopped, name, keep):
    data = (stopped / "checkpoint.npz").read_bytes()
    (stopped / name).write_bytes(data[:keep] if keep >= 0 else b"something else")
    done = main("--resume", stopped, bare=True)
    assert done.code == 2 and f"cannot read {stopped / name}" in done.err


def test_another_model_is_refused(main, stopped):
    done = main("--resume", stopped, bare=True, MODEL_DIM=64)
    assert done.code == 2 and "MODEL_DIM" in done.err


@pytest.mark.parametrize("kind", ["train", "val", "tokenizer"])
def test_other_data_are_refused(main, stopped, tiny, tmp_path, kind):
    """The same names, another content: two tokens of a shard swapped, or two bytes more in the tokenizer's model."""
    copy = tmp_path / "data"
    shutil.copytree(tiny.folder, copy)
    text = (stopped / "settings.env").read_text()
    (stopped / "settings.env").write_text(text.replace(str(tiny.folder), str(copy)))
    path = copy / "t.model" if kind == "tokenizer" else next(copy.glob(f"*_{kind}_*.bin"))
    data = path.read_bytes()
    path.write_bytes(data + b"\x1a\x00" if kind == "tokenizer" else data[:1030] + data[1032:1034] + data[1030:1032] + data[1034:])
    done = main("--resume", stopped, bare=True)
    assert done.code == 2 and "it began on other data" in done.err
    path.write_bytes(data)
    assert main("--resume", stopped, bare=True).code == 0


# --------------------------------------------------------------------------------------------------- divergence


def test_other_data_are_refused_after_training_too(main, tiny, tmp_path, during):
    with during(train_gpt.Run, "export", send(signal.SIGINT)):
        assert main(RUN_ID="x").code == 130
    copy, settings = tmp_path / "data", tmp_path / "runs" / "x" / "settings.env"
    shutil.copytree(tiny.folder, copy)
    settings.write_text(settings.read_text().replace(str(tiny.folder), str(copy)))
    assert main("--resume", settings.parent, bare=True).code == 0
    (settings.parent / "result.json").unlink()
    path = next(copy.glob("*_train_*.bin"))
    data = path.read_bytes()
    path.write_bytes(data[:1030] + data[1032:1034] + data[1030:1032] + data[1034:])
    done = main("--resume", settings.parent, bare=True)
    assert done.code == 2 and "it began on other data" in done.err


def test_a_model_that_cannot_be_built_leaves_no_folder(main, tmp_path, monkeypatch):
    """An edit without its role: once mended, the same command runs, and is not told that the folder exists."""
    role = train_gpt.ROLES["up"]
    monkeypatch.delitem(train_gpt.ROLES, "up")
    done = main(RUN_ID="x")
    assert done.code == 2 and "add 'mlp.up' to ROLES" in done.err and not (tmp_path / "runs").exists()
    monkeypatch.setitem(train_gpt.ROLES, "up", role)
    assert main(RUN_ID="x").code == 0


def test_exploding_loss_ends_with_status_4_and_names_settings(main, tmp_path):
    done = main(RUN_ID="x", MATRIX_LR=10, EMBED_LR=10, VECTOR_LR=10, WARMUP_STEPS=0, ITERATIONS=100)
    assert done.code == 4
    said = line_of(done.out, "diverged: ")
    assert said["MATRIX_LR"] == "10" and said["EMBED_LR"] == "10" and "halve one of" in done.out and "WARMUP_STEPS=0" in done.out
    assert not (tmp_path / "runs/x/weights.npz").exists() and not (tmp_path / "runs/x/result.json").exists()


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 12.0])
def test_a_loss_that_is_no_number_or_worse_than_guessing(main, monkeypatch, loss):
    count = iter(range(100))
    monkeypatch.setattr(Stepper, "finish", lambda self, launched: loss if next(count) == 6 else 5.0)
    done = main()
    assert done.code == 4 and f"diverged: step 7: train_loss {loss}" in done.out
