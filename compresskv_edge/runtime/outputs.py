"""A model that gives the logits of every token of a batch, not of its last one alone: for evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, List

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from . import binding
from .binding import llama_cpp
from .compression import Compression
from .llama import Llama
from .prefill import Reader, read_bounded
from .tokens import checked

Logits = npt.NDArray[np.float32]

_OUTPUTS = 128  # of a batch that there is room for from the start; a larger batch takes more memory then


class AllLogits(Llama):
    """A `Llama` with a compressed cache; costs up to 512 bytes more for each token of the vocabulary."""

    def _attach(self, compression: Compression, model: Any) -> Reader:
        reader = super()._attach(compression, model)
        self.context_params.n_outputs_max = _OUTPUTS
        return reader

    def eval_all(self, tokens: Sequence[int]) -> Logits:
        """As `eval` of what follows a prompt: evicts whenever the tail is full. Logits after each: (n, n_vocab).

        Tokens between two evictions are one batch: its sums differ from those of single tokens in the last digits.
        Raises what `eval` raises.
        """
        tokens = checked(tokens, self.n_vocab())
        with self._turn.call():
            reader = self._require_reader("eval_all")
            reader.check(len(tokens))
            text = _Watched(reader)
            read_bounded(text, tokens)
        return np.concatenate([np.zeros((0, self.n_vocab()), np.float32), *text.found])

    def take_back(self, n_tokens: int) -> bool:
        """Forget the last n_tokens, as if they had not been evaluated; False if that cannot be.

        It cannot where some are compressed already, or where a policy has written something down of each.
        """
        run = self._require("take_back").run
        if not run.recorder.idle or not binding.remove_from(self, self.n_tokens - n_tokens):
            return False
        self.n_tokens -= n_tokens
        return True


class _Watched:
    """A `Text` whose logits are all collected."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.room, self.make_room, self.evict = reader.room, reader.make_room, reader.evict
        self.found: List[Logits] = []

    def decode(self, tokens: Sequence[int]) -> None:
        """As the reader's."""
        if tokens:
            self._reader.compression.run.decode(self._reader.llm, tokens, self._one_batch)

    def _one_batch(self, tokens: Sequence[int]) -> None:
        llm, n, batch = self._reader.llm, len(tokens), llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = n
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, llm.n_tokens + i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            if llama_cpp.llama_decode(llm.ctx, batch):
                raise EngineError(f"llama.cpp cannot decode {n} tokens in one batch: give fewer than n_batch")
            logits = llama_cpp.llama_get_logits(llm.ctx)
            self.found.append(np.array(np.ctypeslib.as_array(logits, shape=(n, llm.n_vocab()))))
        finally:
            llama_cpp.llama_batch_free(batch)
        llm.input_ids[llm.n_tokens : llm.n_tokens + n] = tokens
        llm.n_tokens += n
        binding.set_evaluated(llm, True)
