"""Checks of a run: its log by itself, its artifact, and both against the track's rules.

Rule ids are those of docs/track_spec.md.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable

from golf import artifacts, source
from golf.findings import REMAKE, Report
from golf.records import Track, artifact_of, ordered_logs
from golf.runs import COUNTED_SPANS, FREE_SPANS, LogError, LogFacts, Step, parse_log, sha256_of
from golf.texts import TextError, read_text, safe

FASTER_CARDS = re.compile(
    r"(?<![A-Z0-9])(?:RTX ?)?"
    r"(5090|A100|A800|H100|H200|H800|H20|GH200|B100|B200|B300|GB200|GB300|L40S|PRO 6000|MI2\d\d|MI3\d\d|TPU)"
    r"(?!\d)(?!.*\bLaptop\b)",
    re.IGNORECASE,
)
LONG_SECONDS = 300.0  # of all spans outside the clock but scoring; compiling took 5 to 80 s in the project's own runs


def read_all_logs(report: Report, stem: str) -> dict[str, LogFacts]:
    found = {}
    for path in ordered_logs(report.folder, stem):
        try:
            text = read_text(path)
            found[path.name] = parse_log(text)
        except TextError:
            continue  # check_texts has said it
        except LogError as e:
            what = "a traceback" if "Traceback (most recent call last)" in text else str(e)
            report.find(path.name, "E2", what, "a complete log, from the settings to the final line", "copy the log of a finished run")
    return found


def close(a: float, b: float, relative: float = 1e-5, absolute: float = 0.0) -> bool:
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= max(absolute, relative * max(abs(a), abs(b)))


def check_log(report: Report, name: str, f: LogFacts, track: Track, code: bytes, pins: dict) -> None:
    find: Callable = report.find
    check_log_arithmetic(report, name, f)
    if f.size["code_bytes"] != len(code):
        fix = "ship the source that ran, byte for byte"
        find(name, "B1", f"code_bytes:{f.size['code_bytes']}", f"{len(code)}, the size of train_gpt.py", fix)
    if f.about["code_sha256"] != sha256_of(code):
        fix = "ship the source that made this log"
        find(name, "E4", f"code_sha256:{f.about['code_sha256'][:16]}", f"{sha256_of(code)[:16]}, that of train_gpt.py", fix)
    if f.size["cap_bytes"] != track.cap_bytes:
        find(name, "B1", f"cap_bytes:{f.size['cap_bytes']}", track.cap_bytes, "run with CAP_BYTES as the track has it")
    if f.size["total_bytes"] > track.cap_bytes:
        fix = "lower MODEL_DIM, NUM_LAYERS or the bits a weight; the worst seed counts"
        find(name, "B4", f"{f.size['total_bytes']} bytes", f"at most {track.cap_bytes}", fix)
    if {f.hashes["val_tokens_sha256"], *(pin["sha256"] for pin in pins["validation"])} & set(f.train_shards.values()):
        find(name, "D1", "a training shard has the sha256 of validation tokens", "no shared tokens", "train on the train shards only")
    for shard in f.train_shards:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*_train_[0-9]+\.bin", shard):
            measured, allowed = f"{safe(shard, 80)} among the training shards", "names like fineweb_train_000000.bin"
            find(name, "D1", measured, allowed, "train on the train shards only, under names of letters, digits, _, . and -")
    if not f.train_shards:
        find(name, "E2", "no hash of a training shard", "one for each", "copy the log of a finished run, whole")
    if not f.steps:
        report.notes.append(f"{name}: no step line says how the training went; a run of few steps has none (C1)")
    free = {span: f.spans[span] for span in FREE_SPANS if span != "scoring" and span in f.spans}
    if sum(free.values()) > LONG_SECONDS:
        said = ", ".join(f"{span}_s:{seconds:g}" for span, seconds in free.items() if seconds > 1)
        whether = "whether nothing learns in it, or all is put back, is for readers (C2)"
        report.notes.append(f"{name}: {said} outside the clock is long; {whether}")
    known = {entry["sha256"]: entry for entry in pins["validation"]}
    if pin := known.get(f.hashes["val_tokens_sha256"]):
        for key, rule in (("targets", "S7"), ("bytes", "S6")):
            if f.data[f"val_{key}"] != pin[key]:
                fix = "count bytes as docs/scoring.md does: the decoded text's, each space once, a byte piece as one"
                find(name, rule, f"val_{key}:{f.data[f'val_{key}']}", f"{pin[key]}, the {key} of {pin['name']}", fix)
    elif track.record and pins["record_validation"]:
        fix = "fetch the published shards: python3 data/cached_challenge_fineweb.py --variant sp1024"
        allowed = f"{pins['record_validation'][:16]}, the published tokens"
        find(name, "S7", f"val_tokens_sha256:{f.hashes['val_tokens_sha256'][:16]}", allowed, fix)
    elif not track.record:
        said = f"val_tokens_sha256:{f.hashes['val_tokens_sha256'][:16]}, {f.data['val_targets']} targets, {f.data['val_bytes']} bytes"
        report.notes.append(f"{name}: scored on text that is not pinned, {said}; its score compares with no pinned one (S7)")
    if pins["tokenizer"] and f.hashes["tokenizer_sha256"] != pins["tokenizer"]:
        check_tokenizer(report, name, f, track, code)
        if track.record and f.hashes["val_tokens_sha256"] not in known:
            allowed = "the default tokenizer, since no other tokens of the published text are pinned"
            fix = "hand it in under records/track_non_record/, where any tokenizer is welcome"
            find(name, "S7", f"tokenizer_sha256:{f.hashes['tokenizer_sha256'][:16]}", allowed, fix)
    if track.record and not pins["record_validation"]:
        report.notes.append(f"{name}: no published validation hash is pinned; the log says {f.hashes['val_tokens_sha256'][:16]} (S7)")
    if track.record:
        check_record_lane(report, name, f, track, pins)


def check_tokenizer(report: Report, name: str, f: LogFacts, track: Track, code: bytes) -> None:
    """Of a tokenizer that is not the default one: its file counts. How large it is the log says, and the referee looks."""
    said = f"tokenizer_sha256:{f.hashes['tokenizer_sha256'][:16]} is not the default tokenizer's, so it counts as model bytes"
    if (size := f.data.get("tokenizer_bytes", 0)) <= 0:
        report.notes.append(f"{name}: {said} (B3)")
        with contextlib.suppress(source.SourceError):
            if b"tokenizer_bytes=" in source.readable(code):  # trainers until 2026-11-25 did not say it
                report.find(name, "B3", f"tokenizer_bytes:{size}", "the size of the tokenizer's file", "copy the log as the run wrote it")
        return
    report.tokenizer_bytes = max(report.tokenizer_bytes, size)
    total = f.size["total_bytes"] + size
    report.notes.append(f"{name}: {said}: {total} with its {size} (B3)")
    if f.size["total_bytes"] <= track.cap_bytes < total:
        measured = f"{total} bytes, {size} of them the tokenizer's"
        report.find(name, "B4", measured, f"at most {track.cap_bytes}", "lower TARGET_BYTES by the size of the tokenizer's file")


def check_record_lane(report: Report, name: str, f: LogFacts, track: Track, pins: dict) -> None:
    find = report.find
    elsewhere = "hand it in under records/track_non_record/, where any device and budget is welcome"
    if f.about["devices"] != "1":
        find(name, "L1", f"devices:{f.about['devices']}", "1", elsewhere)
    device = f.about["device"]
    if "torch" not in f.about or re.search(r"\bCPU\b", device.upper()) or "APPLE" in device.upper():
        find(name, "L1", f"device:{device}", "one CUDA device comparable to an RTX 4090", elsewhere)
    elif m := FASTER_CARDS.search(device):
        find(name, "L3", f"device:{device}", f"a card not clearly faster than an RTX 4090; a {m[0]} is", elsewhere)
    if f.train_seconds > track.clock_s:
        fix = "leave more room for the export, or " + elsewhere
        find(name, "C1", f"{f.train_seconds:.1f} s of training and export", f"at most {track.clock_s:.0f} s", fix)
    limit = float(f.settings["MAX_WALLCLOCK_SECONDS"])
    if not 0 < limit <= track.clock_s:
        fix = f"run with MAX_WALLCLOCK_SECONDS={track.clock_s:.0f}; a step count may end training earlier, never later"
        find(name, "C3", f"MAX_WALLCLOCK_SECONDS={limit:g}", f"over 0, at most {track.clock_s:.0f}", fix)
    if f.data["val_targets"] != track.val_targets:
        fix = f"run with VAL_TOKENS={track.val_targets} and the published shards"
        find(name, "S7", f"val_targets:{f.data['val_targets']}", track.val_targets, fix)
    for shard, value in f.train_shards.items():
        if pins["train_shards"] and pins["train_shards"].get(shard) != value:
            fix = "train on published shards: python3 data/cached_challenge_fineweb.py"
            find(name, "D2", f"{shard}:{value[:16]}", "the sha256 of a published train shard", fix)


def check_log_arithmetic(report: Report, name: str, f: LogFacts) -> None:
    """What must hold within any log, whatever the track."""

    def find(rule: str, measured: str, allowed: object, fix: str = "copy the log as the run wrote it, unedited") -> None:
        report.find(name, rule, measured, str(allowed), fix)

    if f.finals != 1:
        find("S4", f"{f.finals} final_sliding_window_exact lines", "one score of one run")
    for line in f.twice:
        find("E4", f"`{line}` stands there again or says otherwise than before", "one such line, and one more each time the run went on")
    for key in ("val_loss", "val_bpb"):
        if f.final[key] != f.scored[key]:
            find("E4", f"final {key}:{f.final[key]}", f"{f.scored[key]}, that of the scored line")
    targets, scored = f.data["val_targets"], f.scored["scored_tokens"]
    if scored != targets:
        rule, fix = ("S4", "score each target once") if scored > targets else ("S7", "score all of them")
        find(rule, f"scored_tokens:{scored}", f"{targets}, the val_targets of the data line", fix)
    for key in ("seq_len", "stride"):
        said, want = f.scored.get(key), f.settings.get(f"EVAL_{key.upper()}")
        if said is not None and want is not None and str(said) != want:
            find("E4", f"scored {key}:{said}", f"{want}, as the settings say", "score the artifact with the windows of its header")
    if f.scored["scored_bytes"] != f.data["val_bytes"]:
        find(
            "S6", f"scored_bytes:{f.scored['scored_bytes']}", f"{f.data['val_bytes']}, the audited val_bytes", "divide by the audited bytes"
        )
    if f.scored["scored_bytes"] > 0:
        bpb = f.scored["val_loss"] / math.log(2) * scored / f.scored["scored_bytes"]
        if not close(bpb, f.scored["val_bpb"], 0.0, 5e-8):
            find("S6", f"val_bpb:{f.scored['val_bpb']:.8f}", f"{bpb:.8f}, from val_loss, tokens and bytes")
    if f.gap:
        gap = f.gap.get("post_export_val_bpb", math.nan) - f.gap.get("pre_export_val_bpb", math.nan)
        if not close(gap, f.gap.get("export_gap_bpb", math.nan), absolute=2e-8):
            find("E4", f"export_gap_bpb:{f.gap.get('export_gap_bpb')}", f"{gap:.8f}, the score after export less that before it")
    if "post_export_val_bpb" in f.gap and f.gap.get("gap_tokens") == targets and f.gap["post_export_val_bpb"] != f.final["val_bpb"]:
        fix = "score the artifact as shipped"
        find("S1", f"val_bpb:{f.final['val_bpb']}", f"{f.gap['post_export_val_bpb']}, that of the exported weights", fix)
    said = f.size["code_bytes"] + f.size["model_bytes"]
    if not f.size["total_bytes"] == said == f.said_total[1]:
        find("B1", f"total_bytes:{f.size['total_bytes']}, submission line {f.said_total[1]}", f"{said}, code and model together")
    if f.settings.get("CODEC", f.said_total[0]) != f.said_total[0]:
        find("B1", f"total_submission_size_quant_{f.said_total[0]}", f"the codec of setting CODEC={f.settings['CODEC']}")
    if f.settings["SEED"] != f.about["seed"]:
        find("E2", f"seed:{f.about['seed']}", f"SEED={f.settings['SEED']}, as the settings say")
    check_clock(report, name, f, find)


def check_clock(report: Report, name: str, f: LogFacts, find: Callable) -> None:
    if unknown := set(f.spans) - set(COUNTED_SPANS) - set(FREE_SPANS):
        fix = "book it under train or export: whatever shapes the weights is counted"
        allowed = f"spans {', '.join(COUNTED_SPANS + FREE_SPANS)}"
        find("C1", ", ".join(f"{span}_s:{f.spans[span]:g}" for span in sorted(unknown)), allowed, fix)
    for span, seconds in f.spans.items():
        if seconds < 0:
            find("C1", f"{span}_s:{seconds:g}", "at least 0")
    if not close(f.spans["train"], f.trained["train_s"], 1e-4):
        find("C1", f"trained train_s:{f.trained['train_s']}", f"{f.spans['train']}, the train_s of the last lines")
    limit = float(f.settings["MAX_WALLCLOCK_SECONDS"])
    if 0 < limit and f.spans["train"] > (most := 1.01 * limit + 60):  # room for a last step that is slow
        fix = "say the limit that the run had; a longer one is welcome in records/track_non_record/"
        find("C3", f"train_s:{f.spans['train']:g}", f"at most {most:g}, with MAX_WALLCLOCK_SECONDS={limit:g}", fix)
    batch = int(float(f.settings["TRAIN_BATCH_TOKENS"]))
    tokens, most = f.trained["tokens"], f.trained["steps"] * batch
    whole = tokens == most  # each step had a whole batch, so the speeds must fit; with a growing batch they are only bounded
    if not 0 <= tokens <= most:
        find("C1", f"tokens:{tokens}", f"at most {most}, steps times TRAIN_BATCH_TOKENS")
    elif not whole:
        said = f"tokens:{tokens} of {most}, steps times TRAIN_BATCH_TOKENS"
        report.notes.append(f"{name}: {said}; whether the code trains on smaller batches is for readers (C1)")
    went_on: list[Step] = []  # the lines so far, but for those of steps that a resumed run takes again
    lost = 0.0
    for now in f.steps:
        resumed = now.tokens_per_s is None
        lost += max(0.0, went_on[-1].train_s - now.train_s) if resumed and went_on else 0.0
        while went_on and went_on[-1].step >= now.step + resumed:
            went_on.pop()
        before = went_on[-1] if went_on else None
        if now.step < (0 if resumed else 1) or (before and now.train_s < before.train_s):
            earlier = f"after step {before.step} at {before.train_s} s" if before else "step 1 or later"
            find("C1", f"line {now.line}: step {now.step} at {now.train_s} s", earlier)
        elif before and not resumed:
            seconds = max(now.train_s - before.train_s, 1e-9)
            rate, coarse = (now.step - before.step) * batch / seconds, 2e-5 * now.train_s / seconds  # times are printed with 6 digits
            speed = now.tokens_per_s
            if speed and not close(rate, speed, 0.02 + coarse, 1.0) and (whole or speed > rate):
                allowed = f"{'about' if whole else 'at most'} {rate:.0f}, from steps and train_s"
                find("C1", f"line {now.line}: tokens_per_s:{speed:g}", allowed)
        went_on.append(now)
    if lost > LONG_SECONDS:
        report.notes.append(f"{name}: where the run went on, {lost:.0f} s of training were gone and are not counted (C4)")
    if f.steps and f.steps[-1].train_s > f.trained["train_s"] * 1.0001:
        find("C1", f"line {f.steps[-1].line}: train_s:{f.steps[-1].train_s}", f"at most {f.trained['train_s']}, the whole of training")
    if f.steps and f.steps[-1].step > f.trained["steps"]:
        find("C1", f"line {f.steps[-1].line}: step:{f.steps[-1].step}", f"at most {f.trained['steps']}, the steps trained")
    if 0 < float(f.settings["ITERATIONS"]) < f.trained["steps"]:
        find("C3", f"steps:{f.trained['steps']}", f"at most ITERATIONS={f.settings['ITERATIONS']}")


def check_artifact(report: Report, log_name: str, f: LogFacts, codecs: tuple, declared: set[str]) -> artifacts.Outside | None:
    """Its outside, None where that cannot be read. declared: the names of the source's settings, all of which a log says."""
    path = artifact_of(report.folder / log_name)
    if not path.is_file():
        report.find(path.name, "E4", "missing", f"the artifact that {log_name} scored", REMAKE)
        return None
    data = path.read_bytes()
    if len(data) != f.size["model_bytes"]:
        fix = "ship the artifact of that very run"
        report.find(path.name, "B1", f"{len(data)} bytes", f"{f.size['model_bytes']}, the model_bytes of {log_name}", fix)
    elif (found := sha256_of(data)) != f.about["artifact_sha256"]:
        said = f"{f.about['artifact_sha256']}, as {log_name} says"
        report.find(path.name, "E4", f"sha256 {found}", said, "ship the artifact of that very run")
    try:
        outside = artifacts.read_outside(data)
    except artifacts.ArtifactProblem as e:
        report.find(path.name, "S1", e, "a whole artifact", "ship artifact.bin as the run wrote it")
        return None
    if outside is None:
        report.notes.append(f"{path.name}: a container of its own; its inside is the referee's to judge")
        return None
    for key, value in outside.model.items():
        said = f.settings.get(str(key))
        if said is None and key in declared:
            report.find(path.name, "E2", f"its header says {key}={value}", f"a line `setting {key}=…` in {log_name}", "copy the whole log")
        if said is None or said == str(value):
            continue
        try:
            same = float(said) == float(value)
        except (TypeError, ValueError, OverflowError):
            same = False
        if not same:
            report.find(
                path.name, "E4", f"its header says {key}={value}", f"{said}, as {log_name} says", "ship log and artifact of one run"
            )
    if outside.codec < len(codecs) and codecs[outside.codec] != f.said_total[0]:
        fix = "ship log and artifact of one run"
        report.find(path.name, "B1", f"packed with {codecs[outside.codec]}", f"{f.said_total[0]}, as {log_name} says", fix)
    return outside
