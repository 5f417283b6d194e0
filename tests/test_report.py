"""report: one self-contained page, its numbers those of the artifact, kept scores that go stale when they should, strangers' text inert."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from folders import edit, make_folder

import train_gpt

pytest.importorskip("bokeh", reason="bokeh is not installed: pip install -r requirements-analysis.txt")
report = pytest.importorskip("report")
from golf import report_scores  # noqa: E402
from golf.report_scores import ScoresError, by_position, documents_of, scores_of  # noqa: E402
from golf.results import read_curves, read_results  # noqa: E402

TOKENS = 1500  # all that the tiny run was scored on
SECTIONS = ["Training", "Bytes", "Export", "Context", "Documents"]


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """A copy of the finished tiny run, scored once."""
    folder = tmp_path_factory.mktemp("report") / "tiny"
    shutil.copytree(finished[0], folder)
    scores_of(folder, TOKENS, val_hash(folder))
    return folder


@pytest.fixture
def make(capsys, tmp_path: Path):
    """Call main(); (exit status, page or '', errors)."""

    def call(*runs: object, options: tuple[str, ...] = ("--tokens", str(TOKENS))) -> tuple[int, str, str]:
        capsys.readouterr()
        page = tmp_path / "page.html"
        code = report.main([*map(str, runs), "-o", str(page), *options])
        return code, page.read_text(encoding="utf-8") if page.exists() else "", capsys.readouterr().err

    return call


def val_hash(folder: Path) -> str:
    return read_results(folder)[0].facts.hashes["val_tokens_sha256"]


class Page(HTMLParser):
    """What a page links to, its headings, and the text of its documents."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.headings, self.documents, self.policy, self.inside = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [values[key] for key in ("src", "href", "data", "action") if key in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag in ("h1", "h2", "i"):
            self.inside.append(tag)
        if values.get("class") == "text":
            self.documents.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "i":
            self.documents[-1] += data
        elif self.inside:
            self.headings.append(data)


# The page ==============================================================================================================
def test_a_page_has_every_part_and_needs_no_network(run, make):
    code, text, _ = make(run)
    page = Page(text)
    assert code == 0 and page.headings[0] == "tiny" and [h for h in page.headings if h in SECTIONS] == SECTIONS
    assert len(text.encode()) < 2_000_000 and not page.links and page.policy.startswith("default-src 'none'") and "http" not in page.policy
    assert not any(cdn in text for cdn in report.CDNS) and "prefers-color-scheme: dark" in text and "width=device-width" in text
    result = json.loads((run / "result.json").read_text())
    assert f"<b>{result['val_bpb']:.5f}</b>" in text and f"{result['total_bytes']:,}" in text


def test_the_page_says_how_many_tokens_were_scored(run, make, tmp_path: Path):
    """The number scored, where a run has fewer than were asked for."""
    more = tmp_path / "more"
    shutil.copytree(run, more)
    text = make(more, options=())[1]
    assert text.count(f"first {TOKENS:,} validation tokens") >= 4 and "16,384" not in text
    assert "scores by token" not in make(more, options=("--logs",))[1]
    few = report.Shown("few", [], 64, None, {"nats": np.zeros(100)})
    assert report.scored([few, few], 64) == "100" and report.scored([], 16_384) == "16,384"
    many, none = report.Shown("many", [], 64, None, {"nats": np.zeros(2000)}), report.Shown("none", [], 64, None)
    assert report.scored([few, many, none], 64) == "100 to 2,000"


def test_a_page_of_ten_runs_is_small(run, make, tmp_path: Path):
    for i in range(10):
        shutil.copytree(run, tmp_path / f"run_{i}")
    runs = [tmp_path / f"run_{i}" for i in range(10)]
    code, text, _ = make(*runs)
    assert code == 0 and len(text.encode()) < 5_000_000 and all(run.name in text for run in runs)
    code, _, err = make(*runs, run)
    assert code == 2 and "up to 10" in err


def test_runs_of_one_name_are_told_apart(run, make, tmp_path: Path):
    shutil.copytree(run, tmp_path / run.name)
    code, text, _ = make(run, tmp_path / run.name)
    assert code == 0 and "tiny (2)" in text and "more bits on 0 of" in text


def test_runs_that_cannot_be_compared_are_marked(run, make, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    edit(other / "train.log", ("^device:.*", "device:NVIDIA <b>H200</b>"))
    text = make(run, other, options=("--logs",))[1]
    assert "cannot be compared directly. device: 1 x CPU" in text and "H200&lt;/b&gt;" in text and "<b>H200" not in text


def test_a_run_may_have_the_name_of_a_log(run, make, tmp_path: Path):
    shutil.copytree(run, tmp_path / "tiny.log")
    assert make(tmp_path / "tiny.log", options=("--logs",))[0] == 0


def test_what_is_scored_is_said(run, make, tmp_path: Path):
    """And nothing where logs alone are read, or nothing can be."""
    assert f"{run}: scoring its tokens" in make(run)[2]
    assert make(run, options=("--logs",))[2] == ""
    assert "scoring" not in make(tmp_path / "none")[2]


def test_an_unfinished_run_shows_its_curves(run, make, tmp_path: Path):
    begun = tmp_path / "begun"
    begun.mkdir()
    log = (run / "train.log").read_text()
    (begun / "train.log").write_text(log[: log.index("trained ")])
    code, text, _ = make(begun)
    assert code == 0 and "not finished" in text and ">Loss<" in text and "Export gap" not in text
    (begun / "train.log").write_text("nothing\n")
    code, _, err = make(begun)
    assert code == 2 and "nothing to show" in err


def test_the_code_of_a_record_is_never_run(run, make, tmp_path: Path):
    trap = tmp_path / "it_ran"
    folder = make_folder(tmp_path / "records", [run])
    edit(folder / "train_gpt.py", ('^"""Train', f'open({str(trap)!r}, "w").close()\n"""Train'))
    code, text, _ = make(folder)
    assert code == 0 and "shown from its log alone" in text and not trap.exists()
    code = report.main([str(folder)])
    assert code == 2 and not (folder / "report.html").exists()


def test_bad_input_says_what_to_type(run, make, tmp_path: Path):
    for paths, options, words in (
        ([tmp_path / "none"], (), "`ls runs`"),
        ([run], ("--tokens", "5"), "at least 64"),
        ([run], ("--logs", "-o", str(tmp_path / "no" / "folder.html")), "name another file"),
    ):
        code, _, err = make(*paths, options=options)
        assert code == 2 and words in err, err


def test_a_run_without_training_time_or_with_a_list_for_a_result_is_no_traceback(run, make, tmp_path: Path):
    for name in ("list", "zero"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "list" / "result.json").write_text("[1]")
    edit(tmp_path / "zero" / "train.log", (r" train_s:\S+ export_s", " train_s:0 export_s"))
    for name, words in (("list", "result.json holds no object"), ("zero", "train_s:0 in its peak_memory_bytes line")):
        code, text, err = make(tmp_path / name)
        assert code == 0 and words in text and "not finished" in text, err


def test_text_of_documents_is_inert():
    shown = report.colored(["<script>", "a\u202eb", "", "&"], np.array([20.0, 0.1, 1.0, 2.0]), 1.25)
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "\u202e" not in shown and "&amp;" in shown
    assert f"class=h{report.SHADES}" in shown and 'title="0.1"' not in shown  # the empty piece adds its bit to the one before
    assert "class=c4" in report.colored(["x"], np.array([-5.0]), 1.25)


# Scores ================================================================================================================
def test_the_scores_are_those_of_the_run(run):
    scores, result = scores_of(run, TOKENS, val_hash(run)), json.loads((run / "result.json").read_text())
    loss, bpb = train_gpt.bits_per_byte(scores["nats"], scores["target_bytes"])
    assert (loss, bpb) == pytest.approx((result["val_loss"], result["val_bpb"]), abs=1e-6)
    assert dict(scores["context"])[scores["seq_len"]] == pytest.approx(result["val_bpb"], abs=1e-6)


def test_the_pieces_are_the_text(run, tiny):
    scores = scores_of(run, TOKENS, val_hash(run))
    starts = np.flatnonzero(scores["tokens"] == 1)
    whole = ["".join(scores["pieces"][a + 1 : b]) for a, b in zip(starts[:-1], starts[1:])]
    assert whole and whole == tiny.val_texts[: len(whole)]


def test_the_page_shows_whole_documents(run, make, tiny):
    scores = scores_of(run, TOKENS, val_hash(run))
    found, shown = documents_of(scores), Page(make(run)[1]).documents
    assert len(shown) == 2 * report.DOCUMENTS
    for (_, first, end), text in zip(found[: -report.DOCUMENTS - 1 : -1] + found[: report.DOCUMENTS], shown):
        assert text == "".join(scores["pieces"][first + 1 : min(end, first + report.EXCERPT) + 1]) and tiny_has(tiny, text)


def tiny_has(tiny: object, text: str) -> bool:
    return any(whole.startswith(text) for whole in tiny.val_texts)


def test_documents_leave_out_the_start_of_the_next_one():
    nats = np.array([1, 1, 9, 2, 2, 9, 5], np.float32)
    scores = {"tokens": np.array([1, 7, 7, 1, 8, 8, 1, 9]), "nats": nats, "target_bytes": np.array([1, 1, 0, 2, 2, 0, 1])}
    bits = 1 / np.log(2)
    assert documents_of(scores, shortest=1) == [(pytest.approx(bits), 0, 2), (pytest.approx(bits), 3, 5)]


def test_positions_add_up_to_the_whole(run):
    plain = np.arange(1, 13, dtype=np.float32)
    scores = {"seq_len": 4, "plain_nats": plain, "target_bytes": np.full(12, 2)}
    rows = by_position(scores)
    assert [row[:2] for row in rows] == [(1, 1), (2, 2), (3, 4)]
    assert [row[2] * np.log(2) * 2 for row in rows] == pytest.approx([(1 + 5 + 9) / 3, (2 + 6 + 10) / 3, (3 + 7 + 11 + 4 + 8 + 12) / 6])


def test_the_gap_of_all_classes_is_that_of_the_exact_weights(run, main):
    scores = scores_of(run, TOKENS, val_hash(run))
    classes = set(scores["bytes"])
    assert classes == {"embed", "q", "k", "v", "out", "up", "down", "vectors"} and set(scores["gap"]) == classes | {"all"}
    opened = report_scores.open_run(train_gpt, run, TOKENS, val_hash(run))
    model = opened.load_artifact(run / "artifact.bin")
    length, bpb = scores["seq_len"], []
    for weights in (model.weights(), train_gpt.load_arrays(run / "weights.npz")[0]):
        model.load_weights(weights)
        nats = train_gpt.score(model, opened.data.val_tokens, opened.s, opened.runtime, opened.log, "x", length, length)
        bpb.append(train_gpt.bits_per_byte(nats, opened.data.val_bytes)[1])
    assert scores["gap"]["all"] == pytest.approx(bpb[0] - bpb[1], abs=1e-7) and scores["gap"]["all"] != 0
    largest = max(abs(gap) for gap in scores["gap"].values())
    assert sum(scores["gap"][kind] for kind in classes) == pytest.approx(scores["gap"]["all"], abs=largest)


def test_bytes_by_class_are_about_the_artifact(run):
    sizes = scores_of(run, TOKENS, val_hash(run))["bytes"]
    weights = train_gpt.load_arrays(run / "weights.npz")[0]
    assert set(sizes) == {report_scores.class_of(train_gpt, name) for name in weights}
    assert sizes["embed"]["bits"] == [8] and sizes["q"]["bits"] == [6] and sizes["vectors"]["bits"] == [16]
    assert sum(x["bytes"] for x in sizes.values()) == pytest.approx((run / "artifact.bin").stat().st_size, rel=0.1)


def test_bytes_by_class_of_a_run_with_a_byte_target(finished_lanes, tmp_path):
    """Packed with the steps that the target came to: the log's, not those of the settings."""
    folder = tmp_path / "balanced"
    shutil.copytree(finished_lanes[0], folder)

    def total() -> int:
        return sum(x["bytes"] for x in scores_of(folder, TOKENS, val_hash(folder))["bytes"].values())

    as_shipped = total()
    assert as_shipped == pytest.approx((folder / "artifact.bin").stat().st_size, rel=0.3)  # each class so small brings tables of its own
    edit(folder / "train.log", (r"(?<= )(blocks\.\S+:)\S+", r"\g<1>8.0"))
    (folder / report_scores.CACHE).unlink()
    assert total() < 0.9 * as_shipped


def test_plain_windows_show_the_model_alone(finished_lanes, tmp_path):
    """The run's own scores have the n-gram cache in them, the loss by position has not."""
    folder = tmp_path / "lanes"
    shutil.copytree(finished_lanes[0], folder)
    scores, opened = scores_of(folder, TOKENS, val_hash(folder)), report_scores.open_run(train_gpt, folder, TOKENS, val_hash(folder))
    model, length = opened.load_artifact(folder / "artifact.bin"), scores["seq_len"]
    assert opened.s.NGRAM_CACHE and opened.s.TTT_LR
    for cache, same in ((0, True), (opened.s.NGRAM_CACHE, False)):
        opened.s.values["NGRAM_CACHE"] = cache
        nats = train_gpt.score(model, opened.data.val_tokens, opened.s, opened.runtime, opened.log, "x", length, length)
        assert np.allclose(scores["plain_nats"], nats, atol=1e-5) == same


def test_kept_scores_are_used_until_something_changes(run, monkeypatch, tmp_path: Path):
    folder, wanted = tmp_path / "kept", val_hash(run)
    shutil.copytree(run, folder)
    monkeypatch.setattr(report_scores, "import_trainer", lambda folder: pytest.fail("scored again"))
    assert scores_of(folder, TOKENS, wanted)["seq_len"] == 64
    assert report_scores.read_cache(folder / "nats.npz", report_scores.stale_key(folder, TOKENS + 1, wanted)) is None
    assert report_scores.read_cache(folder / "nats.npz", report_scores.stale_key(folder, TOKENS, "other")) is None
    with open(folder / "artifact.bin", "ab") as f:
        f.write(b"x")
    assert report_scores.read_cache(folder / "nats.npz", report_scores.stale_key(folder, TOKENS, wanted)) is None
    (folder / "nats.npz").write_bytes(b"damaged")
    shutil.copy(run / "artifact.bin", folder)
    assert report_scores.read_cache(folder / "nats.npz", report_scores.stale_key(folder, TOKENS, wanted)) is None


def test_what_cannot_be_scored_says_why(run, make, tmp_path: Path):
    folder = tmp_path / "moved"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("nats.npz"))
    edit(folder / "settings.env", ("^DATA_PATH=.*", f"DATA_PATH={tmp_path}/none"))
    code, text, _ = make(folder)
    assert code == 0 and "no scores by token: no shard fits" in text and ">Loss<" in text
    shutil.copy(run / "settings.env", folder)
    with pytest.raises(ScoresError, match="other validation tokens now"):
        scores_of(folder, TOKENS, "0" * 64)
    (folder / "train_gpt.py").write_text("import no_such_module\n")
    with pytest.raises(ScoresError, match="ModuleNotFoundError"):
        scores_of(folder, TOKENS, val_hash(run))


def test_a_trainer_that_scores_in_another_way_is_told(run, make, tmp_path: Path):
    """With a Scorer the run's score is not that of score(); and where score() has another signature, the rest of the page is there."""
    folder = tmp_path / "scorer"
    shutil.copytree(run, folder)
    assert "not by its Scorer" not in make(folder)[1]
    with open(folder / "train_gpt.py", "a", encoding="utf-8") as f:
        f.write("\nclass Scorer: pass\n")
    code, text, _ = make(folder)
    assert code == 0 and "by score() of its train_gpt.py, not by its Scorer" in text
    edit(folder / "train_gpt.py", ("^def score\\(model: GPT, ", "def score(other, model: GPT, "))
    code, text, _ = make(folder)
    assert code == 0 and "no scores by token: with the functions of its train_gpt.py that is not to be had: TypeError" in text


def test_curves_of_a_resumed_run_count_each_step_once():
    log = "step:1 train_loss:9 lr_scale:1 train_s:1\nstep:2 train_loss:8 train_s:2\nresumed step:1\nstep:2 train_loss:7 train_s:3\n"
    rows = read_curves(log + "step:2 glance_targets:9 val_loss:3 val_bpb:1.5\nstep:x\nother step:3\n")
    assert [(r["step"], r.get("train_loss"), r.get("val_bpb")) for r in rows] == [(1, 9, None), (2, 7, None), (2, None, 1.5)]
