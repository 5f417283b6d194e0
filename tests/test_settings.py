"""Promise: a setting is taken as typed or refused with what to type instead; nothing is ignored in silence."""

import json
import runpy
import subprocess
import sys

import pytest
from conftest import environment, settings
from data_helpers import ROOT

import train_gpt
from train_gpt import UserError, load_settings

TABLE = {x.name: x for x in train_gpt.SETTINGS}


def refused(*items: str, env: dict | None = None) -> str:
    with pytest.raises(UserError) as e:
        load_settings(list(items), env or {})
    return str(e.value)


def env_file(tmp_path, text: str):
    path = tmp_path / "some.env"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_pass_their_own_checks():
    s = settings()
    for name, setting in TABLE.items():
        again = train_gpt.Settings(train_gpt.SETTINGS)
        again.set(name, str(setting.default), "test")
        assert s.values[name] == again.values[name] == setting.default
        assert s.sources[name] == "default"


def test_a_default_that_would_read_0_as_true_is_refused(monkeypatch):
    for default in (True, False):
        monkeypatch.setattr(train_gpt, "SETTINGS", [*train_gpt.SETTINGS, train_gpt.Setting("SWIGLU", default, (0, 1), "a gated MLP")])
        assert refused("SWIGLU=0") == "SWIGLU: let its default be 0 or 1, no bool"


@pytest.mark.parametrize("name", [n for n, x in TABLE.items() if not isinstance(x.default, str)])
def test_every_number_out_of_range_is_refused(name):
    low, high = TABLE[name].allowed
    for wrong in (low - 1 if low else -1e-9 if isinstance(TABLE[name].default, float) else -1, high * 2 + 1, "nan", "inf", "ten", ""):
        message = refused(f"{name}={wrong}")
        assert f"{name}={wrong} is not" in message and f"default: {TABLE[name].default}" in message


@pytest.mark.parametrize(
    "name,good,bad",
    [
        ("DEVICE", ["auto", "cpu", "cuda"], ["gpu", "CPU", "", "cpu,cuda"]),
        ("CODEC", ["zlib", "zstd"], ["lzma", "zstd "]),
        ("PRECISION", ["auto", "bf16", "fp32"], ["fp16"]),
        ("COMPILE", ["auto", "on", "off"], ["yes"]),
        ("RUN_ID", ["", "a", "2026-01-02_030405", "x.Y-1"], ["..", ".hidden", "a/b", "a b", "x" * 101]),
        ("RUNS_DIR", ["runs", "/somewhere/else"], [""]),
        ("AUX_VAL", ["", "a=x*.bin", "a=x_*.bin,b_2=y/z.bin"], ["a", "a=", "=x", "a=x,", "a=x,b"]),
        ("EVAL_SEQ_SWEEP", ["", "8", "64", "256,512,1024", "8,16,2", "99999"], ["0", "01", "a", "64,", ",64", "64,0", "-8", "64 128"]),
    ],
)
def test_words(name, good, bad):
    for text in good:
        assert settings(f"{name}={text}").values[name] == text
    for text in bad:
        message = refused(f"{name}={text}")
        assert f"{name}={text} is not" in message


@pytest.mark.parametrize("typed,meant", [("MODELDIM=8", "MODEL_DIM"), ("matrix_lr=0.1", "MATRIX_LR"), ("EVAL_STRIDES=8", "EVAL_STRIDE")])
def test_misspelt_names(tmp_path, typed, meant):
    assert f"did you mean {meant}?" in refused(typed)
    path = env_file(tmp_path, f"SEED=1\n{typed}\n")
    assert f"{path}:2: no setting is called" in refused("--config", str(path))
    name, value = typed.split("=")
    s = load_settings([], {name: value})
    if name.isupper():
        assert s.warnings == [f"the environment has {name}, which is no setting; did you mean {meant}?"]
    assert s.values[meant] == TABLE[meant].default


def test_a_name_like_no_other():
    assert "`--help` lists them" in refused("QQQ=1")
    assert load_settings([], {"QQQ": "1", "PATH": "/bin", "HOME": "/"}).warnings == []


def test_later_wins_and_the_source_is_kept(tmp_path):
    path = env_file(tmp_path, '# a comment\n\nexport SEED=1  # why\nMODEL_DIM=\'48\'\nRUNS_DIR="a#b" # "why"\nNUM_LAYERS=3\n')
    s = load_settings(["--config", str(path), "SEED=3"], {"SEED": "2", "MODEL_DIM": "96"})
    assert (s.SEED, s.MODEL_DIM, s.NUM_LAYERS, s.RUNS_DIR) == (3, 96, 3, "a#b")
    assert [s.sources[n] for n in ("SEED", "MODEL_DIM", "NUM_LAYERS", "TRAIN_SEQ_LEN")] == [
        "command line", "environment", f"{path}:6", "default",
    ]  # fmt: skip


def test_an_env_file_is_parsed_and_never_run(tmp_path):
    path = env_file(tmp_path, f"RUN_ID=$(touch {tmp_path}/made)\n")
    assert "RUN_ID=$(touch" in refused("--config", str(path))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text,words", [("SEED", "`SEED` is not KEY=VALUE"), ("a b", "is not KEY=VALUE"), ("SEED=x", "not a whole number")])
def test_bad_lines_of_a_file_are_named(tmp_path, text, words):
    path = env_file(tmp_path, f"# first\n{text}\n")
    message = refused("--config", str(path))
    assert f"{path}:2" in message and words in message


def test_bad_files(tmp_path):
    assert "cannot read" in refused("--config", str(tmp_path / "none.env"))
    (tmp_path / "binary.env").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in refused("--config", str(tmp_path / "binary.env"))
    assert "no run began there" in refused("--resume", str(tmp_path))
    assert "neither an option nor KEY=VALUE" in refused("SEED")


@pytest.mark.parametrize(
    "items,words",
    [
        (["MODEL_DIM=250", "NUM_HEADS=8"], "MODEL_DIM=250 is not divisible by NUM_HEADS=8; try 240 or 256"),
        (["MODEL_DIM=8", "NUM_HEADS=12"], "MODEL_DIM=8 is not divisible by NUM_HEADS=12; try 24"),
        (["NUM_HEADS=6", "NUM_KV_HEADS=4"], "NUM_HEADS=6 is not divisible by NUM_KV_HEADS=4; try 4 or 8"),
        (["MODEL_DIM=18", "NUM_HEADS=6"], "odd width"),
        (["TRAIN_BATCH_TOKENS=1000", "TRAIN_SEQ_LEN=64"], "TRAIN_BATCH_TOKENS=1000 is not divisible by TRAIN_SEQ_LEN=64; try 960 or 1024"),
        (["EVAL_SEQ_LEN=64", "EVAL_STRIDE=65"], "allowed: up to EVAL_SEQ_LEN=64"),
        (["MAX_WALLCLOCK_SECONDS=0"], "training would never end"),
    ],
)
def test_settings_are_held_against_one_another(items, words):
    assert words in refused(*items)


def test_advice_is_accepted():
    for dim in (248, 256):
        settings(f"MODEL_DIM={dim}", "NUM_HEADS=4", "NUM_KV_HEADS=2")


def test_settings_of_a_run_folder_read_back_the_same(tmp_path):
    words = {"RUNS_DIR": str(tmp_path / "with space"), "ADAM_EPS": "3e-9", "SEED": "5", "AUX_VAL": "a=x_*.bin,b=y.bin", "DATA_PATH": "d#1"}
    first = settings(*(f"{k}={v}" for k, v in words.items()))
    folder = train_gpt.create_run_folder(first)
    assert settings("--resume", str(folder)).values == first.values


def test_a_resumed_run_keeps_its_settings_under_a_config(tmp_path):
    first = settings(f"RUNS_DIR={tmp_path}", "SEED=5", "MATRIX_LR=0.001", "TRAIN_LOG_EVERY=7")
    folder = train_gpt.create_run_folder(first)
    config = tmp_path / "more.env"
    config.write_text("TRAIN_LOG_EVERY=9\n")
    again = settings("--resume", str(folder), "--config", str(config))
    assert again.values == first.values | {"TRAIN_LOG_EVERY": 9}
    config.write_text("SEED=6\n")
    with pytest.raises(UserError, match="it began with SEED=5; only"):
        settings("--resume", str(folder), "--config", str(config))


@pytest.mark.parametrize(
    "path",
    ["a #b", "'quoted'", "back\\slash", "a#b", "with space"],
)
def test_odd_paths_survive_the_run_folder(tmp_path, path):
    first = settings(f"RUNS_DIR={tmp_path}", f"DATA_PATH={path}")
    folder = train_gpt.create_run_folder(first)
    assert settings("--resume", str(folder)).DATA_PATH == path


def test_declared_once():
    assert len(TABLE) == len(train_gpt.SETTINGS)


def test_help_prints_every_setting(capsys):
    with pytest.raises(SystemExit) as e:
        train_gpt.main(["--help"])
    text = capsys.readouterr().out
    assert e.value.code == 0
    assert all(f"  {name}" in text and x.help in text for name, x in TABLE.items())


@pytest.mark.parametrize("option", ["--config", "--eval-only", "--resume"])
def test_an_empty_name_is_refused(option):
    with pytest.raises(UserError, match="not an empty one"):
        settings(option, "")


def test_bad_settings_end_with_status_2_and_one_line(main, tmp_path):
    done = main(MODEL_DIM=250, NUM_HEADS=8)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: MODEL_DIM=250 is not divisible by NUM_HEADS=8; try 240 or 256\n"
    assert not (tmp_path / "runs").exists()


def test_settings_page_is_up_to_date():
    page = runpy.run_path(str(ROOT / "scripts" / "settings_doc.py"))["page"]()
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert text == page, "type: python3 scripts/settings_doc.py"
    ours, twins = text.split("## train_gpt_mlx.py alone")
    assert all(ours.count(f"| `{name}` |") == 1 for name in TABLE) and "| `CACHE_LIMIT_MB` |" in twins


def test_settings_page_needs_no_packages():
    line = "import runpy; print(len(runpy.run_path('scripts/settings_doc.py')['page']()))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 5000, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.env")), ids=lambda path: path.name)
def test_configs_are_accepted(path):
    if "mlx" in path.name or "apple" in path.name:
        pytest.skip("a config of the MLX twin")
    s = settings("--config", str(path))
    json.dumps(s.values)
    assert s.MAX_WALLCLOCK_SECONDS or s.ITERATIONS
    assert not set(environment()) & set(s.values)


@pytest.mark.parametrize("name", ["train_gpt", "train_gpt_mlx"])
def test_help_is_ascii_for_terminals_of_any_encoding(name):
    trainer = pytest.importorskip(name)
    assert trainer.command_line().format_help().isascii()
