"""What the referee asks of a submission: the score of every target of a stream, and the probes of how it came about (docs/referee.md)."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from golf.jail import SYSTEM_PATHS
from golf.submission import Child, Refusal
from golf.texts import safe
from golf.traces import forget_names, forget_pages, look_up_names, names_in_vain, python_paths

PROBE_NATS = 2e-3  # how far an answer to the very same question may move when later tokens change
NOISE_NATS, NOISE_MEAN_NATS = 0.5, 0.02  # the same between batches of other shapes: at one position, and in the mean
DRIFT_NATS, DRIFT_MOST_NATS = 1e-3, 3e-3  # the same in one direction, in the mean: beyond four standard errors, and at all
PROBES = 12  # batches of an artifact that are asked again
PROBE_WINDOWS, BLIND = 4, 400  # windows asked again in a probe; targets asked of the second process for each probe, where it does not learn
BLIND_LEARNING = BLIND // 4  # and where it learns, or has a cache: each answer takes longer then
SAY_EVERY_S = 20.0  # seconds between words about how far it is


def nats_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln softmax(logits)[target]: (B, last, V), (B, last) -> (B, last) float32. Raises Refusal unless all is finite."""
    nats = np.empty(targets.shape, np.float32)
    buffer = np.empty(logits.shape[1:], np.float32)  # a row at a time stays in the cache
    for row, target, out in zip(logits, targets, nats):
        top = row.max(-1, keepdims=True)
        if not np.isfinite(top).all():
            raise Refusal("S3", "logits that are not finite")
        total = np.exp(np.subtract(row, top, out=buffer), out=buffer).sum(-1)  # nan anywhere shows here
        out[:] = np.log(total) - (np.take_along_axis(row, target[:, None].astype(np.int64), -1) - top)[:, 0]  # large logits swallow small
    if not np.isfinite(nats).all():
        raise Refusal("S3", "logits that are not finite")
    return nats


def pair_nats(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """What each target of a stream costs by the stream's own counts of pairs of tokens, without the pair in question: (n,) float64."""
    _, which, counts = np.unique(tokens[:-1].astype(np.int64) * vocab + tokens[1:], return_inverse=True, return_counts=True)
    before, after = (np.bincount(tokens[part], minlength=vocab) for part in (slice(-1), slice(1, None)))
    return np.log((before[tokens[:-1]] + 19) / (counts[which] - 1 + 20 * after[tokens[1:]] / len(which)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(..., V) float64. Raises Refusal as nats_of does."""
    wide = logits.astype(np.float64)
    if np.isnan(wide).any() or not np.isfinite(top := wide.max(-1, keepdims=True)).all():
        raise Refusal("S3", "logits that are not finite")
    wide -= top
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def names_left(before: int | None, after: int | None, cleared: bool) -> int | None:
    """How many names looked up in vain one process may have left for the next, by the kernel's counts; None: nobody knows."""
    if cleared:  # what is gone then is no sign of anything
        return max(0, after - before) if before and after else 0
    return abs(after - before) if before and after else None


@dataclasses.dataclass
class Probes:
    """What was asked again, and how far the answers moved."""

    future: int = 0
    prefix: int = 0
    blind: int = 0
    largest_move_nats: float = 0.0
    largest_noise_nats: float = 0.0
    names_left: int | None = None  # looked up in vain, or forgotten, so that the second process could tell; None: nobody knows
    noise: list[float] = dataclasses.field(default_factory=list)
    drift: list[float] = dataclasses.field(default_factory=list)  # how much dearer targets were to the process that had not seen them
    paired: list[float] = dataclasses.field(default_factory=list)  # and when a few windows were asked again

    def heard(self, moved: np.ndarray, positions: np.ndarray, why: str) -> None:
        """Answers to one question whose later tokens differ: nothing may have moved."""
        worst = float(moved.max())
        self.largest_move_nats = max(self.largest_move_nats, worst)
        if not worst <= PROBE_NATS:
            at = int(positions[np.unravel_index(moved.argmax(), moved.shape)[: positions.ndim]])
            raise Refusal("S2", f"the score at position {at} moved by {worst:.4g} nats when {why}; allowed {PROBE_NATS}")

    def compare(self, one: np.ndarray, other: np.ndarray, positions: np.ndarray, rule: str, why: str) -> None:
        """Nats of the same targets from calls of other shapes: they may differ by rounding only."""
        moved = np.abs(one - other)
        worst = float(moved.max())
        self.largest_noise_nats = max(self.largest_noise_nats, worst)
        self.noise.append(float(moved.mean()))
        if not worst <= NOISE_NATS:
            at = int(positions.reshape(-1)[moved.reshape(-1).argmax()])
            raise Refusal(rule, f"the score at position {at} differs by {worst:.4g} nats {why}; allowed {NOISE_NATS}")

    def settle(self) -> None:
        for values, when in ((self.drift, "where they had not been seen"), (self.paired, "when a few windows were asked again")):
            if values:
                mean, error = np.mean(values), np.std(values) / len(values) ** 0.5
                if mean > min(DRIFT_NATS + 4 * error, DRIFT_MOST_NATS):
                    raise Refusal("S2", f"targets cost {mean:.4g} nats more in the mean of {len(values)} {when}")
        if self.noise and np.mean(self.noise) > NOISE_MEAN_NATS:
            raise Refusal("S5", f"scores differ by {np.mean(self.noise):.4g} nats in the mean when asked again; allowed {NOISE_MEAN_NATS}")

    def as_json(self) -> dict:
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("noise", "drift", "paired")}


class Referee:
    """Scores one artifact of a folder over a stream of tokens.

    A batch is (starts (B,) int, length, last): windows of `length` tokens from those places, each scoring its `last` targets.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        window_batches,
        limits: dict,
        probes: int = PROBES,
        isolate: bool = True,
        device: str = "",
        say=lambda text: None,
    ):
        self.tokens, self.window_batches, self.limits, self.n_probes = tokens.astype(np.int32), window_batches, limits, probes
        self.isolate, self.device, self.say = isolate, device, say
        self.random = random.SystemRandom()  # nobody can know beforehand where the probes are
        self.probes = Probes()

    def score(self, folder: Path, artifact: str = "artifact.bin") -> tuple[np.ndarray, dict]:
        """(nats of every target, what was found out). Raises Refusal, NoReferee."""
        self.folder, self.artifact = folder, artifact
        n = len(self.tokens) - 1
        nats = np.full(n, np.nan, np.float32)
        with self.child() as child:
            about = child.start()
            names = names_in_vain()  # once it is loaded, and before it hears the first token
            if self.tokens.max() >= about["vocab_size"]:
                raise Refusal("S3", f"vocab_size {about['vocab_size']}, but the stream holds token {self.tokens.max()}")
            batches = self.window_batches(n, about["seq_len"], about["stride"], about["windows"])
            probed = set(self.random.sample(range(len(batches)), min(self.n_probes, len(batches))))
            ready = time.monotonic()
            with ThreadPoolExecutor(1) as pool:
                if about["learns"]:
                    self.score_learning(child, about, batches, probed, nats)
                else:
                    self.score_plain(child, about, batches, probed, nats, pool)
            if np.isnan(nats).any():
                raise Refusal("S4", "a target was left unscored")
            child.stop()
            isolation, started = child.isolation, ready - child.began
        if self.isolate:
            forget_pages([path for path in (*SYSTEM_PATHS, "/opt/nvidia", *python_paths()) if not path.startswith("/sys/")])
            cleared = forget_names()
            look_up_names(["/sys" if child.cuda else "/sys/devices/system"])  # its files are not opened, as those above: some act on that
            self.probes.names_left = names_left(names, names_in_vain(), cleared)
        if self.n_probes:
            self.ask_blind(about, batches, nats)
        self.probes.settle()
        found = {"scorer": {k: safe(v, 200) if isinstance(v, str) else v for k, v in about.items()}, "isolation": isolation}
        return nats, found | {
            "probes": self.probes.as_json(),
            "start_s": round(started, 2),
            "scoring_s": round(time.monotonic() - ready, 2),
        }

    def saying(self, what: str, items: Sequence) -> Iterator:
        """The items; now and then it says how many are done, and about how long the others will take."""
        begun = said = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            if (now := time.monotonic()) - said > SAY_EVERY_S:
                said = now
                self.say(f"{what}: {done} of {len(items)} batches, about {(now - begun) / done * (len(items) - done):.0f} s left")

    def child(self) -> Child:
        return Child(self.folder, self.artifact, self.limits, self.isolate, self.device, len(self.tokens) - 1)

    def rows(self, starts: np.ndarray, length: int, stream: np.ndarray | None = None) -> np.ndarray:
        """The windows' tokens, (B, length) int32, of the stream or of a changed one."""
        return (self.tokens if stream is None else stream)[starts[:, None] + np.arange(length)]

    def targets(self, starts: np.ndarray, length: int, last: int) -> np.ndarray:
        """What the windows score, (B, last) int32."""
        return self.tokens[starts[:, None] + np.arange(length - last, length) + 1]

    def book(self, nats: np.ndarray, batch: tuple, logits: np.ndarray) -> None:
        """Write a batch's scores, from its logits (B, last, V), into nats (n,), once."""
        starts, length, last = batch
        where = starts[:, None] + np.arange(length - last, length)
        if not np.isnan(nats[where]).all():
            raise AssertionError("a target would be scored twice")
        nats[where] = nats_of(logits, self.targets(starts, length, last))

    def score_plain(self, child: Child, about: dict, batches: list, probed: set[int], nats: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Two requests are on their way at a time, mostly, and the softmax of one batch is taken while the child computes the next."""
        vocab, pending = about["vocab_size"], []
        alone = probed | {i for i in range(len(batches)) if not self.random.randrange(3)}  # who waits for a second request learns little
        asked = 0

        def ask_until(limit: int) -> None:
            nonlocal asked
            while asked < min(limit, len(batches)):
                starts, length, last = batches[asked]
                child.ask(self.rows(starts, length), last, int(starts[0]))
                asked += 1

        for i, batch in self.saying("scoring", list(enumerate(batches))):
            if i in probed:
                if asked > i:  # the probe's own questions must not mix with those under way
                    raise AssertionError("a request was sent past a probe")
                self.probe(child, about, batch, nats)
                asked = i + 1
            else:
                ask_until(i + 1 if i + 1 in alone else i + 2)
                logits = child.answer(len(batch[0]), batch[2], vocab)
                pending.append(pool.submit(self.book, nats, batch, logits))
                while len(pending) > 2:
                    pending.pop(0).result()
        for future in pending:
            future.result()

    def ask_now(self, child: Child, about: dict, batch: tuple, stream: np.ndarray | None = None) -> np.ndarray:
        """A batch's logits, (B, last, V), of the stream or of a changed one."""
        starts, length, last = batch
        child.ask(self.rows(starts, length, stream), last, int(starts[0]))
        return child.answer(len(starts), last, about["vocab_size"])

    def score_learning(self, child: Child, about: dict, batches: list, probed: set[int], nats: np.ndarray) -> None:
        """Score first: the targets of a batch are told only after its logits are here and booked."""
        for i, batch in self.saying("scoring", list(enumerate(batches))):
            starts, length, last = batch
            if i in probed:
                self.probe(child, about, batch, nats)
            else:
                self.book(nats, batch, self.ask_now(child, about, batch))
            child.learn(self.rows(starts, length), self.targets(starts, length, last), int(starts[0]))

    def probe(self, child: Child, about: dict, batch: tuple, nats: np.ndarray) -> None:
        """Ask for a batch, and for a few of its windows again with tokens changed after a random position g.

        One change is asked before the true question, with text from elsewhere in the stream behind g; one after it, whose first
        token is drawn from the submission's own distribution at g, so that nothing about it looks like a probe. Nothing at or
        before g may move. Then the prefix up to g alone, with no later token to look at.
        """
        starts, length, last = batch
        vocab = about["vocab_size"]
        row = self.random.randrange(len(starts))
        chosen = np.arange(max(0, row - 1), min(len(starts), row + PROBE_WINDOWS - 1))
        few = starts[chosen]
        inside = self.random.choice([last - 1, self.random.randrange(last)])  # the last one's target stands in the next window only
        g = int(starts[row]) + length - last + inside
        positions = few[:, None] + np.arange(length - last, length)
        early = positions <= g

        def ask(stream: np.ndarray) -> np.ndarray:
            return log_softmax(self.ask_now(child, about, (few, length, last), stream))

        def spliced(first: int | None) -> np.ndarray:
            stream, shift = self.tokens.copy(), self.random.randrange(1, max(2, len(self.tokens) // 2))
            stream[g + 1 :] = np.roll(self.tokens, shift)[g + 1 :]
            if first is not None:
                stream[g + 1] = first
            if stream[g + 1] == self.tokens[g + 1]:
                stream[g + 1] = (int(stream[g + 1]) + 1 + self.random.randrange(vocab - 1)) % vocab
            return stream

        before = ask(spliced(None))
        logits = self.ask_now(child, about, batch)
        plain = ask(self.tokens)
        at_g = int(np.flatnonzero(chosen == row)[0]), g - int(starts[row]) - (length - last)
        chances = np.exp(plain[at_g])
        chances[self.tokens[g + 1]] = 0.0
        drawn = int(self.random.choices(range(vocab), weights=chances.tolist())[0]) if chances.sum() > 1e-9 else None
        after = ask(spliced(drawn))
        for answer in (before, after):
            self.probes.future += 1
            likely = plain > -12  # far below, a logit may be -inf and its rounding is of no account
            change = np.subtract(answer, plain, out=np.zeros_like(plain), where=likely)
            moved = np.abs(np.exp(answer) - np.exp(plain)).max(-1) + np.abs(change).max(-1)
            self.probes.heard(np.where(early, moved, 0.0), positions, f"tokens after position {g} were changed")
        self.book(nats, batch, logits)
        targets = self.targets(few, length, last)
        again = -np.take_along_axis(plain, targets[..., None].astype(np.int64), -1)[..., 0]
        self.probes.compare(again, nats[positions], positions, "S2", "when a few windows of its batch were asked again")
        self.probes.paired += (again - nats[positions]).ravel().tolist()
        self.probes.prefix += 1
        whole = g + 1 - int(starts[row])
        prefix = nats_of(self.ask_now(child, about, (starts[row : row + 1], whole, 1)), self.tokens[g + 1].reshape(1, 1))
        self.probes.compare(prefix[0], again[at_g[0], at_g[1]].reshape(1), np.array([g]), "S2", "when the tokens after it were left out")

    def blind_targets(self, nats: np.ndarray, vocab: int, learns: bool) -> tuple[set[int], set[int]]:
        """Targets to ask a fresh process for: three quarters anywhere, the rest drawn by how many times likelier the submission finds them
        than pairs of tokens do, as one must that saves itself the dearest targets. Nobody can know them beforehand."""
        rng, count = np.random.default_rng(), min((BLIND_LEARNING if learns else BLIND) * self.n_probes, len(nats))
        evenly = rng.choice(len(nats), count - count // 4, replace=False)
        lots = np.minimum(pair_nats(self.tokens, vocab) - nats, 12) + rng.gumbel(size=len(nats))  # the largest are a draw by weights
        lots[evenly] = -np.inf
        return set(evenly.tolist()), set(np.argsort(-lots)[: count // 4].tolist())

    def ask_blind(self, about: dict, batches: list, nats: np.ndarray) -> None:
        """Ask a fresh process for some targets by the tokens before them alone, one by one. It learns the same stream, if the
        submission learns, and is told a target only after it was asked: whatever the first one saw or remembered, this one cannot."""
        ends = np.cumsum([len(starts) * last for starts, _, last in batches])
        evenly, suspects = self.blind_targets(nats, about["vocab_size"], about["learns"])
        asked: dict[int, list[int]] = {}
        for pick in sorted(evenly | suspects):  # in the order of the stream, so that no question shows the target of a later one
            asked.setdefault(int(np.searchsorted(ends, pick, "right")), []).append(pick)
        with self.child() as child:
            if {k: v for k, v in child.start().items() if k != "device"} != {k: v for k, v in about.items() if k != "device"}:
                raise Refusal("S5", "it describes itself otherwise when started again")
            for i in self.saying("asking a second process", range(max(asked) + 1) if about["learns"] else list(asked)):
                starts, length, last = batches[i]
                for pick in asked.get(i, []):
                    row, inside = divmod(pick - (int(ends[i - 1]) if i else 0), last)
                    seen = length - last + inside + 1
                    at = starts[row : row + 1] + seen - 1
                    answer = nats_of(self.ask_now(child, about, (starts[row : row + 1], seen, 1)), self.tokens[at + 1][:, None])[0]
                    self.probes.blind += 1
                    self.probes.compare(answer, nats[at], at, "S2", "from that of a fresh process that had not seen its target")
                    if pick in evenly:
                        self.probes.drift.append(float(answer[0] - nats[at[0]]))
                if about["learns"]:
                    child.learn(self.rows(starts, length), self.targets(starts, length, last), int(starts[0]))
            child.stop()
