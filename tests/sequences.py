"""Several sequences of one model through llama.cpp's own C API, as its users decode them: one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Sequence, Tuple

import llama_cpp
import numpy as np
import numpy.typing as npt
from conftest import ISWA_ARCHS
from logits import TYPES

from compresskv_edge.engine import native

Item = Tuple[int, int, Sequence[int], bool]  # token, position, sequences, wants logits


LENGTHS = (300, 150, 420)
NEXT = np.random.default_rng(5).integers(32, 127, 12).tolist()


class Context:
    """A context beside that of a loaded Llama, for n_seq_max sequences."""

    def __init__(self, llm: Any, n_seq_max: int, unified: bool = False) -> None:
        params = llama_cpp.llama_context_params.from_buffer_copy(llm.context_params)
        params.n_seq_max, params.kv_unified, params.n_outputs_max = n_seq_max, unified, 0
        self.n_vocab = llm.n_vocab()
        self.ctx = llama_cpp.llama_init_from_model(llm.model, params)
        assert self.ctx
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        llm._model._exit_stack.callback(self.close)

    @classmethod
    def of(cls, llm: Any) -> Context:
        """The Llama's own context; not to be closed."""
        res = cls.__new__(cls)
        res.n_vocab, res.ctx, res.memory = llm.n_vocab(), llm.ctx, llama_cpp.llama_get_memory(llm.ctx)
        return res

    def close(self) -> None:
        if self.ctx:
            llama_cpp.llama_free(self.ctx)
            self.ctx = None

    def decode(self, items: Sequence[Item]) -> int:
        batch = llama_cpp.llama_batch_init(len(items), 0, 8)
        batch.n_tokens = len(items)
        for i, (token, pos, seq_ids, output) in enumerate(items):
            batch.token[i], batch.pos[i], batch.logits[i] = token, pos, output
            batch.n_seq_id[i] = len(seq_ids)
            for j, seq_id in enumerate(seq_ids):
                batch.seq_id[i][j] = seq_id
        status = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        return int(status)

    def logits(self, i: int = -1) -> npt.NDArray[np.float32]:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.ctx, i), shape=(self.n_vocab,)).copy()

    def read(self, seq_id: int, tokens: Sequence[int], first: int = 0, n_batch: int = 256) -> npt.NDArray[np.float32]:
        """Decode tokens from position `first` on; logits of the last."""
        for i in range(0, len(tokens), n_batch):
            chunk = tokens[i : i + n_batch]
            items = [(t, first + i + j, [seq_id], j == len(chunk) - 1) for j, t in enumerate(chunk)]
            assert self.decode(items) == 0
        return self.logits()

    def step(self, tokens: Sequence[int], n_past: Sequence[int]) -> List[npt.NDArray[np.float32]]:
        """One token of sequence 0, 1, ... each, in one decode."""
        assert self.decode([(t, n, [s], True) for s, (t, n) in enumerate(zip(tokens, n_past))]) == 0
        return [self.logits(s) for s in range(len(tokens))]

    def follow(self, seq_id: int, tokens: Sequence[int], n_past: int) -> npt.NDArray[np.float32]:
        """Logits after each of some tokens, one decode each: (n_tokens, n_vocab)."""
        return np.stack([self.read(seq_id, [t], n_past + i) for i, t in enumerate(tokens)])


def prompt_of(seq_id: int) -> List[int]:
    n = LENGTHS[seq_id]
    return np.random.default_rng(n).integers(32, 127, n).tolist()


def kept_of(seq_id: int, n_layer: int) -> List[Any]:
    """A selection of its own for every sequence and layer, window included; sliding windows are not evictable."""
    n = LENGTHS[seq_id]
    rng = np.random.default_rng(100 + seq_id)
    sizes = [40 + 17 * layer % 60 + 5 * seq_id for layer in range(n_layer)]
    return [np.concatenate([np.sort(rng.choice(n - 8, size, replace=False)), np.arange(n - 8, n)]) for size in sizes]


def keep(llm: Any, context: Context, seq_id: int) -> None:
    layers = llm._compression.layers
    kept = kept_of(seq_id, len(layers))
    native.keep(context.ctx, [k if layer.evictable else [] for k, layer in zip(kept, layers)], seq_id)


def budgets_of(seq_id: int, llm: Any) -> List[int]:
    return [60 + 10 * (layer % 3) + seq_id for layer in range(len(llm._compression.layers))]


def held(llm: Any, context: Context, seq_id: int) -> List[List[int]]:
    return [native.positions(context.ctx, il, seq_id).tolist() for il in range(len(llm._compression.layers))]


def loader(tiny_gguf: Callable[..., Path]) -> Callable[..., Any]:
    """`load(arch, type_kv, **options)`: a random model with a compressed cache, one thread."""
    from compresskv_edge import Llama, Profile  # which name the library before llama_cpp loads one

    def make(arch: str = "llama", type_kv: str = "f16", **options: Any) -> Any:
        path = tiny_gguf(arch)
        kv = TYPES[type_kv]
        compressed = {"kv_profile": Profile.uniform(path), "kv_budget": 100, "kv_tail": 64}
        sizes = {"n_ctx": 2048, "n_batch": 256, "n_threads": 1, "n_threads_batch": 1, "type_k": kv, "type_v": kv}
        options = {**compressed, **sizes, "flash_attn": True, "swa_full": False, "verbose": False, **options}
        return Llama(str(path), **options)

    return make


def tolerance(arch: str, type_kv: str) -> float:
    return 0.15 if type_kv != "f16" or arch in ISWA_ARCHS else 0.02
