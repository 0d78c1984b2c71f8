"""Several sequences in one compressed cache: read, fork, drop, decode."""

from __future__ import annotations

import functools
import threading
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Type, TypeVar, Union, cast

from ..engine import native
from ..errors import BudgetError, ContextError, EngineError, PolicyError
from . import binding
from .binding import llama_cpp
from .positions import check_window
from .prefill import Opened, read_bounded
from .prompt import Prompt
from .settings import FULL, GUIDED
from .tokens import checked

Text = Union[str, Sequence[int]]  # or its token ids
Item = Tuple[int, int, bool]  # token, sequence, wants logits

Method = TypeVar("Method", bound=Callable[..., Any])

_ALL_IN_USE = "all sequences are in use: drop() one, or ask for a larger n_seq_max"


def alone(method: Method) -> Method:
    """The calls of several threads come one after the other: there is one context."""

    @functools.wraps(method)
    def locked(self: Sequences, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, locked)


class Sequences:
    """A context of its own beside that of a loaded model, for several sequences. The weights are shared.

    Each sequence has its own prefix and tail, compressed as `Llama` would; forks share what they have in common. Use it
    as a context manager, or call close(). `compresskv_edge.Batch` generates text with it.
    """

    def __init__(self, llm: Opened, n_seq_max: int = 8) -> None:
        """n_seq_max: sequences at a time, 1 to 256. The other options are those of `llm`: `n_ctx` is the positions of
        each sequence (without kv_profile, the tokens of all).

        Raises BudgetError for a bad n_seq_max, PolicyError, EngineError if the context cannot be created.
        """
        if isinstance(n_seq_max, bool) or not isinstance(n_seq_max, int) or not 1 <= n_seq_max <= 256:
            raise BudgetError(f"n_seq_max is {n_seq_max!r}: use 1 to 256 sequences")
        self._lock = threading.RLock()
        self._llm = llm
        self._reader = llm._reader
        self._compression = self._reader.compression.copy() if self._reader is not None else None
        if self._compression is not None and not self._compression.run.native:
            raise PolicyError(
                f"kv_policy={self._compression.settings.policy!r} is not scored by the library, which several "
                "sequences need: use 'compresskv', or one prompt after the other"
            )
        if self._compression is not None:
            self._compression.run.must_not_merge("a batch")
        params = llama_cpp.llama_context_params.from_buffer_copy(llm.context_params)
        params.n_seq_max = n_seq_max
        params.n_outputs_max = n_seq_max
        params.kv_unified = True
        self.ctx: Any = llama_cpp.llama_init_from_model(llm.model, params)
        if not self.ctx:
            raise EngineError(f"no context for {n_seq_max} sequences: {native.last_error() or 'see the log'}")
        self._batch: Any = llama_cpp.llama_batch_init(max(llm.n_batch, n_seq_max), 0, 1)
        binding.closes_first(llm, self.close)  # a context must go before its model
        self._memory = llama_cpp.llama_get_memory(self.ctx)
        self._n_ctx = binding.asked_positions(llm)
        self._free: Set[int] = set(range(n_seq_max))
        self._n_past: Dict[int, int] = {}  # sequence -> tokens decoded
        self._budgets: Dict[int, List[int]] = {}  # sequence -> (n_layer,)

    @alone
    def read(self, prompt: Text) -> int:
        """Decode a prompt and compress it; the number of its sequence, for fork() and extend().

        Raises ContextError if the prompt does not fit n_ctx or no sequence is free, EngineError if a decode fails.
        """
        tokens = self.tokenize(prompt)
        seq_id = self._take()
        try:
            self._read(seq_id, tokens)
        except BaseException:
            self.drop(seq_id)
            raise
        return seq_id

    @alone
    def extend(self, seq_id: int, prompt: Text) -> None:
        """Decode more tokens, compressing whenever the sequence's tail is full. Raises as read."""
        self._check_used(seq_id)
        self._extend(seq_id, self.tokenize(prompt, first=False))

    @alone
    def fork(self, seq_id: int) -> int:
        """A copy of a sequence that goes its own way; the prefix is shared. Raises ContextError if none is free."""
        self._check_used(seq_id)
        copy = self._take()
        llama_cpp.llama_memory_seq_cp(self._memory, seq_id, copy, -1, -1)
        self._n_past[copy] = self._n_past[seq_id]
        self._budgets[copy] = self._budgets.get(seq_id, [])
        return copy

    @alone
    def drop(self, seq_id: int) -> None:
        """Forget a sequence; its number can be used again."""
        self._check_used(seq_id)
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
        self._n_past.pop(seq_id)
        self._budgets.pop(seq_id, None)
        self._free.add(seq_id)

    @alone
    def n_tokens(self, seq_id: int) -> int:
        """Tokens decoded so far in a sequence."""
        self._check_used(seq_id)
        return self._n_past[seq_id]

    def tokenize(self, prompt: Text, *, first: bool = True) -> List[int]:
        """Token ids of a prompt; `first`: it starts a sequence. Raises ContextError if it is empty, TokenError."""
        if isinstance(prompt, str):
            prompt = self._llm.tokenize(prompt.encode(), add_bos=first, special=True)
        if not len(prompt):
            raise ContextError("a prompt is empty: give at least one token")
        return checked(prompt, self._llm.n_vocab())

    @alone
    def close(self) -> None:
        """Free the context."""
        if self.ctx:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self.ctx)
            self.ctx = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    #
    # decoding
    #

    def _read(self, seq_id: int, tokens: List[int]) -> None:
        """A prompt into an empty sequence, by the mode of the compression."""
        self._check_room(seq_id, len(tokens))
        if self._compression is None or self._reader is None:
            self._decode_all(seq_id, tokens)
            return
        compression = self._compression
        compression.protection.named = self._reader.compression.protection.named
        prompt = Prompt(tuple(tokens))
        compression.begin(prompt)
        budgets = self._budgets[seq_id] = compression.budgets(len(tokens))
        native.protect(self.ctx, compression.protected, seq_id)
        mode = compression.choose_prefill(len(tokens), self._n_ctx, native.stats(self.ctx))
        if mode == FULL:
            native.prompt_begin(self.ctx, len(tokens), seq_id)
            self._decode_all(seq_id, tokens)
        else:
            self._extend(seq_id, tokens, compression.guide(tokens, prompt.n_question) if mode == GUIDED else ())
        native.prompt_end(self.ctx, budgets, seq_id)

    def _extend(self, seq_id: int, tokens: List[int], guide: Sequence[int] = ()) -> None:
        self._check_room(seq_id, len(tokens))
        read_bounded(_Text(self, seq_id), tokens, guide)

    def _step(self, items: Sequence[Item]) -> None:
        """One decode for several sequences, each with one token."""
        for _, seq_id, _ in items:
            self._check_room(seq_id, 1)
            if self._room(seq_id) < 1:
                self._evict(seq_id, ())
        self._decode(items)

    def _room(self, seq_id: int) -> int:
        """Tokens that fit before a compression: the sequence's tail, and its budget if nothing is frozen yet."""
        compression = self._compression
        if compression is None:
            return self._n_ctx
        stats = native.seq_stats(self.ctx, seq_id)
        return compression.room(self._budgets[seq_id], stats.n_frozen, stats.n_tail_used, compression.settings.tail)

    def _evict(self, seq_id: int, guide: Sequence[int]) -> None:
        """Compress a sequence to its budgets; see `prefill.Text`."""
        if not guide:
            native.compress(self.ctx, self._budgets[seq_id], seq_id)
            return
        self._decode_all(seq_id, guide)
        self._n_past[seq_id] -= len(guide)
        native.compress_guided(self.ctx, self._budgets[seq_id], len(guide), seq_id)

    def _decode_all(self, seq_id: int, tokens: Sequence[int]) -> None:
        """Decode tokens at the end of a sequence; the last one has logits."""
        n_batch = self._llm.n_batch
        for i in range(0, len(tokens), n_batch):
            chunk = tokens[i : i + n_batch]
            self._decode([(token, seq_id, i + j == len(tokens) - 1) for j, token in enumerate(chunk)])

    def _decode(self, items: Sequence[Item]) -> None:
        """Tokens at the next positions of their sequences."""
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, seq_id, output) in enumerate(items):
            batch.token[i] = token
            batch.pos[i] = self._n_past[seq_id]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq_id
            batch.logits[i] = output
            self._n_past[seq_id] += 1
        status = llama_cpp.llama_decode(self.ctx, batch)
        if status != 0:
            raise EngineError(
                f"llama_decode failed with {status} for {len(items)} tokens: memory, or n_ctx, is too small"
            )

    def _take(self) -> int:
        if not self._free:
            raise ContextError(_ALL_IN_USE)
        seq_id = min(self._free)
        self._free.remove(seq_id)
        self._n_past[seq_id] = 0
        return seq_id

    def _check_used(self, seq_id: int) -> None:
        if seq_id not in self._n_past:
            raise ContextError(f"sequence {seq_id!r} is not in use: read() or fork() gives one")

    def _check_room(self, seq_id: int, n_tokens: int) -> None:
        n_total = self._n_past[seq_id] + n_tokens
        limit = self._reader.positions.trained if self._reader is not None else n_total
        if n_total > limit:
            raise ContextError(
                f"Requested tokens ({n_total}) exceed the {limit} positions that the model was trained for, and "
                "several sequences are not re-based: shorten the prompt, or use Llama with kv_rebase=True"
            )
        check_window(n_total, self._n_ctx)


class _Text:
    """One sequence, as the prefill loop sees it."""

    def __init__(self, sequences: Sequences, seq_id: int) -> None:
        self._sequences, self._seq_id = sequences, seq_id

    def room(self) -> int:
        return self._sequences._room(self._seq_id)

    def make_room(self, n_tokens: int) -> None:
        """Several sequences are not re-based."""

    def decode(self, tokens: Sequence[int]) -> None:
        self._sequences._decode_all(self._seq_id, tokens)

    def evict(self, guide: Sequence[int]) -> None:
        self._sequences._evict(self._seq_id, guide)
