"""The work of a campaign: places for runs, how long runs take, and a worker that keeps the places busy."""

from __future__ import annotations

import collections
import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from golf.campaign_table import JOURNAL
from golf.campaigns import BROKEN, FINISHED, INTERRUPTED, Campaign, Planned, Seen, edited, look
from golf.places import signals
from golf.stats import mean
from golf.texts import safe

POLL_SECONDS = 0.1


@dataclasses.dataclass
class Place:
    """Room for one run at a time."""

    label: str  # for the progress line
    shared: str  # what the table says about runs that had company
    start: Callable[[Planned, Path], object]  # (run, console file) -> a job


# Time ==================================================================================================================
class Times:
    """How long runs take, from those that are finished."""

    def __init__(self, seen: dict[str, tuple[Planned, Seen]]):
        self.seen = seen

    def of(self, p: Planned) -> tuple[float, bool] | None:
        """(seconds, whether anything like it was measured); None: nobody knows."""
        done = [(q, s.result.facts.spans) for q, s in self.seen.values() if s.state == FINISHED]
        if same := [sum(spans.values()) for q, spans in done if q.row.name == p.row.name]:
            return mean(same), True
        clock = p.settings.MAX_WALLCLOCK_SECONDS
        if clock and not p.settings.ITERATIONS:
            beside = [sum(spans.values()) - spans["train"] for _, spans in done]
            return clock + (mean(beside) if beside else 0.0), bool(beside)
        if done:
            return mean([sum(spans.values()) for _, spans in done]), True
        return (clock, False) if clock else None

    def left(self, todo: list[Planned], places: int) -> str:
        if not todo:
            return "nothing"
        known = [self.of(p) for p in todo]
        if None in known:
            return "unknown until a run is finished"
        seconds = sum(s for s, _ in known) / min(places, len(todo))
        word = "about" if all(measured for _, measured in known) else "at least"
        return f"{word} {duration(seconds)}" + ("" if word == "about" else " and scoring")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Work ==================================================================================================================
class Stop:
    """Counts the signals that ask us to stop; each is passed on to every run. A second one kills them."""

    def __init__(self):
        self.number, self.asked = 0, 0
        self.before = {number: signal.signal(number, self.hear) for number in signals()}

    def hear(self, number: int, frame: object) -> None:
        self.number, self.asked = number, self.asked + 1

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class Working:
    p: Planned
    place: Place
    job: object
    begun: float
    resumed: bool
    written: tuple[int, int]  # bytes that were in its console file and its log before
    told: int = 0


class Worker:
    """Keeps the places busy until nothing is left to do."""

    def __init__(self, campaign: Campaign, seen: dict[str, tuple[Planned, Seen]], places: list[Place]):
        self.campaign, self.seen, self.places, self.stop = campaign, seen, places, Stop()
        self.times, self.console = Times(seen), campaign.folder / "console"
        self.numbers = {p.name: i for i, p in enumerate(campaign.plan, 1)}
        self.refused = ""  # why no further run was started
        self.console.mkdir(exist_ok=True)

    def say(self, p: Planned, text: str) -> None:
        print(f"run {self.numbers[p.name]}/{len(self.campaign.plan)}: {p.name} {text}", flush=True)

    def work(self, todo: list[Planned]) -> int:
        """Returns the signal that ended it, or 0."""
        waiting, free, working = collections.deque(todo), collections.deque(self.places), []
        try:
            while working or (waiting and not self.stop.number):
                while waiting and free and not self.stop.number:
                    p = waiting.popleft()
                    if changed := edited(self.campaign, p.row):
                        self.refuse(p, changed, len(waiting), len(working))
                        waiting.clear()
                        break
                    left = self.times.left([*(w.p for w in working), p, *waiting], len(self.places))
                    working.append(self.begin(p, free.popleft(), left))
                for w in list(working):
                    if w.told < self.stop.asked:
                        if not w.told:
                            self.say(w.p, "is asked to leave a checkpoint; once more kills it")
                        w.told += 1
                        w.job.stop(signal.SIGINT if self.stop.number == signal.SIGINT else signal.SIGTERM)
                    elif (status := w.job.poll()) is not None:
                        working.remove(w)
                        free.append(w.place)
                        self.end(w, status)
                time.sleep(POLL_SECONDS)
        except BaseException:
            for w in working:
                w.job.stop(signal.SIGTERM)  # nobody would hear of their end
            raise
        finally:
            self.stop.restore()
        return self.stop.number

    def refuse(self, p: Planned, changed: str, waiting: int, working: int) -> None:
        """No run starts with other files than were planned; those at work have read theirs, and go on to their end."""
        rest = f" and the {waiting} run{'s'[: waiting > 1]} behind it do" if waiting else " does"
        self.refused = f"{changed} while the campaign was at work, so {p.name}{rest} not start; what was run is kept"
        at_work = f"; runs at work go on to their end: {working}" if working else ""
        self.say(p, f"does not start: {changed}{at_work}")

    def begin(self, p: Planned, place: Place, left: str) -> Working:
        resumed = p.folder.exists()
        self.note(p, place, state="begun", resumed=resumed)
        self.say(p, " ".join(filter(None, ["goes on" if resumed else "starts", place.label])) + f"; time left for all: {left}")
        console = self.console / f"{p.name}.txt"
        written = size_of(console), size_of(p.folder / "train.log")  # by earlier attempts
        return Working(p, place, place.start(p, console), time.monotonic(), resumed, written)

    def note(self, p: Planned, place: Place, **entry: object) -> None:
        """A line of the journal. Without it a run would count as one that had its machine for itself, so it is written at both ends."""
        try:
            with open(self.campaign.folder / JOURNAL, "a", encoding="utf-8") as file:
                file.write(json.dumps({"run": p.name, **entry, "shared": place.shared}) + "\n")
        except OSError as e:
            self.say(p, f"warning: the journal of the campaign cannot be written ({e.strerror}); free space")

    def end(self, w: Working, status: int) -> None:
        seen, spent = look(w.p.folder), time.monotonic() - w.begun
        self.seen[w.p.name] = w.p, seen
        self.note(w.p, w.place, status=status, state=seen.state, wall_s=round(spent, 1), resumed=w.resumed)
        if seen.state == FINISHED:
            size = seen.result.facts.size
            over = ", OVER THE CAP" if size["total_bytes"] > size["cap_bytes"] else ""
            self.say(w.p, f"finished: val_bpb {seen.result.facts.final['val_bpb']:.5f}, {size['total_bytes']:,} bytes{over}, {spent:.0f} s")
        elif self.stop.asked:
            self.say(w.p, "stopped; " + ("it goes on from there" if seen.state == INTERRUPTED else "it had not begun to train"))
        else:
            self.say(w.p, f"FAILED with exit status {status}: {self.why(w, seen)}")

    def why(self, w: Working, seen: Seen) -> str:
        """What this attempt said of its end; earlier ones wrote into the same files."""
        console = lines_since(self.console / f"{w.p.name}.txt", w.written[0])
        log = lines_since(w.p.folder / "train.log", w.written[1])
        if seen.why and (seen.state == BROKEN or any(line.startswith("failed: ") for line in log)):
            return seen.why
        return last_words(console)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def lines_since(path: Path, size: int) -> list[str]:
    """What was appended to a file since it had this size."""
    return path.read_bytes()[size:].decode("utf-8", "replace").splitlines() if path.exists() else []


def last_words(lines: list[str]) -> str:
    """The last line a run printed, which says what is wrong with it."""
    lines = [line for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return safe((errors or lines or ["it said nothing"])[-1])
