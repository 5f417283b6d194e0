"""What a report needs beyond the log: nats of every token, export gap and bytes by tensor class, context lengths.

All of it is computed by the run's own train_gpt.py, on the first tokens of the validation set, and kept in the run folder as
nats.npz. This runs the code in that folder, so it is for one's own runs; nothing here is called for record folders.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from golf import ROOT
from golf.runs import RunError, import_trainer, numbers, sha256_of

FORMAT = 4  # of nats.npz; another number makes old caches stale
CACHE = "nats.npz"
SHORTEST_CONTEXT = 32


class ScoresError(Exception):
    """Why a run cannot be scored here. The rest of the report does without."""


def class_of(trainer: ModuleType, name: str) -> str:
    """Tensors of one class: the last part of their names, small vectors together."""
    return "vectors" if trainer.role_of(name) == "vector" else name.rpartition(".")[2]


def pieces_of(table: object, tokens: np.ndarray) -> list[str]:
    """The text of every token, so that joined they are the text; the first byte of a character gets all of it, the others ''."""
    texts, group = [""] * len(tokens), []

    def flush() -> None:
        if group:
            texts[group[0]] = table.decode([tokens[group].tolist()])[0].decode("utf-8", "replace")
            group.clear()

    byte_tokenizer = table.byte_piece.mean() > 0.5
    known: dict[int, str] = {}
    for i, token in enumerate(tokens.tolist()):
        if table.byte_piece[token]:
            if byte_tokenizer and (token - 4) & 0xC0 != 0x80:
                flush()
            group.append(i)
            continue
        flush()
        if token not in known:
            known[token] = table.decode([[token]])[0].decode()
        space = table.leading_space[token] and not table.boundary[tokens[i - 1]]
        texts[i] = (" " if space else "") + known[token].removeprefix(" ")
    flush()
    return texts


def stale_key(folder: Path, tokens: int, wanted_sha256: str) -> dict[str, object]:
    """What nats.npz was computed from; another value of any makes it stale."""
    files = {name: sha256_of((folder / name).read_bytes()) for name in ("artifact.bin", "train_gpt.py")}
    return {"format": FORMAT, "tokens": tokens, "val_tokens_sha256": wanted_sha256, **files}


def read_cache(path: Path, key: dict[str, object]) -> dict[str, object] | None:
    try:
        with np.load(path, allow_pickle=False) as z:
            found = {name: z[name] for name in z.files}
        meta = json.loads(str(found.pop("meta")))
        return found | meta["scores"] if meta["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def scores_of(folder: Path, tokens: int, wanted_sha256: str) -> dict[str, object]:
    """The cached scores of a run, or newly computed ones. Raises ScoresError.

    Arrays: tokens (n + 1,), nats and plain_nats (n,), target_bytes (n,). Values: seq_len, pieces, context, bytes, gap.
    """
    key = stale_key(folder, tokens, wanted_sha256)
    found = read_cache(folder / CACHE, key)
    if found:
        return found
    try:
        trainer = import_trainer(folder / "train_gpt.py")
    except RunError as e:
        raise ScoresError(str(e)) from None
    try:
        arrays, scores = compute(trainer, folder, tokens, wanted_sha256)
    except trainer.UserError as e:
        raise ScoresError(str(e)) from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:  # code whose functions were changed
        raise ScoresError(f"with the functions of its train_gpt.py that is not to be had: {type(e).__name__}: {e}") from None
    try:
        trainer.save_arrays(folder / CACHE, arrays, {"key": key, "scores": scores})
    except trainer.UserError:
        scores["note"] = f"{folder} cannot be written, so the scores were not kept"
    return arrays | scores


def open_run(trainer: ModuleType, folder: Path, tokens: int, wanted_sha256: str) -> object:
    """The trainer's Run on the first tokens of the run's own validation set. Raises ScoresError."""

    class Quiet(trainer.Log):
        def __call__(self, line: str) -> None:
            if " progress:" in line:  # how far it is, where no terminal shows a bar
                print(line, file=sys.stderr, flush=True)

    settings = trainer.Settings(trainer.SETTINGS)
    settings.read_file(folder / "settings.env")
    changes = {"DEVICE": "auto", "COMPILE": "off", "AUX_VAL": ""}
    for name in ("DATA_PATH", "TOKENIZER_PATH"):  # as they were given: from the repository's root
        path = Path(settings.values[name])
        changes[name] = str(path if path.exists() else ROOT / path)
    pattern = f"{glob.escape(changes['DATA_PATH'])}/*_val_[0-9]*.bin"
    found = trainer.sha256_of(trainer.load_tokens(pattern, settings.VAL_TOKENS, settings.VOCAB_SIZE))
    if found != wanted_sha256:
        raise ScoresError(f"{pattern} holds other validation tokens now ({found[:16]}) than the run was scored on ({wanted_sha256[:16]})")
    changes["VAL_TOKENS"] = str(min(tokens, settings.VAL_TOKENS))
    argv = ["--eval-only", str(folder / "artifact.bin"), *(f"{k}={v}" for k, v in changes.items())]
    return trainer.Run(trainer.command_line().parse_intermixed_args(argv), trainer.load_settings(argv, {}), Quiet())


def compute(trainer: ModuleType, folder: Path, tokens: int, wanted_sha256: str) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """(arrays, values) of scores_of."""
    run = open_run(trainer, folder, tokens, wanted_sha256)
    s, stream, target_bytes = run.s, run.data.val_tokens, run.data.val_bytes
    model = run.load_artifact(folder / "artifact.bin")

    def nats_at(length: int, stride: int, **learning: float) -> np.ndarray:
        return np.asarray(trainer.score(model, stream, s, run.runtime, run.log, "report", length, stride, **learning), np.float32)

    def bpb(nats: np.ndarray) -> float:
        return trainer.bits_per_byte(nats, target_bytes)[1]

    learning = {"ttt": s.TTT_LR} if s.values.get("TTT_LR") else {}
    nats = nats_at(s.EVAL_SEQ_LEN, s.EVAL_STRIDE, **learning)
    lengths = [s.EVAL_SEQ_LEN]
    while lengths[-1] // 2 >= SHORTEST_CONTEXT:
        lengths.append(lengths[-1] // 2)
    context = []
    for length in lengths:  # of the model as shipped: learning would take longer the shorter the windows, and short strides, too
        stride = max(1, length // 4 if learning else length * s.EVAL_STRIDE // s.EVAL_SEQ_LEN)
        context.append([length, bpb(nats if length == s.EVAL_SEQ_LEN and not learning else nats_at(length, stride))])
    if "NGRAM_CACHE" in s.values:
        s.values["NGRAM_CACHE"] = 0
    plain = nats_at(s.EVAL_SEQ_LEN, s.EVAL_SEQ_LEN)  # what the model knows by itself
    scores = {"seq_len": s.EVAL_SEQ_LEN, "pieces": pieces_of(run.data.table, stream), "context": context}
    if hasattr(trainer, "Scorer"):
        scores["scorer_note"] = "by token, position, context and class it is scored by score() of its train_gpt.py, not by its Scorer"
    scores |= weight_scores(trainer, folder, s, model, lambda: bpb(nats_at(s.EVAL_SEQ_LEN, s.EVAL_SEQ_LEN)), bpb(plain))
    return {"tokens": stream, "nats": nats, "plain_nats": plain, "target_bytes": target_bytes}, scores


def weight_scores(trainer: ModuleType, folder: Path, s: object, model: object, score_again: object, shipped: float) -> dict[str, object]:
    """Bytes of every tensor class, and what exporting it costs in bpb.

    The bytes of a class: those of all weights, rounded to nearest and packed, less those of all others.
    The cost of a class: the score with all weights as shipped, less the score when this class alone gets its exact weights back.
    """
    try:
        exact, _ = trainer.load_arrays(folder / "weights.npz")
        _, decoded = trainer.decode_artifact((folder / "artifact.bin").read_bytes())
    except trainer.UserError as e:
        return {"bytes": {}, "gap": {}, "weights_note": str(e)}
    on_grid: tuple = ()  # what encode_artifact takes beside: no hessians (rounded to nearest), and the log's steps by tensor
    for line in (folder / "train.log").read_text(encoding="utf-8").splitlines():
        if line.startswith("steps "):
            on_grid = None, numbers(line.removeprefix("steps "))
        elif line.startswith("fitted "):  # older logs have the steps by role
            s.values |= {key: value for key, value in numbers(line.removeprefix("fitted ")).items() if key in s.values}
    classes: dict[str, list[str]] = {}
    for name in decoded:
        classes.setdefault(class_of(trainer, name), []).append(name)

    def packed(without: Sequence[str] = ()) -> int:
        return len(trainer.encode_artifact({n: exact[n] for n in decoded if n not in without}, s, *on_grid))

    sizes, gap, whole = {}, {}, 0
    for kind, names in classes.items():
        with contextlib.suppress(AttributeError, TypeError, KeyError):  # a trainer that packs in another way
            whole = whole or packed()
            sizes[kind] = {"bytes": whole - packed(names), "bits": sorted({trainer.bits_of(s, n) for n in names})}
        model.load_weights(decoded | {n: exact[n] for n in names})
        gap[kind] = shipped - score_again()
    model.load_weights(exact)
    gap["all"] = shipped - score_again()
    return {"bytes": sizes, "gap": gap}


def by_position(scores: dict[str, object]) -> list[tuple[int, int, float]]:
    """(first, last, bpb) over positions of a plain window, counted from 1, in buckets that double."""
    length, n = scores["seq_len"], len(scores["plain_nats"])
    position = np.arange(n - n % length if n > length else n) % length
    rows, first = [], 0
    while first < position.max() + 1:
        last = max(first + 1, 2 * first)
        here = np.flatnonzero((position >= first) & (position < last))
        size = int(scores["target_bytes"][here].sum())
        if size:
            bits = float(scores["plain_nats"][here].sum(dtype=np.float64)) / math.log(2)
            rows.append((first + 1, min(last, length), bits / size))
        first = last
    return rows


def documents_of(scores: dict[str, object], shortest: int = 64) -> list[tuple[float, int, int]]:
    """(bpb, first target, end) of the whole documents of some length, easiest first."""
    bounds = np.flatnonzero(scores["tokens"] == 1).tolist()
    found = []
    for a, b in zip(bounds[:-1], bounds[1:]):  # the last one may be cut
        first, end = a, b - 1  # nats[i] belongs to tokens[i + 1]; the BOS that follows is no part of it
        size = int(scores["target_bytes"][first:end].sum())
        if end - first >= shortest and size:
            found.append((float(scores["nats"][first:end].sum(dtype=np.float64)) / math.log(2) / size, first, end))
    return sorted(found)
