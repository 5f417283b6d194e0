"""Promise: one command goes from shards to a scored artifact, says what it did, and refuses with a reason and a status."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import TINY, TRAINER, SteppingTime, line_of, pairs, run_trainer, start_trainer, write_shard
from data_helpers import ROOT

import train_gpt
from train_gpt import ByteTable, decode_artifact, load_tokens


@pytest.fixture(scope="module")
def result(finished):
    return json.loads((finished[0] / "result.json").read_text())


def test_files_of_the_run_folder(finished, tiny):
    folder, done = finished
    names = {"train.log", "settings.env", "train_gpt.py", "weights.npz", "artifact.bin", "result.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "train_gpt.py").read_bytes() == TRAINER.read_bytes()
    assert done.err == ""
    kept = dict(line.split("=", 1) for line in (folder / "settings.env").read_text().splitlines())
    assert kept["DATA_PATH"] == str(tiny.folder) and kept["ITERATIONS"] == "12" and kept["RUN_ID"] == "whole"
    assert set(kept) == {x.name for x in train_gpt.SETTINGS}


def test_log_holds_all_that_was_said_and_where_each_setting_came_from(finished):
    folder, done = finished
    log = (folder / "train.log").read_text()
    kept = re.findall(r"^setting (\w+)=.* from:(.+)$", log, re.M)
    assert {name for name, _ in kept} == {x.name for x in train_gpt.SETTINGS}
    assert dict(kept)["MODEL_DIM"] == "command line" and dict(kept)["MATRIX_LR"] == "default"
    assert re.sub(r"^setting .*\n", "", log, flags=re.M) == done.out


def test_lines_that_others_read(finished, result):
    folder, done = finished
    last = done.out.splitlines()[-1]
    score = re.fullmatch(r"final_sliding_window_exact val_loss:(\d+\.\d{8}) val_bpb:(\d+\.\d{8})", last)
    assert score and float(score[1]) == pytest.approx(result["val_loss"], abs=1e-8)
    assert float(score[2]) == pytest.approx(result["val_bpb"], abs=1e-8)
    size = re.findall(r"^total_submission_size_quant_zstd: (\d+) bytes$", done.out, re.M)
    assert size == [str(TRAINER.stat().st_size + (folder / "artifact.bin").stat().st_size)]


def test_sizes_are_those_of_the_files(finished, result):
    folder, done = finished
    assert result["code_bytes"] == (folder / "train_gpt.py").stat().st_size
    assert result["model_bytes"] == (folder / "artifact.bin").stat().st_size
    assert result["total_bytes"] == result["code_bytes"] + result["model_bytes"]
    said = line_of(done.out, "size ")
    artifact = {"artifact_sha256": hashlib.sha256((folder / "artifact.bin").read_bytes()).hexdigest()}
    assert said == {key: str(result[key]) for key in ("code_bytes", "model_bytes", "total_bytes", "cap_bytes")} | artifact
    assert float(line_of(done.out, "forecast ")["model_bytes"]) == pytest.approx(result["model_bytes"], rel=0.05)


def test_score_follows_from_its_own_numbers(result):
    assert result["scored_tokens"] == TINY["VAL_TOKENS"]
    bits = result["val_loss"] / np.log(2) * result["scored_tokens"] / result["scored_bytes"]
    assert result["val_bpb"] == pytest.approx(bits, rel=1e-9)
    assert 0 < result["val_bpb"] < 8 and result["val_loss"] < np.log(300) - 1  # it has learned something
    gap = result["post_export_val_bpb"] - result["pre_export_val_bpb"]
    assert result["export_gap_bpb"] == pytest.approx(gap, abs=1e-9) and abs(gap) < 0.05
    assert TINY["GAP_TOKENS"] <= result["gap_tokens"] <= TINY["GAP_TOKENS"] + TINY["EVAL_STRIDE"]
    assert 1 < result["auxiliary_bpb"]["xz_9e"] < 8


def test_what_the_result_says_of_the_run(result):
    assert (result["steps"], result["train_tokens"]) == (12, 12 * 256)
    assert 0 < result["epochs"] < 1
    assert result["seed"] == result["settings"]["SEED"] == 1337
    assert result["run_id"] == "whole" and result["devices"] == 1 and result["lane"].startswith("open hardware")
    assert result["device"].startswith("CPU") and result["torch"] == torch.__version__ and result["numpy"] == np.__version__
    assert result["peak_memory_bytes"] > 50e6
    assert result["code_sha256"] == hashlib.sha256(TRAINER.read_bytes()).hexdigest()
    assert result["train_seconds"] == pytest.approx(result["seconds"]["train"] + result["seconds"]["export"])
    assert {"setup", "train", "export", "scoring", "gap"} <= set(result["seconds"])


def test_hashes_are_those_of_the_data(result, tiny):
    hashes = dict(result["data_hashes"])
    val = load_tokens(f"{tiny.folder}/*_val_*.bin", TINY["VAL_TOKENS"], 300)
    assert hashes.pop("val_tokens_sha256") == hashlib.sha256(val.tobytes()).hexdigest()
    assert hashes.pop("tokenizer_sha256") == hashlib.sha256(tiny.tokenizer.read_bytes()).hexdigest()
    assert set(hashes) == {path.name for path in tiny.folder.glob("*_train_*.bin")}
    table = ByteTable.load(tiny.tokenizer)
    assert result["scored_bytes"] == table.target_bytes(val[:-1], val[1:]).sum()


def test_artifact_holds_the_trained_weights(finished):
    folder, _ = finished
    _, weights = decode_artifact((folder / "artifact.bin").read_bytes())
    with np.load(folder / "weights.npz", allow_pickle=False) as z:
        for name, w in weights.items():
            assert np.corrcoef(w.ravel(), z[name].ravel())[0, 1] > 0.99 or np.ptp(w) == 0, name
            assert w.any()


def test_eval_only_in_a_fresh_process_gives_the_same_score(finished, result):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run_trainer("--eval-only", folder / "artifact.bin")
    assert done.code == 0, done.err
    score = line_of(done.out, "final_sliding_window_exact ")
    assert float(score["val_bpb"]) == pytest.approx(result["val_bpb"], abs=1e-6)
    assert float(score["val_loss"]) == pytest.approx(result["val_loss"], abs=1e-6)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_eval_only_of_an_artifact_alone(main, finished, result, tmp_path, tiny, monkeypatch):
    (tmp_path / "a.bin").write_bytes((finished[0] / "artifact.bin").read_bytes())
    data = dict(DATA_PATH=tiny.folder, TOKENIZER_PATH=tiny.tokenizer, VAL_TOKENS=1500, VOCAB_SIZE=300, DEVICE="cpu")
    done = main("--eval-only", tmp_path / "a.bin", bare=True, **data)
    assert float(line_of(done.out, "final_sliding_window_exact ")["val_bpb"]) == pytest.approx(result["val_bpb"], abs=1e-6)
    assert f"note: no run folder here says what it was trained on; scored with {tiny.tokenizer}\n" in done.out
    assert line_of(done.out, "scored ")["seq_len"] == "64"  # as it was scored, from the header
    other = main("--eval-only", tmp_path / "a.bin", bare=True, **data, EVAL_SEQ_LEN=32, EVAL_STRIDE=32)
    assert line_of(other.out, "scored ")["seq_len"] == "32"
    assert float(line_of(other.out, "scored ")["val_bpb"]) != pytest.approx(result["val_bpb"], abs=1e-4)
    for name in ("EVAL_SEQ_LEN", "EVAL_STRIDE"):
        monkeypatch.setenv(name, "32")
    by_environment = main("--eval-only", tmp_path / "a.bin", bare=True, **data)
    assert line_of(by_environment.out, "scored ")["val_bpb"] == line_of(other.out, "scored ")["val_bpb"]


def test_a_run_is_scored_by_no_setting_that_its_artifact_lacks(main, tmp_path, monkeypatch):
    """One that an edit has forgotten in LATER_KEYS: the run's own score is a stranger's, not one with the setting."""
    monkeypatch.setattr(train_gpt, "LATER_KEYS", [name for name in train_gpt.LATER_KEYS if name != "MLP_LEAK"])
    assert main(RUN_ID="x", MLP_LEAK=0.5).code == 0
    found = json.loads((tmp_path / "runs" / "x" / "result.json").read_text())
    (tmp_path / "a.bin").write_bytes((tmp_path / "runs" / "x" / "artifact.bin").read_bytes())
    alone = float(line_of(main("--eval-only", tmp_path / "a.bin").out, "final_sliding_window_exact ")["val_bpb"])
    assert found["val_bpb"] == pytest.approx(alone, abs=2e-8) and abs(found["export_gap_bpb"]) > 1e-3


def test_eval_only_refuses_what_is_no_artifact(main, finished, tmp_path):
    (tmp_path / "cut.bin").write_bytes((finished[0] / "artifact.bin").read_bytes()[:-5])
    for name, words in (("cut.bin", "the file is cut or damaged"), ("none.bin", "there is no such file")):
        done = main("--eval-only", tmp_path / name)
        assert done.code == 2 and words in done.err


def test_check_foretells_and_writes_nothing(main, finished, result, tmp_path):
    done = main("--check", CAP_BYTES=50_000, EVAL_SEQ_LEN=64)
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []
    numbers = {k: v for line in done.out.splitlines() if line.startswith("check ") for k, v in pairs(line).items()}
    assert numbers["steps"] == "12" and numbers["train_tokens"] == "3072"
    assert numbers["warmdown_begins_at_step"] == "4" and float(numbers["epochs"]) == pytest.approx(result["epochs"], rel=1e-4)
    assert float(numbers["tokens_per_s"]) > 0 and float(numbers["peak_memory_bytes"]) > 50e6 and "scoring_s" in numbers
    assert line_of(done.out, "model ")["parameters"] == "24232"
    forecast = int(line_of(done.out, "forecast ")["total_bytes"])
    assert forecast == pytest.approx(result["total_bytes"], rel=0.02)
    assert f"warning: {forecast} bytes are over CAP_BYTES=50000" in done.out
    assert "warning: 12 steps are few for WARMUP_STEPS=2" in done.out
    assert "try TRAIN_SEQ_LEN=64\n" in done.out and "TRAIN_SEQ_LEN" not in main("--check", EVAL_SEQ_LEN=64, ATTN_WINDOW=32).out
    assert "passes over" not in done.out
    assert "final_sliding_window_exact" not in done.out


def test_a_disk_too_small_for_the_run_is_told(main, monkeypatch, tmp_path):
    """The disk that the run folder will be on, not the one that the command is typed on."""
    small = (tmp_path / "small").resolve()
    small.mkdir()

    def usage(path):
        return shutil._ntuple_diskusage(10**9, 0, 1000 if path.is_relative_to(small) else 10**9)

    monkeypatch.setattr(train_gpt.shutil, "disk_usage", usage)
    told = f"warning: 1000 bytes of disk are free; the run's files take {20 * 24232}\n"
    assert told in main("--check", RUNS_DIR=small / "of/runs").out and told in main("--check", RUNS_DIR=small).out
    assert "bytes of disk are free" not in main("--check", RUNS_DIR=tmp_path / "runs").out and list(small.iterdir()) == []


@pytest.mark.parametrize("target", [30_000, 1_900_000])
def test_check_says_that_a_byte_target_is_out_of_reach(main, target):
    done = main("--check", QUANT="step", CODEC="rans", TARGET_BYTES=target)
    assert done.code == 0, done.err
    forecast = int(line_of(done.out, "forecast ")["total_bytes"])
    assert f"warning: {forecast} bytes are as near TARGET_BYTES={target} as steps bring this model\n" in done.out


def test_an_export_that_outlasts_the_clock_is_told(main, finished, monkeypatch, tmp_path):
    """On a machine busy with something else: the record track refuses such a run, so its author hears of it here."""
    calibrate, calls = train_gpt.Run.calibrate, iter(range(9))

    def slow(run, model):
        time.sleep(2.5 * next(calls))  # nothing at the forecast, 2.5 s at the export
        return calibrate(run, model)

    monkeypatch.setattr(train_gpt.Run, "calibrate", slow)
    done = main(RUN_ID="late", MAX_WALLCLOCK_SECONDS=2.5)
    late = float(re.search(r"^warning: export ([0-9.]+) s past MAX_WALLCLOCK_SECONDS; ", done.out, re.M)[1])
    seconds = json.loads((tmp_path / "runs/late/result.json").read_text())["train_seconds"]
    assert done.code == 0 and late == pytest.approx(seconds - 2.5, abs=0.1) and "past MAX_WALLCLOCK_SECONDS" not in finished[1].out


def test_a_byte_target_that_no_step_reaches_is_told(main):
    done = main(ITERATIONS=2, QUANT="step", CODEC="rans", TARGET_BYTES=10**6)
    assert done.code == 0 and "\nwarning: that misses TARGET_BYTES\n" in done.out


def test_a_name_that_the_terminal_cannot_show(tiny, tmp_path):
    done = run_trainer(*tiny.settings(RUNS_DIR=tmp_path, RUN_ID="Łódź", ITERATIONS=1), PYTHONIOENCODING="cp1252")
    assert done.code == 0, done.err
    assert "setting RUN_ID=Łódź " in (tmp_path / "Łódź" / "train.log").read_text(encoding="utf-8")


def test_a_dataset_whose_name_has_both_splits(tiny, main, tmp_path):
    """my_train_mix_val_000000.bin is no training shard, and big_val_set_train_000000.bin no validation shard."""
    for name in ("my_train_mix", "big_val_set"):
        for path in tiny.folder.glob("*.bin"):
            shutil.copy(path, tmp_path / path.name.replace("tiny", name))
        shards = re.findall(r"(\S+\.bin):", main("--check", DATA_PATH=tmp_path).out)
        assert shards and all(re.fullmatch(rf"{name}_train_\d+\.bin", shard) for shard in shards), shards
        for path in tmp_path.glob("*.bin"):
            path.unlink()


def test_a_folder_whose_name_looks_like_a_pattern(tiny, main, tmp_path):
    shutil.copytree(tiny.folder, tmp_path / "da[1]ta")
    assert main("--check", DATA_PATH=tmp_path / "da[1]ta").code == 0


def test_over_the_cap_scores_names_tensors_and_ends_with_status_3(main, tmp_path):
    cap = TRAINER.stat().st_size + 10_000
    done = main(RUN_ID="big", CAP_BYTES=cap, ITERATIONS=2, CODEC="zlib")
    assert done.code == 3
    size = line_of(done.out, "size ")
    over = int(size["total_bytes"]) - cap
    assert over > 0 and f"OVER THE CAP by {over} bytes" in done.out
    assert f"total_submission_size_quant_zlib: {size['total_bytes']} bytes" in done.out
    named = re.findall(r"tensor:(\S+) .*bytes:(\d+)$", done.out, re.M)
    assert named[0][0] == "embed" and [int(n) for _, n in named] == sorted((int(n) for _, n in named), reverse=True)
    assert done.out.splitlines()[-1].startswith("final_sliding_window_exact ")
    assert json.loads((tmp_path / "runs/big/result.json").read_text())["total_bytes"] == int(size["total_bytes"])


def test_a_run_of_just_the_cap_fits_and_its_gap_ends_at_its_score(main, result):
    """The same run with a cap of its very bytes, whose gap is of all targets: from the trained weights' score to the artifact's."""
    done = main(CAP_BYTES=result["total_bytes"], GAP_TOKENS=10**6)
    assert done.code == 0 and "OVER THE CAP" not in done.out
    gap, final = line_of(done.out, "export "), line_of(done.out, "final_sliding_window_exact ")
    assert gap["post_export_val_bpb"] == final["val_bpb"] != gap["pre_export_val_bpb"]


def test_an_existing_run_is_refused_and_untouched(main, finished):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = main(RUNS_DIR=folder.parent, RUN_ID=folder.name)
    assert done.code == 2 and f"{folder} exists" in done.err and "another RUN_ID" in done.err
    done = main("--resume", folder, bare=True)
    assert done.code == 2 and "is finished" in done.err and "--eval-only" in done.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_runs_dir_that_cannot_be_written(main, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for runs in (tmp_path / "file", "/proc/none"):
        done = main(RUNS_DIR=runs)
        assert done.code == 2 and "cannot make the run folder" in done.err and "set RUNS_DIR" in done.err


def test_no_data_at_all(main, tmp_path):
    for split in ("val", "train"):
        done = main(DATA_PATH=tmp_path)
        assert done.code == 2 and f"no shard fits {tmp_path}/*_{split}_[0-9]*.bin" in done.err
        assert "data/cached_challenge_fineweb.py" in done.err and "build_embedded_corpus.py" in done.err
        write_shard(tmp_path / "x_val_000000.bin", [1, 5, 6])
    assert not (tmp_path / "runs").exists()


def test_without_cuda_the_cpu_config_is_named(main):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA, so the message for machines without it cannot show")
    done = main(DEVICE="cuda")
    assert done.code == 2 and "bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env" in done.err
    assert (ROOT / "configs/local_cpu_smoke.env").is_file()


def test_auxiliary_sets_and_context_lengths_stand_beside_the_score(main, finished, result, tiny):
    val = f"{tiny.folder}/*_val_*.bin"
    sets = f"same={val},train={tiny.folder}/*_train_*0.bin"
    done = main("--eval-only", finished[0] / "artifact.bin", bare=True, AUX_VAL=sets, EVAL_SEQ_SWEEP="8,64")
    assert done.code == 0, done.err
    more = {pairs(line)["name"]: float(pairs(line)["val_bpb"]) for line in done.out.splitlines() if line.startswith("auxiliary ")}
    assert set(more) == {"same", "train", "context_8", "context_64", "xz_9e"}
    assert more["same"] == more["context_64"] == pytest.approx(result["val_bpb"], abs=1e-6)
    assert more["context_8"] != more["same"] != more["train"]
    assert float(line_of(done.out, "final_sliding_window_exact ")["val_bpb"]) == pytest.approx(result["val_bpb"], abs=1e-6)


@pytest.mark.parametrize(
    "sets, words",
    [
        ("wiki={}/none_*.bin", "no shard fits"),
        ("a={0}/*_val_*.bin,a={0}/*_val_*.bin", "the name a is taken"),
        ("xz_9e={}/*_val_*.bin", "xz_9e is taken"),
        ("odd={1}/odd.bin", "byte audit, odd of AUX_VAL: document 0"),
    ],
)
def test_wrong_auxiliary_sets_are_found_before_training(main, tiny, tmp_path, sets, words):
    write_shard(tmp_path / "odd.bin", [1, 0, 280])  # an unknown piece, of no known length
    done = main(AUX_VAL=sets.format(tiny.folder, tmp_path))
    assert done.code == 2 and words in done.err and not (tmp_path / "runs").exists()


def test_settings_that_an_old_artifact_does_not_name_are_the_defaults(main, finished, tmp_path, result, monkeypatch):
    settings, weights = decode_artifact((finished[0] / "artifact.bin").read_bytes())
    s = train_gpt.load_settings([f"{k}={v}" for k, v in settings.items()], {})
    monkeypatch.setattr(train_gpt, "LATER_KEYS", [])
    (tmp_path / "old.bin").write_bytes(train_gpt.encode_artifact(weights, s))
    monkeypatch.undo()
    done = main("--eval-only", tmp_path / "old.bin", KEY_SHIFT=1, MLP_LEAK=0.5)
    assert done.code == 0, done.err
    assert float(line_of(done.out, "final_sliding_window_exact ")["val_bpb"]) == pytest.approx(result["val_bpb"], abs=1e-4)


def test_a_run_whose_blocks_share_their_weights_is_scored(main, monkeypatch):
    """Depth by passes of one block is no small artifact that claims a large model: the run has held that model all along."""
    made, new = [], train_gpt.Block
    monkeypatch.setattr(train_gpt, "Block", lambda s: made.append(made[-1] if len(made) % s.NUM_LAYERS else new(s)) or made[-1])
    done = main(NUM_LAYERS=64, MODEL_DIM=384, ITERATIONS=1, VAL_TOKENS=20, GAP_TOKENS=20, WARMUP_STEPS=0)
    assert done.code == 0 and len(made) > 64, done.err


@pytest.mark.parametrize("size", ["NUM_LAYERS=64 MODEL_DIM=4096 MLP_MULT=16", "BIGRAM_ROWS=1048576 BIGRAM_DIM=4096"])
def test_a_small_artifact_makes_no_large_model(main, tmp_path, size):
    large = train_gpt.load_settings(f"{size} NUM_HEADS=4 NUM_KV_HEADS=4 VOCAB_SIZE=300".split(), {})
    (tmp_path / "large.bin").write_bytes(train_gpt.encode_artifact({"embed": np.zeros((1, 1), np.float32)}, large))
    done = main("--eval-only", tmp_path / "large.bin")
    assert done.code == 2 and "fewer weights than the model of its own header" in done.err


def test_a_model_may_use_its_weights_again_and_again(main, monkeypatch):
    """Blocks of a loop share theirs: 40 deep, it has fewer than 2 * NUM_LAYERS * MODEL_DIM**2."""
    monkeypatch.setattr(train_gpt.nn, "ModuleList", lambda blocks, real=train_gpt.nn.ModuleList: real([next(blocks)] * 40))
    done = main(NUM_LAYERS=40, ITERATIONS=1, TRAIN_BATCH_TOKENS=32, VAL_TOKENS=100, GAP_TOKENS=10, MODEL_DIM=64)
    assert done.code == 0, done.out + done.err


def test_an_artifact_of_another_vocabulary_is_refused(main, finished, tmp_path):
    settings, weights = decode_artifact((finished[0] / "artifact.bin").read_bytes())
    s = train_gpt.load_settings([f"{k}={v}" for k, v in (settings | {"VOCAB_SIZE": 200}).items()], {})
    (tmp_path / "small.bin").write_bytes(train_gpt.encode_artifact(weights | {"embed": weights["embed"][:200]}, s))
    done = main("--eval-only", tmp_path / "small.bin")
    assert done.code == 2 and "VOCAB_SIZE" in done.err


@pytest.mark.parametrize("manifest", ["{}", "[]", "5"])
def test_a_foreign_manifest_is_ignored(main, tiny, tmp_path, manifest):
    for path in tiny.folder.glob("*.bin"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "manifest.json").write_text(manifest)
    assert main("--check", DATA_PATH=tmp_path).code == 0


def test_a_failing_run_says_what_is_kept(main, tmp_path, monkeypatch):
    monkeypatch.setattr(train_gpt, "encode_artifact", lambda *args: b"PGLA broken")
    monkeypatch.setattr(train_gpt, "forecast_bytes", lambda *args: 0)
    done = main(RUN_ID="bad", ITERATIONS=1)
    assert done.code == 2 and "failed: ArtifactError" in done.out and "--resume" in done.out
    assert (tmp_path / "runs/bad/weights.npz").exists() and not (tmp_path / "runs/bad/result.json").exists()


@pytest.mark.parametrize("how", ["--check", "RUN_ID=hasty"])
def test_a_clock_that_the_export_alone_would_use_up_is_refused(main, monkeypatch, how):
    monkeypatch.setattr(train_gpt, "time", SteppingTime(1e-6))  # the forecast takes no time, on a busy machine either
    done = main(how, MAX_WALLCLOCK_SECONDS=0.9)
    assert done.code == 2 and "MAX_WALLCLOCK_SECONDS=0.9: the export alone may need 1 s here" in done.err
    assert "final_sliding_window_exact" not in done.out


def test_import_and_help_touch_nothing(tmp_path):
    """Importing leaves files, threads, random numbers and handlers alone; --help needs no data."""
    code = (
        "import os, signal, sys, threading, torch; state = torch.get_rng_state(); before = signal.getsignal(signal.SIGINT)\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True; import train_gpt\n"
        "assert torch.equal(state, torch.get_rng_state()) and threading.active_count() == 1\n"
        "assert signal.getsignal(signal.SIGINT) is before and os.listdir(os.getcwd()) == []\n"
        "sys.exit(train_gpt.main(['--help']))"
    )
    process = start_trainer("-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}", command=())
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and "usage: " in out, err


def test_the_device_speed_that_the_doctor_kept_goes_into_the_result(main, tmp_path):
    import torch

    (tmp_path / "runs").mkdir()
    device = f"CPU, {torch.get_num_threads()} threads"
    (tmp_path / "runs/calibration.json").write_text(json.dumps({device: {"tokens_per_s": 1234.5}}))
    done = main(RUN_ID="x", ITERATIONS=2)
    assert done.code == 0 and "calibration_tokens_per_s:1234.5\n" in done.out
    assert json.loads((tmp_path / "runs/x/result.json").read_text())["calibration_tokens_per_s"] == 1234.5


def test_a_python_without_the_packages_is_told_what_to_type(tmp_path):
    """Both trainers, and a data tool: one line, not a traceback."""
    for name in ("train_gpt.py", "train_gpt_mlx.py", "data/cached_challenge_fineweb.py", "data/audit_dataset.py"):
        command = [sys.executable, "-S", "-E", str(TRAINER.parent / name), "--help"]  # -S: no installed packages
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "source .venv/bin/activate" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
