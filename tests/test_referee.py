"""The referee: the trainer's own score on honest artifacts; every hostile submission ends as a named refusal, and harms nothing.

Most submissions here are small NumPy scorers, so that a process starts quickly. SCORER is the honest one; the others change lines of it.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import json
import mmap
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import ROOT, make_folder, reseed
from golf import jail, plain, source
from golf.offences import Offences
from golf.questions import Probes, Referee, names_left, nats_of, pair_nats
from golf.records import digest
from golf.runs import import_trainer
from golf.submission import DEFAULT_LIMITS, Child, NoReferee, Refusal, child_settings, family
from golf.traces import forget_pages, look_up_names
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from referee import NAMES_LEFT, allowed_difference, changed_text, differing_claims, needs_mlx
from referee import main as referee_main

import train_gpt

VOCAB, TARGETS, SEQ_LEN, STRIDE = 50, 1200, 64, 16
LIMITS = DEFAULT_LIMITS | {"start_s": 60.0, "reply_s": 60.0, "memory_bytes": 600 << 20, "processes": 40, "scratch_bytes": 64 << 20}
SCORER = """
import numpy as np

class Scorer:
    seq_len, stride, vocab_size, windows = 64, 16, 50, 8

    def __init__(self, artifact):
        self.table = np.random.default_rng(list(artifact)).standard_normal((50, 50)).astype(np.float32)
        self.start()

    def start(self):
        pass

    def logits(self, tokens, last):
        out = self.table[tokens[:, -last:]].copy()
        return self.change(out, tokens, last)

    def change(self, out, tokens, last):
        return out
"""
LEARNER = (
    SCORER.replace("def start(self):\n        pass", "def start(self):\n        self.counts = np.ones(50, np.float32)").replace(
        "        return out\n", "        return out + np.log(self.counts)\n"
    )
    + "\n    def learn(self, tokens, targets):\n        np.add.at(self.counts, targets.reshape(-1), 1)\n"
)


def changed(body, source=SCORER):
    """The scorer with a body for change()."""
    head, _, _ = source.rpartition("    def change(self, out, tokens, last):\n")
    return head + "    def change(self, out, tokens, last):\n" + "".join(f"        {line}\n" for line in body.strip("\n").split("\n"))


def started(body, source=SCORER):
    """The scorer with lines that run when it is made."""
    return source.replace(
        "    def start(self):\n        pass", "    def start(self):\n" + "".join(f"        {line}\n" for line in body.split("\n"))
    )


@pytest.fixture(scope="module")
def stream():
    tokens = np.random.default_rng(5).integers(2, VOCAB, TARGETS + 1)
    tokens[::97] = 1
    return tokens.astype(np.uint16)


isolated = sys.platform == "linux" and jail.libc is not None


def alive(folder):
    """Processes that were started with something of this folder in their command line, and all they forked."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if f"{folder}/".encode() in path.read_bytes() else []
    return found


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """The paths whose pages would be dropped, a list for each time: it takes seconds, so nothing is. Nor are there as many questions."""
    calls = []
    monkeypatch.setattr("golf.questions.BLIND", 40)
    monkeypatch.setattr("golf.questions.BLIND_LEARNING", 10)
    monkeypatch.setattr("golf.questions.forget_pages", calls.append)
    return calls


@pytest.fixture
def score(stream, tmp_path, monkeypatch):
    """Score a source: score(SOURCE, probes=6, **limits) -> (nats, found). Afterwards nothing of it may be left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not isolated:
        pytest.skip("no Linux namespaces here")

    def run(source, probes=12, artifact=b"abc", **limits):
        (tmp_path / "train_gpt.py").write_text(source)
        (tmp_path / "artifact.bin").write_bytes(artifact)
        try:
            return Referee(stream, train_gpt.window_batches, LIMITS | limits, probes).score(tmp_path)
        except NoReferee as e:
            pytest.skip(str(e))
        finally:
            assert not alive(tmp_path), "a process of the submission is still there"
            assert not list(tmp_path.glob("referee_*")), "a working folder is still there"

    return run


def table_of(artifact=b"abc"):
    return np.random.default_rng(list(artifact)).standard_normal((VOCAB, VOCAB)).astype(np.float32)


def softmax_nats(logits, targets):
    wide = logits.astype(np.float64)
    return np.log(np.exp(wide).sum(-1)) - np.take_along_axis(wide, targets[:, None].astype(np.int64), -1)[:, 0]


# Honest ones ----------------------------------------------------------------------------------------------------------
def test_plain_scorer(score, stream):
    nats, found = score(SCORER)
    assert np.abs(nats - softmax_nats(table_of()[stream[:-1]], stream[1:])).max() < 1e-5
    assert found["probes"]["future"] == 20 and found["probes"]["blind"] == 480 and found["probes"]["largest_move_nats"] < 1e-6
    assert any("network" in line for line in found["isolation"])


def test_score_first_learning(score, stream):
    """Targets are told after they were scored, batch by batch, each once and in order."""
    nats, found = score(LEARNER)
    counts, want = np.ones(VOCAB), []
    for starts, length, last in train_gpt.window_batches(TARGETS, SEQ_LEN, STRIDE, 8):
        where = (starts[:, None] + np.arange(length - last, length)).reshape(-1)
        want.append(softmax_nats(table_of()[stream[where]] + np.log(counts), stream[where + 1]))
        np.add.at(counts, stream[where + 1], 1)
    assert np.abs(nats - np.concatenate(want)).max() < 1e-4 and found["scorer"]["learns"]
    assert found["probes"]["blind"] == 120 and found["probes"]["future"] > 0


DOCUMENTS = """
import numpy as np

class Scorer:
    seq_len, stride, vocab_size, windows, start = 64, 16, 50, 1, 0

    def __init__(self, artifact):
        self.told, self.counts = 0, np.zeros(50)

    def count(self, counts, token):
        counts *= token != 1
        counts[token] += 1

    def logits(self, tokens, last):
        known = max(0, self.told + 1 - self.start) if self.told else 0
        counts, out = self.counts.copy(), []
        for i, token in enumerate(tokens[0]):
            if i >= known:
                self.count(counts, token)
            out.append(np.log(0.3 + 0.7 * counts / max(1, counts.sum()) * 50))
        return np.float32(out)[None, -last:]

    def learn(self, tokens, targets):
        for token in [*tokens[0, : self.told == 0], *targets[0]]:
            self.count(self.counts, token)
        self.told += targets.size
"""


def test_a_scorer_that_counts_within_the_document(score, stream):
    """What a row says beyond the targets told counts too, in whole windows and in questions that end within one, by the row's place."""
    nats, found = score(DOCUMENTS)
    counts, want = np.zeros(VOCAB), []
    for token, target in zip(stream[:-1], stream[1:]):
        counts *= token != 1
        counts[token] += 1
        share = np.log(0.3 + 0.7 * counts / counts.sum() * VOCAB)
        want.append(np.log(np.exp(share).sum()) - share[target])
    assert np.abs(nats - np.array(want)).max() < 1e-4
    assert found["probes"]["largest_noise_nats"] < 1e-4 and found["probes"]["prefix"] > 0 and found["probes"]["blind"] == 120


def test_input_side_hashes_are_legal(score):
    body = """
past = np.concatenate([np.zeros((len(tokens), 1), int), tokens[:, :-1]], 1)[:, -last:]
out[..., :8] += (((tokens[:, -last:] * 31 + past * 7) % 5)[..., None] == np.arange(8))
return out"""
    score(changed(body))


def test_noise_of_the_arithmetic_is_no_violation(score):
    """Rounding that depends on the shape of the batch, as between kernels of a GPU."""
    score(changed("return out + np.float32(1e-2) * np.sin(np.arange(50) * len(tokens)).astype(np.float32)"))


def test_printing_goes_nowhere(score, capfd):
    """What a submission prints can neither break into the protocol nor reach the terminal."""
    code = started(
        "import os, sys\nprint('Ignore all previous instructions' * 5000)\nos.write(1, b'\\x1b[2J' * 9)\nos.write(0, b'x') if 0 else None"
    )
    score(code)
    out, err = capfd.readouterr()
    assert "Ignore all" not in out + err and "\x1b" not in out + err


# Cheats on the scoring rules ------------------------------------------------------------------------------------------
NEXT = "seen = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), -1)], 1)[:, -last:]\n"
CHEATS = {
    "looks at the target": ("S2", NEXT + "out += 3.0 * (seen[..., None] == np.arange(50))\nreturn out"),
    "looks at the target only where it is likely": (
        "S2",
        NEXT + "likely = out > out.max(-1, keepdims=True) - 2\nout += 1.0 * ((seen[..., None] == np.arange(50)) & likely)\nreturn out",
    ),
    "looks at the target only where it is unlikely": (
        "S2",
        NEXT + "rare = out < out.max(-1, keepdims=True) - 3\nout += 0.05 * ((seen[..., None] == np.arange(50)) & rare)\nreturn out",
    ),
    "looks at the target a little": ("S2", NEXT + "out += 0.05 * (seen[..., None] == np.arange(50))\nreturn out"),
    "looks two tokens ahead": (
        "S2",
        "seen = np.roll(tokens, -2, 1)[:, -last:]\nout += 0.5 * (seen[..., None] == np.arange(50))\nreturn out",
    ),
    "looks into the next window of its batch": (
        "S2",
        "at = tokens.shape[1] - last\nfor i in range(len(tokens) - 1):\n    out[i, -1, tokens[i + 1, at]] += 4.0\nreturn out",
    ),
    "normalises over what comes later": ("S2", "return out - out[:, -1:].mean() + tokens[:, -1:, None] % 3 * out"),
    "remembers what it was asked before": (
        "S[25]",
        "self.seen = getattr(self, 'seen', np.ones(50))\nnp.add.at(self.seen, tokens.reshape(-1), 1)\nreturn out + 0.3 * np.log(self.seen)",
    ),
    "answers nan": ("S3", "out[0, 0, 0] = np.nan\nreturn out"),
    "answers infinity": ("S3", "out[0, 0] = np.inf\nreturn out"),
    "rules out the target for good": ("S3", "out[..., 7] = -np.inf\nreturn out"),
    "answers a smaller alphabet": ("S3", "return out[..., :-1]"),
    "answers too few positions": ("S3", "return out[:, :-1]"),
    "answers transposed": ("S3", "return out.transpose(1, 0, 2)"),
    "answers more than asked": ("S3", "return np.concatenate([out, out])"),
    "answers words": ("S1", "return 'logits'"),
}


@pytest.mark.parametrize("name", CHEATS, ids=[name.replace(" ", "_") for name in CHEATS])
def test_cheats(score, name, monkeypatch):
    rule, body = CHEATS[name]
    monkeypatch.setattr("golf.questions.random.SystemRandom", lambda: random.Random(1))  # not all probes at windows' ends
    with pytest.raises(Refusal, match=rule + ":") as e:
        score(changed(body))
    if rule == "S2":
        assert "position" in e.value.what


@pytest.mark.parametrize(
    "old, new, rule",
    [
        ("50, 8", "50, 0", "S3"),
        ("64, 16", "64, 65", "S4"),
        ("16, 50, 8", "16, 20, 8", "S3"),
        ("64, 16, 50, 8", "65536, 16, 65536, 8", "S3"),
        ("seq_len, stride, vocab_size, windows = 64, 16, 50, 8", "seq_len = 3", "S1"),
    ],
)
def test_impossible_descriptions(score, old, new, rule):
    with pytest.raises(Refusal, match=rule):
        score(SCORER.replace(old, new))


def test_learning_before_scoring(score):
    """Counts the targets that stand in its windows before they are scored."""
    early = LEARNER.replace(
        "        out = self.table", "        np.add.at(self.counts, tokens[:, -last + 1 :].reshape(-1), 5)\n        out = self.table"
    )
    with pytest.raises(Refusal, match="S2"):
        score(early)


def test_another_self_in_a_fresh_process(score):
    """Plays honest where it thinks that it is watched: here, after its first few questions."""
    body = "self.asked = getattr(self, 'asked', 0) + 1\nreturn out if self.asked > 3 else out * 2"
    with pytest.raises(Refusal, match="S[25]"):
        score(changed(body))


REMEMBERS = """
self.seen = getattr(self, 'seen', {})
for row, answer in zip(tokens, out if last < tokens.shape[1] else []):  # honest in the first window, where probes may fall early
    guess, key = np.append(row[1:], -1), row[: 64 - 16].tobytes()  # the targets, read off the window itself
    if len(row) == 64 and key not in self.seen:
        self.seen[key] = row.copy(), guess
    if key in self.seen:  # asked again with another end: as before, up to where the question differs
        old, said = self.seen[key]
        n = min(len(row), len(old))
        same = np.cumprod(row[:n] == old[:n]).astype(bool)
        guess[:n][same] = said[:n][same]
        at = np.flatnonzero(guess[-last:] >= 0)
        answer[at, guess[-last:][at]] += 9.0
return out"""


@pytest.mark.parametrize("scorer", [SCORER, LEARNER.replace("50, 8", "50, 1")], ids=["plain", "learning"])
def test_remembering_what_was_asked_beats_no_fresh_process(score, scorer):
    """It looks at every target, and answers each repeated question as it did before: only a process that never saw the target tells."""
    with pytest.raises(Refusal, match="S2: .*a fresh process that had not seen its target"):
        score(changed(REMEMBERS, scorer), probes=4)


def test_a_little_less_wherever_it_does_not_look_like_a_probe(score, monkeypatch):
    """Within what rounding may do to one score, but always in one direction; a few windows tell too, without a second process."""
    body = NEXT + "return out + (len(tokens) > 4) * 0.03 * (seen[..., None] == np.arange(50)) * (last > 1)"
    with pytest.raises(Refusal, match="S2: targets cost 0.0.* more in the mean of 360"):
        score(changed(body))
    monkeypatch.setattr("golf.questions.BLIND", 0)
    with pytest.raises(Refusal, match="S2: targets cost 0.0.* more in the mean of .* when a few windows were asked again"):
        score(changed(body))


def test_noise_does_not_hide_a_lean():
    """A little from every target beneath noise without direction: few questions allow for it, many do not."""
    few, many = (np.random.default_rng(0).normal(0, 0.0145, n) for n in (240, 6000))
    few, many = (few - few.mean()).tolist(), many - many.mean()
    Probes(paired=many.tolist(), drift=few).settle()
    Probes(drift=[x + 0.0025 for x in few]).settle()
    with pytest.raises(Refusal, match="S2: targets cost 0.0025 nats more in the mean of 6000 when a few windows were asked again"):
        Probes(paired=(many + 0.0025).tolist(), drift=few).settle()
    with pytest.raises(Refusal, match="S2: targets cost 0.0035 nats more in the mean of 240 where they had not been seen"):
        Probes(drift=[x + 0.0035 for x in few]).settle()


def test_noise_has_a_largest_mean():
    Probes(noise=[0.0, 0.039]).settle()
    with pytest.raises(Refusal, match="S5: scores differ by 0.0205 nats in the mean when asked again; allowed 0.02"):
        Probes(noise=[0.0, 0.041]).settle()


def test_pairs_are_counted_without_the_one_in_question():
    tokens = np.random.default_rng(1).integers(0, 4, 60)
    n, want = len(tokens) - 1, []
    for i in range(n):
        others = [j for j in range(n) if j != i and tokens[j] == tokens[i]]
        same, after = sum(tokens[j + 1] == tokens[i + 1] for j in others), np.count_nonzero(tokens[1:] == tokens[i + 1]) / n
        want.append(-np.log((same + 20 * after) / (len(others) + 20)))
    np.testing.assert_allclose(pair_nats(tokens, 5), want)


def test_the_dearest_targets_are_asked_for(stream):
    """One in 1,000 targets saved, the dearest: hardly any question anywhere finds one, those of targets found too likely find several."""
    rng = np.random.default_rng(0)
    tokens = rng.choice(VOCAB, 100_001, p=np.append(np.full(49, 0.0203), 0.0053))
    nats = rng.normal(4, 1.5, 100_000).astype(np.float32)
    saved = np.flatnonzero(tokens[1:] == VOCAB - 1)[:100]
    nats[saved] = 0.2
    evenly, suspects = Referee(tokens, train_gpt.window_batches, LIMITS, 120).blind_targets(nats, VOCAB, False)
    assert len(evenly) == 3600 and len(suspects) == 1200 and not evenly & suspects
    assert len(suspects & set(saved.tolist())) > 3 * len(evenly & set(saved.tolist())) + 20


def test_blind_questions_never_show_a_later_target(score, monkeypatch):
    """They go through the stream in order: what one shows is older than what any later one asks for."""
    asked, ask = [], Child.ask
    monkeypatch.setattr(
        Child, "ask", lambda self, tokens, last, start: (asked.append((self, start + tokens.shape[1])), ask(self, tokens, last, start))
    )
    score(SCORER, probes=2)
    ends = [end for child, end in asked if child is asked[-1][0]]
    assert len(ends) == 80 and ends == sorted(set(ends))


def test_the_first_process_is_gone_before_the_second_starts(tmp_path):
    """Whatever it had mapped would keep its pages in memory. The outer process lives on until all inside has been cleared away."""
    if not isolated:
        pytest.skip("no Linux namespaces here")
    (tmp_path / "train_gpt.py").write_text(started("self.much = bytearray(256 << 20)"))
    (tmp_path / "artifact.bin").write_bytes(b"abc")
    with Child(tmp_path, "artifact.bin", LIMITS) as child:
        try:
            child.start()
        except NoReferee as e:
            pytest.skip(str(e))
        inside = family(child.process.pid)[0][1:]
    assert inside and not any(Path(f"/proc/{pid}").exists() for pid in inside)


def test_the_jail_of_a_machine_with_a_gpu(score, tmp_path, monkeypatch):
    """It shows all of /sys, of which the plain one shows a part, and may find /usr/local/cuda shown already: where the plain one can be
    made, this one can."""
    score(SCORER, probes=0)  # skips where there are no namespaces
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/nvidiactl" or real(path))
    look = "self.about = {key: os.path.isdir('/sys/' + key) for key in ('class', 'devices/system')}"
    (tmp_path / "train_gpt.py").write_text(started(f"import os; {look}"))
    with Child(tmp_path, "artifact.bin", LIMITS) as child:
        about = child.start()
    assert child.cuda and about["class"] == about["devices/system"] == "True"


def test_the_fresh_process_finds_no_page_that_the_first_one_left(score, forgotten):
    score(SCORER, probes=2)
    assert len(forgotten) == 1 and sys.prefix in forgotten[0] and "/usr" in forgotten[0]


def test_the_second_process_finds_all_names_looked_up(score, tmp_path, monkeypatch):
    """An ordinary user cannot clear the kernel's memory of names. Those below /sys are in no page that is dropped: they are looked up."""
    path, looked_up, asked, lstat = tmp_path / "folder" / "name", [], [], os.lstat
    path.parent.mkdir()
    path.write_text("")
    with monkeypatch.context() as patch:
        patch.setattr("os.lstat", lambda path: looked_up.append(path) or lstat(path))
        look_up_names([str(tmp_path)])
    assert str(path) in looked_up
    monkeypatch.setattr("golf.questions.look_up_names", asked.append)
    score(SCORER, probes=2)
    assert asked in ([["/sys/devices/system"]], [["/sys"]])


def pages_in_memory(path: Path) -> int:
    """How many of a file's pages the kernel holds in memory, by mincore(2). A preadv with RWF_NOWAIT does not tell: on a fast disk the
    reading ahead that it starts may end before it looks."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        held = (ctypes.c_ubyte * -(-len(pages) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(pages)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(pages)), held)
        del start  # or the file stays mapped
    assert not failed
    return sum(page & 1 for page in held)


@pytest.mark.skipif(sys.platform != "linux", reason="forget_pages is for the page cache of Linux")
def test_pages_are_forgotten(tmp_path):
    path = tmp_path / "folder" / "library"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
    if not pages_in_memory(path):
        pytest.skip("this file system does not say what is cached")
    for shown in (tmp_path, path):  # a folder, or a file that is shown by itself
        assert path.read_bytes() and pages_in_memory(path)
        forget_pages([str(shown)])
        assert not pages_in_memory(path)


def test_batches_that_are_no_probes_come_alone_too(score, monkeypatch):
    """Before a probe no request is under way. Who waits for the next one to tell probes by that meets as many batches that are none."""
    under_way, alone = 0, []

    def counted(change, real):
        def call(*args):
            nonlocal under_way
            under_way += change
            alone.append(under_way == 0)
            return real(*args)

        return call

    monkeypatch.setattr(Child, "ask", counted(1, Child.ask))
    monkeypatch.setattr(Child, "answer", counted(-1, Child.answer))
    monkeypatch.setattr("golf.questions.random.SystemRandom", lambda: random.Random(0))  # of all orders there are, one in 400 has too many
    score(SCORER.replace("50, 8\n", "50, 1\n"), probes=0)
    batches = 1 + (TARGETS - SEQ_LEN) // STRIDE
    assert batches // 10 < sum(alone) < batches // 2 and len(alone) == 2 * batches


@pytest.mark.parametrize("source", [SCORER, LEARNER], ids=["plain", "learning"])
def test_long_work_says_how_far_it_is(stream, tmp_path, monkeypatch, source):
    if not isolated:
        pytest.skip("no Linux namespaces here")
    monkeypatch.setattr("golf.questions.SAY_EVERY_S", 0.0)
    (tmp_path / "train_gpt.py").write_text(source)
    (tmp_path / "artifact.bin").write_bytes(b"abc")
    said: list[str] = []
    try:
        Referee(stream, train_gpt.window_batches, LIMITS, say=said.append).score(tmp_path)
    except NoReferee as e:
        pytest.skip(str(e))
    for what in ("scoring", "asking a second process"):
        mine = [line for line in said if line.startswith(f"{what}: ")]
        assert len(mine) >= 5 and all(re.fullmatch(rf"{what}: \d+ of \d+ batches, about \d+ s left", line) for line in mine)
        assert mine[-1].endswith("about 0 s left")


def test_no_call_of_windows_is_larger_than_the_referee_bears(score):
    source = SCORER.replace("64, 16, 50, 8\n", "65_536, 1, 50, 65_536\n")
    about = score(source, probes=0)[1]["scorer"]
    assert about["windows"] == 256 and about["windows"] * about["seq_len"] == 1 << 24


def test_one_batch_of_all_windows(score):
    with pytest.raises(Refusal, match="S2"):
        score(changed(CHEATS["looks at the target"][1]).replace("50, 8", "50, 9999"), probes=2)


def test_settings_bring_nothing_but_where_and_how_to_compute(tmp_path):
    path = tmp_path / "settings.env"
    path.write_text(
        "# " + "QUJD" * 9999 + "\nDEVICE=cpu\nPRECISION=bf16\nTABLE=" + "A" * 9999 + "\nCOMPILE=" + "a" * 99 + "\nEVAL_BATCH_TOKENS=64\n"
    )
    assert child_settings(path) == "DEVICE=cpu\nPRECISION=bf16\nEVAL_BATCH_TOKENS=64\n"
    assert child_settings(tmp_path / "none.env") == ""
    path.write_text("DEVICE=cpu\nPRECISION=" + "\u4e00\u4e8c" * 6 + "\nCOMPILE=abcdefghijkl\nEVAL_BATCH_TOKENS=a1b2c3\n")
    assert child_settings(path) == "DEVICE=cpu\n"


def test_the_artifacts_name_brings_nothing(score, tmp_path):
    """A log may have a seed of 15 digits."""
    (tmp_path / "artifact_seed123456789012345.bin").write_bytes(b"abc")
    (tmp_path / "train_gpt.py").write_text(started("import os\nself.about = {'files': ' '.join(sorted(os.listdir()))}"))
    with Child(tmp_path, "artifact_seed123456789012345.bin", LIMITS, isolated) as child:
        try:
            assert child.start()["files"] == "artifact.bin settings.env train_gpt.py"
        except NoReferee as e:
            pytest.skip(str(e))


def test_where_to_compute_reaches_a_scorer_of_its_own(score, tmp_path):
    """It has nothing but its settings.env to go by: --device, no GPU where the run had one, and no compiler there."""
    path = tmp_path / "settings.env"
    path.write_text("DEVICE=cuda\nPRECISION=fp32\nCOMPILE=on\n")
    assert child_settings(path) == path.read_text()
    assert child_settings(path, cuda=False) == child_settings(path, "cpu", False) == "DEVICE=cpu\nPRECISION=fp32\nCOMPILE=off\n"
    assert child_settings(path, "auto") == "DEVICE=auto\nPRECISION=fp32\nCOMPILE=on\n"
    if not os.path.exists("/dev/nvidiactl"):
        score(started("assert open('settings.env').read() == 'DEVICE=cpu\\nPRECISION=fp32\\nCOMPILE=off\\n'"), probes=0)


def test_a_submission_cannot_say_that_there_is_no_jail(stream, tmp_path):
    """Words about the jail come from before the submission is loaded; its own do not count."""
    frame = "import json, os, struct\ntext = json.dumps({'no_isolation': 'x', 'isolation': 5}).encode()\n"
    body = frame + "for fd in range(3, 20):\n    try: os.write(fd, struct.pack('<IQ', len(text), 0) + text)\n    except OSError: pass"
    (tmp_path / "train_gpt.py").write_text(started(body))
    (tmp_path / "artifact.bin").write_bytes(b"abc")
    with pytest.raises(Refusal, match="S3"):
        Referee(stream, train_gpt.window_batches, LIMITS, 2, isolate=False).score(tmp_path)


def test_a_limit_names_its_own_seconds(score):
    with pytest.raises(Refusal, match="within 0.01 s"):
        score(started("import time; time.sleep(60)"), start_s=0.01)


def test_a_library_may_live_below_any_name():
    said = []
    hook = Offences(print, "", ["/scratch"], ["/srv/fineweb_lab/.venv"], False)
    hook.offend, hook.armed = lambda *words: said.append(words), True
    hook("open", ("/srv/fineweb_lab/.venv/lib/numpy/version.py", "r", 0))
    hook("open", ("/srv/fineweb_lab/code.py", "r", 0))
    assert not said
    hook.source = __file__
    hook("open", ("/dev/null", "r", 0))
    assert not said
    opening = 'hook("open", ("/srv/fineweb_lab/.venv/lib/numpy/version.py", "r", 0))'
    for file, blamed in ((__file__, 1), ("/usr/lib/python3/pathlib.py", 1), ("/usr/lib/python3/inspect.py", 0)):  # who calls open
        hook.armed = True
        exec(compile(opening, file, "exec"))
        assert said == [("B2", "opens /srv/fineweb_lab/.venv/lib/numpy/version.py, which is not in its folder")] * blamed
        said.clear()
    hook("open", ("/srv/fineweb_val_000000.bin", "r", 0))
    assert said[0][0] == "B2"


# Attacks on the machine -----------------------------------------------------------------------------------------------
BY_NATIVE_CODE = "import ctypes, os, time\nlibc = ctypes.CDLL(None)\n"
HOSTILE = {
    "fork bomb": ("B2: starts processes", "import os\nwhile True:\n    os.fork()"),
    "fork bomb in native code": (
        "limit: .*processes|S1: .*no more",
        BY_NATIVE_CODE + "for _ in range(9999):\n    if libc.fork() < 0:\n        raise OSError('no more')\ntime.sleep(60)",
    ),
    "memory hog": ("limit: .*memory", "kept = []\nwhile True:\n    kept.append(bytearray(30 << 20))"),
    "memory hog over several processes": (
        "limit: .*memory",
        BY_NATIVE_CODE + "[libc.fork() for _ in range(2)]\nkept = bytearray(200 << 20)\nwhile True:\n    kept[:] = bytes(len(kept))",
    ),
    "memory hog in shared memory": (
        "limit: .*memory",
        "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 30 << 20))\n    kept[-1].write(bytes(30 << 20))",
    ),
    "endless loop": ("limit: no sign of being ready", "while True:\n    pass"),
    "sleep": ("limit: no sign of being ready", "import time\ntime.sleep(600)"),
    "reads the validation file": ("B2: opens .*is data", "open('/data/datasets/fineweb10B_sp1024/fineweb_val_000000.bin', 'rb')"),
    "opens a socket": ("B2: uses the network", "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)"),
    "asks for a name": ("B2: uses the network", "import socket\nsocket.getaddrinfo('example.org', 80)"),
    "runs a program": ("B2: starts processes", "import subprocess\nsubprocess.run(['true'])"),
    "writes outside": ("B2: writes to", "open('/submission/train_gpt.py', 'a').write('x')"),
    "writes to the system": ("B2: writes to", "open('/usr/lib/x', 'w').write('x')"),
    "patched timers": ("C1: replaces time.perf_counter", "import time\ntime.perf_counter = lambda: 0.0"),
    "patched builtins": ("C1: replaces builtins.sum", "import builtins\nbuiltins.sum = lambda x: 0"),
    "walks the garbage collector": ("S5: walks", "import gc\n[o for o in gc.get_objects() if hasattr(o, 'targets')]"),
    "walks the stack": ("S5: walks", "import sys\nframe = sys._getframe(1)\nwhile frame:\n    frame = frame.f_back"),
    "reads another process's memory": ("S5: opens /proc", "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
    "writes to the system by way of pathlib": ("B2: writes to", "import pathlib\npathlib.Path('/usr/lib/x').write_text('x')"),
    "reads the texts of packages": (
        "B2: opens .*which is not in its folder",
        "import pathlib, numpy\npathlib.Path(numpy.__file__).read_text()",
    ),
    "decompression bomb": (
        "limit: .*memory",
        "import zlib\npacked = zlib.compress(bytes(1 << 24))\nwhole = [zlib.decompress(packed) for _ in range(4000)]",
    ),
    "fills the scratch folder": (
        "S1: .*(No space|too large)",
        "with open('/scratch/x', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 20))",
    ),
    "exits": ("S1: .*SystemExit", "raise SystemExit(0)"),
    "exits quietly": ("limit: the process ended", "import os\nos._exit(0)"),
    "crashes": ("limit: the process ended", "import ctypes\nctypes.string_at(1)"),
    "speaks over the protocol": (
        "S3|limit",
        "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, bytes([255]) * 64)\n    except OSError:\n        pass",
    ),
}


@pytest.mark.parametrize("name", HOSTILE, ids=[name.replace(" ", "_") for name in HOSTILE])
def test_hostile(score, name):
    words, body = HOSTILE[name]
    with pytest.raises(Refusal) as e:
        limits = {"memory_bytes": 2 << 30} if name.startswith("fork bomb") else {}  # else forty processes may be over that one first
        score(started(body), start_s=2.0 if "ready" in words else 20.0, **limits)
    assert re.search(words, str(e.value)), str(e.value)


@pytest.mark.parametrize("body", ["while True: pass", "raise ValueError('\\x1b[31m' + 'x' * 9999)", "import os; os._exit(3)"])
def test_trouble_in_the_middle(score, body):
    with pytest.raises(Refusal) as e:
        score(changed(f"if self.table[0, 0] and tokens[0, 0] != -1 and len(tokens) == 8:\n    {body}\nreturn out"), reply_s=2.0)
    assert "\x1b" not in str(e.value) and len(str(e.value)) < 700


@pytest.mark.parametrize(
    "body,rule",
    [
        ("raise TypeError('torch.memory_format')", "S1"),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA')", "limit"),
        ("np.empty(1 << 50)", "limit"),
    ],
)
def test_memory_by_the_kind_of_error(score, body, rule):
    with pytest.raises(Refusal, match=f"{rule}: its code failed"):
        score(started(body))


STATIC = {
    "import os\nos.posix_fadvise(3, 0, 0, 4)": "os.posix_fadvise tells",
    "import os\nos.preadv(3, [], 0, os.RWF_NOWAIT)": "os.RWF_NOWAIT tells",
    "import torch\ntorch.os.sendfile(1, 2, 0, 9)": "os.sendfile tells",
    "from os import splice": "os.splice tells",
    "import torch\nlibc = torch.ctypes.CDLL(None)": "torch.ctypes.CDLL runs native code",
    "from torch import ctypes as c": "torch.ctypes runs native code",
    "import numpy as np\nnp.ctypeslib.load_library('c', '/')": "numpy.ctypeslib runs",
    "import torch\ntorch.utils.cpp_extension.subprocess.run('x')": "subprocess.run runs",
    "import pydoc_data.topics": "imports pydoc_data.topics",
    "import this": "imports this",
    "import lib2to3.pgen2": "imports lib2to3",
    "from idlelib import help": "imports idlelib",
    "import scipy": "imports scipy",
    "import ray": "imports ray",
    "import hypothesis": "imports hypothesis",
}


def test_what_the_source_itself_says():
    packages = source.required_packages(ROOT)
    for text, words in STATIC.items():
        found = source.reaches(source.parse(text.encode()), packages)
        assert any(words in what for _, what in found), (text, found)
    fine = "import os, mmap, numpy as np, torch, mlx.core as mx, sentencepiece\nos.cpu_count(), os.path.join('a', 'b'), torch.nn, mmap.mmap"
    assert source.reaches(source.parse(fine.encode()), packages) == []


def test_the_jail_itself(score, tmp_path):
    """Native code, which no audit hook sees, finds no file, no process, no network and no way to write; then scores honestly."""
    secret = tmp_path / "secret.txt"
    secret.write_text("targets")
    server = socket.create_server(("127.0.0.1", 0))
    port, (_, denied, numbers) = server.getsockname()[1], jail.CALLS[os.uname().machine]
    body = f"""
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
facts = dict(
    secret=libc.open({str(secret).encode()!r}, 0) < 0,
    repository=not os.path.exists({str(Path(__file__).resolve())!r}),
    home=libc.access({str(Path.home() / ".ssh").encode()!r}, 0) < 0 and libc.access(b"/home", 0) < 0,
    submission=libc.open(b"/submission/train_gpt.py", os.O_RDWR) < 0,
    created=libc.open(b"/submission/new", os.O_RDWR | os.O_CREAT, 0o600) < 0 and libc.open(b"/usr/new", os.O_RDWR | os.O_CREAT, 0o600) < 0,
    root=libc.mkdir(b"/new", 0o700) < 0,
    read_only=all(os.statvfs(path).f_flag & os.ST_RDONLY for path in ("/", "/usr", "/submission", {sys.prefix!r})),
    processes=[p for p in os.listdir("/proc") if p.isdecimal()] in ([], ["1"]),
    parent=os.getppid() == 0,
    user=os.getuid() == 65534 and libc.setuid(0) < 0,
    mount=libc.mount(b"none", b"/scratch", b"tmpfs", 0, None) < 0,
    scratch=libc.open(b"/scratch/new", os.O_RDWR | os.O_CREAT, 0o600) >= 0,
    denied=all(libc.syscall(number, b"user", b"name", b"value", 5, -4) < 0 and ctypes.get_errno() == 1 for number in {denied}),
    host=all(libc.socket(family, 1, 0) < 0 and ctypes.get_errno() == 1 for family in (40, 38, 17)),  # VSOCK, ALG, PACKET
    sockets=all(libc.socket(family, 3 - (family != 16), 0) >= 0 for family in {jail.FAMILIES}),
    hints=libc.fcntl(libc.open(b"/scratch/new", os.O_RDWR), {jail.F_SET_RW_HINT}, ctypes.byref(ctypes.c_uint64(3))) < 0,
    namespaces=libc.unshare({jail.NEWUSER}) < 0 and libc.syscall({numbers['clone']}, {jail.NEWUSER | 17}, 0, 0, 0, 0) < 0
        and libc.syscall({numbers["clone3"]}, struct.pack("11Q", {jail.NEWUSER}, 0, 0, 0, 17, *[0] * 6), 88) < 0,
    other_calls=libc.fcntl(libc.open(b"/scratch/new", os.O_RDWR), 3) >= 0,
    environment="OMP_NUM_THREADS" in os.environ or len(os.environ) < 15,
)
fd = libc.socket(2, 1, 0)
facts["network"] = fd < 0 or libc.connect(fd, struct.pack("=H", 2) + struct.pack(">H4s8x", {port}, bytes([127, 0, 0, 1])), 16) < 0
wrong = [name for name, good in facts.items() if not good]
if wrong:
    raise ValueError("the jail lets through: " + ", ".join(wrong))"""
    with server:
        score(started(body.strip("\n")), probes=2)


def test_a_killed_referee_leaves_nothing_behind(stream, tmp_path):
    """The submission loops; the referee's own process is killed the hard way."""
    (tmp_path / "train_gpt.py").write_text("while True: pass")
    (tmp_path / "artifact.bin").write_bytes(b"")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from golf.submission import DEFAULT_LIMITS, Child
child = Child(Path({str(tmp_path)!r}), "artifact.bin", DEFAULT_LIMITS)
print(child.work, flush=True)
child.start()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    work = process.stdout.readline().strip()

    for _ in range(300):
        if len(alive(work)) >= 2 or process.poll() is not None:  # outside and inside of the process namespace
            break
        time.sleep(0.1)
    if process.poll() is not None:
        pytest.skip("no namespaces here")
    process.kill()
    process.communicate()
    for _ in range(100):
        if not alive(work):
            break
        time.sleep(0.1)
    assert not alive(work)
    shutil.rmtree(work, ignore_errors=True)


def test_without_isolation_it_says_so(stream, tmp_path):
    (tmp_path / "train_gpt.py").write_text(SCORER)
    (tmp_path / "artifact.bin").write_bytes(b"abc")
    _, found = Referee(stream, train_gpt.window_batches, LIMITS, 2, isolate=False).score(tmp_path)
    assert any("no namespaces" in line for line in found["isolation"])


def test_refused_namespaces_are_no_verdict(monkeypatch, tmp_path):
    """Where the system offers no namespaces the referee says so, and nothing of the submission runs."""
    (tmp_path / "train_gpt.py").write_text("open('/tmp/ran', 'w')")
    (tmp_path / "artifact.bin").write_bytes(b"")
    with Child(tmp_path, "artifact.bin", LIMITS, isolate=False) as child:
        child.receive = lambda *a: ({"no_isolation": "unshare: Operation not permitted"}, None)
        with pytest.raises(NoReferee, match="unshare"):
            child.start()


@pytest.mark.parametrize("lacking", [("libc", None), ("CALLS", {"vax": ()})], ids=["system", "machine"])
def test_a_system_that_the_jail_does_not_know_refuses_namespaces(lacking, monkeypatch):
    """As macOS does: an OSError, which the referee reports, and no traceback, which it would hold against the submission."""
    monkeypatch.setattr(jail, *lacking)
    with pytest.raises(OSError, match="the jail knows Linux"):
        jail.unshare_all()


def test_softmax():
    """Against PyTorch, at both ends of what float32 holds; whatever is not finite is refused."""
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((3, 4, 50)) * np.array([1, 30, 3000, 1e-3])[:, None]).astype(np.float32)
    targets = rng.integers(0, 50, (3, 4))
    want = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double().flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none"
    )
    assert np.allclose(nats_of(logits, targets).reshape(-1), want.numpy(), rtol=1e-5, atol=1e-5)
    assert np.allclose(nats_of(np.full((1, 1, 50), 1e9, np.float32), np.zeros((1, 1), int)), np.log(50))  # 1e9 + log(50) is 1e9
    spoilt = logits.copy()
    spoilt[1, 2, targets[1, 2]] = -np.inf
    with pytest.raises(Refusal, match="S3"):
        nats_of(spoilt, targets)
    for bad in (np.nan, np.inf):
        spoilt = logits.copy()
        spoilt[1, 2, (targets[1, 2] + 1) % 50] = bad
        with pytest.raises(Refusal, match="S3"):
            nats_of(spoilt, targets)


# The trainer's own model ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def streaming():
    """A model of random weights with every lane of the model on, for the stream here: (artifact of a TTT_LR, its score by a trainer)."""
    shape = "VOCAB_SIZE=50 NUM_LAYERS=2 MODEL_DIM=16 NUM_HEADS=2 NUM_KV_HEADS=1 BIGRAM_ROWS=40 BIGRAM_DIM=8 MLP_LEAK=0.3 DEVICE=cpu"
    rows = "SMEAR=1 HEAD_GATE=4 ATTN_WINDOW=16 EVAL_SEQ_LEN=80 EVAL_STRIDE=64 QUANT=step CODEC=rans"

    def make(rate, tokens, orders=0, trainer=train_gpt, *more):
        s = trainer.load_settings([*shape.split(), *rows.split(), f"TTT_LR={rate}", f"NGRAM_CACHE={orders}", *more], {})
        runtime = trainer.resolve_device(s)
        runtime.start()
        model, rng = trainer.GPT(s, runtime), np.random.default_rng(0)
        weights = {name: (0.3 * rng.standard_normal(w.shape)).astype(np.float32) for name, w in sorted(model.weights().items())}
        artifact = trainer.encode_artifact(weights, s)
        model.load_weights(trainer.decode_artifact(artifact)[1])
        return artifact, trainer.score(model, tokens, s, runtime, trainer.Log(False), "test", 80, 64, ttt=rate)

    return make


TRAINER_LIMITS = {"memory_bytes": 4 << 30, "processes": 256}


@pytest.mark.parametrize("name", ["train_gpt", "train_gpt_mlx"])
@pytest.mark.parametrize("rate,orders,more", [(0.0, 0, ()), (0.01, 0, ()), (0.0, 3, ()), (0.01, 8, ()), (0.005, 8, ("TTT_DOC_LR=0.005",))])
def test_streaming_and_learning_by_the_trainers_own_functions(score, stream, streaming, rate, orders, more, name):
    """Long rows with windows of attention pass the probes as they are; TTT_* and NGRAM_CACHE go on here as they do in the trainer."""
    trainer = pytest.importorskip(name, reason="mlx is not installed: pip install -r requirements-mlx.txt")
    artifact, want = streaming(rate, stream, orders, trainer, *more)
    source = (ROOT / f"{name}.py").read_text().replace('Setting("COMPILE", "auto"', 'Setting("COMPILE", "on"')  # not obeyed on a CPU
    nats, found = score(source, 4, artifact, **TRAINER_LIMITS)
    assert np.abs(nats - want).max() < 1e-4 and abs(nats.mean() - want.mean()) < 1e-6
    learns = bool(rate or orders)
    assert found["scorer"]["learns"] == learns and (found["scorer"]["windows"] == 1) == learns
    assert found["probes"]["future"] >= 6 and found["probes"]["blind"] == (40 if rate or orders else 160)  # those that learn take longer
    assert found["probes"]["largest_move_nats"] < 1e-6


def test_learning_by_a_trainer_that_knows_no_documents(score, stream, streaming):
    """A record's own trainer, whose Learner is told no more than scores and shares."""
    path = ROOT / "records" / "track_non_record" / "2026-11-27_cpu_record_learning" / "train_gpt_source.py"
    older = import_trainer(path)
    assert "TTT_DOC_LR" not in older.LATER_KEYS
    artifact, want = streaming(0.01, stream, 8, older)
    nats, _ = score(path.read_text(), 4, artifact, **TRAINER_LIMITS)
    assert np.abs(nats - want).max() < 1e-4


@torch._dynamo.config.patch(suppress_errors=False)  # monkeypatch would delete it in the end
def test_the_plain_scorer_goes_without_a_compiler_that_fails(tmp_path, monkeypatch):
    """As the trainer's score() does, so that a run which was scored is not refused for it."""

    def broken(graph, inputs):
        raise RuntimeError("no such target")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, backend=broken, **options))
    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/c++")
    monkeypatch.chdir(tmp_path)
    s = train_gpt.load_settings("DEVICE=cpu NUM_LAYERS=1 MODEL_DIM=16 NUM_HEADS=2 NUM_KV_HEADS=1 EVAL_SEQ_LEN=16 EVAL_STRIDE=8".split(), {})
    weights = train_gpt.initial_weights(s, train_gpt.GPT(s, train_gpt.resolve_device(s)).weights())
    artifact, tokens = train_gpt.encode_artifact(weights, s), np.random.default_rng(0).integers(2, 1024, (2, 16))
    answers = []
    for wanted in ("on", "off"):
        (tmp_path / "settings.env").write_text(f"DEVICE=cpu\nCOMPILE={wanted}\nEVAL_BATCH_TOKENS=32\n")
        scorer = plain.PlainTorch(train_gpt, artifact, {"cuda": True, "targets": 16 + 256 * 16})
        assert (scorer.compiled is not None) == (wanted == "on") and (scorer.windows, scorer.stride) == (2, 8)
        answers.append(scorer.logits(tokens, 8))
    assert np.array_equal(*answers)


def test_the_plain_scorer_answers_by_what_it_compiled(tmp_path, monkeypatch):
    """Probes ask for fewer windows, or cut ones: by other kernels their answers would differ by bf16's rounding, 0.02 nats in the mean."""
    shapes, real = [], train_gpt.GPT.logits
    monkeypatch.setattr(torch, "compile", lambda f, **options: lambda x, last: shapes.append((*x.shape, last)) or f(x, last) + 1)
    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/c++")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.env").write_text("DEVICE=cpu\nCOMPILE=on\nEVAL_BATCH_TOKENS=32\n")
    s = train_gpt.load_settings("DEVICE=cpu NUM_LAYERS=1 MODEL_DIM=16 NUM_HEADS=2 NUM_KV_HEADS=1 EVAL_SEQ_LEN=16 EVAL_STRIDE=8".split(), {})
    weights = train_gpt.initial_weights(s, train_gpt.GPT(s, train_gpt.resolve_device(s)).weights())
    scorer = plain.PlainTorch(train_gpt, train_gpt.encode_artifact(weights, s), {"cuda": True, "targets": 16 + 256 * 16})
    tokens = np.random.default_rng(0).integers(2, 1024, (2, 16))
    usual = [(tokens, 8), (tokens[:1], 8), (tokens[1:], 1), (tokens[1:, :12], 1), (tokens[:, :9], 1), (tokens[:, :12], 4)]
    for rows, last in usual:
        whole = real(scorer.model, torch.from_numpy(rows), last).detach().numpy()
        np.testing.assert_allclose(scorer.answer(rows, last), whole + 1, rtol=0, atol=1e-5)
    assert shapes == [(2, 16, 8)] * len(usual)
    for rows, last in ((tokens, 16), (tokens[:, :8], 1), (tokens[:, :12], 5), (tokens[[0, 1, 0]], 8)):
        whole = real(scorer.model, torch.from_numpy(rows), last).detach().numpy()
        np.testing.assert_allclose(scorer.answer(rows, last), whole, rtol=0, atol=1e-5)
    assert len(shapes) == len(usual)


@pytest.mark.parametrize("targets", [16 + 8 * 254, 16 + 8 * 256 * 2 - 16, 16 + 8 * 256 * 2])
def test_the_plain_scorer_compiles_when_the_trainer_does(tmp_path, monkeypatch, targets):
    """On a device that says it is CUDA. What is compiled rounds otherwise: by more than the 1e-5 bpb that are allowed on one card."""
    compiled = []

    def noted(function, **options):
        compiled.append(function)
        return lambda *args: function(*args)

    monkeypatch.setattr(torch, "compile", noted)
    monkeypatch.setattr(shutil, "which", lambda name, *a: "/usr/bin/c++")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.env").write_text("DEVICE=cpu\nCOMPILE=on\nEVAL_BATCH_TOKENS=32\n")
    s = train_gpt.load_settings(
        "DEVICE=cpu NUM_LAYERS=1 MODEL_DIM=16 NUM_HEADS=2 NUM_KV_HEADS=1 EVAL_SEQ_LEN=16 EVAL_STRIDE=8 EVAL_BATCH_TOKENS=32".split(), {}
    )
    like_cuda = type("LikeCuda", (train_gpt.Runtime,), {"cuda": True})(torch.device("cpu"), torch.float32, True, [])
    model, tokens = train_gpt.GPT(s, like_cuda), np.random.default_rng(0).integers(2, 1024, targets + 1).astype(np.uint16)
    model.load_weights(train_gpt.initial_weights(s, model.weights()))
    train_gpt.score(model, tokens, s, like_cuda, train_gpt.Log(False), "", 16, 8)
    theirs = len(compiled)
    scorer = plain.PlainTorch(train_gpt, train_gpt.encode_artifact(model.weights(), s), {"cuda": True, "targets": targets})
    assert (scorer.compiled is not None) == (theirs == 1) == (len(train_gpt.window_batches(targets, 16, 8, 2)) > 256)


@pytest.mark.parametrize("more, most", [({"COMPILE_ABOVE": 300}, 300), ({"score": lambda: 256}, 256), ({}, 8)])
def test_the_plain_scorer_knows_from_when_older_trainers_compile(more, most):
    """The newest say it by a name; those between have the number in score()'s code; the first had 8, and batches up to a limit."""
    batches = train_gpt.window_batches if "COMPILE_ABOVE" in more else lambda n, seq_len, stride, rows, limit: [0] * min(n, limit)
    module = types.SimpleNamespace(**{"score": lambda: 8, "window_batches": batches} | more)
    scorer = types.SimpleNamespace(s=types.SimpleNamespace(EVAL_BATCH_TOKENS=1), seq_len=1, stride=1, module=module)
    assert [plain.PlainTorch.many_batches(scorer, targets) for targets in (most, most + 1)] == [False, True]


@pytest.mark.parametrize(
    "body,refused",
    [
        ('import ctypes.util; ctypes.util.find_library("dl")', False),
        ('import subprocess; subprocess.Popen(["/sbin/ldconfig", "-p"])', True),
        ('import subprocess; subprocess.Popen(["/sbin/ldconfig", "-p"], preexec_fn=print)', True),
        ('import ctypes.util as u; u.subprocess.Popen(["/sbin/ldconfig", "-v"])', True),
        ('import os; os.posix_spawn("/sbin/ldconfig", ["/sbin/ldconfig", "-p"], {})', True),
    ],
)
def test_looking_for_a_library_is_no_offence(score, body, refused):
    """PyTorch's CUDA build has ctypes ask ldconfig for one when it is imported. Asking ldconfig oneself is an offence like any program."""
    source = SCORER.replace("def start(self):\n        pass", f"def start(self):\n        {body}")
    assert body in source
    if not refused:
        score(source)
        return
    with pytest.raises(Refusal, match="B2.*starts processes"):
        score(source)


def test_learning_from_more_than_was_scored_shows(score, stream, streaming):
    """A trainer whose optimizer steps on the tokens it is asked about, before their score."""
    artifact, _ = streaming(0.01, stream)
    honest = "        return self.softcap * torch.tanh(logits / self.softcap)\n"
    early = """        if last > 1 and not torch.is_grad_enabled():
            with torch.inference_mode(False), torch.enable_grad():
                ids = tokens.clone()
                F.cross_entropy(linear(self.hidden(ids)[:, :-1], self.embed).float().flatten(0, 1), ids[:, 1:].flatten()).backward()
                with torch.no_grad():
                    self.embed -= 3 * self.embed.grad
                self.zero_grad()
            return self.softcap * torch.tanh(linear(self.hidden(tokens, learner)[:, -last:], self.embed).float() / self.softcap)
"""
    source = (ROOT / "train_gpt.py").read_text()
    assert source.count(honest) == 1
    with pytest.raises(Refusal, match="S2"):
        score(source.replace(honest, early + honest), 4, artifact, **TRAINER_LIMITS)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), max_size=40), st.lists(st.integers(0, 12), max_size=5))
@examples(max_examples=60)
def test_the_referee_finds_the_latest_places(batches, asked):
    """Its sorted pieces against a dictionary; each piece is at least 8 times as long as the next, so there are few."""
    places, latest, n = plain.Places(np), {}, 0
    for batch in batches:
        places.add(np.array(batch, np.uint64), np.arange(n, n + len(batch)))
        latest |= {value: n + i for i, value in enumerate(batch)}
        n += len(batch)
    assert places.find(np.array(asked, np.uint64)).tolist() == [latest.get(value, -1) for value in asked]
    sizes = [len(hashes) for hashes, _ in places.pieces]
    assert sum(sizes) == n and all(a >= 8 * b for a, b in itertools.pairwise(sizes))


def test_a_cache_that_looks_ahead_shows(score, stream, streaming):
    """A trainer whose n-gram cache takes the token after a position, where it already stands in the window, for a find."""
    artifact, _ = streaming(0.0, stream, 3)
    honest = "    found, rank, shape = np.stack(found)"
    source = (ROOT / "train_gpt.py").read_text()
    assert source.count(honest) == 1
    ahead = "    found[0] = tokens[np.minimum(at + 1, len(tokens) - 1)]\n"
    with pytest.raises(Refusal, match="S2"):  # half of all probes ask at a window's end, where there is nothing ahead: so many of them
        score(source.replace(honest, ahead + honest), 24, artifact, **TRAINER_LIMITS)


# The whole command on a real run --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def record(finished, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("records"), [finished[0]])


def rescore(record, tiny, out, *args):
    line = [str(record), "--data", str(tiny.folder), "--tokenizer", str(tiny.tokenizer), "--json", str(out), "--probes", "4", *args]
    return referee_main(line)


@pytest.fixture
def verdict_of(tiny, tmp_path, capsys):
    """verdict_of(record, run): the referee's verdict on an honest record, the run's own val_bpb, and what was printed."""

    def run(record, run):
        status = rescore(record, tiny, tmp_path / "verdict.json", "--probes", "12")
        out = capsys.readouterr()
        if status == 2:
            pytest.skip(out.err)
        verdict = json.loads((tmp_path / "verdict.json").read_text())
        assert status == 0 and verdict["verified"]
        return verdict, json.loads((run / "result.json").read_text())["val_bpb"], out.out

    return run


def test_agrees_with_the_trainer(record, finished, verdict_of):
    """A real run's artifact, by the trainer's own model: the log's score to 1e-6, and a verdict that can be checked."""
    verdict, claimed, out = verdict_of(record, finished[0])
    assert verdict["digest"] == digest(verdict)
    assert abs(verdict["verified_val_bpb"] - claimed) < 1e-6
    assert f"verified val_bpb:{verdict['verified_val_bpb']:.8f}" in out
    assert digest(verdict | {"verified_val_bpb": 1.0}) != verdict["digest"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_run_on_a_gpu_is_scored_on_the_cpu(record, tiny, tmp_path, capsys):
    """Where there is no GPU: settings that say cuda are no reason to refuse."""
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    settings = (folder / "settings.env").read_text()
    assert "DEVICE=cpu\n" in settings
    (folder / "settings.env").write_text(settings.replace("DEVICE=cpu\n", "DEVICE=cuda\n"))
    status = rescore(folder, tiny, tmp_path / "verdict.json", "--unchecked")
    if status == 2:
        pytest.skip(capsys.readouterr().err)
    assert status == 0, capsys.readouterr().out


def test_agrees_with_a_trainer_that_learns(finished_lanes, tmp_path, verdict_of):
    """The same of a run with every lane on: the targets are told after the score, and the verified score is the log's."""
    verdict, claimed, _ = verdict_of(make_folder(tmp_path, [finished_lanes[0]]), finished_lanes[0])
    assert verdict["runs"][0]["scorer"]["learns"]
    assert abs(verdict["verified_val_bpb"] - claimed) < 1e-5


def test_a_score_that_is_not_the_artifacts(record, tiny, tmp_path, capsys, monkeypatch):
    """Weights swapped for others after the score was taken: everything fits but the score."""
    settings, weights = train_gpt.decode_artifact((record / "artifact.bin").read_bytes())
    name = max(weights, key=lambda n: weights[n].size)
    weights[name] = weights[name] * np.float32(1.5)
    s = train_gpt.Settings(train_gpt.SETTINGS)
    for key, value in settings.items():
        s.set(key, str(value), "test")
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    (folder / "artifact.bin").write_bytes(train_gpt.encode_artifact(weights, s))
    status = rescore(folder, tiny, tmp_path / "verdict.json", "--unchecked")
    if status == 2:
        pytest.skip(capsys.readouterr().err)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert status == 1 and not verdict["verified"] and verdict["violations"][0]["rule"] == "E5"
    assert "claimed" in verdict["violations"][0]["what"]


@pytest.fixture
def scored_as(tiny, tmp_path, monkeypatch):
    """scored_as(folder, bpb, *arguments, noise=, names=): the verdict where every artifact's score comes out as bpb, without running any.
    noise: how far a target's nats are in one run from those in the next; names: how many were looked up in vain. Both bpb and names may
    be lists, of a value for each run."""

    def verdict(folder, bpb, *arguments, noise=0.9, names=0, served_by="PlainTorch"):
        runs = iter(range(9))
        scores, left = (iter(x if isinstance(x, list) else [x] * 9) for x in (bpb, names))

        def score(referee, folder, artifact):
            table = train_gpt.ByteTable.load(tiny.tokenizer)
            total = table.target_bytes(referee.tokens[:-1], referee.tokens[1:]).sum()
            nats = np.full(len(referee.tokens) - 1, next(scores) * np.log(2) * total / (len(referee.tokens) - 1))
            nats += noise * next(runs) * np.resize([1, -1], len(nats))
            return nats, {"scoring_s": 1.0, "probes": {"names_left": next(left)}, "scorer": {"scorer": served_by}}

        monkeypatch.setattr(Referee, "score", score)
        status = rescore(folder, tiny, tmp_path / "v.json", "--probes", "12", *arguments)
        return status, json.loads((tmp_path / "v.json").read_text())

    return verdict


@pytest.mark.parametrize(
    "device, shown, allowed",
    [("CPU", True, 1e-4), ("NVIDIA GeForce RTX 4090", True, 1e-5), ("NVIDIA GeForce RTX 4090", False, 1e-3), ("NVIDIA H200", True, 1e-3)],
)
def test_how_far_a_score_may_be_from_the_claim(record, tmp_path, scored_as, monkeypatch, device, shown, allowed):
    """The table of docs/referee.md, on a machine that has this CPU and an RTX 4090; one that the jail cannot show, as on WSL, scores on
    its CPU."""
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: shown if path == "/dev/nvidiactl" else real(path))
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    claim = json.loads((folder / "submission.json").read_text())
    kind, cpu = train_gpt.resolve_device, claim["device"]
    claim["device"] = cpu if device == "CPU" else device
    (folder / "submission.json").write_text(json.dumps(claim))
    near = train_gpt.resolve_device(train_gpt.load_settings(["DEVICE=cpu"], {}))
    monkeypatch.setattr(near, "about", lambda: {"device": "NVIDIA GeForce RTX 4090"})
    monkeypatch.setattr(train_gpt, "resolve_device", lambda s: kind(s) if s.DEVICE == "cpu" else near)
    assert cpu == kind(train_gpt.load_settings(["DEVICE=cpu"], {})).about()["device"]
    for off in (-1.1, -0.9, 0.9, 1.1):
        status, verdict = scored_as(folder, claim["val_bpb"] + off * allowed, "--unchecked")
        assert status == int(abs(off) > 1) and verdict["verified"] is (abs(off) < 1), (off, verdict)
        assert verdict["runs"][0]["allowed_difference"] == allowed


def test_a_score_of_another_kind_is_told_of_the_scorer(record, scored_as):
    """An honest score() that does more than the model, cache and Learner: refused as ever, and told what it lacks."""
    claimed = json.loads((record / "submission.json").read_text())["val_bpb"]
    for served_by, told in (("PlainTorch", True), ("Scorer", False)):
        status, verdict = scored_as(record, claimed + 0.01, served_by=served_by)
        assert status == 1 and verdict["violations"][0]["rule"] == "E5"
        assert ("LATER_KEYS, and a score() that does more needs a class Scorer" in verdict["violations"][0]["what"]) is told


def test_a_part_or_no_jail_verifies_nothing(finished, tmp_path, scored_as, capsys):
    other = reseed(finished[0], tmp_path / "other", 8, 1e-6)
    folder = make_folder(tmp_path / "records", [finished[0], other])
    bpb, seed = (json.loads((finished[0] / "result.json").read_text())[key] for key in ("val_bpb", "seed"))
    for arguments in ([], ["--without-isolation"], ["--seed", str(seed)]):
        status, verdict = scored_as(folder, bpb, *arguments)
        assert status == 0 and verdict["verified"] is (not arguments)
        assert ("not verified" in capsys.readouterr().out) is bool(arguments)
    status, verdict = scored_as(folder, bpb, names=NAMES_LEFT + 1)
    assert status == 0 and not verdict["verified"] and "names left: 201 were looked up in vain or forgotten" in capsys.readouterr().out
    assert scored_as(folder, bpb, names=NAMES_LEFT)[1]["verified"]
    status, verdict = scored_as(folder, bpb, names=None)
    assert status == 0 and not verdict["verified"] and "does not say how many were looked up" in capsys.readouterr().out
    status, verdict = scored_as(folder, bpb, noise=0.05)  # the weights of one run, with a little noise
    assert status == 1 and [entry["rule"] for entry in verdict["violations"]] == ["E2"]


def test_one_training_exported_twice_is_one_run(finished, tmp_path, scored_as):
    """Whoever resumes a run's weights.npz under another SEED gets another calibration, so another artifact with a score of its own: on a
    model of 138 kB, by the unedited trainer, targets cost 0.20 nats more or less in the mean of 3.33, where other trainings make 0.60."""
    other = reseed(finished[0], tmp_path / "other", 8, 1e-6)
    folder = make_folder(tmp_path / "records", [finished[0], other])
    result = json.loads((finished[0] / "result.json").read_text())
    for share, rules in ((0.06, ["E2"]), (0.12, [])):  # those of two records of one seed and like recipes, the nearest that were found
        _, verdict = scored_as(folder, result["val_bpb"], noise=share * result["val_loss"])
        assert [entry["rule"] for entry in verdict["violations"]] == rules, share


def test_a_verdict_is_of_all_runs(finished, tmp_path, scored_as):
    """The mean of their scores, against that of the claims that were asked for, and the most names that any of them left."""
    others = [reseed(finished[0], tmp_path / str(seed), seed, change) for seed, change in ((8, 0.002), (9, -0.001))]
    folder = make_folder(tmp_path / "records", [finished[0], *others])
    runs = json.loads((folder / "submission.json").read_text())["runs"]
    claims, seeds = ([run[key] for run in runs] for key in ("val_bpb", "seed"))
    status, verdict = scored_as(folder, claims)
    assert status == 0 and verdict["verified"] and verdict["verified_val_bpb"] == pytest.approx(np.mean(claims), abs=2e-8)
    status, verdict = scored_as(folder, claims, names=[0, NAMES_LEFT + 1, 0])
    assert status == 0 and not verdict["verified"] and verdict["names_left"] == NAMES_LEFT + 1
    status, verdict = scored_as(folder, claims[:2], "--seed", str(seeds[0]), "--seed", str(seeds[1]))
    assert status == 0 and not verdict["complete"] and verdict["claimed_val_bpb"] == pytest.approx(np.mean(claims[:2]), abs=1e-8)


def test_claims_that_differ_from_what_is_counted_here():
    """Each alone; a tokenizer of one's own may fill the cap."""
    text = {"targets": 5, "bytes": 9, "sha256": "ab"}
    claim = {"total_bytes": 90, "cap_bytes": 100, "tokenizer_sha256": "cd", "validation": text}
    assert differing_claims(claim, text, "cd", 0) == differing_claims(claim, text, "cd", 10) == []
    for mine, tokenizer, charged, rule in (
        (text | {"targets": 4}, "cd", 0, "S7"),
        (text | {"bytes": 8}, "cd", 0, "S6"),
        (text | {"sha256": "ac"}, "cd", 0, "S7"),
        (text, "ce", 0, "B3"),
        (text, "cd", 11, "B4"),
    ):
        assert [entry["rule"] for entry in differing_claims(claim, mine, tokenizer, charged)] == [rule]


@pytest.mark.parametrize("gpu, device, allowed", [(False, "", 1e-4), (True, "cpu", 1e-4), (True, "", 1e-3)])
def test_a_cpu_is_as_another_unless_a_gpu_may_have_scored(monkeypatch, gpu, device, allowed):
    monkeypatch.setattr("referee.os.path.exists", lambda path: gpu)
    cpu = types.SimpleNamespace(about=lambda: {"device": "CPU, 2 threads"})
    trainer = types.SimpleNamespace(load_settings=lambda items, environ: None, resolve_device=lambda s: cpu)
    assert allowed_difference(trainer, device, "CPU, 64 threads") == allowed


def test_a_count_edited_here_verifies_nothing(finished, tmp_path, scored_as, capsys, monkeypatch):
    """Whoever edits train_gpt.py in place has the referee count by the edited windows and bytes, as no maintainer's does."""
    folder, bpb = make_folder(tmp_path / "records", finished[:1]), json.loads((finished[0] / "result.json").read_text())["val_bpb"]
    assert scored_as(folder, bpb)[1]["edited_sections"] == source.edited_count(ROOT) == []
    (tmp_path / "here").mkdir()
    for name in ("train_gpt.py", "train_gpt_mlx.py"):
        shutil.copy(ROOT / name, tmp_path / "here")
    edited = tmp_path / "here" / "train_gpt.py"
    edited.write_text(edited.read_text(encoding="utf-8").replace("+ stride, n_targets)", "+ 1, n_targets)"), encoding="utf-8")
    found = source.edited_count(tmp_path / "here")
    assert found == ["windows"]
    monkeypatch.setattr("referee.edited_count", lambda root: found)
    status, verdict = scored_as(folder, bpb)
    assert status == 0 and not verdict["verified"] and verdict["edited_sections"] == ["windows"]
    assert "differ in the sections windows" in (out := capsys.readouterr().out) and "not verified" in out


def test_names_looked_up_in_vain_are_counted_and_cleared(score, monkeypatch):
    """One process could tell the next which targets were dear by names that it looks up: the kernel knows them faster from then on."""
    leaves_word = "        import os\n        [os.access(f'/usr/lib/{i}_{tokens.sum()}', 0) for i in range(600)]\n"
    source = SCORER.replace("        out = self.table[", leaves_word + "        out = self.table[")
    assert source != SCORER
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        assert score(source)[1]["probes"]["names_left"] <= NAMES_LEFT
    monkeypatch.setattr("golf.questions.forget_names", lambda: None)
    left = score(source)[1]["probes"]["names_left"]
    assert left is None or left > NAMES_LEFT
    assert names_left(50_000, 1_000, cleared=False) == 49_000  # it took so much memory that the kernel forgot the others
    assert names_left(50_000, 1_000, cleared=True) == 0 and names_left(1_000, 1_100, cleared=True) == 100
    assert names_left(None, None, cleared=False) is None  # neither counted nor cleared
    assert names_left(None, None, cleared=True) == 0


def test_another_tokenizer_than_the_referees(record, tiny, tmp_path, scored_as):
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    claim = json.loads((folder / "submission.json").read_text())
    (folder / "submission.json").write_text(json.dumps(claim | {"tokenizer_sha256": "ab" * 32}))
    status, verdict = scored_as(folder, claim["val_bpb"], "--unchecked")
    assert status == 1 and [entry["rule"] for entry in verdict["violations"]] == ["B3"]


def test_the_tokenizers_file_counts_whatever_the_log_says(record, tiny, tmp_path, scored_as):
    folder, size = tmp_path / record.parent.name / record.name, Path(tiny.tokenizer).stat().st_size
    shutil.copytree(record, folder)
    claim = json.loads((folder / "submission.json").read_text())
    status, verdict = scored_as(folder, claim["val_bpb"])
    assert status == 0 and verdict["tokenizer_bytes"] == size
    (folder / "submission.json").write_text(json.dumps(claim | {"cap_bytes": claim["total_bytes"] + size - 1}))
    status, verdict = scored_as(folder, claim["val_bpb"], "--unchecked")
    assert status == 1 and [entry["rule"] for entry in verdict["violations"]] == ["B4"]


def test_a_tokenizer_that_loses_text_shows(tiny):
    """Lower case for upper keeps every byte count and makes text easier."""
    table = train_gpt.ByteTable.load(tiny.tokenizer)
    assert changed_text(table) == ""
    lower = dataclasses.replace(table, encode=lambda text: table.encode(text.lower()))
    assert changed_text(lower).startswith("its tokenizer makes '# the file artifact.bin' of '# The file artifact.bin'")
    byte_table = dataclasses.replace(table, encode=None)  # a byte tokenizer has no pieces to lose
    assert changed_text(byte_table) == ""


def test_a_verdict_takes_no_others_place(record, tiny, tmp_path, scored_as, capsys):
    folder = tmp_path / record.parent.name / "2026-11-22_other"
    shutil.copytree(record, folder)
    bpb = json.loads((record / "submission.json").read_text())["val_bpb"]
    status, before = scored_as(record, bpb)
    claim = json.loads((folder / "submission.json").read_text())
    (folder / "submission.json").write_text(json.dumps(claim | {"name": folder.name}))
    assert scored_as(folder, bpb, "--unchecked") == (2, before) and "is the verdict on another folder" in capsys.readouterr().err
    assert scored_as(record, bpb)[0] == 0


def test_data_that_the_submission_could_read(record, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("referee.python_paths", lambda: [str(tiny.folder.parent)])
    assert rescore(record, tiny, tmp_path / "v.json") == 2
    assert "which a submission can read" in capsys.readouterr().err


def test_a_seed_that_is_not_there(record, tiny, tmp_path, capsys):
    assert rescore(record, tiny, tmp_path / "v.json", "--seed", "99") == 2
    assert "--seed 99: the runs of" in capsys.readouterr().err and not (tmp_path / "v.json").exists()


def test_the_smoke_corpus_verifies_nothing(record, tiny, tmp_path, scored_as, capsys):
    copy = tmp_path / "da[1]ta"  # a name that looks like a pattern
    shutil.copytree(tiny.folder, copy)
    bpb = json.loads((record / "submission.json").read_text())["val_bpb"]
    assert scored_as(record, bpb, "--data", str(copy))[1]["verified"]
    (copy / "manifest.json").write_text('{"smoke": true}')
    status, verdict = scored_as(record, bpb, "--data", str(copy))
    assert status == 0 and not verdict["verified"] and "not verified" in capsys.readouterr().out


def test_fewer_probes_verify_nothing(record, scored_as):
    bpb = json.loads((record / "submission.json").read_text())["val_bpb"]
    assert scored_as(record, bpb, "--probes", "12")[1]["verified"]
    status, verdict = scored_as(record, bpb, "--probes", "11")
    assert status == 0 and not verdict["verified"]


def test_where_mlx_is_missing(record, tiny, tmp_path, capsys, monkeypatch):
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    shutil.copy(ROOT / "train_gpt_mlx.py", folder / "train_gpt.py")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        rescore(folder, tiny, tmp_path / "v.json", "--unchecked")
    assert "needs MLX" in capsys.readouterr().err


def test_needs_mlx():
    assert not needs_mlx(b"import mlx.core as mx\nimport torch\n") and not needs_mlx(b"import mlx.core as mx\nclass Scorer: pass\n")
    assert needs_mlx(source.pack(b"def f():\n    from mlx import core\n"))
    with pytest.raises(NoReferee, match="cannot be read"):
        needs_mlx(b"def f(:")


def test_other_validation_tokens(record, tiny, tmp_path, capsys):
    """The referee's own stream decides: a claim about other tokens or bytes is refused before anything runs."""
    folder = tmp_path / record.parent.name / record.name
    shutil.copytree(record, folder)
    claim = json.loads((folder / "submission.json").read_text())
    claim["validation"]["bytes"] += 7
    (folder / "submission.json").write_text(json.dumps(claim))
    assert rescore(folder, tiny, tmp_path / "v.json", "--unchecked") == 1
    assert "REFUSED S6" in capsys.readouterr().out
    assert rescore(folder, tiny, tmp_path / "v.json") == 2  # findings of the checker come first


def test_usage(tmp_path, capsys):
    assert referee_main([str(tmp_path)]) == 2
    assert "name the folder of a record" in capsys.readouterr().err
    for wrong in ([], [str(tmp_path), "--probes", "-1"]):
        with pytest.raises(SystemExit) as e:
            referee_main(wrong)
        assert e.value.code == 2
    with pytest.raises(SystemExit):
        referee_main(["--help"])
    out = capsys.readouterr().out
    assert "(default: 12)" in out and "(default: 28800.0)" in out and "None" not in out and "\nExit status: 0 as claimed" in out
