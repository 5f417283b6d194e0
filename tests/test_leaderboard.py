"""The leaderboard: ranked from record folders alone, who holds a record and why not, and nothing a stranger wrote becomes markup."""

import copy
import dataclasses
import html.parser
import json
import math
import re
import subprocess
import sys
import types

import pytest
from folders import NO_PINS, OPEN, RECORD, ROOT, edit, make_folder, reseal, reseed, tracks
from golf.records import digest
from golf.runs import sha256_of
from leaderboard import BEGIN, END, Entry, against, bytes_per_token, judge, main, ranked, read_records, readme_table

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


@pytest.mark.parametrize("noise, gain, record", [(1e-4, 0.0049, False), (1e-4, 0.0051, True), (0.01, 0.03, False), (0.01, 0.0315, True)])
def test_a_record_needs_its_margin_and_its_p(noise, gain, record):
    """Of three seeds each: p is 0.0106 for a gain of 3 times the noise, 0.0090 for one of 3.15 times."""
    best, entry = (
        types.SimpleNamespace(same_text=lambda x: True, losses_like=lambda x, nats=nats: [nats - noise, nats, nats + noise])
        for nats in (2.0, 2.0 - gain)
    )
    said, is_one = against(entry, best)
    assert is_one is record and ("no record" in said) is not record, said


def test_a_record_whose_seeds_are_far_apart_can_be_beaten():
    """By Welch's test no number of seeds is enough against one bad one. Seven that all score lower than each of three are."""
    best, few, many, near = (
        types.SimpleNamespace(same_text=lambda x: True, losses_like=lambda x, nats=nats: nats)
        for nats in ([2.300, 2.303, 3.2], [2.2] * 6, [2.2 + i / 1e4 for i in range(7)], [2.2] * 9 + [2.301])
    )
    for entry, record in ((few, False), (many, True), (near, False)):
        said, is_one = against(entry, best)
        assert is_one is record, said


def test_scores_on_two_texts_are_not_put_in_one_order(repository):
    """A slice of the text may be easier: README names the best on the longest, and the open lane is listed by text first."""
    entries, _ = read_records(repository / "records", TRACKS, pins_of(repository))
    (cpu,) = (e for e in entries if e.claim["track"] == OPEN)
    easier, other = (copy.deepcopy(cpu) for _ in range(2))
    easier.claim |= {"val_bpb": 0.5, "title": "Easier", "validation": cpu.claim["validation"] | {"targets": 9}}
    other.claim |= {"val_bpb": 0.1, "title": "Other"}
    other.text = ""
    rows = ranked([other, easier, cpu], OPEN)
    assert rows == [cpu, easier, other]
    table = readme_table(rows)
    assert f"best of 1 scored on {cpu.claim['validation']['targets']:,} targets" in table and "Easier" not in table and "Other" not in table


def test_pages(repository, capsys):
    assert build(repository) == 0
    assert "Open hardware" not in (repository / "README.md").read_text()  # its text is not pinned
    assert build(repository, pins=pins_of(repository)) == 0
    readme = (repository / "README.md").read_text()
    assert readme.startswith("# x\n\n") and readme.endswith("\n\nrest\n") and "old" not in readme
    rows = [line for line in readme.splitlines() if line.startswith("| ") and "records/" in line]
    assert len(rows) == 4 and "2026-11-04_noisy" in rows[0] and "NVIDIA GeForce RTX 4090" in rows[0]
    assert "Open hardware, best of 1 scored on 1,500 targets of pinned text" in readme and "2026-11-05_cpu" in readme
    page = (repository / "docs" / "leaderboard.html").read_text()
    assert page.count("<tr>") == 2 + 5 and page.count("<svg") == 4 and "http" not in re.sub(r"http-equiv", "", page)
    assert build(repository, "--check", pins=pins_of(repository)) == 0
    assert "out of date" not in capsys.readouterr().err
    edit(repository / "README.md", ("^rest$", "more"), (r"^\| \d\.\d{4} \|", "| 1.0000 |"))
    assert build(repository, "--check") == 1 and "README.md is out of date" in capsys.readouterr().err
    assert build(repository) == 0 and (repository / "README.md").read_text().endswith("more\n")


def test_a_full_disk_leaves_the_readme_as_it_was(tmp_path):
    """Files of 8 KiB at most stand for it."""
    (tmp_path / "records").mkdir()
    (tmp_path / "README.md").write_text(f"# x\n\n{BEGIN}\nold\n{END}\n" + "x" * 12_000)
    before = (tmp_path / "README.md").read_text()
    command = f"ulimit -f 8; exec {sys.executable} {ROOT}/scripts/leaderboard.py --root {tmp_path}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == f"error: {tmp_path}/README.md: File too large; free space, or name another place\n"
    assert (tmp_path / "README.md").read_text() == before and not list(tmp_path.glob("*.part"))


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
    nasty = '<script>alert(1)</script><img src=x onerror="x">" onclick=\'x\' | [a](http://b) `c` < <!-- leaderboard: end -->'
    claim = json.loads((folder / "submission.json").read_text())
    edit(folder / "README.md", ("^# .*", f"# {(title := nasty[50:80])}"))  # without HTML, which the heading may not have
    claim |= {"title": title, "author": nasty[60:], "summary": nasty}
    (folder / "submission.json").write_text(json.dumps(claim))
    edit(folder / "train.log", ("^device:.*", r"device:<b>CPU</b> | [x](y) https://evil.example WWW.evil.example $\\checkmark$"))
    reseal(folder)
    assert build(tmp_path) == 0
    found = Tags()
    found.feed((tmp_path / "docs" / "leaderboard.html").read_text())
    assert found.tags == clean.tags and found.attributes == clean.attributes
    readme = (tmp_path / "README.md").read_text()
    assert readme.count(END) == 1 and "<script" not in readme and "](http" not in readme and "<b>" not in readme
    entries = read_records(tmp_path / "records", TRACKS, NO_PINS)[0]
    table = readme_table([dataclasses.replace(entry, text="pinned") for entry in entries])  # as the best of the open lane
    assert table.count("evil") == 2 and table.count("onclick") == 1 and table.count(END) == 1
    assert not re.search(r"<script|\]\(http|<b>|://evil|www\.evil|\$", table, re.IGNORECASE)
    assert build(tmp_path, "--check") == 0


def made_up(tokenizer, sha, targets, total, bpbs, name="2026-11-01_x", per_token=2.5):
    """An entry of the record lane; tokenizer `a` is the default one."""
    runs = [{"val_bpb": b, "val_loss": b * math.log(2) * total / targets} for b in bpbs]
    claim = {"tokenizer_sha256": tokenizer, "validation": {"targets": targets, "bytes": total, "sha256": sha}, "runs": runs}
    claim |= {"track": RECORD, "name": name, "date": name[:10], "val_bpb": sum(bpbs) / len(bpbs)}
    return Entry(claim, "", default_tokenizer=tokenizer == "a", bytes_per_token=per_token)


def test_the_margin_itself_is_enough_and_a_gain_below_it_looks_so():
    """Of 200 pairs whose means are 0.005 apart to the last digit of a log, floats put half below."""

    def entry(loss):
        made = made_up("a", "s", 1000, 2500, [1.0] * 3)
        for run, change in zip(made.claim["runs"], (-0.0001, 0, 0.0001)):
            run["val_loss"] = round(loss + change, 8)
        return made

    for i in range(200):
        assert against(entry(3.3 + 0.0012347 * i), entry(3.305 + 0.0012347 * i))[1], i
    assert against(entry(3.3), entry(3.30496)) == ("no record: +0.004960 nats, 0.005 are needed", False)


def test_claims_stand_in_no_verified_entrys_way(repository):
    """What nobody has verified is shown as it is, and is no bar: neither a score too good to be true nor a text that nobody has."""

    def judged(*rows):
        entries = []
        for day, (bpb, sha, verified) in enumerate(rows, 1):
            entry = made_up("a", sha, 1000, 2500, [bpb, bpb + 0.0005, bpb - 0.0005], f"2026-11-{day:02}_x")
            entries.append(dataclasses.replace(entry, verified=verified))
        judge(entries)
        return [(e.record, e.standing.split(" by ")[0].split(":")[0]) for e in entries]

    day = "2026-11-30"
    assert judged((1.5, "s", day), (0.8, "s", ""), (1.4, "s", day), (1.3, "s", "")) == [
        (True, "first"),
        (True, "record"),
        (True, "record"),
        (True, "record"),
    ]
    assert judged((1.5, "s", day), (0.8, "s", ""), (1.3, "s", ""), (1.499, "s", day))[2:] == [(False, "no record"), (False, "no record")]
    assert judged((9.9, "other", ""), (1.5, "s", ""), (1.5, "s", day), (1.4, "s", "")) == [
        (True, "first"),
        (False, "not comparable"),
        (True, "first that is verified"),
        (True, "record"),
    ]
    entries = [dataclasses.replace(made_up("a", "s", 1000, 2500, [b] * 3), verified=v) for b, v in ((0.8, ""), (1.5, day))]
    assert bytes_per_token(entries, NO_PINS) == 2.5


def test_every_record_that_is_here_is_clean():
    entries, left_out = read_records(ROOT / "records")
    assert not left_out and len(entries) == len(list(ROOT.glob("records/track_*/*/submission.json")))


def test_one_text_has_one_size(finished, tmp_path):
    for name, factor in (("2026-11-21_honest", 1), ("2026-11-22_twice", 2)):
        folder = make_folder(tmp_path / "records", [finished[0]], OPEN, name)
        log = (folder / "train.log").read_text()
        total, targets = (int(re.search(rf"{key}:([0-9]+)", log)[1]) for key in ("scored_bytes", "scored_tokens"))
        loss = float(re.search(r"^scored val_loss:(\S+)", log, re.MULTILINE)[1])
        bpb = loss / math.log(2) * targets / (factor * total)
        edit(
            folder / "train.log",
            (rf"_bytes:{total}\b", f"_bytes:{factor * total}"),
            (r"(^(scored|final_\S+) val_loss:\S+ val_bpb:)\S+", rf"\g<1>{bpb:.8f}"),
        )
        edit(folder / "train.log", (r"^export .*\n", ""))
        reseal(folder)
    entries, left_out = read_records(tmp_path / "records", TRACKS, NO_PINS)
    assert [e.claim["name"] for e in entries] == ["2026-11-21_honest"] and "2026-11-22_twice: counts other" in left_out[0]


def test_other_tokenizers_and_other_text():
    """Nats are taken per token of the default tokenizer, whichever of the two has another; scores on other text are not compared."""
    default, larger = made_up("a", "v", 1000, 2505, [1.5]), made_up("b", "w", 600, 2500, [1.4])
    assert larger.losses_like(default) == larger.losses_like(larger) == [pytest.approx(1.4 * math.log(2) * 2.5)]
    assert default.losses_like(larger) == [pytest.approx(1.5 * math.log(2) * 2.5)]
    assert default.losses_like(made_up("a", "v", 1000, 2505, [1.0])) == [1.5 * math.log(2) * 2.505]  # val_loss itself
    assert made_up("b", "w", 600, 2500, [1.4], per_token=None).losses_like(default) is None
    assert default.same_text(larger) and default.same_text(default)
    assert not made_up("a", "u", 1000, 2505, [1.0]).same_text(default) and not made_up("b", "u", 600, 3000, [1.0]).same_text(default)


def test_the_margin_is_per_token_of_the_default_tokenizer():
    """A gain of 0.0025 bpb is 0.0043 nats per default token, and 0.0072 per token of one that takes 4.17 bytes a token."""
    spread = (0.0, 0.00001, -0.00001)

    def standing(first, second, bpb=1.3975, per_token=2.5):
        targets = {"a": 1000, "b": 600, "c": 620}
        both = [made_up(t, t, targets[t], 2500, [x + d for d in spread], f"2026-11-0{i}_x", per_token)
                for i, (t, x) in enumerate(((first, 1.4), (second, bpb)), 1)]  # fmt: skip
        judge(both)
        assert both[1].record == both[1].standing.startswith("record")
        return both[1].standing

    for pair in (("b", "a"), ("a", "b"), ("b", "b"), ("b", "c"), ("a", "a")):
        assert standing(*pair) == "no record: +0.0043 nats, 0.005 are needed", pair
        assert standing(*pair, bpb=1.397).startswith("record by 0.0052 nats")
    assert "bytes per token of the default tokenizer are not known" in standing("b", "b", per_token=None)


def test_where_bytes_per_token_of_the_default_tokenizer_come_from():
    pins = NO_PINS | {
        "tokenizer": "a",
        "validation": [{"sha256": s, "targets": n, "bytes": b} for s, n, b in (("s", 10, 24), ("t", 20, 49))],
    }
    late, other = made_up("a", "v", 1000, 2600, [1.0], "2026-11-03_late"), made_up("b", "w", 600, 2500, [1.0])
    early = made_up("a", "v", 1000, 2500, [1.0], "2026-11-02_early")
    assert bytes_per_token([other, late, early], pins | {"record_validation": "s"}) == 2.4
    assert bytes_per_token([other, late, early], pins) == 2.5 and bytes_per_token([other], pins) == 2.45
    assert bytes_per_token([other], NO_PINS) is None


def test_records_are_read_with_the_default_tokenizer_of_the_pins(repository):
    claim = standings(repository)[0]["first"].claim
    for tokenizer, default in ((claim["tokenizer_sha256"], True), ("0" * 64, False)):
        entries, _ = read_records(repository / "records", TRACKS, pins_of(repository) | {"tokenizer": tokenizer})
        assert entries and all(e.default_tokenizer == default for e in entries)
        validation = claim["validation"]
        assert all(e.bytes_per_token == validation["bytes"] / validation["targets"] for e in entries)


def test_empty(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    (tmp_path / "README.md").write_text("no markers")
    assert build(tmp_path) == 0
    assert "has no lines" in capsys.readouterr().err and (tmp_path / "README.md").read_text() == "no markers"
    assert "Nothing yet" in (tmp_path / "docs" / "leaderboard.html").read_text()
    with pytest.raises(SystemExit) as e:
        build(tmp_path / "nowhere")
    assert e.value.code == 2
