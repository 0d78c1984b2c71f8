"""Many prompts at once, or many questions about one document: several sequences in one compressed cache."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Set, Type, Union

from . import native
from .errors import BudgetError, ContextError, EngineError

if TYPE_CHECKING:
    from .llama import Llama

Prompt = Union[str, Sequence[int]]  # text, or token ids


@dataclass
class _Job:
    """A prompt on its way to an answer."""

    index: int
    tokens: List[int]
    fork_of: Optional[int]
    sampler: Any
    max_tokens: int
    stop: Sequence[bytes]
    answer: List[int] = field(default_factory=list)
    text: bytes = b""
    done: bool = False


class Batch:
    """Several sequences of a loaded model, each compressed as `Llama` would, decoded together.

    Tokens are those of one prompt after the other (temperature 0), the time is not: the weights are read once for all
    sequences. Use it as a context manager, or call close().

        with Batch(llm, n_seq_max=4) as batch:
            answers = batch.complete(["The capital of France is", "Two and two is"], max_tokens=8)
            document = batch.read(long_text)
            answers = batch.ask(document, ["Who wrote it?", "When?"])
    """

    def __init__(self, llm: Llama, n_seq_max: int = 8) -> None:
        """A context of its own beside that of `llm`; the weights are shared, the options are those of `llm`.

        n_seq_max: sequences at a time, 1 to 256; more prompts than that wait for their turn. `n_ctx` is the positions of
        each; without kv_profile the cache of `n_ctx` tokens is one for all.

        Raises BudgetError for a bad n_seq_max, EngineError if the context cannot be created.
        """
        import llama_cpp

        if isinstance(n_seq_max, bool) or not isinstance(n_seq_max, int) or not 1 <= n_seq_max <= 256:
            raise BudgetError(f"n_seq_max is {n_seq_max!r}: use 1 to 256 sequences")
        self._llm = llm
        self._compression = llm._compression
        params = llama_cpp.llama_context_params.from_buffer_copy(llm.context_params)
        params.n_seq_max = n_seq_max
        params.n_outputs_max = n_seq_max
        params.kv_unified = True
        self.ctx: Any = llama_cpp.llama_init_from_model(llm.model, params)
        if not self.ctx:
            raise EngineError(f"no context for {n_seq_max} sequences: {native.last_error() or 'see the log'}")
        llm._model._exit_stack.callback(self.close)  # a context must go before its model
        self._memory = llama_cpp.llama_get_memory(self.ctx)
        self._n_ctx = int(llama_cpp.llama_n_ctx(self.ctx))
        self._free: Set[int] = set(range(n_seq_max))
        self._n_past: Dict[int, int] = {}  # sequence -> tokens decoded
        self._budgets: Dict[int, List[int]] = {}  # sequence -> (n_layer,)
        self._batch: Any = llama_cpp.llama_batch_init(max(llm.n_batch, n_seq_max), 0, 1)

    #
    # for users
    #

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 16,
        temperature: float = 0.0,
        stop: Union[str, Sequence[str]] = (),
        **sampling: Any,
    ) -> List[str]:
        """The texts that follow the prompts, in their order.

        max_tokens, temperature, stop: as llama_cpp.Llama.create_completion; **sampling: top_k, top_p, min_p and the
        other arguments of llama_cpp.Llama.generate.

        Raises ContextError if a prompt does not fit n_ctx, EngineError if a decode fails.
        """
        return self._run([(None, self._tokens(p, first=True)) for p in prompts], max_tokens, temperature, stop, sampling)

    def ask(
        self,
        seq_id: int,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 16,
        temperature: float = 0.0,
        stop: Union[str, Sequence[str]] = (),
        **sampling: Any,
    ) -> List[str]:
        """As complete, but each prompt continues a fork of sequence seq_id, which stays as it is.

        Forks share what the document's compression kept: its memory is there once.
        """
        self._check_used(seq_id)
        jobs = [(seq_id, self._tokens(p, first=False)) for p in prompts]
        return self._run(jobs, max_tokens, temperature, stop, sampling)

    def read(self, prompt: Prompt) -> int:
        """Decode a prompt and compress it; the number of its sequence, for fork() and ask().

        Raises ContextError if the prompt does not fit n_ctx or no sequence is free.
        """
        seq_id = self._take()
        try:
            self._read(seq_id, self._tokens(prompt, first=True))
        except Exception:
            self.drop(seq_id)
            raise
        return seq_id

    def fork(self, seq_id: int) -> int:
        """A copy of a sequence that goes its own way; the prefix is shared. Raises ContextError if none is free."""
        import llama_cpp

        self._check_used(seq_id)
        copy = self._take()
        llama_cpp.llama_memory_seq_cp(self._memory, seq_id, copy, -1, -1)
        self._n_past[copy] = self._n_past[seq_id]
        self._budgets[copy] = self._budgets.get(seq_id, [])
        return copy

    def drop(self, seq_id: int) -> None:
        """Forget a sequence; its number can be used again."""
        import llama_cpp

        self._check_used(seq_id)
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, -1, -1)
        self._n_past.pop(seq_id)
        self._budgets.pop(seq_id, None)
        self._free.add(seq_id)

    def n_tokens(self, seq_id: int) -> int:
        """Tokens decoded so far in a sequence."""
        self._check_used(seq_id)
        return self._n_past[seq_id]

    def close(self) -> None:
        """Free the context."""
        import llama_cpp

        if getattr(self, "ctx", None):
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self.ctx)
            self.ctx = None

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    #
    # decoding
    #

    def _run(
        self, prompts: Sequence[Any], max_tokens: int, temperature: float, stop: Any, sampling: Dict[str, Any]
    ) -> List[str]:
        """(fork of or None, tokens) a prompt -> texts. Prompts take turns as sequences become free."""
        if max_tokens < 1:
            raise ContextError(f"max_tokens is {max_tokens!r}: use 1 or more")
        ends = [s.encode() for s in ([stop] if isinstance(stop, str) else stop)]
        sampler = self._llm._init_sampler
        jobs = [
            _Job(i, tokens, fork_of, sampler(temp=temperature, **sampling), max_tokens, ends)
            for i, (fork_of, tokens) in enumerate(prompts)
        ]
        waiting, active = deque(jobs), {}  # type: ignore[var-annotated]
        try:
            while waiting or active:
                while waiting and self._free:
                    job = waiting.popleft()
                    seq_id = self._take() if job.fork_of is None else self.fork(job.fork_of)
                    active[seq_id] = job
                    self._start(seq_id, job)
                if waiting and not active:
                    raise ContextError("all sequences are in use: drop() one, or create the Batch with a larger n_seq_max")
                self._finish(active)
                self._step(active)
        finally:
            for seq_id in active:
                self.drop(seq_id)
        return [job.text.decode("utf-8", errors="ignore") for job in jobs]

    def _start(self, seq_id: int, job: _Job) -> None:
        if job.fork_of is None:
            self._read(seq_id, job.tokens)
        else:
            self._extend(seq_id, job.tokens)
        self._accept(job, -1)

    def _finish(self, active: Dict[int, _Job]) -> None:
        for seq_id in [s for s, job in active.items() if job.done]:
            del active[seq_id]
            self.drop(seq_id)

    def _step(self, active: Dict[int, _Job]) -> None:
        """One token more for every sequence, in one decode."""
        if not active:
            return
        for seq_id in active:
            self._check_room(seq_id, 1)
            self._make_room(seq_id, 1)
        self._decode([(job.answer[-1], seq_id, True) for seq_id, job in active.items()])
        for i, job in enumerate(active.values()):
            self._accept(job, i)

    def _accept(self, job: _Job, output: int) -> None:
        """Sample from an output of the last decode."""
        import llama_cpp

        token = llama_cpp.llama_sampler_sample(job.sampler.sampler, self.ctx, output)
        if llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(self._llm.model), token):
            job.done = True
            return
        job.answer.append(token)
        job.text = self._llm.detokenize(job.answer, prev_tokens=job.tokens)
        cuts = [job.text.find(end) for end in job.stop if end in job.text]
        if cuts:
            job.text = job.text[: min(cuts)]
        job.done = bool(cuts) or len(job.answer) >= job.max_tokens

    def _read(self, seq_id: int, tokens: List[int]) -> None:
        """A prompt into an empty sequence, by the mode of the compression."""
        self._check_room(seq_id, len(tokens))
        compression = self._compression
        if compression is None:
            self._extend(seq_id, tokens)
            return
        budgets = self._budgets[seq_id] = compression.budgets(len(tokens))
        mode = compression.choose_prefill(len(tokens), self._n_ctx, native.stats(self.ctx))
        if mode == "full":
            native.prompt_begin(self.ctx, len(tokens), seq_id)
            self._decode_all(seq_id, tokens)
        else:
            self._extend(seq_id, tokens, compression.guide(tokens) if mode == "guided" else [])
        native.prompt_end(self.ctx, budgets, seq_id)

    def _extend(self, seq_id: int, tokens: List[int], guide: Sequence[int] = ()) -> None:
        """More tokens, compressing whenever the sequence's tail is full."""
        self._check_room(seq_id, len(tokens))
        while self._compression is not None and len(tokens) > (room := self._room(seq_id)):
            ahead = guide if len(guide) < room else ()
            n_chunk = max(room - len(ahead), 0)
            self._decode_all(seq_id, tokens[:n_chunk])
            tokens = tokens[n_chunk:]
            self._evict(seq_id, ahead)
        self._decode_all(seq_id, tokens)

    def _make_room(self, seq_id: int, n_tokens: int) -> None:
        if self._compression is not None and self._room(seq_id) < n_tokens:
            self._evict(seq_id, ())

    def _room(self, seq_id: int) -> int:
        """Tokens that the sequence may decode before it is compressed: its tail, and its budget if nothing is frozen."""
        assert self._compression is not None
        stats = native.seq_stats(self.ctx, seq_id)
        limit = self._compression.tail
        if not stats.n_frozen and not self._compression.always_bounded:
            limit += min(budget for budget in self._budgets[seq_id] if budget)
        return max(limit - stats.n_tail_used, 0)

    def _evict(self, seq_id: int, guide: Sequence[int]) -> None:
        if not guide:
            native.compress(self.ctx, self._budgets[seq_id], seq_id)
            return
        self._decode_all(seq_id, list(guide))
        self._n_past[seq_id] -= len(guide)
        native.compress_guided(self.ctx, self._budgets[seq_id], len(guide), seq_id)

    def _decode_all(self, seq_id: int, tokens: Sequence[int]) -> None:
        n_batch = self._llm.n_batch
        for i in range(0, len(tokens), n_batch):
            chunk = tokens[i : i + n_batch]
            self._decode([(token, seq_id, i + j == len(tokens) - 1) for j, token in enumerate(chunk)])

    def _decode(self, items: Sequence[Any]) -> None:
        """(token, sequence, wants logits) each, at the next positions of their sequences."""
        import llama_cpp

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
            raise EngineError(f"llama_decode failed with {status} for {len(items)} tokens: {native.last_error()}")

    #
    # sequences and tokens
    #

    def _take(self) -> int:
        if not self._free:
            raise ContextError("all sequences are in use: drop() one, or create the Batch with a larger n_seq_max")
        seq_id = min(self._free)
        self._free.remove(seq_id)
        self._n_past[seq_id] = 0
        return seq_id

    def _check_used(self, seq_id: int) -> None:
        if seq_id not in self._n_past:
            raise ContextError(f"sequence {seq_id!r} is not in use: read() or fork() gives one")

    def _check_room(self, seq_id: int, n_tokens: int) -> None:
        n_total = self._n_past[seq_id] + n_tokens
        if n_total > self._n_ctx:
            raise ContextError(f"Requested tokens ({n_total}) exceed context window of {self._n_ctx}: raise n_ctx")

    def _tokens(self, prompt: Prompt, first: bool) -> List[int]:
        tokens = self._llm.tokenize(prompt.encode(), add_bos=first, special=True) if isinstance(prompt, str) else prompt
        if not tokens:
            raise ContextError("a prompt is empty: give at least one token")
        return list(tokens)
