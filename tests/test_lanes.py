"""Promise: attention windows, hashed pairs and test-time training keep the rules of scoring, and the bytes land where they are aimed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TinyData, line_of, run_trainer, settings
from folders import make_folder
from referee import main as referee_main

import train_gpt
from train_gpt import GPT, Log, Optimizer, Runtime, attend, initial_weights, load_arrays, score, window_batches

CPU = Runtime(torch.device("cpu"), torch.float32, False, [])
LANES = dict(ATTN_WINDOW=16, MLP_LEAK=0.5, BIGRAM_ROWS=100, BIGRAM_DIM=8, EVAL_SEQ_LEN=48, EVAL_STRIDE=32)
STEP = dict(QUANT="step", CODEC="rans", CALIBRATION_TOKENS=512)


def model_of(**changes) -> tuple[train_gpt.Settings, GPT]:
    """A model of the tiny size whose every weight matters."""
    s = settings(*(f"{k}={v}" for k, v in (TINY | LANES | changes).items()))
    model, rng = GPT(s, CPU), np.random.default_rng(3)
    start = initial_weights(s, model.weights())
    model.load_weights({n: (w + rng.normal(0, 0.3 * w.shape[-1] ** -0.5, w.shape)).astype(np.float32) for n, w in start.items()})
    return s, model


def some_tokens(n: int) -> np.ndarray:
    return np.random.default_rng(8).integers(0, TINY["VOCAB_SIZE"], n).astype(np.uint16)


@pytest.mark.parametrize("dtype,close", [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("length,window", [(1, 4), (4, 4), (5, 4), (23, 4), (24, 4), (23, 0), (23, 100)])
def test_attention_in_a_window_is_that_of_a_mask(length, window, dtype, close):
    q, k, v = (torch.randn(2, heads, length, 8, generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    age = torch.arange(length)[:, None] - torch.arange(length)
    mask = (age >= 0) & (age < (window or length))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    got = attend(q.to(dtype), k.to(dtype), v.to(dtype), window)
    torch.testing.assert_close(got.float(), want, rtol=0, atol=close)


def test_no_score_depends_on_a_later_token():
    s, model = model_of(EVAL_SEQ_LEN=80)
    tokens = torch.from_numpy(some_tokens(80).astype(np.int64))
    with torch.inference_mode():
        before = model.logits(tokens[None], 80)[0]
        for position in (1, 15, 16, 17, 40, 79):
            other = tokens.clone()
            other[position] = (other[position] + 1) % s.VOCAB_SIZE
            after = model.logits(other[None], 80)[0]
            torch.testing.assert_close(after[:position], before[:position], rtol=0, atol=1e-5)
            assert (after[position] - before[position]).abs().max() > 1e-3


def test_rows_with_a_window_score_like_the_whole_stream_at_once():
    """One layer sees one window back, which is what each row has in front of what it scores."""
    s, model = model_of(NUM_LAYERS=1)
    tokens = some_tokens(300)
    whole = GPT(settings(*(f"{k}={v}" for k, v in (TINY | LANES | {"NUM_LAYERS": 1, "EVAL_SEQ_LEN": 299}).items())), CPU)
    whole.load_weights(model.weights())
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.inference_mode():
        want = whole.nats(ids[:, :-1], ids[:, 1:], 299).numpy()
    got = score(model, tokens, s, CPU, Log(False), "x", 48, 32)
    # The pair of a row's first token lacks its left half, and reaches the first scored position only as the farthest key.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-2)
    assert np.abs(got - want).max(initial=0, where=np.arange(299) < 48) < 1e-5
    assert np.median(np.abs(got - want)) < 1e-6


def test_test_time_training_scores_first():
    """A window's scores are final before anything learns from it: later tokens change nothing before their own window, bit for bit."""
    s, model = model_of()
    tokens, start = some_tokens(200), model.weights()
    plain, learned = (score(model, tokens, s, CPU, Log(False), "x", 48, 32, ttt=ttt) for ttt in (0.0, 0.3))
    (_, first, _), *_ = window_batches(199, 48, 32, 1, 199)
    np.testing.assert_array_equal(learned[:first], plain[:first])
    assert np.abs(learned - plain)[first:].max() > 1e-2
    for name, weights in model.weights().items():
        np.testing.assert_array_equal(weights, start[name])
    for starts, length, last in window_batches(199, 48, 32, 1, 199):
        changed = tokens.copy()
        changed[starts[0] + length] = (changed[starts[0] + length] + 1) % s.VOCAB_SIZE  # the last target of this window
        again = score(model, changed, s, CPU, Log(False), "x", 48, 32, ttt=0.3)
        at = starts[0] + length - 1
        np.testing.assert_array_equal(again[:at], learned[:at])
        assert again[at] != learned[at]
        assert last <= 48


def test_test_time_training_is_the_optimizers_step():
    s, model = model_of()
    tokens = some_tokens(81)  # two windows
    got = score(model, tokens, s, CPU, Log(False), "x", 48, 32, ttt=0.3)
    ids = torch.from_numpy(tokens.astype(np.int64))
    model.nats(ids[None, :48], ids[None, 1:49], 48).mean().backward()
    Optimizer(model, s, CPU).step(s.MUON_MOMENTUM_WARMUP_STEPS, 0.3)
    with torch.inference_mode():
        want = model.nats(ids[None, 32:80], ids[None, 33:81], 32).numpy()
    np.testing.assert_allclose(got[48:], want, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def run(tiny: TinyData, tmp_path_factory) -> tuple[Path, str]:
    """A whole run with everything on, by the real command."""
    runs = tmp_path_factory.mktemp("lanes")
    done = run_trainer(*tiny.settings(RUNS_DIR=runs, RUN_ID="lanes", TTT_LR=0.1, **LANES, **STEP))
    assert done.code == 0, done.out + done.err
    return runs / "lanes", done.out


def test_the_artifact_alone_carries_the_score(run, tiny, tmp_path, main):
    """No settings.env, another process, other defaults of nothing: window, learning and rates come from the header."""
    artifact = tmp_path / "alone.bin"
    artifact.write_bytes((run[0] / "artifact.bin").read_bytes())
    bare = dict(DEVICE="cpu", DATA_PATH=tiny.folder, TOKENIZER_PATH=tiny.tokenizer, VOCAB_SIZE=300, VAL_TOKENS=1500)
    done = main("--eval-only", artifact, bare=True, **bare)
    own, again = (float(line_of(log, "final_sliding_window_exact ")["val_bpb"]) for log in (run[1], done.out))
    assert done.code == 0 and abs(own - again) < 1e-6
    without = main("--eval-only", artifact, "TTT_LR=0", bare=True, **bare)
    assert abs(float(line_of(without.out, "final_sliding_window_exact ")["val_bpb"]) - own) > 1e-4


def test_the_referee_agrees_with_test_time_training(run, tiny, tmp_path, capsys):
    record = make_folder(tmp_path / "records", [run[0]])
    out = tmp_path / "verdict.json"
    line = [str(record), "--data", str(tiny.folder), "--tokenizer", str(tiny.tokenizer), "--json", str(out), "--probes", "4"]
    if referee_main(line) == 2:
        pytest.skip(capsys.readouterr().err)
    verdict, claimed = json.loads(out.read_text()), json.loads((run[0] / "result.json").read_text())["val_bpb"]
    assert verdict["verified"] and abs(verdict["verified_val_bpb"] - claimed) < 1e-5


def test_glances_never_learn(main, tmp_path):
    """Training with glances at validation, with test-time training set, ends at the weights of training without them."""
    for name, changes in (("plain", {}), ("glances", dict(VAL_LOSS_EVERY=3, TTT_LR=0.5))):
        assert main(RUN_ID=name, **LANES, **changes).code == 0
    plain, glances = (load_arrays(tmp_path / "runs" / name / "weights.npz")[0] for name in ("plain", "glances"))
    for name, weights in plain.items():
        np.testing.assert_array_equal(glances[name], weights)


def test_bytes_land_just_below_the_target(main, tmp_path):
    code = Path(train_gpt.__file__).stat().st_size
    done = main(RUN_ID="x", TARGET_BYTES=code + 17_000, **LANES, **STEP)
    total = int(line_of(done.out, "size ")["total_bytes"])
    assert done.code == 0 and code + 0.998 * 17_000 <= total <= code + 17_000
    assert json.loads((tmp_path / "runs/x/result.json").read_text())["total_bytes"] == total


def test_calibration_reads_training_data_only(main, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_gpt, "second_moments", lambda model, batches: seen.append(list(batches)) or {})
    assert main(RUN_ID="x", **LANES, **STEP).code == 0
    order = train_gpt.TrainSequences(settings(*(f"{k}={v}" for k, v in (TINY | {"DATA_PATH": settings_of(tmp_path)}).items())))
    assert len(seen) == 2  # for the forecast and for the export
    for batches in seen:
        assert len(batches) == 2
        for i, batch in enumerate(batches):
            np.testing.assert_array_equal(batch, order.batch(i))


def settings_of(tmp_path: Path) -> str:
    lines = (tmp_path / "runs/x/settings.env").read_text().splitlines()
    return next(line.removeprefix("DATA_PATH=") for line in lines if line.startswith("DATA_PATH="))
