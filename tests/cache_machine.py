"""A compressed cache of several sequences, and a plain model of what each layer of it holds.

The model is lists of token numbers. Values (V, which RoPE does not turn) are noted when a token is decoded and must be
the same to the bit wherever its row is moved, copied, saved and loaded.
"""

from __future__ import annotations

import copy
import ctypes
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Tuple

import llama_cpp
import numpy as np
from sequences import Context

from compresskv_edge import Llama
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError
from compresskv_edge.method import scoring

N_CTX, WINDOW, N_SEQ = 192, 8, 3


@dataclass
class Plain:
    """One sequence: `n` tokens were seen, those from `frozen` on are in the tail, `kept` (n_layer,) are before them."""

    kept: List[List[int]]
    n: int = 0
    frozen: int = 0
    n_rebased: int = 0
    values: List[Dict[int, bytes]] = field(default_factory=list)  # (n_layer,) token -> its row of V
    window_whole: bool = True  # the last WINDOW tokens were decoded, not come back to after a removal

    def held(self, layer: int) -> List[int]:
        return [*self.kept[layer], *range(self.frozen, self.n)]


class Pair:
    """The engine and the model of it. Methods do the same to both, and compare; `done` counts what took place."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self, llm: Llama) -> None:
        self.llm = llm
        self.context = Context(llm, N_SEQ, unified=True)
        self.ctx = self.context.ctx
        self.shapes = native.model_layers(llm.model, llama_cpp.llama_model_n_layer(llm.model))
        self.plain = [self._empty() for _ in range(N_SEQ)]

    def _empty(self) -> Plain:
        n_layer = len(self.shapes)
        return Plain([[] for _ in range(n_layer)], values=[{} for _ in range(n_layer)])

    def close(self) -> None:
        self.context.close()

    def room(self, seq: int) -> int:
        """Positions that are left."""
        return N_CTX - (self.plain[seq].n - self.plain[seq].n_rebased)

    #
    # what is done
    #

    def decode(self, seq: int, tokens: List[int]) -> None:
        plain = self.plain[seq]
        first = plain.n - plain.n_rebased
        items = [(token, first + i, [seq], i == len(tokens) - 1) for i, token in enumerate(tokens)]
        assert self.context.decode(items) == 0
        old, plain.n = plain.n, plain.n + len(tokens)
        plain.window_whole = plain.window_whole or len(tokens) >= WINDOW
        for il in range(len(self.shapes)):
            for token, row in zip(plain.held(il), self._values(seq, il)):
                if token >= old:
                    plain.values[il][token] = row

    def remove(self, seq: int, n: int) -> None:
        """The last n tokens: all right in the tail, refused before it."""
        plain = self.plain[seq]
        p0 = plain.n - plain.n_rebased - n
        done = llama_cpp.llama_memory_seq_rm(self.context.memory, seq, max(p0, 0), -1)
        assert done == (p0 <= 0 or plain.n - n >= plain.frozen), (p0, plain)
        if p0 <= 0:
            self.plain[seq] = self._empty()
        elif done:
            self.done["removed"] += 1
            plain.window_whole = False
            plain.n -= n
        else:
            self.done["removal refused"] += 1

    def drop(self, seq: int) -> None:
        assert llama_cpp.llama_memory_seq_rm(self.context.memory, seq, -1, -1)
        self.plain[seq] = self._empty()

    def fork(self, source: int, to: int) -> None:
        if source == to:
            return
        self.drop(to)
        llama_cpp.llama_memory_seq_cp(self.context.memory, source, to, -1, -1)
        self.plain[to] = copy.deepcopy(self.plain[source])

    def compress(self, seq: int, budget: int) -> None:
        plain, before = self.plain[seq], copy.deepcopy(self.plain)
        specified = self._specified(seq, budget) if plain.n - plain.frozen >= WINDOW and plain.window_whole else None
        try:
            native.compress(self.ctx, [budget] * len(self.shapes), seq)
        except EngineError:
            assert specified is None, "a compression that must be possible"
            self.plain = before
            return
        self.done["compressed" if specified is None else "compressed as specified"] += 1
        self._compressed(seq, budget, plain.n)
        for il, (kept, scores) in enumerate(specified or ()):
            self._same_choice(self.plain[seq].held(il), before[seq].held(il), kept, scores)

    def compress_guided(self, seq: int, budget: int, guide: List[int]) -> None:
        plain = self.plain[seq]
        n, before = plain.n, copy.deepcopy(plain)
        self.decode(seq, guide)
        try:
            chosen = native.choose(self.ctx, [budget] * len(self.shapes), len(guide), seq)
            native.compress_guided(self.ctx, [budget] * len(self.shapes), len(guide), seq)
        except EngineError:
            self.remove(seq, len(guide))  # as it was: the guide is still there
            assert self.plain[seq].n == n
            return
        self.done["guided"] += 1
        plain.n = n
        self._compressed(seq, budget, n)
        plain.window_whole = False  # the queries that it holds are the guide's
        for il, rows in enumerate(chosen):
            assert plain.held(il) == [before.held(il)[row] for row in rows]

    def rebase(self, seq: int, n_max: int) -> None:
        plain = self.plain[seq]
        needed = len({token for il in range(len(self.shapes)) for token in plain.kept[il]}) + plain.n - plain.frozen
        try:
            following = native.rebase(self.ctx, n_max, seq)
        except EngineError:
            return
        assert following <= max(n_max, plain.n - plain.n_rebased)
        self.done["rebased" if plain.n_rebased < plain.n - following else "nothing to rebase"] += 1
        plain.n_rebased = plain.n - following
        if needed + WINDOW > n_max:  # the oldest may have gone
            for il in range(len(self.shapes)):
                left = [int(token) for token in native.positions(self.ctx, il, seq) if token < plain.frozen]
                assert left == plain.kept[il][len(plain.kept[il]) - len(left) :]
                plain.kept[il] = left

    def save(self) -> Tuple[Any, List[Plain]]:
        state = np.empty(llama_cpp.llama_state_get_size(self.ctx), np.uint8)
        n = llama_cpp.llama_state_get_data(self.ctx, _at(state), state.nbytes)
        return state[:n], copy.deepcopy(self.plain)

    def load(self, saved: Tuple[Any, List[Plain]]) -> None:
        assert llama_cpp.llama_state_set_data(self.ctx, _at(saved[0]), saved[0].nbytes) == saved[0].nbytes
        self.plain = copy.deepcopy(saved[1])

    def carry(self, source: int, to: int) -> None:
        """One sequence's state into another."""
        size = llama_cpp.llama_state_seq_get_size(self.ctx, source)
        state = np.empty(size, np.uint8)
        assert llama_cpp.llama_state_seq_get_data(self.ctx, _at(state), size, source) == size
        assert llama_cpp.llama_state_seq_set_data(self.ctx, _at(state), size, to) == size
        self.plain[to] = copy.deepcopy(self.plain[source])

    #
    # what is compared
    #

    def check(self) -> None:
        """Both hold the same."""
        for seq, plain in enumerate(self.plain):
            stats = native.seq_stats(self.ctx, seq)
            assert (stats.n_tokens_seen, stats.n_rebased) == (plain.n, plain.n_rebased), (seq, stats, plain)
            assert stats.n_tail_used == plain.n - plain.frozen
            last = llama_cpp.llama_memory_seq_pos_max(self.context.memory, seq)
            # llama.cpp's own maximum is that of the tail, which a removal may have emptied
            assert last == (plain.n - plain.n_rebased - 1 if plain.n > plain.frozen else -1)
            for il in range(len(self.shapes)):
                assert native.positions(self.ctx, il, seq).tolist() == plain.held(il), (seq, il)
                assert self._values(seq, il) == [plain.values[il][token] for token in plain.held(il)], (seq, il)

    def _values(self, seq: int, il: int) -> List[bytes]:
        """(n,) rows of V in the order of the positions."""
        _, v = native.read_kv(self.ctx, il, self.shapes[il], seq)
        return [v[:, i].tobytes() for i in range(v.shape[1])]

    def _compressed(self, seq: int, budget: int, n: int) -> None:
        """Take over which tokens are kept, if they can be."""
        plain = self.plain[seq]
        live = range(max(n - WINDOW, plain.frozen), n)
        for il in range(len(self.shapes)):
            held = plain.held(il)
            now = native.positions(self.ctx, il, seq).tolist()
            assert len(now) == min(budget, len(held)), (budget, held, now)
            assert set(now) <= set(held)
            assert now[len(now) - len(live) :] == list(live)
            plain.kept[il] = now[: len(now) - len(live)]
        plain.frozen = live.start

    def _specified(self, seq: int, budget: int) -> List[Tuple[Any, Any]]:
        """What the NumPy statement keeps: indices of held tokens, and the scores before the window."""
        res = []
        heads = self.llm._compression.attached.heads_used()
        for il, shape in enumerate(self.shapes):
            q = native.read_queries(self.ctx, il, shape, WINDOW, seq)
            k, _ = native.read_kv(self.ctx, il, shape, seq)
            kept = scoring.select_tokens(q, k, heads[il], budget, window=WINDOW)
            res.append((kept, scoring.token_scores(q, k, heads[il])))
        return res

    @staticmethod
    def _same_choice(now: List[int], before: List[int], kept: Any, scores: Any) -> None:
        """Up to tokens whose scores are equal but for rounding."""
        expected = [before[i] for i in kept]
        for token in set(now) ^ set(expected):
            score = scores[before.index(token)]
            worst = min(scores[i] for i in kept if i < len(scores))
            assert abs(score - worst) <= 1e-4 * abs(worst), (token, now, expected)


def _at(array: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(ctypes.c_uint8))
