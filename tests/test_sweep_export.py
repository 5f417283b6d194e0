"""sweep_export: the run's own settings give the run's own bytes and export gap; other settings give other rows; bad words are named."""

import json
import re
import shutil

import folders  # noqa: F401  puts scripts/ on the path
import pytest
import sweep_export


def table(capsys, folder, *axes, targets=10_000):
    """(val_bpb before export, rows of cells) of a sweep."""
    sweep_export.sweep(folder, list(axes), targets)
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    return float(re.search(r"val_bpb (\S+) before export", out)[1]), rows[2:]


def test_the_settings_of_the_run_give_its_own_numbers(finished, capsys):
    folder = finished[0]
    result = json.loads((folder / "result.json").read_text())
    before, rows = table(capsys, folder, targets=result["gap_tokens"])  # as many as whole windows hold
    assert before == pytest.approx(result["pre_export_val_bpb"], abs=1e-6)
    assert rows == [[str(result["total_bytes"]), f"{result['post_export_val_bpb']:.6f}", f"{result['export_gap_bpb']:+.6f}"]]


def test_every_combination_is_a_row(finished_lanes, capsys):
    """Coarser steps take fewer bytes and cost more; a byte target makes them alike."""
    folder = finished_lanes[0]
    _, rows = table(capsys, folder, "STEP_MATRIX=0.1,4.0", "STEP_EMBED=0.01,4.0", "TARGET_BYTES=0")
    assert [row[:3] for row in rows] == [[m, e, "0"] for m in ("0.1", "4.0") for e in ("0.01", "4.0")]
    sizes, costs = [int(row[3]) for row in rows], [float(row[5]) for row in rows]
    assert sizes[0] > max(sizes[1:3]) and min(sizes[1:3]) > sizes[3] and costs[3] > costs[0]
    wanted = (sizes[0] + sizes[3]) // 2
    _, rows = table(capsys, folder, "STEP_MATRIX=0.2,0.6", f"TARGET_BYTES={wanted}")
    for row in rows:
        bytes_and_factor = re.fullmatch(r"(\d+) \(steps x (\S+)\)", row[2])
        assert bytes_and_factor and 0 <= wanted - int(bytes_and_factor[1]) <= 0.02 * wanted


@pytest.mark.parametrize(
    "axes,said",
    [
        (["MODEL_DIM=64"], "give each export setting once"),
        (["STEP_EMBED"], "give each export setting once"),
        (["CODEC=zstd", "CODEC=zlib"], "give each export setting once"),
        (["BITS_MATRIX=9"], "BITS_MATRIX=9 is not allowed"),
        (["QUANT=clip", "TARGET_BYTES=5000"], "needs QUANT=step"),
    ],
)
def test_bad_words_are_named(finished, monkeypatch, capsys, axes, said):
    monkeypatch.setattr("sys.argv", ["sweep_export.py", str(finished[0]), *axes])
    assert sweep_export.main() == 2 and said in capsys.readouterr().err


def test_an_unfinished_run_is_refused(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished[0], tmp_path / "x")
    (tmp_path / "x" / "result.json").unlink()
    monkeypatch.setattr("sys.argv", ["sweep_export.py", str(tmp_path / "x")])
    assert sweep_export.main() == 2 and "no result.json of a finished run" in capsys.readouterr().err


def test_a_run_of_an_older_trainer_is_refused(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished[0], tmp_path / "x")
    source = tmp_path / "x" / "train_gpt.py"
    source.write_text(source.read_text(encoding="utf-8").replace("balanced_steps", "former_steps"), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["sweep_export.py", str(tmp_path / "x")])
    assert sweep_export.main() == 2 and "from before BALANCE_TOKENS" in capsys.readouterr().err


def test_a_trainer_whose_embedding_has_no_step(finished_lanes, tmp_path, capsys):
    """In float16, say: the factor is that of whatever has one."""
    shutil.copytree(finished_lanes[0], tmp_path / "x")
    source = tmp_path / "x" / "train_gpt.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace('"embed": clip * s.BITS_EMBED', '"embed": 16'), encoding="utf-8")
    _, rows = table(capsys, tmp_path / "x", targets=100)
    assert '"embed": 16' in source.read_text(encoding="utf-8") and re.fullmatch(r"\d+ \(steps x \d\.\d+\)", rows[0][0])
