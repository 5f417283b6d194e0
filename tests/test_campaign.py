"""Promise: a campaign runs every setting with every seed once, survives any stop, mixes nothing, and its table is honest.

Most tests use a stub trainer: the real settings, and in place of training the files of a finished tiny run with another score.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Done, environment
from filelock import FileLock
from folders import ROOT, edit
from golf import campaigns, places
from golf.campaign_table import Table, read_journal

import train_gpt

campaign = importlib.import_module("campaign")  # from scripts/, which `folders` has put on the path
SHARED_SETTINGS = re.search(r"# shared: begin settings\n(.*?)# shared: end settings", (ROOT / "train_gpt.py").read_text(), re.DOTALL)[1]
STUB = f'''"""A stub."""
from __future__ import annotations
import argparse, collections, contextlib, difflib, hashlib, json, math, os, re, shutil, signal, sys, time
from pathlib import Path

{SHARED_SETTINGS}
SETTINGS = COMMON_SETTINGS + [Setting("DEVICE", "auto", "auto|cuda|cpu", ""), Setting("EVAL_BATCH_TOKENS", 64, (2, 2**26), "")]
SETTINGS += [Setting("MICROBATCH_TOKENS", 0, (0, 2**26), "")]
resolve_device = GPT = lambda *args: type("Model", (), {{"weights": staticmethod(dict)}})
initial_weights = lambda s, weights: weights
forecast_bytes = lambda weights, s, code_bytes: 1000 * s.BITS_MATRIX

def main(argv):
    s, template = load_settings(argv), Path(os.environ["STUB_TEMPLATE"])
    args, sha = command_line().parse_intermixed_args(argv), hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if s.MATRIX_LR == 8:
        print(os.environ.get("STUB_WORDS", "error: no shards"))
        return 2
    folder = Path(args.resume) if args.resume else Path(s.RUNS_DIR) / s.RUN_ID
    folder.mkdir(parents=True, exist_ok=bool(args.resume))
    if not args.resume:
        (folder / "settings.env").write_text(s.as_env())
        shutil.copy(__file__, folder / "train_gpt.py")
    with open(folder / "train.log", "a") as log:
        log.write("resumed step:3\\n" if args.resume else "")
    if s.MATRIX_LR == 9:
        (folder / "checkpoint.npz").touch()
        (folder / "train.log").write_text("step:1\\ndiverged: step 2: train_loss nan\\n")
        return 4
    if s.MATRIX_LR == 7:
        if args.resume:
            print(os.environ["STUB_WORDS"])
            return 6
        (folder / "checkpoint.npz").touch()
        (folder / "train.log").write_text("step:1\\nfailed: OSError: the disk is full\\n")
        return 5
    if os.environ.get("STUB_WAITS") == s.RUN_ID and not args.resume:
        stopped = []
        signal.signal(signal.SIGINT, lambda *a: stopped.append(130))
        signal.signal(signal.SIGTERM, lambda *a: stopped.append(143))
        (folder / "waiting").write_text(str(os.getppid()))
        until = time.time() + 100  # not for ever, should nobody end it
        while not stopped and time.time() < until:
            time.sleep(0.01)
        (folder / "checkpoint.npz").touch()
        return stopped[0]
    if os.environ.get("STUB_EDITS", "").startswith(s.RUN_ID + " "):
        with open(os.environ["STUB_EDITS"].partition(" ")[2], "a") as file:
            file.write("# edited\\n")
    if "STUB_MEETS" in os.environ:
        meeting, until = Path(os.environ["STUB_MEETS"]), time.time() + 20
        (meeting / s.RUN_ID).touch()
        while len(list(meeting.iterdir())) < 2 and time.time() < until:
            time.sleep(0.01)
    result, log = json.loads((template / "result.json").read_text()), (template / "train.log").read_text()
    result["val_loss"] += s.MATRIX_LR - 0.02 + s.SEED * 0.001
    result["val_bpb"] = result["val_loss"] / math.log(2) * result["scored_tokens"] / result["scored_bytes"]
    score = f"val_loss:{{result['val_loss']:.8f}} val_bpb:{{result['val_bpb']:.8f}}"
    log = re.sub(r"^setting .*\\n", "", log, flags=re.M)
    log = "".join(f"setting {{k}}={{v}} from:x\\n" for k, v in s.values.items()) + log
    kind, env = "CPU" if s.DEVICE == "cpu" else "GPU", os.environ.get
    device = kind + " " + env("CUDA_VISIBLE_DEVICES", "-") + ", " + env("OMP_NUM_THREADS", "-") + " threads"
    device = device if kind == "GPU" or env("STUB_MEETS") else env("STUB_DEVICE", "CPU")
    for old, new in (("seed:.*", f"seed:{{s.SEED}}"), ("run_id:.*", f"run_id:{{s.RUN_ID}}"), ("code_sha256:.*", f"code_sha256:{{sha}}"),
                     ("device:.*", "device:" + device),
                     (r"(scored|final_sliding_window_exact) val_loss:\\S+ val_bpb:\\S+", r"\\1 " + score)):
        log = re.sub("^" + old, new, log, flags=re.M)
    with open(folder / "train.log", "a") as file:
        file.write(log)
    (folder / "checkpoint.npz").unlink(missing_ok=True)
    shutil.copy(template / "artifact.bin", folder)
    (folder / "result.json").write_text(json.dumps(result))
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''

BASE, LR, L4 = 'name = "base"', 'name = "lr"\nsettings = { MATRIX_LR = 0.03 }', 'name = "l4"\nsettings = { MATRIX_LR = 0.04 }'


class Bench:
    """A campaign file beside a stub trainer, and ways to run it."""

    def __init__(self, folder: Path, tiny, capsys: pytest.CaptureFixture):
        self.folder, self.capsys, self.file, self.runs = folder, capsys, folder / "camp.toml", folder / "runs"
        self.data = tiny.folder
        self.trainer, self.common = folder / "stub.py", [item for item in tiny.settings() if not item.startswith("EVAL_BATCH")]
        self.trainer.write_text(STUB)
        self.write()

    def write(self, *rows: str, seeds: str = "[1, 2]", head: str = "", trainer: Path | None = None) -> None:
        """Rows: the lines of each [[run]]; the first is the control."""
        rows = rows or (BASE, LR)
        common = "\n".join(f'{key} = "{value}"' for key, _, value in (item.partition("=") for item in self.common))
        control = re.search(r'name = "([\w.-]+)"', rows[0])[1]
        self.file.write_text(
            f'title = "A title"\nquestion = "Why?"\ntrainer = "{trainer or self.trainer}"\ncontrol = "{control}"\nseeds = {seeds}\n{head}\n'
            f"[settings]\n{common}\n" + "".join(f"[[run]]\n{row}\n" for row in rows)
        )

    def __call__(self, *args: str) -> Done:
        """Call main() in this process."""
        self.capsys.readouterr()
        code = campaign.main([str(self.file), "--runs-dir", str(self.runs), *args])
        return Done(code, *self.capsys.readouterr())

    def start(self, *args: str, **env: object) -> subprocess.Popen:
        """Start the command as a person does."""
        command = [sys.executable, str(ROOT / "scripts" / "campaign.py"), str(self.file), "--runs-dir", str(self.runs), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment(**env), cwd="/", stdout=pipe, stderr=pipe, text=True)

    def journal(self) -> list[dict]:
        """What ended."""
        path = self.runs / "camp" / "journal.jsonl"
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry for entry in entries if entry["state"] != "begun"]

    def ran(self) -> list[str]:
        return [entry["run"] for entry in self.journal()]

    def result(self, name: str) -> dict:
        return json.loads((self.runs / "camp" / name / "result.json").read_text())

    def cells(self, text: str, name: str) -> dict[str, str]:
        """A row of the table, by column."""
        lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
        head = next(line for line in lines if line[0] == "run")
        return dict(zip(head, next(line for line in lines if line[0] == name)))


@pytest.fixture
def bench(tmp_path, tiny, finished, capsys, monkeypatch) -> Bench:
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("STUB_TEMPLATE", str(finished[0]))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("golf.campaign_work.POLL_SECONDS", 0.01)
    return Bench(tmp_path, tiny, capsys)


def wait_for(path: Path) -> None:
    until = time.time() + 60
    while not path.exists():
        assert time.time() < until, f"{path} never came"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------------- order, restart, failures


def test_seed_by_seed_in_the_order_of_the_file_and_once(bench):
    rows = ['name = "base"\nseeds = [4, 5, 6]', LR]
    bench.write(*rows)
    done = bench()
    assert done.code == 0, done.out + done.err
    assert bench.ran() == ["base_s4", "lr_s1", "base_s5", "lr_s2", "base_s6"]
    assert "run 1/5: base_s4 starts; time left for all: unknown" in done.out and "run 5/5: base_s6 finished: val_bpb" in done.out
    assert (bench.runs / "camp" / "results.md").read_text() in done.out
    log = (bench.runs / "camp" / "lr_s2" / "train.log").read_text()
    assert "setting SEED=2 " in log and "setting MATRIX_LR=0.03 " in log and "setting RUN_ID=lr_s2 " in log
    again = bench()
    assert again.code == 0 and len(bench.ran()) == 5 and "starts" not in again.out
    bench.write(*rows, 'name = "lr2"\nsettings = { MATRIX_LR = 0.04 }')
    assert bench().code == 0 and bench.ran()[5:] == ["lr2_s1", "lr2_s2"]  # a file may grow


def test_a_failing_run_stops_nobody_and_is_not_tried_again(bench):
    rows = ['name = "base"', 'name = "bad"\nsettings = { MATRIX_LR = 9 }', 'name = "none"\nsettings = { MATRIX_LR = 8 }']
    bench.write(*rows, seeds="[1]")
    done = bench()
    assert done.code == 1 and bench.ran() == ["base_s1", "bad_s1", "none_s1"]
    assert "bad_s1 FAILED with exit status 4: diverged: step 2" in done.out and "status 2: error: no shards" in done.out
    assert "**bad_s1 is broken**: diverged: step 2" in done.out and bench.cells(done.out, "bad")["n"] == "0 of 1"
    again = bench()
    assert again.code == 1 and bench.ran()[3:] == ["none_s1"] and "bad_s1 is broken and left alone" in again.out
    retried = bench("--retry")
    assert retried.code == 1 and bench.ran()[4:] == ["bad_s1", "none_s1"]
    assert "diverged" in (bench.runs / "camp" / "aside" / "bad_s1.1" / "train.log").read_text()
    assert bench("--retry").code == 1 and (bench.runs / "camp" / "aside" / "bad_s1.2").is_dir()


def test_the_line_of_a_failure_quotes_its_own_attempt(bench, monkeypatch):
    """Not an earlier one, though both wrote into the same console file and the same log."""
    bench.write('name = "none"\nsettings = { MATRIX_LR = 8 }', 'name = "full"\nsettings = { MATRIX_LR = 7 }', seeds="[1]")
    done = bench()
    assert "none_s1 FAILED with exit status 2: error: no shards" in done.out
    assert "full_s1 FAILED with exit status 5: failed: OSError: the disk is full" in done.out
    monkeypatch.setenv("STUB_WORDS", "MemoryError")
    done = bench()
    assert "none_s1 FAILED with exit status 2: MemoryError" in done.out and "full_s1 FAILED with exit status 6: MemoryError" in done.out
    assert "no shards\n" in (bench.runs / "camp" / "console" / "none_s1.txt").read_text()
    monkeypatch.setenv("STUB_WORDS", "")
    assert "none_s1 FAILED with exit status 2: it said nothing" in bench().out


def test_ctrl_c_leaves_a_checkpoint_prints_the_table_and_goes_on(bench):
    process = bench.start(STUB_WAITS="lr_s1")
    wait_for(bench.runs / "camp" / "lr_s1" / "waiting")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "lr_s1 stopped; it goes on from there" in out and "the same command goes on" in out and "Traceback" not in err
    assert bench.cells(out, "base")["n"] == "1 of 2" and bench.cells(out, "lr")["n"] == "0 of 2"
    assert "lr_s1 was interrupted" in (bench.runs / "camp" / "results.md").read_text()
    done = bench()
    assert done.code == 0 and bench.ran() == ["base_s1", "lr_s1", "lr_s1", "base_s2", "lr_s2"] and "lr_s1 goes on" in done.out
    assert bench.journal()[2]["resumed"] and (bench.runs / "camp" / "lr_s1" / "train.log").read_text().startswith("resumed")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_run_stops_when_the_campaign_is_killed(bench):
    process = bench.start(STUB_WAITS="base_s1")
    wait_for(bench.runs / "camp" / "base_s1" / "waiting")
    process.kill()
    process.communicate(timeout=60)
    wait_for(bench.runs / "camp" / "base_s1" / "checkpoint.npz")
    assert bench().code == 0 and bench.journal()[0]["resumed"]


def test_a_run_goes_on_with_data_whose_path_needs_quotes(tmp_path):
    file, paths = tmp_path / "settings.env", {"DATA_PATH": "/Volumes/Disk #2/tokens", "TOKENIZER_PATH": "/Volumes/Disk #2/t.model"}
    file.write_text(train_gpt.load_settings([f"{k}={v}" for k, v in paths.items()], {}).as_env())
    before = file.read_bytes()
    for moved in (paths, {"DATA_PATH": "/mnt/b #1/tokens", "TOKENIZER_PATH": "'t.model"}):
        places.resume_arguments(tmp_path, moved)
        s = train_gpt.Settings(train_gpt.SETTINGS)
        s.read_file(file)
        assert {name: s.values[name] for name in moved} == moved
        assert (file.read_bytes() == before) is (moved is paths)


def test_states_of_a_folder(tmp_path, finished):
    def state(*files: str, log: str = "step:1\n") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "train.log").write_text(log)
        for name in files:
            (folder / name).touch()
        return campaigns.look(folder).state

    assert campaigns.look(tmp_path / "no").state == "new" and campaigns.look(finished[0]).state == "finished"
    assert state() == "broken" and state("checkpoint.npz") == "interrupted" and state("weights.npz") == "interrupted"
    assert state("checkpoint.npz", log="failed: OSError: full\n") == "interrupted" and state(log="failed: x\n") == "broken"
    for name, content in (("list", "[]"), ("none", "null")):
        shutil.copytree(finished[0], tmp_path / name)
        (tmp_path / name / "result.json").write_text(content)
        seen = campaigns.look(tmp_path / name)
        assert seen.state == "broken" and "result.json holds no object" in seen.why
    shutil.copytree(finished[0], tmp_path / "zero")
    edit(tmp_path / "zero" / "train.log", (r" train_s:\S+ export_s", " train_s:0 export_s"))
    assert "train_s:0" in campaigns.look(tmp_path / "zero").why
    assert state("checkpoint.npz", log="step:1\ndiverged: step 2\n") == "broken" and state("result.json") == "broken"


def test_two_campaigns_do_not_meet(bench):
    (bench.runs / "camp").mkdir(parents=True)
    with FileLock(bench.runs / "camp" / ".lock"):
        done = bench()
    assert done.code == 2 and "another campaign is at work in" in done.err and not bench.ran()
    assert bench().code == 0


# ------------------------------------------------------------------------------------------------ what may not start


def test_all_that_is_wrong_is_named_before_anything_runs(bench):
    bench.write(
        'name = "base"\nsetings = {}',
        'name = "a"\nsettings = { MATRX_LR = 0.03, WARMDOWN_FRAC = 2, NUM_LAYERS = "x" }',
        'name = "b"\nsettings = { SEED = 3, COMPILE_ = true }',
        'name = "b"\nsettings = { NUM_HEADS = 3 }\nseeds = [1, 1]',
        'name = "same"',
        head='contrl = "base"',
    )
    done = bench()
    assert done.code == 2 and not bench.runs.exists()
    for words in (
        "no key is called setings; did you mean settings?",
        "no key is called contrl; did you mean control?",
        "no setting is called MATRX_LR; did you mean MATRIX_LR?",
        "WARMDOWN_FRAC=2 is not allowed",
        "NUM_LAYERS=x is not a whole number",
        "SEED is set by the campaign",
        "COMPILE_ = True is no number or text",
        "two runs are called b",
        "a seed stands there twice",
        "MODEL_DIM=32 is not divisible by NUM_HEADS=3",
        "runs base and same have the same settings",
    ):
        assert words in done.err, words


@pytest.mark.parametrize(
    "change, words",
    [
        (('control = "base"', 'control = "bse"'), "did you mean base?"),
        (("seeds = [1, 2]", 'seeds = ["1"]'), "list of whole numbers"),
        (('title = "A title"', ""), "title is missing"),
        (("stub.py", "stab.py"), "there is no such file"),
        (("[settings]", "[settings"), "is no TOML"),
        (("[[run]]", "[[runs]]"), "there is no run"),
    ],
)
def test_a_wrong_file_is_refused(bench, change, words):
    text = bench.file.read_text()
    assert change[0] in text
    bench.file.write_text(text.replace(*change))
    done = bench()
    assert done.code == 2 and words in done.err and "Traceback" not in done.err and not bench.runs.exists()


def test_settings_of_the_environment_are_refused_and_those_typed_hold_for_all(bench, monkeypatch):
    monkeypatch.setenv("WARMDOWN_FRAC", "0.1")
    done = bench()
    assert done.code == 2 and "the environment sets WARMDOWN_FRAC=0.1" in done.err
    monkeypatch.delenv("WARMDOWN_FRAC")
    done = bench("MATRIX_LR=0.1")
    assert done.code == 2 and "MATRIX_LR is typed on the command line too" in done.err
    assert bench("WARMDOWN_FRAC=0.2").code == 0
    assert all("WARMDOWN_FRAC=0.2\n" in path.read_text() for path in bench.runs.glob("camp/*_s*/settings.env"))


def test_a_list_of_values_is_a_run_each(bench):
    bench.write('name = "base"', 'name = "g"\nsettings = { MATRIX_LR = [0.03, 0.04], BITS_MATRIX = [5, 6], WARMUP_STEPS = 3 }', seeds="[1]")
    done = bench("--dry-run")
    assert done.code == 0 and not bench.runs.exists() and "5 runs in" in done.out
    for name in ("g_0.03_5", "g_0.03_6", "g_0.04_5", "g_0.04_6"):
        assert f"| {name}_s1 " in done.out
    assert "MATRIX_LR=0.04 BITS_MATRIX=5 WARMUP_STEPS=3 |" in done.out


def test_dry_run_forecasts_bytes_and_time(bench):
    code = bench.trainer.stat().st_size
    rows = ('name = "base"', 'name = "b5"\nsettings = { BITS_MATRIX = 5 }')
    bench.common = [item for item in bench.common if not item.startswith(("ITERATIONS", "MAX_"))] + ["MAX_WALLCLOCK_SECONDS=600"]
    bench.write(*rows, seeds="[1, 2, 3]")
    done = bench("--dry-run")
    assert done.code == 0 and f"{code + 6000:,}" in done.out and f"{code + 5000:,}" in done.out and "600 + |" in done.out
    assert "6 of them to do; time left: at least 60 min and scoring" in done.out
    assert "time left: at least 30 min" in bench("--dry-run", "--jobs", "2").out
    done = bench("--dry-run", f"CAP_BYTES={code + 5500}")
    assert done.code == 1 and "OVER" in done.out and "over the cap, by the trainer's forecast: base;" in done.err


def test_other_settings_or_source_are_not_mixed_unless_told(bench):
    assert bench().code == 0
    bench.write('name = "base"', 'name = "lr"\nsettings = { MATRIX_LR = 0.04 }', seeds="[1, 2, 3]")
    done = bench()
    assert done.code == 2 and "lr_s1 (finished): MATRIX_LR was 0.03, is 0.04 now" in done.err and len(bench.ran()) == 4
    assert "base_s1 (" not in done.err
    assert bench("--dry-run").code == 1
    bench.write(seeds="[1, 2, 3]")
    bench.trainer.write_text(STUB + "# edited\n")
    done = bench()
    assert done.code == 2 and "stub.py has changed (code_sha256" in done.err and "--mix" in done.err and len(bench.ran()) == 4
    done = bench("--mix")
    assert done.code == 0 and bench.ran()[4:] == ["base_s3", "lr_s3"]
    assert bench.cells(done.out, "base")["val_bpb"] == "mixed" and bench.cells(done.out, "lr")["delta"] == "not compared"
    assert "**base is mixed**" in done.out and "source: stub.py changed in between" in done.out


def edit_during(monkeypatch: pytest.MonkeyPatch, run: str, path: Path) -> None:
    """Have a line added to a file while this run is at work."""
    monkeypatch.setenv("STUB_EDITS", f"{run} {path}")


@pytest.mark.parametrize("which", ["trainer", "config"])
def test_a_file_edited_while_the_campaign_runs_stops_it_before_the_next_run(bench, monkeypatch, tmp_path, which):
    config = tmp_path / "own.env"
    config.write_text("WARMUP_STEPS=3\n")
    bench.write(BASE, f'{LR}\nconfig = "{config}"')
    path = {"trainer": bench.trainer, "config": config}[which]
    before = path.read_bytes()
    edit_during(monkeypatch, "base_s1", path)
    done = bench()
    assert done.code == 2 and bench.ran() == ["base_s1"], done.out + done.err
    assert f"lr_s1 does not start: {path.name} has changed (sha256 " in done.out
    assert f"error: {path.name} has changed (sha256 " in done.err and "so lr_s1 and the 2 runs behind it do not start" in done.err
    assert "Put the file back and type the same command" in done.err and "--mix" in done.err
    assert bench.cells(done.out, "base")["n"] == "1 of 2" and not (bench.runs / "camp" / "lr_s1").exists()
    path.write_bytes(before)
    monkeypatch.delenv("STUB_EDITS")
    done = bench()
    assert done.code == 0 and bench.ran() == ["base_s1", "lr_s1", "base_s2", "lr_s2"] and "mixed" not in done.out


def test_a_file_of_other_rows_may_be_edited_and_one_that_is_gone_is_named(bench, monkeypatch, tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text(STUB)
    bench.write(BASE, f'{LR}\ntrainer = "{copy}"', seeds="[1]")
    edit_during(monkeypatch, "lr_s1", bench.trainer)
    assert bench().code == 0 and bench.ran() == ["base_s1", "lr_s1"]
    bench.trainer.write_text(STUB)
    copy.unlink()
    read = campaign.read_campaign
    copy.write_text(STUB)

    def gone(*args: object) -> campaigns.Campaign:
        found = read(*args)
        copy.unlink()
        return found

    bench.write(BASE, f'{LR}\ntrainer = "{copy}"\nseeds = [3]', seeds="[1]")
    monkeypatch.setattr(campaign, "read_campaign", gone)
    done = bench()
    assert done.code == 2 and f"{copy} cannot be read any more while" in done.err and "Traceback" not in done.err
    assert "so lr_s3 does not start" in done.err


def test_runs_at_work_end_when_a_file_was_edited(bench, monkeypatch, tmp_path):
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("STUB_MEETS", str(tmp_path / "meeting"))
    edit_during(monkeypatch, "lr_s1", bench.trainer)
    done = bench("--jobs", "2")
    assert done.code == 2 and sorted(bench.ran()) == ["base_s1", "lr_s1"], done.out + done.err
    assert "base_s2 does not start" in done.out and "and the 1 run behind it do not start" in done.err
    assert bench.cells(done.out, "base")["n"] == bench.cells(done.out, "lr")["n"] == "1 of 2"
    assert "has changed (code_sha256" in bench().err  # the same command, the file not put back
    monkeypatch.delenv("STUB_EDITS")
    assert bench("--mix").code == 0 and len(bench.ran()) == 4


# --------------------------------------------------------------------------------------------------------- the table


def test_the_numbers_of_the_table_by_hand(bench):
    bench.write(seeds="[1, 2, 4]")
    text = bench().out
    row, nats = bench.cells(text, "lr"), bench.result("base_s1")
    scale = nats["scored_tokens"] / nats["scored_bytes"] / math.log(2)  # bpb of a nat
    scores = {name: [bench.result(f"{name}_s{seed}")["val_bpb"] for seed in (1, 2, 4)] for name in ("base", "lr")}
    assert row["val_bpb"] == f"{sum(scores['lr']) / 3:.5f}" and row["n"] == "3"
    spread = 0.001 * math.sqrt((1 + 4 + 16 - 49 / 3) / 2) * scale  # the stub adds 0.001 nats for each seed
    assert row["sd"] == f"{statistics.stdev(scores['lr']):.5f}" == f"{spread:.5f}"
    assert row["delta"] == f"{0.01 * scale:+.5f}" and bench.cells(text, "base")["delta"] == "control"
    if importlib.util.find_spec("scipy"):
        half = 2.776445 * spread * math.sqrt(2 / 3)  # equal spreads: Student's t with 4 degrees of freedom
        assert row["95% interval"] == f"{0.01 * scale - half:+.5f} to {0.01 * scale + half:+.5f}"
    assert row["bytes"] == f"{nats['total_bytes']:,}" and row["export gap"] == f"{nats['export_gap_bpb']:.5f}"
    assert row["tokens"] == f"{12 * 256:,}" and row["steps"] == "12" and row["train s"] == f"{nats['train_seconds']:,.1f}"
    for words in ("# A title", "Why?", "| runs | 6 of 6 finished |", "3072 tokens, no limit of seconds", nats["numpy"], "code_sha256 "):
        assert words in text, words
    assert nats["data_hashes"]["val_tokens_sha256"][:16] in text


def test_without_scipy_the_interval_is_blank_and_says_so(bench, monkeypatch):
    assert bench().code == 0
    monkeypatch.setattr("golf.campaign_table.welch_of", lambda: None)
    done = bench("--table")
    assert bench.cells(done.out, "lr")["95% interval"] == "" and "No intervals: scipy is not installed" in done.out


def test_very_unequal_counts_are_noted(bench):
    pytest.importorskip("scipy")
    bench.write(BASE, LR + "\nseeds = [1, 2]", L4 + "\nseeds = [1, 2, 3]", seeds="[1, 2, 3, 4, 5]")
    done = bench()
    assert done.code == 0 and "**lr's interval is too narrow**: 2 against 5 runs" in done.out and "l4's interval is" not in done.out


def test_runs_of_one_score_get_no_interval(bench):
    pytest.importorskip("scipy")
    bench.write(seeds="[1, 2, 3]")
    assert bench().code == 0
    first = bench.result("lr_s1")
    for seed in (2, 3):
        folder = bench.runs / "camp" / f"lr_s{seed}"
        score = f"val_loss:{first['val_loss']:.8f} val_bpb:{first['val_bpb']:.8f}"
        edit(folder / "train.log", (r"^(scored|final_sliding_window_exact) val_loss:\S+ val_bpb:\S+", rf"\1 {score}"))
        (folder / "result.json").write_text(json.dumps(first))
    done = bench("--table")
    row = bench.cells(done.out, "lr")
    assert row["delta"][0] == "+" and row["95% interval"] == ""
    assert "**lr has no interval**: all runs of it or of base score the same" in done.out


def test_what_cannot_be_compared_is_flagged(bench, monkeypatch):
    bench.write(BASE, 'name = "long"\nsettings = { ITERATIONS = 24 }', LR, seeds="[1]")
    done = bench()
    assert done.code == 0 and bench.cells(done.out, "lr")["delta"][0] == "+"
    monkeypatch.setenv("STUB_DEVICE", "another CPU")
    bench.write(BASE, LR, L4, seeds="[1]")
    assert bench.cells(bench().out, "l4")["delta"] == "not compared"
    bench.write(seeds="[1, 2]")
    done = bench()
    assert done.code == 0 and "| device | DIFFERS: CPU (2 runs); another CPU (2 runs) |" in done.out
    assert bench.cells(done.out, "base")["val_bpb"] == "mixed" and bench.cells(done.out, "lr")["delta"] == "not compared"
    assert "device: 1 x CPU (base_s1) against 1 x another CPU (base_s2)" in done.out


def test_over_the_cap_is_said(bench):
    assert bench().code == 0
    for path in bench.runs.glob("camp/lr_s2"):
        log, result = (path / "train.log").read_text(), bench.result("lr_s2")
        (path / "train.log").write_text(re.sub(r"^size (.*)total_bytes:\d+", r"size \1total_bytes:2000007", log, flags=re.M))
        (path / "result.json").write_text(json.dumps(result | {"total_bytes": 2_000_007}))
    done = bench("--table")
    assert bench.cells(done.out, "lr")["bytes"] == "2,000,007 OVER" and "**lr is over the cap** of 2,000,000 bytes by 7." in done.out


# ----------------------------------------------------------------------------------------------------- several at once


def test_jobs_run_at_once_share_the_threads_and_say_so(bench, monkeypatch, tmp_path):
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("STUB_MEETS", str(tmp_path / "meeting"))  # each run waits for another one
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    bench.write(seeds="[1]")
    done = bench("--jobs", "2")
    assert done.code == 0 and sorted(bench.ran()) == ["base_s1", "lr_s1"] and "starts as job 2" in done.out
    assert "CPU -, 3 threads" in done.out and "In parallel, 2 jobs of 3 threads at once" in done.out
    bench.write(BASE, LR, L4, seeds="[1]")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    done = bench()  # the same device, but alone on it
    assert bench.cells(done.out, "l4")["delta"] == "not compared" and "sharing: DIFFERS: alone" in done.out
    assert bench.cells(done.out, "lr")["delta"] != "not compared"


def test_each_device_gets_a_run_of_its_own(bench, monkeypatch, tmp_path):
    (tmp_path / "meeting").mkdir()
    monkeypatch.setenv("STUB_MEETS", str(tmp_path / "meeting"))
    cpu = bench.common
    bench.common = [item.replace("DEVICE=cpu", "DEVICE=cuda") for item in cpu]
    bench.write(seeds="[1]")
    assert bench("--devices", "0,3").code == 0
    logs = [(bench.runs / "camp" / name / "train.log").read_text() for name in ("base_s1", "lr_s1")]
    assert "device:GPU 0," in logs[0] and "device:GPU 3," in logs[1]
    for wrong in ("0,0", "0,,1", "0 1"):
        bench.write(seeds="[1, 2]")
        assert bench("--devices", wrong).code == 2
    done = bench("--jobs", "2")
    assert done.code == 2 and "--jobs is for CPUs, and the file asks for DEVICE=cuda" in done.err
    bench.common = [item for item in cpu if not item.startswith("DEVICE")]
    bench.write(seeds="[1, 2]")
    for options in (("--devices", "0"), ("--jobs", "2")):
        done = bench(*options, "--mix")
        assert done.code == 2 and "the file asks for DEVICE=auto; add DEVICE=c" in done.err


def test_what_shared_its_machine_once_did_even_if_it_went_on_alone(bench, monkeypatch):
    process = bench.start("--jobs", "2", STUB_WAITS="base_s1")
    wait_for(bench.runs / "camp" / "base_s1" / "waiting")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert "In parallel, 2 jobs of" in bench().out and bench.journal()[-1]["shared"] == ""


def test_what_was_killed_while_it_shared_its_machine_did_share_it(bench):
    """The campaign that was killed wrote no end."""
    process = bench.start("--jobs", "2", STUB_WAITS="base_s1")
    wait_for(bench.runs / "camp" / "base_s1" / "waiting")
    folder, path = bench.runs / "camp", bench.runs / "camp" / "journal.jsonl"
    begun = [json.loads(line) for line in path.read_text().splitlines()]
    assert begun[0]["run"] == "base_s1" and begun[0]["state"] == "begun" and begun[0]["shared"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in [begun[0], begun[0] | {"resumed": True, "shared": ""}]))
    assert read_journal(folder)["base_s1"]["shared"] == begun[0]["shared"]


def test_a_folder_that_cannot_be_written_is_named(bench, tmp_path):
    (tmp_path / "file").write_text("")
    bench.runs = tmp_path / "file" / "runs"
    process = bench.start()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.startswith(f"error: {bench.runs}") and "Traceback" not in err, err


def test_a_config_from_elsewhere_is_taken_and_a_trainer_that_exits_is_named(bench, tmp_path):
    (tmp_path / "small.env").write_text("WARMUP_STEPS=3\n")
    bench.write(head=f'config = "{tmp_path}/small.env"')
    assert bench("--dry-run").code == 0
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    bench.write(trainer=tmp_path / "exits.py")
    done = bench("--dry-run")
    assert done.code == 2 and "exits.py cannot be loaded" in done.err and "SystemExit: 3" in done.err


@pytest.fixture
def two_nodes(bench, tmp_path, monkeypatch):
    """The address of a Ray cluster of two nodes on this machine, each with a CPU and a GPU that is only a word."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's word for: use the loopback address
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install -r requirements-ray.txt")
    (tmp_path / "meeting").mkdir()
    for name, value in {"RAY_TMPDIR": "/tmp", "TMPDIR": tmp_path, "STUB_MEETS": tmp_path / "meeting", "STUB_WAITS": "l4_s1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MATRIX_LR", "0.5")  # settings in the environment of a node do not reach its runs
    node = {"num_cpus": 1, "num_gpus": 1}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    monkeypatch.delenv("MATRIX_LR")
    assert cluster.address.startswith("127.")
    yield cluster.address
    cluster.shutdown()


def wait_on_a_node(folder: Path, name: str) -> int:
    """Wait until a run waits on a node; the process that started it there."""
    until = time.time() + 60
    while not (found := [path for path in folder.glob(f"campaign_*/runs/{name}/waiting") if path.read_text()]):
        assert time.time() < until
        time.sleep(0.05)
    return int(found[0].read_text())


def test_a_ray_cluster_runs_them_and_their_files_come_back(bench, two_nodes, tmp_path):
    bench.common = [item for item in bench.common if not item.startswith("DEVICE")]
    bench.write(BASE, LR, seeds="[1]")
    process = bench.start("--ray", two_nodes)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert sorted(bench.ran()) == ["base_s1", "lr_s1"]  # each waited for the other: one on each node
    for name in ("base_s1", "lr_s1"):
        log = (bench.runs / "camp" / name / "train.log").read_text()
        assert "device:GPU 0," in log and f"setting DATA_PATH={tmp_path}/parameter_golf_" in log and "MATRIX_LR=0.5" not in log
        assert campaigns.look(bench.runs / "camp" / name).state == "finished"
    assert "In parallel, on a Ray cluster, 1 GPU a run: base_s1, lr_s1." in out and bench.cells(out, "lr")["delta"][0] == "+"
    shards = sorted(path.name for path in tmp_path.glob("parameter_golf_*/*/*/*") if "_train_" in path.name)
    assert shards == sorted(path.name for path in Path(bench.data).glob("*_train_*.bin"))

    bench.write(BASE, LR, L4, seeds="[1]")  # the third waits to be interrupted
    process = bench.start("--ray", two_nodes, "--ray-cpus", "1")
    wait_on_a_node(tmp_path, "l4_s1")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "l4_s1 stopped; it goes on from there" in out, out + err
    assert (bench.runs / "camp" / "l4_s1" / "checkpoint.npz").exists() and not list(tmp_path.glob("campaign_*"))
    process = bench.start("--ray", two_nodes, "--ray-cpus", "1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and bench.journal()[-1]["resumed"], out + err
    log = (bench.runs / "camp" / "l4_s1" / "train.log").read_text()
    assert log.startswith("resumed") and ", 1 threads" in log


def test_on_ray_too_an_edited_trainer_stops_the_campaign(bench, two_nodes, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "meeting" / name).touch()  # nobody waits for another run
    bench.common = [item for item in bench.common if not item.startswith("DEVICE")]
    bench.write(f"{L4}\nseeds = [1]", f"{BASE}\nseeds = [1, 2, 3, 4, 5, 6, 7, 8]")
    process = bench.start("--ray", two_nodes)
    wait_on_a_node(tmp_path, "l4_s1")
    wait_for(bench.runs / "camp" / "base_s1" / "result.json")
    bench.trainer.write_text(STUB + "# edited\n")
    said = next(line for line in process.stdout if " does not start: " in line)
    assert "stub.py has changed (sha256 " in said and said.endswith("; runs at work go on to their end: 1\n")
    process.send_signal(signal.SIGINT)  # for the one that waits
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "l4_s1 stopped; it goes on from there" in out, out + err
    assert "interrupted; once the file is put back the same command goes on" in out
    assert 1 <= sum(path.stat().st_size > 0 for path in bench.runs.glob("camp/base_s*/result.json")) < 8


def test_a_ray_cluster_that_cannot_help_says_so(bench, two_nodes):
    process = bench.start("--ray", two_nodes, "--ray-cpus", "64")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "no node has 64 CPUs for a run" in err, out + err


def test_a_run_lost_with_its_node_has_failed_and_can_start_again(bench, two_nodes, tmp_path):
    bench.common = [item for item in bench.common if not item.startswith("DEVICE")]
    bench.write(L4, seeds="[1]")
    process = bench.start("--ray", two_nodes)
    os.kill(wait_on_a_node(tmp_path, "l4_s1"), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "l4_s1 FAILED with exit status 1: the node or its worker was lost" in out, out + err
    assert not (bench.runs / "camp" / "l4_s1").exists()


# ---------------------------------------------------------------------------------------------- with the real trainer


def test_the_real_trainer_is_interrupted_and_goes_on(bench, tiny):
    bench.common = [item for item in tiny.settings(ITERATIONS=60) if "=" in item]
    bench.write('name = "base"', seeds="[1]", trainer=ROOT / "train_gpt.py")
    process = bench.start()
    wait_for(bench.runs / "camp" / "base_s1" / "train.log")
    log = bench.runs / "camp" / "base_s1" / "train.log"
    while "\nstep:3 " not in log.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from there" in out, out + err
    assert (log.parent / "checkpoint.npz").exists()
    done = bench()
    assert done.code == 0 and "resumed step:" in log.read_text(), done.out + done.err
    assert bench.cells(done.out, "base")["val_bpb"] == f"{bench.result('base_s1')['val_bpb']:.5f}"
    assert bench.cells(done.out, "base")["steps"] == "60"


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "campaigns").glob("*.toml")), ids=lambda path: path.stem)
def test_the_files_that_come_along_can_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    read = campaigns.read_campaign(file, tmp_path, [])
    assert len(read.plan) == sum(len(row.seeds) for row in read.rows) and read.rows[0].name == read.control
    assert not list(tmp_path.iterdir()) and "0 of" in Table(read).text()


def test_a_run_with_a_config_of_its_own(bench, tmp_path):
    """It takes the place of the file's; [settings] and the run's own settings hold over both. One that is missing is named."""
    records = [c for c in campaigns.read_campaign(ROOT / "configs/campaigns/record_cpu.toml", tmp_path, []).plan if c.seed == 1]
    assert [p.row.name for p in records] == ["baseline", "record"]
    wanted = [train_gpt.load_settings(["--config", str(ROOT / f"configs/local_cpu_{n}.env")], {}).values for n in ("baseline", "record")]
    for p, values in zip(records, wanted):
        assert {k for k, v in values.items() if p.settings.values[k] != v} == {"VAL_TOKENS", "RUN_ID", "RUNS_DIR", "SEED"}
        assert p.settings.VAL_TOKENS == 131_072
    bench.write('name = "base"', 'name = "b"\nconfig = "configs/no_such.env"')
    done = bench()
    assert done.code == 2 and "[[run]] b: config = 'configs/no_such.env': there is no such file" in done.err
