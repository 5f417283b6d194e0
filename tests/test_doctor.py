"""doctor: it never crashes, and whatever is missing is reported with the next thing to type."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import doctor  # noqa: E402
from golf import device_probe  # noqa: E402

TORCH, MLX = "scripts/run_cuda_baseline.sh", "scripts/run_mlx_baseline.sh"
SOURCE = ROOT / "scripts" / "doctor.py"
DEVICE = {"backend": "torch", "version": "2", "device": "CPU, 2 threads", "precision": "float32", "attention": {"math": True}}
CARD = DEVICE | {"device": "A card", "capability": [8, 9], "memory_bytes": 24e9, "free_bytes": 23e9, "triton": "3"}


@pytest.fixture
def examine(capsys, monkeypatch, tmp_path: Path):
    """Call main() in a copy of the few files it reads; (exit status, what it said as JSON)."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "configs", root / "configs")
    (root / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "missing_packages.py", root / "scripts")
    for name in ("requirements-cuda.txt", "requirements-mlx.txt"):
        shutil.copy(ROOT / name, root)
    monkeypatch.setattr(doctor, "ROOT", str(root))
    monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate: dict(DEVICE))
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")

    def call(*options: str) -> tuple[int, dict]:
        capsys.readouterr()
        code = doctor.main(["--json", *options])
        return code, json.loads(capsys.readouterr().out)

    call.root = root
    return call


def has_line(said: dict, mark: str, name: str, *words: str) -> bool:
    return any(x["mark"] == mark and x["name"] == name and all(w in x["text"] for w in words) for x in said["lines"])


def with_data(root: Path, config: str) -> None:
    """Files of the right names where a config looks for its data."""
    settings = doctor.settings_of(config)
    for name in ("a_train_000000.bin", "a_val_000000.bin"):
        path = root / settings["DATA_PATH"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / settings["TOKENIZER_PATH"]).parent.mkdir(parents=True, exist_ok=True)
    (root / settings["TOKENIZER_PATH"]).touch()


@pytest.mark.parametrize("says,mark,words", [
    ((0, "580.159.04, NVIDIA GeForce RTX 4090\n", ""), "ok", ["580.159.04, NVIDIA GeForce RTX 4090"]),
    ((0, "550.54.14, NVIDIA GeForce RTX 4090\nmore\n", ""), "note", ["550.54.14", "580 or newer", "pytorch.org"]),
    ((9, "NVIDIA-SMI has failed: no driver\n", ""), "note", ["no card that works", "no driver"]),
    ((None, "", "took longer than 20 s"), "note", ["took longer"]),
])  # fmt: skip
def test_the_driver_of_a_card(examine, monkeypatch, says, mark, words):
    real = doctor.run
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor, "run", lambda command, seconds: says if command[0] == "nvidia-smi" else real(command, seconds))
    assert has_line(examine("--quick")[1], mark, "driver", *words)


def test_a_card_that_this_torch_has_no_kernels_for(examine, monkeypatch):
    card = {k: CARD[k] for k in ("backend", "version", "device")} | {"capability": [6, 1], "kernels_for": ["sm_75", "sm_80", "compute_120"]}
    monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate: card)
    code, said = examine()
    assert code == 1 and has_line(said, "MEND", "device", "A card, capability 6.1", "sm_75, sm_80, compute_120 only")
    assert said["next"] == [f"bash {TORCH} configs/local_cpu_smoke.env"]


@pytest.mark.parametrize(
    "capability,runs", [((7, 5), True), ((8, 9), True), ((6, 1), False), ((9, 0), False), ((12, 1), True), ((13, 0), True)]
)
def test_cards_that_a_build_has_kernels_for(capability, runs):
    assert device_probe.has_kernels(["sm_75", "sm_86", "sm_90a", "sm_120", "compute_120"], *capability) is runs


def test_old_pythons_can_read_it_and_nothing_else_is_needed():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 6))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - {"prepare_run"} <= set(sys.stdlib_module_names), names
    assert not any(isinstance(node, (ast.NamedExpr, ast.AnnAssign)) for node in ast.walk(tree))


def test_an_old_python_runs_it_and_is_told_what_to_type():
    named = [path for path in (shutil.which(f"python3.{minor}") for minor in range(6, 11)) if path]
    found = [path for path in named if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]
    if not found:
        pytest.skip("no Python older than 3.11 on this machine")
    done = subprocess.run([found[0], str(SOURCE), "--quick"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 1 and not done.stderr, done.stderr
    assert "MEND  Python" in done.stdout and "3.11 or newer is needed" in done.stdout
    assert done.stdout.rsplit("mend this first:\n", 1)[1].strip()


def test_a_bare_clone_on_a_cpu_is_sent_to_the_smoke_run(examine):
    code, said = examine("--quick")
    assert code == 0 and said["ready"] and said["next"] == ["bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env"]
    assert has_line(said, "note", "data", "FineWeb: there is no", "cached_challenge_fineweb.py")
    assert has_line(said, "note", "data", "embedded: there is no", "build_embedded_corpus.py")
    assert has_line(said, "note", "prediction", "waits for the data")


def test_the_data_that_is_there_is_seen(examine):
    with_data(examine.root, doctor.CPU_SMOKE)
    said = examine("--quick")[1]
    assert has_line(said, "ok", "data", "embedded: complete") and has_line(said, "note", "data", "FineWeb")


def test_a_cpu_with_fineweb_is_sent_to_the_cpu_baseline(examine):
    with_data(examine.root, doctor.CPU)
    said = examine("--quick")[1]
    assert said["next"] == ["bash scripts/run_cuda_baseline.sh configs/local_cpu_baseline.env"]


@pytest.mark.parametrize(
    "config, why", [("local_4090_record", "DEVICE=cuda: torch finds no"), ("local_apple_mlx", "DEVICE=gpu is not allowed")]
)
def test_a_config_for_another_device_is_no_advice(examine, config, why):
    for path in (*ROOT.glob("train_gpt*.py"), ROOT / f"configs/{config}.env"):
        shutil.copy(path, examine.root / path.relative_to(ROOT))
    code, said = examine("--quick", "--config", f"configs/{config}.env")
    assert code == 1 and has_line(said, "MEND", "prediction", why) and "ls configs" in said["next"][0]


def test_missing_packages_are_named(examine):
    requirements = examine.root / "requirements-cuda.txt"
    requirements.write_text("no-such-package==1.0\n" + requirements.read_text())
    code, said = examine("--quick")
    assert code == 1 and has_line(said, "MEND", "packages", "no-such-package==1.0")
    assert said["next"] == [f"bash {TORCH} {doctor.CPU_SMOKE}"]


def test_a_torch_that_cannot_be_loaded_is_reported(examine, monkeypatch):
    monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate: {"error": f"{backend} is broken"})
    code, said = examine("--quick")
    assert code == 1 and has_line(said, "MEND", "torch", "torch is broken") and "pip install" in said["next"][0]


def test_a_framework_that_ends_its_process_is_survived(tmp_path: Path):
    dead = tmp_path / "python"
    dead.write_text("#!/bin/sh\necho 'Segmentation fault' >&2\nkill -9 $$\n")
    dead.chmod(0o755)
    assert doctor.probe(str(dead), "torch", False) == {"error": "Segmentation fault"}
    assert "No such file" in doctor.probe(str(tmp_path / "none"), "torch", False)["error"]


def test_a_folder_that_cannot_be_written_is_reported(examine, monkeypatch):
    def refuse(*args: object, **kw: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "mkstemp", refuse)
    code, said = examine("--quick")
    assert code == 1 and has_line(said, "MEND", "permissions", "runs cannot be written") and "set RUNS_DIR" in said["next"][0]


def test_runs_and_calibration_go_where_runs_dir_says(examine, monkeypatch, tmp_path):
    """A repository that cannot be written is no obstacle then, once the data are there."""
    real, runs = doctor.tempfile.mkstemp, tmp_path / "own"

    def refuse(dir: str) -> tuple[int, str]:
        if Path(dir).is_relative_to(examine.root):
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(doctor.tempfile, "mkstemp", refuse)
    monkeypatch.setenv("RUNS_DIR", str(runs))
    code, said = examine("--quick")
    assert code == 1 and [x["text"] for x in said["lines"] if x["mark"] == "MEND"] == ["data cannot be written (Permission denied)"]
    with_data(examine.root, doctor.CPU_SMOKE)
    assert examine("--quick")[0] == 0
    doctor.keep_calibration(doctor.Report(True), DEVICE | {"calibration": {"tokens_per_s": 5.0}})
    assert json.loads((runs / "calibration.json").read_text())[DEVICE["device"]]["tokens_per_s"] == 5.0


def test_a_full_disk_is_reported(examine, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**6))
    code, said = examine("--quick")
    assert code == 1 and has_line(said, "MEND", "disk", "1.0 MB free")


def test_a_check_that_fails_in_an_unforeseen_way_is_no_crash(examine, monkeypatch):
    monkeypatch.setattr(doctor, "check_data", lambda report: 1 / 0)
    code, said = examine("--quick")
    assert code == 1 and has_line(said, "MEND", "doctor", "ZeroDivisionError") and has_line(said, "ok", "Python")


@pytest.mark.parametrize(
    "facts, fineweb, want",
    [
        (CARD, False, (TORCH, doctor.CUDA, [])),
        (CARD | {"free_bytes": 8e9}, True, (TORCH, doctor.CUDA, [])),
        (
            {k: v for k, v in CARD.items() if k != "triton"} | {"free_bytes": 8e9},
            True,
            (TORCH, doctor.CUDA, ["MICROBATCH_TOKENS=32768", "EVAL_BATCH_TOKENS=16384"]),
        ),
        (CARD | {"free_bytes": 6e9}, True, (TORCH, doctor.CUDA, ["MICROBATCH_TOKENS=32768", "EVAL_BATCH_TOKENS=16384"])),
        (CARD | {"free_bytes": 4e9}, True, (TORCH, doctor.CUDA, ["MICROBATCH_TOKENS=8192", "EVAL_BATCH_TOKENS=16384"])),
        ({"backend": "mlx", "device": "Apple M4 Pro"}, True, (MLX, doctor.APPLE, [])),
        ({"backend": "mlx", "device": "Apple M4 Pro"}, False, (MLX, doctor.APPLE_SMOKE, [])),
        ({"backend": "mlx", "device": "Some processor, CPU"}, True, (MLX, doctor.APPLE_SMOKE, [])),
        (DEVICE, True, (TORCH, doctor.CPU, [])),
        (DEVICE, False, (TORCH, doctor.CPU_SMOKE, [])),
    ],
)
def test_the_run_that_suits_a_device(facts: dict, fineweb: bool, want: tuple):
    assert doctor.pick_run(facts, fineweb) == want
    assert (ROOT / want[1]).is_file() and (ROOT / want[0]).is_file()


def test_the_prediction_is_what_the_trainer_says(examine, main, monkeypatch):
    checked = main("--check", MAX_WALLCLOCK_SECONDS=30).out
    monkeypatch.setattr(doctor, "missing_data", lambda config: "")
    real_run, seen = doctor.run, []

    def run(command: list[str], seconds: float, **options: object) -> tuple:
        if "--check" in command:
            seen.append(command[1:])
            return 0, checked, ""
        return real_run(command, seconds, **options)

    monkeypatch.setattr(doctor, "run", run)
    code, said = examine()
    steps = dict(x.split(":") for x in checked.split() if x.startswith(("steps:", "warmdown_begins_at_step:", "scoring_s:")))
    assert code == 0 and seen == [["train_gpt.py", "--config", doctor.CPU, "--check"]]
    assert has_line(said, "ok", "  training", f"{steps['steps']} steps")
    assert has_line(said, "ok", "  scoring", f"about {steps['scoring_s']} s")
    assert has_line(said, "ok", "  warmdown", f"begins at step {steps['warmdown_begins_at_step']} of {steps['steps']}")
    monkeypatch.setattr(doctor, "run", lambda c, s, **o: (2, "", "error: TRAIN_BATCH_TOKENS=5") if "--check" in c else real_run(c, s, **o))
    code, said = examine()
    assert code == 1 and has_line(said, "MEND", "prediction", "TRAIN_BATCH_TOKENS=5")


def test_a_warmdown_that_never_begins_is_said(capsys, monkeypatch):
    line = "check steps:0 train_tokens:0 epochs:0\ncheck warmdown_begins_at_step:0 scoring_s:3\nwarning: few steps\n"
    monkeypatch.setattr(doctor, "run", lambda *_, **__: (0, line, ""))
    report = doctor.Report(quiet=True)
    assert doctor.predict(report, "python3", "train_gpt.py", doctor.CPU_SMOKE, [])
    said = {"lines": report.lines}
    assert has_line(said, "note", "  warmdown", "NEVER BEGINS") and has_line(said, "note", "prediction", "few steps")


def test_the_calibration_is_kept_by_device_and_read_by_the_tools(examine, monkeypatch):
    from golf.results import calibration_of

    rates = iter((1000.0, 2000.0))
    for device in ("CPU, 2 threads", "A card"):
        facts = DEVICE | {"device": device, "calibration": {"tokens_per_s": next(rates), "by_batch": {}}}
        monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate, facts=facts: facts)
        examine()
    run = examine.root / "runs" / "some_run"
    assert calibration_of(run, "CPU, 2 threads") == 1000.0 and calibration_of(run, "A card") == 2000.0
    assert calibration_of(run, "another") is None
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"calibration_tokens_per_s": 7.0}))
    assert calibration_of(run, "A card") == 7.0


def test_a_busy_machine_is_told_beside_the_calibration(examine, monkeypatch):
    facts = DEVICE | {"calibration": {"tokens_per_s": 192.0, "by_batch": {}}}
    monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate: facts)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 4)
    for load, busy in ((1.9, False), (2.1, True)):
        monkeypatch.setattr(doctor.os, "getloadavg", lambda load=load: (load, 9.0, 9.0))
        assert has_line(examine()[1], "note", "calibration", "may be low", "load 2.1 on 4 cores", "scripts/doctor.py") is busy
    monkeypatch.setattr(doctor, "probe", lambda python, backend, calibrate: DEVICE)
    assert not has_line(examine("--quick")[1], "note", "calibration")
    monkeypatch.delattr(doctor.os, "getloadavg")  # Windows has none
    assert examine()[0] == 0


def test_a_config_that_is_not_there(capsys):
    assert doctor.main(["--config", "configs/none.env"]) == 2
    assert "`ls configs`" in capsys.readouterr().err


def test_the_figure_counts_tokens_of_whole_steps(monkeypatch):
    """The clock moves 0.6 s a step of any size: two steps fit into a second, and the largest batch is the fastest."""
    now, sizes = [0.0], []

    def step_of(rows: int):
        sizes.append(rows)

        def step() -> None:
            now[0] += 0.6

        return step

    monkeypatch.setattr(device_probe.time, "perf_counter", lambda: now[0])
    found = device_probe.tokens_per_second(step_of)
    assert sizes == [1, 4, 16, 64, 256] and found["tokens_per_s"] == pytest.approx(256 * 512 / 0.6)

    def slow(rows: int):
        sizes.append(rows)
        return lambda: now.__setitem__(0, now[0] + 100.0)

    sizes.clear()
    assert device_probe.tokens_per_second(slow)["by_batch"] == {512: pytest.approx(5.12)} and sizes == [1]


@pytest.mark.parametrize("own", ["", "7"])
def test_the_probe_waits_as_the_trainer_does(monkeypatch, tmp_path: Path, own: str):
    """Before torch is imported, which is when its threads look; a value of one's own stays."""
    (tmp_path / "torch.py").write_text("import os, sys\nsys.exit(os.environ['GOMP_SPINCOUNT'])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    wanted = own or re.search(r'"GOMP_SPINCOUNT", "(\d+)"', (ROOT / "train_gpt.py").read_text(encoding="utf-8"))[1]
    assert doctor.probe(sys.executable, "torch", False) == {"error": wanted}


def test_the_probe_of_this_machine():
    facts = doctor.probe(sys.executable, "torch", False)
    assert "error" not in facts, facts
    assert facts["device"].startswith("CPU, ") or "capability" in facts
    assert facts["attention"]["math"] and os.sep not in facts["precision"]


@pytest.mark.parametrize("gpu", [False, True])
def test_the_probe_by_mlx_computes_in_the_type_that_trains(monkeypatch, gpu: bool):
    mx = pytest.importorskip("mlx.core")
    kinds, real = set(), mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu if gpu else mx.cpu))
    monkeypatch.setattr(mx, "device_info", lambda device: {"device_name": "Apple M4", "memory_size": 16})
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda q, *a, **kw: kinds.add(q.dtype) or real(q, *a, **kw))
    monkeypatch.setattr(device_probe, "LENGTH", 8)
    monkeypatch.setattr(device_probe, "tokens_per_second", lambda step_of: step_of(1)() or {})
    facts = device_probe.probe_mlx(True)
    assert facts["precision"] == ("bfloat16" if gpu else "float32") and kinds == {mx.bfloat16 if gpu else mx.float32}
    assert (facts["device"], facts["memory_bytes"]) == ("Apple M4" + ", CPU" * (not gpu), 16)


def test_the_memory_of_a_mac_which_has_no_sched_getaffinity(monkeypatch):
    monkeypatch.delattr(doctor.os, "sched_getaffinity", raising=False)
    report = doctor.Report(quiet=True)
    doctor.check_processor(report)
    assert re.fullmatch(r"\d+ cores, [\d.]+ GB of memory", report.lines[0]["text"])
