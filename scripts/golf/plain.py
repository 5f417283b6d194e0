"""Serves a submission that has no Scorer of its own, inside the jail, by its trainer's own functions, in PyTorch or MLX."""

from __future__ import annotations

import dataclasses
from pathlib import Path


class Growing:
    """int64 values that more are put behind, without a copy of all each time."""

    def __init__(self, np: object):
        self.np, self.room, self.n = np, np.zeros(1024, np.int64), 0

    def and_then(self, more: object) -> object:
        """All values and `more` behind them, (n + m,): the next call overwrites these, unless keep has been told that they stay."""
        if self.n + len(more) > len(self.room):
            self.room = self.np.concatenate((self.room[: self.n], self.np.zeros(self.n + 2 * len(more), self.np.int64)))
        self.room[self.n : self.n + len(more)] = more
        return self.room[: self.n + len(more)]

    def keep(self, n: int) -> None:
        self.n += n


class Places:
    """Where each hash stood last. They are in sorted pieces, each at least 8 times as long as the next: so few are moved at a time."""

    def __init__(self, np: object):
        self.np, self.pieces = np, []  # (hashes, places) each, equal hashes by place

    def find(self, hashes: object) -> object:
        """The latest place of each hash, -1 for none: (n,) uint64 -> (n,)."""
        latest = self.np.full(len(hashes), -1)
        for known, places in self.pieces:  # a later piece has later places
            at = self.np.searchsorted(known, hashes, "right") - 1
            latest = self.np.where((at >= 0) & (known[at] == hashes), places[at], latest)
        return latest

    def add(self, hashes: object, places: object) -> None:
        """Hashes (n,) and their places, which are later than all so far and in order."""
        by_hash = self.np.argsort(hashes, kind="stable")
        self.pieces.append((hashes[by_hash], places[by_hash]))
        while len(self.pieces) > 1 and 8 * len(self.pieces[-1][0]) > len(self.pieces[-2][0]):
            (known, old), (more, new) = self.pieces.pop(-2), self.pieces.pop()
            into = self.np.searchsorted(known, more, "right")
            self.pieces.append((self.np.insert(known, into, more), self.np.insert(old, into, new)))


class Memory:
    """The trainer's n-gram cache for a stream that arrives window by window: what the trainer's cache_beside does for all of it at once.

    What it looks up grows by a window once the window's targets were told.
    """

    def __init__(self, module: object, orders: int):
        import numpy as np

        self.np, self.module, self.orders = np, module, orders
        self.sees_before = hasattr(module, "cells_told")  # its weights depend on how the target before was told: since 2026-11-27
        rows = len(module.context_hashes(np.zeros(0, np.int64), np.zeros(0, np.int64), orders))
        self.cache, self.tokens, self.documents = module.Cache(rows), Growing(np), Growing(np)  # of the positions whose target was told
        self.before, self.places = [Growing(np) for _ in range(rows)], [Places(np) for _ in range(rows)]  # where their contexts stood last

    def look(self, tokens: object, start: int) -> tuple[list, object, list]:
        """For tokens (T,) that begin at a place of the stream: for each row of context_hashes what cache_finds says of the positions that
        have no target yet, then their tokens, then row by row their hashes. Changes nothing that lasts."""
        np, module, known = self.np, self.module, self.tokens.n
        new = tokens[known - start :]
        stream, tail, finds = self.tokens.and_then(new), max(0, known - self.orders), []
        documents = self.documents.and_then((self.documents.room[known - 1] if known else 0) + np.cumsum(new == module.BOS))
        hashes = module.context_hashes(stream[tail:], documents[tail:], self.orders)[:, known - tail :]
        for own, earlier, places in zip(hashes, self.before, self.places):
            before = module.last_copies(own)
            before = np.where(before >= 0, before + known, places.find(own))
            finds.append(module.cache_finds(stream, documents, earlier.and_then(before), np.arange(known, known + len(new))))
        return finds, new, hashes

    def needed(self, tokens: object, start: int, last: int) -> int:
        """For how many positions at the end of a row the model's distributions are needed to mix the `last` ones: where weights depend on
        the target before, the position before them too, unless its target was told."""
        return last + (self.sees_before and len(tokens) - (self.tokens.n - start) > last)

    def mix(self, nats: object, tokens: object, start: int, last: int) -> object:
        """-ln of the model's distributions at the end of a row, (needed, V) -> ln of the mixture's, (last, V)."""
        np, mixed = self.np, []
        finds, new, _ = self.look(tokens, start)
        cells = np.stack([cells[:, len(new) - last :] for *_, cells in finds])
        if self.sees_before:
            at = np.arange(len(new) - len(nats), len(new) - 1)  # positions whose target is in the row
            found = np.stack([(shares[:, at] * (found[:, at] == new[at + 1])).sum(0) for found, shares, _ in finds])
            told = np.exp(-nats[np.arange(len(at)), new[at + 1]]), found
            told = [np.concatenate(x, -1)[..., -last:] for x in zip(self.cache.before, told)]
            cells = self.module.cells_told(cells, *told)
        nats = nats[-last:]
        for first in range(len(new) - last, len(new), 512):
            piece = slice(first, min(first + 512, len(new)))
            asked = slice(first - len(new) + last, piece.stop - len(new) + last)
            wholes, column = np.zeros((len(finds), nats.shape[1], piece.stop - first)), np.arange(piece.stop - first)
            for whole, (found, shares, _) in zip(wholes, finds):
                for token, share in zip(found[:, piece], shares[:, piece]):
                    whole[token, column] += share  # that of a token -1 is 0
            mixed.append(self.cache.mix(np.exp(-nats[asked].T), wholes, cells[..., asked])[1].T)
        return np.log(np.concatenate(mixed))

    def learn(self, nats: object, tokens: object, targets: object, start: int) -> object:
        """Take the window's scores, (last,) by the model alone, for the weights, and keep its contexts: the model's part in each mixture,
        (last,), as the trainer's Cache.learn tells it; None from older trainers."""
        np, (finds, new, rows) = self.np, self.look(tokens, start)
        at_targets = np.stack([(shares * (found == targets)).sum(0) for found, shares, _ in finds])
        learned = self.cache.learn(np.exp(-nats.astype(np.float64)), at_targets, np.stack([cells for *_, cells in finds]))
        at = np.arange(self.tokens.n, self.tokens.n + len(new))
        for hashes, places in zip(rows, self.places):
            places.add(hashes, at)
        for grown in (self.tokens, self.documents, *self.before):
            grown.keep(len(new))  # what look has put there
        return learned[1] if isinstance(learned, tuple) else None


class Plain:
    """Serves a submission by the trainer's own functions: decode_artifact, GPT, the model's logits, its Learner and cache.

    What computes in PyTorch or MLX is in the subclasses: answer and learn_from, NumPy in and out, and MLX's has_gpu.
    """

    def __init__(self, module: object, artifact: bytes, spec: dict):
        import numpy as np

        self.np, self.module = np, module
        s = self.s = module.load_settings(["--config", "settings.env"] if Path("settings.env").exists() else [], {})
        header, weights = module.decode_artifact(artifact)
        for name, value in header.items():
            s.set(name, str(value), "artifact")
        module.check_settings(s)
        if s.values.get("DEVICE") == "gpu" and not self.has_gpu():  # MLX's word; a CUDA device is the referee's to know
            s.values["DEVICE"] = "cpu"
        if not spec["cuda"]:  # on a CPU the trainer's score() does not compile either, and a compiler is a program
            s.values["COMPILE"] = "off"
        self.runtime = module.resolve_device(s)
        self.runtime.start()
        self.model = module.GPT(s, self.runtime)
        self.model.load_weights(weights)
        self.seq_len, self.stride, self.vocab_size = s.EVAL_SEQ_LEN, s.EVAL_STRIDE, s.VOCAB_SIZE
        self.windows = max(1, s.EVAL_BATCH_TOKENS // s.EVAL_SEQ_LEN)
        self.about = {"device": self.runtime.about()["device"], "precision": self.runtime.about()["precision"]}
        self.memory, self.start = None, 0  # start: where in the stream the row asked about begins
        # reads: the Learner goes by what earlier rows left, so sees each token once, and scores a row itself (since 2026-11-28)
        self.learner, self.reads = None, False
        self.ttt = s.values.get("TTT_LR") or 0
        self.rates = [s.values[key] for key in ("TTT_LR", "TTT_DOC_LR") if key in s.values]  # of a Learner; older ones know no documents
        if self.ttt or s.values.get("NGRAM_CACHE"):  # as the trainer's own score() goes on
            self.windows, self.learn = 1, self.learn_from
        if s.values.get("NGRAM_CACHE"):
            self.memory = Memory(module, s.NGRAM_CACHE)
        if self.ttt and hasattr(module, "Learner"):
            self.reads = hasattr(module, "behind")
            self.learner = module.Learner(self.model, *self.rates, *[self.seq_len - self.stride] * self.reads)

    def logits(self, tokens: object, last: int) -> object:
        if not self.memory:
            return self.answer(tokens, last)
        logits = self.answer(tokens, self.memory.needed(tokens[0], self.start, last))[0].astype(self.np.float64)  # one window at a time
        top = logits.max(-1, keepdims=True)
        nats = top + self.np.log(self.np.exp(logits - top).sum(-1, keepdims=True)) - logits
        return self.memory.mix(nats, tokens[0], self.start, last)[None]

    def own_part(self, nats: object, tokens: object, targets: object) -> object:
        """The model's part in the mixture for each target of a window, (last,), once the cache has learned from them."""
        own = self.memory.learn(nats, tokens[0], targets[0], self.start) if self.memory else None
        return self.np.ones(targets.size) if own is None else own

    def unread(self, tokens: object) -> object:
        """The tokens (B, T) that the model needs to be shown: of a single row those the Learner has not read, if it is one that `reads`."""
        return self.array(tokens[:, self.learner.at - self.start :] if self.reads else tokens)

    def show(self, of: object, tokens: object, *more: object) -> object:
        """`of` rows (B, T), the model's logits or nats: as score() has them, told of a Learner that `reads`."""
        return of(self.unread(tokens), *more, *[self.learner] * self.reads)

    def learn_row(self, tokens: object, targets: object) -> None:
        """The step of a Learner that `reads`: its learn() scores the row's unread targets itself."""
        row = self.np.append(tokens[0, self.learner.at - self.start :], targets[0, -1])
        self.learner.learn(row, lambda nats: (nats, self.own_part(nats, tokens, targets)))

    def begins(self, tokens: object, targets: object) -> list[object]:
        """Whether each target of a window is the first of a document, (last,), for a Learner that asks for it."""
        return [tokens[0, -targets.size :] == self.module.BOS] * (len(self.rates) - 1)


class PlainTorch(Plain):
    """By train_gpt.py's own functions, of all its versions that made a record."""

    def __init__(self, module: object, artifact: bytes, spec: dict):
        import torch

        self.torch = torch
        super().__init__(module, artifact, spec)
        worth_it = self.runtime.compile and not self.ttt and self.many_batches(spec["targets"])
        self.compiled = torch.compile(self.model.logits, dynamic=False) if worth_it else None
        if self.compiled:
            torch._dynamo.config.suppress_errors = True  # as the trainer's score() has it: what fails to compile is computed without
        self.learned = 0
        if self.ttt and not self.learner:  # trainers until 2026-11-27 learn by their optimizer, from the model's own nats
            self.learner = module.Optimizer(self.model, self.s, dataclasses.replace(self.runtime, compile=False))

    def many_batches(self, targets: int) -> bool:
        """Whether the trainer's score() compiles for a stream of so many targets, on a GPU: what is compiled rounds otherwise, and the mean
        may differ by more than is allowed on one card. Trainers until 2026-11-26 did for more than 8 batches, those since for over 256."""
        rows = max(1, self.s.EVAL_BATCH_TOKENS // min(self.seq_len, targets))
        in_code = 256 if 256 in self.module.score.__code__.co_consts else 8  # until 2026-11-28 the number stood in its code alone
        few = getattr(self.module, "COMPILE_ABOVE", in_code)
        ask = (targets, self.seq_len, self.stride, rows, targets)  # at last for how many targets, by trainers until 2026-11-28
        return len(self.module.window_batches(*ask[: self.module.window_batches.__code__.co_argcount])) > few

    def array(self, values: object) -> object:
        return self.torch.from_numpy(values).to(self.runtime.device)

    def answer(self, tokens: object, last: int) -> object:
        """Logits of the last `last` positions of each row: (B, T) -> (B, last, vocab). Fewer windows than usual, or cut ones, are filled up
        with zeros behind them: other kernels round otherwise, which would look like another answer to the same question."""
        (rows, length), end = tokens.shape, self.stride - self.seq_len + tokens.shape[1]
        with self.torch.inference_mode():
            if self.compiled is None or rows > self.windows or length > self.seq_len or last > end:
                return self.show(self.model.logits, tokens, last).float().cpu().numpy()
            whole = self.np.zeros((self.windows, self.seq_len), tokens.dtype)
            whole[:rows, :length] = tokens
            return self.compiled(self.array(whole), self.stride)[:rows, end - last : end].float().cpu().numpy()

    def learn_from(self, tokens: object, targets: object) -> None:
        """The step of test-time training on a window whose scores are final, and the cache's."""
        if self.reads:
            return self.learn_row(tokens, targets)
        with self.torch.set_grad_enabled(self.learner is not None):
            nats = self.show(self.model.nats, tokens, self.array(targets), targets.shape[1])
        own = self.own_part(nats.detach().float().cpu().numpy(), tokens, targets)
        if hasattr(self.learner, "learn"):
            self.learner.learn(nats, own, *self.begins(tokens, targets))
        elif self.learner:
            nats.mean().backward()
            self.learner.step(self.s.MUON_MOMENTUM_WARMUP_STEPS + self.learned, self.s.TTT_LR)
        self.learned += 1


class PlainMLX(Plain):
    """By train_gpt_mlx.py's own functions."""

    def __init__(self, module: object, artifact: bytes, spec: dict):
        import mlx.core as mx

        self.mx = mx
        super().__init__(module, artifact, spec)

    def has_gpu(self) -> bool:
        return self.mx.is_available(self.mx.gpu)

    def array(self, values: object) -> object:
        return self.mx.array(values.astype(self.np.int32))

    def answer(self, tokens: object, last: int) -> object:
        return self.np.array(self.show(self.model.logits, tokens, last))

    def learn_from(self, tokens: object, targets: object) -> None:
        """The step of test-time training on a window whose scores are final, and the cache's."""
        if self.learner:
            self.learn_row(tokens, targets)
        else:
            nats = self.model.nats(self.array(tokens), self.array(targets), targets.size)
            self.own_part(self.np.array(nats), tokens, targets)
