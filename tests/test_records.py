"""Making records: everything in submission.json comes from logs and files; honest runs of every legal kind make clean folders."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from folders import NO_PINS, OPEN, RECORD, ROOT, TYPED, check, edit, finish_texts, make_folder, reseed, tracks
from golf import schema, source, stats
from golf.records import NUMBERS_BEGIN, load_pins, settings_text
from golf.runs import PRIVATE_SETTINGS, LogError, RunError, pairs, parse_log, read_run
from make_record import make

import train_gpt

SCHEMA = json.loads((ROOT / "docs" / "submission_schema.json").read_text())


@pytest.fixture(scope="module")
def seeds(finished, tmp_path_factory):
    """Three seeds of a run on a pretended RTX 4090."""
    folder = tmp_path_factory.mktemp("seeds")
    return [reseed(finished[0], folder / str(seed), seed, change, cuda=True) for seed, change in ((7, 0.0), (8, 0.002), (9, -0.001))]


def test_one_run(finished, tmp_path):
    folder = make_folder(tmp_path, [finished[0]])
    assert not check(folder).findings
    claim = json.loads((folder / "submission.json").read_text())
    result = json.loads((finished[0] / "result.json").read_text())
    assert claim["val_bpb"] == pytest.approx(result["val_bpb"], abs=1e-8) and claim["n"] == 1 and claim["val_bpb_sd"] is None
    assert claim["total_bytes"] == (folder / "train_gpt.py").stat().st_size + (folder / "artifact.bin").stat().st_size
    assert claim["train_seconds"] == pytest.approx(result["train_seconds"], abs=1e-4)
    assert claim["validation"]["sha256"] == result["data_hashes"]["val_tokens_sha256"]
    assert {entry["path"] for entry in claim["files"]} == {"train_gpt.py", "settings.env", "train.log", "artifact.bin"}
    assert "NUM_LAYERS=2\n" in (folder / "settings.env").read_text() and "SEED" not in (folder / "settings.env").read_text()


def test_settings_are_written_as_the_trainer_writes_them(finished):
    """What the trainer reads back is what the log says, odd spaces included."""
    text = (finished[0] / "train.log").read_text()
    assert "\nsetting AUX_VAL= from:" in text
    facts = parse_log(text.replace("\nsetting AUX_VAL= from:", "\nsetting AUX_VAL=a=/x y #1/z*.bin from:"))
    settings = train_gpt.Settings([x for x in train_gpt.SETTINGS if x.name not in PRIVATE_SETTINGS])
    for name, value in facts.shared_settings().items():
        settings.set(name, value, "the log")
    assert settings.as_env() == settings_text(facts) and 'AUX_VAL="a=/x y #1/z*.bin"\n' in settings_text(facts)


def test_what_a_trainer_says_more_of_its_data_may_change(finished):
    """As the length of its rows; what the checks read of the data lines may not."""
    text = (finished[0] / "train.log").read_text()
    more = text.replace("\nsize ", "\ndata rows:128\ndata rows:256\nsize ")
    assert more != text and parse_log(more).twice == parse_log(text).twice == []
    assert parse_log(text.replace("\nsize ", "\ndata val_bytes:9\nsize ")).twice == ["data"]


def test_several_seeds_and_a_control(seeds, finished, tmp_path):
    control = [reseed(finished[0], tmp_path / f"c{seed}", seed, change, cuda=True) for seed, change in ((7, 0.049), (8, 0.051))]
    folder = make_folder(tmp_path / "records", seeds, RECORD, controls=control)
    assert not check(folder).findings
    claim = json.loads((folder / "submission.json").read_text())
    losses = [json.loads((run / "result.json").read_text())["val_loss"] for run in seeds]
    mean = sum(losses) / 3
    assert claim["val_loss"] == pytest.approx(mean, abs=1e-8)
    assert claim["val_loss_sd"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in losses) / 2), abs=1e-8)
    assert claim["seeds"] == [7, 8, 9] and [run["log"] for run in claim["runs"]] == ["train.log", "train_seed8.log", "train_seed9.log"]
    assert claim["control"]["n"] == 2 and claim["control"]["gain_nats"] == pytest.approx(0.05 - 0.001 / 3, abs=1e-7)
    text = (folder / "README.md").read_text()
    assert f"val_bpb {claim['control']['val_bpb']:.8f}" in text.replace("| control | ", "") and text.count(NUMBERS_BEGIN) == 1


def test_size_and_clock_are_those_of_the_worst_seed(seeds, tmp_path):
    run = tmp_path / "larger"
    shutil.copytree(seeds[1], run)
    facts = read_run(run).facts
    with open(run / "artifact.bin", "ab") as file:
        file.write(b"\0" * 500)
    code, model = facts.size["code_bytes"], facts.size["model_bytes"] + 500
    edit(run / "train.log", (r"model_bytes:\d+ total_bytes:\d+ cap", f"model_bytes:{model} total_bytes:{code + model} cap"))
    edit(run / "train.log", (r"^(total_submission_size_quant_\w+): \d+", rf"\1: {code + model}"), (r" export_s:\S+", " export_s:5"))
    result = json.loads((run / "result.json").read_text()) | {"model_bytes": model, "total_bytes": code + model}
    (run / "result.json").write_text(json.dumps(result))
    report = make(tmp_path / RECORD / "2026-11-21_x", [seeds[0], run, seeds[2]], [], TYPED, tracks(1500), NO_PINS)
    assert report.claim["total_bytes"] == code + model > report.claim["runs"][0]["total_bytes"]
    assert report.claim["train_seconds"] == report.claim["runs"][1]["train_seconds"] > 5 > report.claim["runs"][0]["train_seconds"]


def test_packed_code(finished, tmp_path):
    """A packed trainer's run makes a folder with the readable source beside it, which is what the packed one expands to."""
    run = tmp_path / "packed"
    shutil.copytree(finished[0], run)
    readable = (run / "train_gpt.py").read_bytes()
    packed = source.pack(readable)
    assert len(packed) < len(readable) / 3
    (run / "train_gpt.py").write_bytes(packed)
    result = json.loads((run / "result.json").read_text())
    total = len(packed) + result["model_bytes"]
    edit(
        run / "train.log",
        (r"^size code_bytes:\d+ (model_bytes:\d+) total_bytes:\d+", rf"size code_bytes:{len(packed)} \1 total_bytes:{total}"),
    )
    edit(run / "train.log", (r"^(total_submission_size_quant_\w+): \d+", rf"\1: {total}"))
    edit(run / "train.log", ("^code_sha256:.*", f"code_sha256:{hashlib.sha256(packed).hexdigest()}"))
    (run / "result.json").write_text(json.dumps(result | {"code_bytes": len(packed), "total_bytes": total}))
    folder = make_folder(tmp_path / "records", [run])
    assert (folder / "train_gpt_source.py").read_bytes() == readable
    assert not check(folder).findings


def test_packed_code_runs_and_expands(tmp_path):
    """Every byte value stands in the payload, and the packed file does what its source does, arguments and __file__ included."""
    noise = "".join(chr(32 + (i * i * 7919 + i // 3) % 90) for i in range(6000)).replace("\\", "").replace('"', "")
    text = f'import sys\n\nNOISE = "{noise}"\nprint(len(NOISE), __name__, sys.argv[1:], __file__.endswith("packed.py"))\n'
    packed = source.pack(text.encode())
    literal = packed[len(source.HEAD) : -len(source.TAIL)]
    assert b"\n" not in literal and b"\r" not in literal and b"\0" not in literal and max(literal) > 250
    assert source.expand(packed) == text.encode()
    (tmp_path / "packed.py").write_bytes(packed)
    done = subprocess.run([sys.executable, tmp_path / "packed.py", "a"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(noise)} __main__ ['a'] True\n"


def test_packed_code_shows_its_source(tmp_path):
    """To what asks for it, as tracebacks and Triton's kernels do; and no traceback shows the payload."""
    text = "import inspect, linecache, traceback\n\n\ndef f(x):\n    return 1 / x  # é\n\n\nprint(inspect.getsource(f), end='')\n"
    text += "linecache.checkcache()\ntry:\n    f(0)\nexcept ZeroDivisionError:\n    print(traceback.format_exc())\nf(0)\n"
    (tmp_path / "packed.py").write_bytes(source.pack(text.encode()))
    done = subprocess.run([sys.executable, tmp_path / "packed.py"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1 and done.stdout.startswith("def f(x):\n    return 1 / x  # é\n")
    assert ", line 5, in f\n    return 1 / x  # é\n" in done.stdout and ", line 5, in f" in done.stderr
    assert "decompress" not in done.stdout + done.stderr and len(done.stderr) < 2000


def test_the_packed_form_of_before_is_known():
    """Records until 2026-11-27 have it."""
    for name in ("2026-11-26_h200_record", "2026-11-27_cpu_record_documents"):
        folder = ROOT / "records" / "track_non_record" / name
        if folder.is_dir():
            assert source.readable((folder / "train_gpt.py").read_bytes()) == (folder / "train_gpt_source.py").read_bytes()
    head, tail = source.FORMS[1]
    old = head + source.pack(b"x = 1\n")[len(source.HEAD) : -len(source.TAIL)] + tail
    assert source.is_packed(old) and source.expand(old) == b"x = 1\n"
    mixed = head + source.pack(b"x = 1\n")[len(source.HEAD) :]
    assert not source.is_packed(mixed)


def test_template_fits_the_schema():
    template = json.loads((ROOT / "docs" / "submission_template.json").read_text())
    assert not list(schema.violations(template, SCHEMA))
    assert set(template) == set(SCHEMA["properties"]) == set(SCHEMA["required"])


WRONG = [("n", 0), ("n", True), ("val_bpb", "1.2"), ("track", "other"), ("code_sha256", "a" * 63), ("seeds", []), ("more", 1)]
WRONG += [("devices", 1.5), ("validation", {"targets": 1}), ("title", None), ("control", 3)]


@pytest.mark.parametrize("key, value", WRONG)
def test_schema_refuses(key, value):
    template = json.loads((ROOT / "docs" / "submission_template.json").read_text())
    found = list(schema.violations(template | {key: value}, SCHEMA))
    assert len(found) >= 1 and all(where.startswith(key) for where, _, _ in found)
    del template[key if key in template else "n"]
    assert list(schema.violations(template, SCHEMA))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda run: (run / "result.json").unlink(), "result.json"),
        (lambda run: (run / "artifact.bin").unlink(), "artifact.bin"),
        (lambda run: edit(run / "train.log", ("^final_sliding.*\n", "")), "final_sliding_window_exact"),
        (lambda run: edit(run / "result.json", (r'"val_bpb": \d', '"val_bpb": 9')), "val_bpb"),
    ],
)
def test_unfinished_runs_are_refused(finished, tmp_path, spoil, words):
    shutil.copytree(finished[0], tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(RunError, match=words):
        make(tmp_path / OPEN / "2026-11-21_x", [tmp_path / "run"], [], TYPED)
    assert not (tmp_path / OPEN / "2026-11-21_x").exists()


def test_what_no_record_can_be_made_of(finished, seeds, tmp_path):
    for target, words in (
        (tmp_path / "elsewhere" / "2026-11-21_x", "no track"),
        (tmp_path / OPEN / "x", "no name"),
        (tmp_path / OPEN / "2026-13-21_x", "no name"),
    ):
        with pytest.raises(RunError, match=words):
            make(target, [finished[0]], [], TYPED)
    with pytest.raises(RunError, match="same seed"):
        make(tmp_path / OPEN / "2026-11-21_x", [finished[0], finished[0]], [], TYPED)
    other = tmp_path / "other"
    shutil.copytree(seeds[1], other)
    edit(other / "train_gpt.py", (r"\Z", "\n# more\n"))
    with pytest.raises(RunError, match="another source"):
        make(tmp_path / RECORD / "2026-11-21_x", [seeds[0], other], [], TYPED)


def test_wrong_track_leaves_nothing(finished, tmp_path):
    """A CPU run is no record: the maker says why, and no folder is left."""
    report = make(tmp_path / RECORD / "2026-11-21_x", [finished[0]], [], TYPED, tracks(1500), NO_PINS)
    assert {"L1", "E2", "C3"} <= {f.rule for f in report.findings}
    assert list((tmp_path / RECORD).iterdir()) == []


def test_existing_folder_is_kept(finished, tmp_path):
    folder = make_folder(tmp_path, [finished[0]])
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(RunError, match="kept as it is"):
        make(folder, [finished[0]], [], TYPED)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_commands(finished, tmp_path):
    """The shell helpers, from another folder: what is left to write, then exit status 0, 1 and 2; nothing but the standard library."""
    target = tmp_path / OPEN / "2026-11-21_x"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": sys.executable}
    block = tmp_path / "block"
    block.mkdir()
    for name in ("numpy", "torch", "sentencepiece", "tqdm"):
        (block / f"{name}.py").write_text("raise ImportError('not on a bare machine')\n")

    def bash(script, *args):
        command = ["bash", ROOT / "scripts" / script, *args]
        return subprocess.run(command, cwd=tmp_path, env=env | {"PYTHONPATH": str(block)}, capture_output=True, text=True, timeout=100)

    made = bash("make_record.sh", f"{OPEN}/2026-11-21_x", finished[0])
    assert made.returncode == 0 and "still to write: README.md" in made.stdout, made.stderr
    checked = bash("check_submission_folder.sh", target)
    assert checked.returncode == 1 and "title is empty" in checked.stdout
    for name, value in TYPED.items():
        edit(target / "submission.json", (f'"{name}": ""', f'"{name}": "{value}"'))
    edit(target / "README.md", ("^# TODO: title", "# A tiny one"))
    finish_texts(target)
    checked = bash("check_submission_folder.sh", target, "--json")
    assert checked.returncode == 0 and json.loads(checked.stdout)[0]["clean"] is True, checked.stdout
    assert bash("check_submission_folder.sh").returncode == 2
    assert bash("check_submission_folder.sh", tmp_path / "nowhere").returncode == 2
    track = bash("check_submission_folder.sh", target.parent)
    assert track.returncode == 2 and "is no record, but holds some (1)" in track.stderr and target.name in track.stderr
    refused = bash("make_record.sh", f"{RECORD}/2026-11-21_x", finished[0])
    assert refused.returncode == 1 and "L1" in refused.stderr and "no record was made" in refused.stderr
    assert "TODO" not in refused.stderr and "is empty" not in refused.stderr  # there is no folder to write that into


def test_a_log_without_one_of_its_lines_is_incomplete(finished):
    text = (finished[0] / "train.log").read_text()
    parse_log(text)
    for start in (
        "setting SEED=",
        "seed:",
        "device:",
        "code_sha256:",
        "trained ",
        "size ",
        "total_submission_size",
        "scored ",
        "peak_memory",
        "final_sliding",
    ):
        kept = "\n".join(line for line in text.splitlines() if not line.startswith(start))
        with pytest.raises(LogError):
            parse_log(kept)


def test_a_line_of_many_words_takes_no_longer_than_its_length():
    began = time.process_time()
    found = pairs("x:1" + " a" * 600_000 + " y: b")
    assert time.process_time() - began < 5 and found["x"] == "1" + " a" * 600_000 and found["y"] == "b"
    assert pairs("a b:c d: e f b:g") == {"b": "g", "d": "e f"}


def test_statistics():
    """Student's tail against printed tables, Welch's p against a worked example and against a shuffle of labels."""
    for t, df, p in ((2.0, 10, 0.036694), (31.8205, 1, 0.01), (6.9646, 2, 0.01), (2.3263, 1e7, 0.01), (0.0, 3, 0.5), (0.01, 300, 0.496014)):
        assert stats.student_tail(t, df) == pytest.approx(p, abs=2e-6)
        assert stats.student_tail(-t, df) == pytest.approx(1 - p, abs=2e-6)
    a, b = [1.00, 1.02, 0.98], [1.10, 1.12, 1.11]
    # by hand: gain 0.11, variances 4e-4 and 1e-4, t = 0.11 / sqrt(5e-4 / 3) = 8.5206, df = 2.9412
    assert stats.welch_p(a, b) == pytest.approx(stats.student_tail(8.520563, 2.941176), rel=1e-5)
    assert stats.welch_p(b, a) > 0.99 and stats.welch_p([1.0], b) is None
    assert stats.welch_p(a, [x - 0.11 for x in b]) == pytest.approx(0.5)
    assert [stats.welch_p([1.0, 1.0], [x, x]) for x in (0.5, 1.0, 1.5)] == [1.0, 1.0, 0.0]  # no spread, so no doubt


def test_pins_are_well_formed():
    pins = load_pins()
    assert set(pins) == {"tokenizer", "record_validation", "validation", "train_shards"}
    assert all(re.fullmatch("[0-9a-f]{64}", pin["sha256"]) and 2 < pin["bytes"] / pin["targets"] < 4 for pin in pins["validation"])
    known = {pin["sha256"] for pin in pins["validation"]}
    assert pins["record_validation"] is None or pins["record_validation"] in known
