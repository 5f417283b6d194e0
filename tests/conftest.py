"""A tiny dataset, made once a session, and two ways to run the trainer on it: as a command, or within this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sentencepiece
import torch
from data_helpers import ROOT, sample_texts
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from prep.shards import SplitWriter, header

import train_gpt

TRAINER = ROOT / "train_gpt.py"
VOCAB = 300
TINY = dict(
    DEVICE="cpu", VOCAB_SIZE=VOCAB, NUM_LAYERS=2, MODEL_DIM=32, NUM_HEADS=4, NUM_KV_HEADS=2, TRAIN_SEQ_LEN=32, TRAIN_BATCH_TOKENS=256,
    MAX_WALLCLOCK_SECONDS=0, ITERATIONS=12, WARMUP_STEPS=2, TRAIN_LOG_EVERY=1, VAL_TOKENS=1500, EVAL_SEQ_LEN=64, EVAL_STRIDE=16,
    EVAL_BATCH_TOKENS=1024, GAP_TOKENS=300,
)  # fmt: skip

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored, and its children too
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")  # a busy machine is slow, and nothing is wrong with that
torch.set_num_threads(1)  # as the commands get it, so that their numbers are the same bits
LANES = dict(  # every lane at once: streaming attention, learning from what was scored, hashed pairs, a fitted export
    ATTN_WINDOW=16, EVAL_SEQ_LEN=64, EVAL_STRIDE=48, TTT_LR=0.01, TTT_DOC_LR=0.005, BIGRAM_ROWS=50, BIGRAM_DIM=8, MLP_LEAK=0.3, SMEAR=1,
    HEAD_GATE=12, CONV_TAPS=3, KEY_SHIFT=1, VALUE_EMBED=1, NGRAM_CACHE=4,
    QUANT="step", CODEC="rans", CALIBRATION_TOKENS=300, BALANCE_TOKENS=256, TARGET_BYTES=TRAINER.stat().st_size + 12_000,
)  # fmt: skip


@pytest.fixture(autouse=True)
def keep_denormals() -> None:
    """A run on a CPU lets its process flush them to 0, and from then on hypothesis refuses to draw small numbers."""
    torch.set_flush_denormal(False)


class Done(NamedTuple):
    """What a run gave back."""

    code: int
    out: str
    err: str


class TinyData(NamedTuple):
    """The dataset: tokens in two train shards and one validation shard, and the texts of the validation documents."""

    folder: Path
    tokenizer: Path
    val_texts: list[str]

    def settings(self, **changes: object) -> list[str]:
        """Arguments KEY=VALUE of a tiny run on it."""
        values = TINY | {"DATA_PATH": self.folder, "TOKENIZER_PATH": self.tokenizer} | changes
        return [f"{key}={value}" for key, value in values.items()]


class SteppingTime:
    """In place of the time module: a hundredth of a second passes whenever anybody looks, so that no machine is slow."""

    def __init__(self, each=0.01):
        self.now, self.each = 0.0, each

    def perf_counter(self):
        self.now += self.each
        return self.now

    def strftime(self, form):
        return "now"


def environment(**more: object) -> dict[str, str]:
    """This process's environment without the settings that may be in it."""
    names = {x.name for x in train_gpt.SETTINGS} | {"RANK", "WORLD_SIZE", "LOCAL_RANK"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in more.items()}


def start_trainer(*args: object, command: tuple[object, ...] = (TRAINER,), **env: object) -> subprocess.Popen:
    """Start the real command from another folder, so that nothing depends on where it is called."""
    line = [sys.executable, *map(str, command), *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment(**env), cwd="/", stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def run_trainer(*args: object, timeout: float = 200, **kw: object) -> Done:
    """Run the real command to its end. Raises TimeoutExpired, with all its processes ended, if it hangs."""
    process = start_trainer(*args, **kw)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Done(process.returncode, out, err)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Weights or checkpoint of a run, by name."""
    with np.load(path, allow_pickle=False) as z:
        return {name: z[name] for name in z.files if name != "meta"}


def same_arrays(path: Path, other: Path) -> bool:
    """Whether two such files hold the same names and bits."""
    ours, theirs = arrays(path), arrays(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def with_cache(nats, tokens, seq_len, stride, orders):
    """Nats (n,) of a model on a stream (n + 1,) -> of its mixture with the cache, which learns after each window, as score() has it."""
    learn = train_gpt.cache_beside(tokens, orders)
    mixed = [learn(nats[first:end], slice(first, end))[0] for _, end, first in train_gpt.score_windows(len(nats), seq_len, stride)]
    return np.concatenate(mixed).astype(np.float32)


def settings(*items: str) -> train_gpt.Settings:
    """Resolved settings of a command line, in an empty environment."""
    return train_gpt.load_settings(list(items), {})


def write_shard(path: Path, tokens: object, count: int | None = None) -> Path:
    """A shard of these tokens; `count`: what its header announces."""
    tokens = np.asarray(tokens, "<u2")
    path.write_bytes(header(len(tokens) if count is None else count) + tokens.tobytes())
    return path


def pairs(line: str) -> dict[str, str]:
    """`key:value key:value` of a log line."""
    return dict(re.findall(r"(\S+?):(\S*)", line))


def line_of(log: str, start: str) -> dict[str, str]:
    """The values of the only log line that begins so."""
    found = [line for line in log.splitlines() if line.startswith(start)]
    assert len(found) == 1, f"{start}: {found}"
    return pairs(found[0].removeprefix(start))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    folder = tmp_path_factory.mktemp("tiny")
    texts = sample_texts(120, seed=7)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "t"), vocab_size=VOCAB, model_type="bpe", byte_fallback=True, minloglevel=2
    )
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "t.model"))
    val, train = texts[:15], texts[15:]
    for split, part, limit in (("train", train, 25_000), ("val", val, 10**6)):
        writer = SplitWriter(folder, "tiny", split, limit)
        for text in part:
            writer.add(np.array([1, *sp.encode(text)], np.uint16))
        writer.close()
    return TinyData(folder, folder / "t.model", val)


@pytest.fixture
def main(tiny: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Call the trainer's main() in this process: main("--check", NUM_LAYERS=3). RUNS_DIR is tmp_path / "runs"."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def call(*args: object, bare: bool = False, **changes: object) -> Done:
        """`bare`: without the settings of the tiny run."""
        capsys.readouterr()
        changes = changes if bare else {"RUNS_DIR": tmp_path / "runs"} | changes
        items = [f"{k}={v}" for k, v in changes.items()] if bare else tiny.settings(**changes)
        try:
            code = train_gpt.main([*map(str, args), *items])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Done(code, *capsys.readouterr())

    yield call
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def finished(tiny: TinyData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """(folder, output) of one whole tiny run by the real command. Tests only read it."""
    runs = tmp_path_factory.mktemp("runs")
    done = run_trainer(*tiny.settings(RUNS_DIR=runs, RUN_ID="whole"))
    assert done.code == 0, done.out + done.err
    return runs / "whole", done


@pytest.fixture(scope="session")
def finished_lanes(tiny: TinyData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The same with every lane on."""
    runs = tmp_path_factory.mktemp("lanes")
    done = run_trainer(*tiny.settings(RUNS_DIR=runs, RUN_ID="lanes", **LANES))
    assert done.code == 0, done.out + done.err
    return runs / "lanes", done
