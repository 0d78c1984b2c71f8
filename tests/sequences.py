"""Several sequences of one model through llama.cpp's own C API, as its users decode them: one thread."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

import llama_cpp
import numpy as np
import numpy.typing as npt

Item = Tuple[int, int, Sequence[int], bool]  # token, position, sequences, wants logits


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
