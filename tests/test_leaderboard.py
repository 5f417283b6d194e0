"""The leaderboard: ranked from record folders alone, who holds a record and why not, and nothing a stranger wrote becomes markup."""

import html.parser
import json
import math
import re
from pathlib import Path

import pytest
from folders import NO_PINS, OPEN, RECORD, edit, make_folder, reseal, reseed, tracks
from golf.records import digest
from golf.runs import sha256_of
from leaderboard import BEGIN, END, Entry, main, ranked, read_records, readme_table

TRACKS = tracks(1500)


@pytest.fixture(scope="module")
def repository(finished, tmp_path_factory):
    """Four records by date (a first, a real gain, one too small, one too noisy), and an open-hardware run."""
    root = tmp_path_factory.mktemp("repository")
    noise = {
        "01_first": (0.0, 0.0005, -0.0005),
        "02_gain": (-0.05, -0.0505, -0.0495),
        "03_small": (-0.053, -0.0531, -0.0529),
        "04_noisy": (0.02, -0.1, -0.2),
    }
    for name, changes in noise.items():
        runs = [reseed(finished[0], root / "runs" / f"{name}{i}", i + 1, change, cuda=True) for i, change in enumerate(changes)]
        make_folder(root / "records", runs, RECORD, f"2026-11-{name}")
    make_folder(root / "records", [finished[0]], OPEN, "2026-11-05_cpu")
    (root / "README.md").write_text(f"# x\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    return root


def pins_of(root):
    """Pins that know the tiny run's text."""
    validation = json.loads((root / "records" / OPEN / "2026-11-05_cpu" / "submission.json").read_text())["validation"]
    return NO_PINS | {"validation": [validation | {"name": "tiny"}]}


def build(root, *args, pins=NO_PINS):
    return main(["--root", str(root), *args], TRACKS, pins)


def standings(root):
    entries, left_out = read_records(root / "records", TRACKS, NO_PINS)
    return {e.claim["name"][11:]: e for e in ranked(entries, RECORD)}, left_out


def test_who_holds_the_record(repository):
    entries, left_out = standings(repository)
    assert not left_out
    assert {name: e.record for name, e in entries.items()} == {"first": True, "gain": True, "small": False, "noisy": False}
    assert (
        re.fullmatch(r"record by 0\.0500 nats, p=\S+", entries["gain"].standing)
        and float(entries["gain"].standing.rpartition("=")[2]) < 1e-6
    )
    assert "+0.0030 nats, 0.005 are needed" in entries["small"].standing
    assert "is not under 0.01" in entries["noisy"].standing and "+0.0433" in entries["noisy"].standing
    scores = [e.claim["val_bpb"] for e in ranked(list(entries.values()), RECORD)]
    assert scores == sorted(scores) and len(scores) == 4


def test_pages(repository, capsys):
    assert build(repository) == 0
    assert "Open hardware" not in (repository / "README.md").read_text()  # its text is not pinned
    assert build(repository, pins=pins_of(repository)) == 0
    readme = (repository / "README.md").read_text()
    assert readme.startswith("# x\n\n") and readme.endswith("\n\nrest\n") and "old" not in readme
    rows = [line for line in readme.splitlines() if line.startswith("| ") and "records/" in line]
    assert len(rows) == 4 and "2026-11-04_noisy" in rows[0] and "NVIDIA GeForce RTX 4090" in rows[0]
    assert "Open hardware, best of 1 scored on pinned text" in readme and "2026-11-05_cpu" in readme
    page = (repository / "docs" / "leaderboard.html").read_text()
    assert page.count("<tr>") == 2 + 5 and page.count("<svg") == 4 and "http" not in re.sub(r"http-equiv", "", page)
    assert build(repository, "--check", pins=pins_of(repository)) == 0
    assert "out of date" not in capsys.readouterr().err
    edit(repository / "README.md", ("^rest$", "more"), (r"^\| \d\.\d{4} \|", "| 1.0000 |"))
    assert build(repository, "--check") == 1 and "README.md is out of date" in capsys.readouterr().err
    assert build(repository) == 0 and (repository / "README.md").read_text().endswith("more\n")


def test_verified_mark_holds_for_the_very_files(repository):
    folder = repository / "records" / RECORD / "2026-11-02_gain"
    verdict = {
        "track": RECORD,
        "date": "2026-11-30",
        "verified": True,
        "submission_sha256": sha256_of((folder / "submission.json").read_bytes()),
        "code_sha256": sha256_of((folder / "train_gpt.py").read_bytes()),
        "runs": [
            {"seed": run["seed"], "verified_val_loss": run["val_loss"] + 0.0002, "verified_val_bpb": run["val_bpb"] + 0.0001}
            for run in json.loads((folder / "submission.json").read_text())["runs"]
        ],
    }
    claimed = standings(repository)[0]["gain"].claim
    target = repository / "records" / "verified" / "2026-11-02_gain.json"
    target.parent.mkdir()

    def mark(**changes):
        made = verdict | changes
        target.write_text(json.dumps(made | {"digest": digest(made)} | ({"date": "2026-12-01"} if changes.get("forged") else {})))
        return standings(repository)[0]["gain"].verified

    assert mark() == "2026-11-30"
    assert (
        mark(verified=False)
        == ""
        == mark(code_sha256="0" * 64)
        == mark(submission_sha256="0" * 64)
        == mark(forged=True)
        == mark(track=OPEN)
    )
    assert mark() and standings(repository)[0]["gain"].claim["val_bpb"] == pytest.approx(claimed["val_bpb"] + 0.0001, abs=1e-9)
    assert standings(repository)[0]["gain"].losses_like(standings(repository)[0]["first"])[0] == claimed["runs"][0]["val_loss"] + 0.0002
    assert "✓ 2026-11-30" in readme_table(read_records(repository / "records", TRACKS, NO_PINS)[0])
    target.unlink()


def test_another_tokenizer_is_charged(finished, tmp_path):
    folder = make_folder(tmp_path / "records", [finished[0]], OPEN)
    text = re.sub(r" tokenizer_bytes:\d+", "", (folder / "train.log").read_text())
    (folder / "train.log").write_text(text.replace("\ndata val_tokens", " tokenizer_bytes:123456\ndata val_tokens", 1))
    reseal(folder)
    total = json.loads((folder / "submission.json").read_text())["total_bytes"]
    for tokenizer, charged in (("0" * 64, total + 123456), (None, total)):
        assert build(tmp_path, pins=NO_PINS | {"tokenizer": tokenizer}) == 0
        page = (tmp_path / "docs" / "leaderboard.html").read_text()
        assert f'data-v="{charged}">{charged:,}</td>' in page and f", {charged:,} bytes" in page


def test_folders_with_findings_are_left_out(repository, capsys):
    log = repository / "records" / RECORD / "2026-11-02_gain" / "train.log"
    before = log.read_text()
    edit(log, (r"^trained steps:\d+", "trained steps:99"))
    assert "gain" not in standings(repository)[0]
    assert build(repository, "--check") == 1
    assert "2026-11-02_gain" in capsys.readouterr().err
    log.write_text(before)


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_strangers_text_is_no_markup(finished, tmp_path):
    folder = make_folder(tmp_path / "records", [finished[0]], OPEN)
    (tmp_path / "README.md").write_text(f"{BEGIN}\n{END}\n")
    build(tmp_path)
    clean = Tags()
    clean.feed((tmp_path / "docs" / "leaderboard.html").read_text())
    nasty = '<script>alert(1)</script><img src=x onerror="x">" onclick=\'x\' | [a](http://b) `c` &lt; <!-- leaderboard: end -->'
    claim = json.loads((folder / "submission.json").read_text())
    claim |= {"title": nasty[:120], "author": nasty[60:], "summary": nasty}
    (folder / "submission.json").write_text(json.dumps(claim))
    edit(folder / "train.log", ("^device:.*", "device:<b>CPU</b> | [x](y)"))
    reseal(folder)
    assert build(tmp_path) == 0
    found = Tags()
    found.feed((tmp_path / "docs" / "leaderboard.html").read_text())
    assert found.tags == clean.tags and found.attributes == clean.attributes
    readme = (tmp_path / "README.md").read_text()
    assert readme.count(END) == 1 and "<script" not in readme and "](http" not in readme and "<b>" not in readme
    assert build(tmp_path, "--check") == 0


def test_other_tokenizers_and_other_text():
    """Nats are taken per token of the other record's tokenizer; scores on other text are not compared."""

    def entry(tokenizer, sha, targets, total, bpbs, losses):
        runs = [{"val_bpb": b, "val_loss": x} for b, x in zip(bpbs, losses)]
        validation = {"targets": targets, "bytes": total, "sha256": sha}
        return Entry(Path("x"), {"tokenizer_sha256": tokenizer, "validation": validation, "runs": runs}, "")

    default = entry("a", "v", 1000, 2500, [1.5], [2.6])
    larger = entry("b", "w", 600, 2500, [1.4], [4.0])
    assert larger.losses_like(default) == [pytest.approx(1.4 * math.log(2) * 2.5)]
    assert default.losses_like(entry("a", "v", 1000, 2500, [1.0], [1.0])) == [2.6]
    assert entry("a", "u", 1000, 2500, [1.0], [1.0]).losses_like(default) is None
    assert entry("b", "u", 600, 3000, [1.0], [1.0]).losses_like(default) is None


def test_empty(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    (tmp_path / "README.md").write_text("no markers")
    assert build(tmp_path) == 0
    assert "has no lines" in capsys.readouterr().err and (tmp_path / "README.md").read_text() == "no markers"
    assert "Nothing yet" in (tmp_path / "docs" / "leaderboard.html").read_text()
    with pytest.raises(SystemExit) as e:
        build(tmp_path / "nowhere")
    assert e.value.code == 2
