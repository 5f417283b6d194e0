"""A campaign: rows of settings, each with some seeds, from a TOML file; and how far each of its runs has come."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import os
import re
from pathlib import Path
from types import ModuleType

from golf import ROOT, needs
from golf.places import DATA_SETTINGS
from golf.results import Result, ResultError, read_results
from golf.runs import RunError, differing, import_trainer, sha256_of
from golf.texts import safe

try:
    import tomllib
except ImportError:  # a Python before 3.11
    needs.refuse("campaign.py", "tomllib", "requirements-cuda.txt")

TOP_KEYS = "title question config trainer control seeds settings run".split()
RUN_KEYS = "name config settings seeds trainer".split()
OWN_SETTINGS = ("RUN_ID", "RUNS_DIR", "SEED")  # the campaign sets them, run by run
RESUMABLE = ("checkpoint.npz", "weights.npz")
NO_SETTINGS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # they would make the trainer one of several processes
NEW, INTERRUPTED, BROKEN, FINISHED = "new", "interrupted", "broken", "finished"


class CampaignError(Exception):
    """What keeps a campaign from starting, one line for each problem."""


@dataclasses.dataclass
class Row:
    """One entry of the file: settings to be run with each of these seeds."""

    name: str
    trainer: Path
    config: Path | None
    items: list[str]  # KEY=VALUE, those of all rows first
    own: list[str]  # what this row has of its own
    seeds: list[int]


@dataclasses.dataclass
class Planned:
    """A row with one of its seeds."""

    row: Row
    seed: int
    folder: Path  # where its run lies, or will
    argv: list[str]  # arguments of the trainer
    settings: object  # what the trainer makes of them

    @property
    def name(self) -> str:
        return self.folder.name


@dataclasses.dataclass
class Campaign:
    file: Path
    title: str
    question: str
    control: str
    folder: Path
    rows: list[Row]
    plan: list[Planned]  # in the order in which they run
    hashes: dict[Path, str]  # sha256 of trainers and configs as they were planned with; '': a file that could not be read


@dataclasses.dataclass
class Seen:
    """What lies in a run's folder."""

    state: str
    why: str = ""
    result: Result | None = None


# The file ==============================================================================================================
@functools.cache
def load_trainer(path: Path) -> ModuleType:
    """Import a trainer by its path. Raises CampaignError."""
    try:
        return import_trainer(path)
    except RunError as e:
        raise CampaignError(f"trainer {e}") from None


def close_to(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean {found[0]}?" if found else f"known are {', '.join(known)}"


class Reader:
    """Reads a file's tables and collects what is wrong with them."""

    def __init__(self):
        self.problems: list[str] = []

    def wrong(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def keys(self, where: str, table: dict, known: list[str]) -> None:
        for key in table:
            if key not in known:
                self.wrong(f"{where}: no key is called {key}; {close_to(key, known)}")

    def text(self, table: dict, key: str, default: str | None = None, where: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or (not value.strip() and default is None):
            self.wrong(f'{where}{key} is missing or no text; write {key} = "…"')
            return ""
        return value

    def path(self, table: dict, key: str, default: str, where: str = "") -> Path | None:
        """A file named from the repository root."""
        name = self.text(table, key, default, where)
        if name and not (ROOT / name).is_file():
            self.wrong(f"{where}{key} = {name!r}: there is no such file; paths start at the repository root")
        return ROOT / name if name and (ROOT / name).is_file() else None

    def seeds(self, table: dict, where: str, default: list[int]) -> list[int]:
        value = table.get("seeds", default)
        if not (isinstance(value, list) and value and all(type(x) is int and 0 <= x < 2**31 for x in value)):
            self.wrong(f"{where}seeds must be a list of whole numbers, such as seeds = [1, 2, 3]")
            return []
        if len(set(value)) < len(value):
            self.wrong(f"{where}seeds = {value}: a seed stands there twice, and would be no further evidence")
        return value

    def settings(self, table: object, where: str, lists: bool = False) -> dict[str, list[str]]:
        """Values as texts, by setting; more than one only where lists are allowed."""
        found: dict[str, list[str]] = {}
        if not isinstance(table, dict):
            self.wrong(f"{where}settings must be a table, such as settings = {{ MATRIX_LR = 0.03 }}")
            return found
        for key, value in table.items():
            values = value if isinstance(value, list) and lists else [value]
            if key in OWN_SETTINGS:
                self.wrong(f"{where}{key} is set by the campaign, for each run; leave it out")
            elif not values or any(type(v) not in (int, float, str) for v in values):
                self.wrong(f"{where}{key} = {value} is no number or text" + (", nor a list of them" if lists else ""))
            else:
                found[key] = [str(v) for v in values]
        return found


def grid(name: str, settings: dict[str, list[str]]) -> list[tuple[str, dict[str, str]]]:
    """Every combination of the values; lists put their values behind the name."""
    several = [key for key, values in settings.items() if len(values) > 1]
    rows = []
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values))
        rows.append(("_".join([name, *(chosen[key] for key in several)]), chosen))
    return rows


def read_rows(reader: Reader, data: dict, typed: dict[str, str], config: Path | None) -> list[Row]:
    """config: that of rows without one of their own."""
    common = {key: values[0] for key, values in reader.settings(data.get("settings", {}), "[settings] ").items()} | typed
    trainer, rows, entries = reader.path(data, "trainer", "train_gpt.py"), [], data.get("run", [])
    if not (isinstance(entries, list) and entries and all(isinstance(e, dict) for e in entries)):
        reader.wrong('there is no run; write [[run]], then name = "…" and settings = { KEY = value }')
        return []
    seeds = reader.seeds(data, "", []) if "seeds" in data or any("seeds" not in e for e in entries) else []
    for number, entry in enumerate(entries, 1):
        where = f"[[run]] {entry.get('name', number)}: "
        reader.keys(where.removesuffix(": "), entry, RUN_KEYS)
        name = reader.text(entry, "name", where=where)
        own = reader.settings(entry.get("settings", {}), where, lists=True)
        if both := sorted(own.keys() & typed.keys()):
            reader.wrong(f"{where}{both[0]} is typed on the command line too; only one of them can hold")
        path = reader.path(entry, "trainer", "", where) if "trainer" in entry else trainer
        own_config = reader.path(entry, "config", "", where) if "config" in entry else config
        own_seeds = reader.seeds(entry, where, seeds) if "seeds" in entry else seeds
        for row_name, chosen in grid(name, own):
            if name and not re.fullmatch(r"\w[\w.-]{0,79}", row_name):
                reader.wrong(f"{where}{row_name!r} names a folder: at most 80 letters, digits, _ . and -, the first no sign")
            if any(row_name == row.name for row in rows):
                reader.wrong(f"{where}two runs are called {row_name}")
            if path and (own_config or "config" not in data | entry):  # else the file that is missing was named above
                items, its_own = ([f"{k}={v}" for k, v in pairs.items()] for pairs in (common | chosen, chosen))
                if "config" in entry:
                    its_own = [f"config={entry['config']}", *its_own]
                rows.append(Row(row_name, path, own_config, items, its_own, own_seeds))
    return rows


def planned(reader: Reader, row: Row, seed: int, folder: Path) -> Planned | None:
    """What the trainer itself says to the settings of a run; all that is wrong with single ones, then with them together."""
    trainer = load_trainer(row.trainer)
    argv = ["--config", os.path.relpath(row.config, ROOT)] if row.config else []
    argv += [*row.items, f"RUNS_DIR={folder}", f"RUN_ID={row.name}_s{seed}", f"SEED={seed}"]
    before = len(reader.problems)
    for item in row.items:
        key, _, value = item.partition("=")
        try:
            trainer.Settings(trainer.SETTINGS).set(key, value, f"[[run]] {row.name}")
        except trainer.UserError as e:
            reader.wrong(str(e))
    if len(reader.problems) > before:
        return None
    try:
        return Planned(row, seed, folder / f"{row.name}_s{seed}", argv, trainer.load_settings(argv, {}))
    except trainer.UserError as e:
        reader.wrong(f"[[run]] {row.name}: {e}")
    return None


def in_turns(rows: list[Row]) -> list[tuple[Row, int]]:
    """Seed by seed, every row in turn, so that a machine whose speed drifts is unfair to none."""
    most = max((len(row.seeds) for row in rows), default=0)
    return [(row, row.seeds[i]) for i in range(most) for row in rows if i < len(row.seeds)]


def read_campaign(file: Path, runs_dir: Path, typed: list[str]) -> Campaign:
    """typed: KEY=VALUE for all runs, from the command line. Raises CampaignError with everything that is wrong."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise CampaignError(f"cannot read {file}: {e.strerror}; `ls configs/campaigns` lists those that come along") from None
    except ValueError as e:
        raise CampaignError(f"{file} is no TOML: {e}") from None
    reader, pairs = Reader(), {}
    reader.keys("file", data, TOP_KEYS)
    for item in typed:
        key, equals, value = item.partition("=")
        if not equals:
            reader.wrong(f"`{item}` is neither an option nor KEY=VALUE")
        elif key in OWN_SETTINGS:
            reader.wrong(f"{item}: {key} is set by the campaign, for each run" + ("; there is --runs-dir" if key == "RUNS_DIR" else ""))
        else:
            pairs[key] = value
    if not re.fullmatch(r"\w[\w.-]{0,79}", file.stem):
        reader.wrong(f"{file.name} names the folder of the runs: letters, digits, _ . and - only")
    title, question = reader.text(data, "title"), reader.text(data, "question")
    config = reader.path(data, "config", "") if "config" in data else None
    rows = read_rows(reader, data, pairs, config)
    control = reader.text(data, "control")
    if control and rows and control not in (names := [row.name for row in rows]):
        reader.wrong(f"control = {control!r} is no run; {close_to(control, names)}")
    folder = runs_dir / file.stem
    hashes = {path: file_hash(path) for row in rows for path in files_of(row)}  # before the trainer is loaded and reads them
    plan = [planned(reader, row, seed, folder) for row, seed in in_turns(rows)]
    same: dict[tuple, str] = {}
    for p in filter(None, plan):
        values = {k: v for k, v in p.settings.values.items() if k not in OWN_SETTINGS}
        other = same.setdefault((p.seed, p.row.trainer, *values.items()), p.row.name)
        if other != p.row.name:
            reader.wrong(f"runs {other} and {p.row.name} have the same settings")
    if reader.problems:
        raise CampaignError("\n".join(reader.problems))
    return Campaign(file, title.strip(), question.strip(), control, folder, rows, plan, hashes)


def settings_in(environ: dict[str, str], plan: list[Planned]) -> list[str]:
    """Settings of the environment, which would change every run without standing in the file."""
    return sorted({f"{k}={v}" for p in plan for k, v in environ.items() if k in p.settings.table and k != "RUNS_DIR"})


def files_of(row: Row) -> list[Path]:
    """The files that its runs read when they start."""
    return [row.trainer, *([row.config] if row.config else [])]


def file_hash(path: Path) -> str:
    try:
        return sha256_of(path.read_bytes())
    except OSError:
        return ""


def how_changed(path: Path, then: str, what: str = "sha256") -> str:
    """How a file is no longer the one that had the sha256 `then`, called `what`; '' while it is."""
    now = file_hash(path)
    if now == then:
        return ""
    return f"{path.name} has changed ({what} {then[:12]} then, {now[:12]} now)" if now else f"{path} cannot be read any more"


def edited(campaign: Campaign, row: Row) -> str:
    """Which files of a row are no longer those it was planned with; '' while all are."""
    return "; ".join(filter(None, (how_changed(path, campaign.hashes[path]) for path in files_of(row))))


# What lies in the folders ==============================================================================================
def look(folder: Path) -> Seen:
    """How far the run of a folder has come."""
    if not folder.exists():
        return Seen(NEW)
    if (folder / "result.json").is_file():
        try:
            return Seen(FINISHED, result=read_results(folder)[0])
        except (ResultError, KeyError, ValueError) as e:
            return Seen(BROKEN, safe(e))
    try:
        lines = (folder / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    failed = next((line for line in reversed(lines) if line.startswith(("failed: ", "diverged: "))), "")
    if lines and lines[-1].startswith("diverged: "):
        return Seen(BROKEN, safe(lines[-1]))
    if any((folder / name).is_file() for name in RESUMABLE):
        return Seen(INTERRUPTED, safe(failed))
    return Seen(BROKEN, safe(failed) or "it ended before its first checkpoint")


def env_values(text: str) -> dict[str, str]:
    """Settings as a run folder keeps them, those that may differ between machines made equal."""
    found = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    places = {key: Path(found[key].strip('"')).name for key in DATA_SETTINGS if key in found}
    return {key: value for key, value in (found | places).items() if key not in ("RUN_ID", "RUNS_DIR")}


def changes(p: Planned) -> list[str]:
    """In what a run that is there differs from the one that is planned now."""
    try:
        begun = env_values((p.folder / "settings.env").read_text(encoding="utf-8"))
        source = sha256_of((p.folder / "train_gpt.py").read_bytes())
    except (OSError, ValueError):
        return ["its settings.env or train_gpt.py cannot be read"]
    now, found = env_values(p.settings.as_env()), []
    if how := how_changed(p.row.trainer, source, "code_sha256"):
        found.append(how)
    for key in differing(begun, now):
        found.append(f"{key} was {safe(begun.get(key, 'no setting'), 80)}, is {safe(now.get(key, 'no setting'), 80)} now")
    return found


def set_aside(campaign: Campaign, p: Planned) -> Path:
    """Move a run's folder out of the way; nothing is deleted."""
    number = next(n for n in itertools.count(1) if not (campaign.folder / "aside" / f"{p.name}.{n}").exists())
    target = campaign.folder / "aside" / f"{p.name}.{number}"
    target.parent.mkdir(exist_ok=True)
    p.folder.rename(target)
    return target
