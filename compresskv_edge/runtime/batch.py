"""Many prompts at once, or many questions about one document."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Deque, Dict, List, Optional, Sequence, Tuple, Union

from ..errors import ContextError
from . import binding
from .binding import llama_cpp
from .sequences import _ALL_IN_USE, Sequences, Text, alone


@dataclass
class _Job:
    """A prompt on its way to an answer."""

    tokens: List[int]
    fork_of: Optional[int]
    sampler: Any
    max_tokens: int
    stop: Sequence[bytes]
    answer: List[int] = field(default_factory=list)
    text: bytes = b""
    done: bool = False


class Batch(Sequences):
    """Several sequences of a loaded model, decoded together.

    The tokens are those of one prompt after the other (temperature 0). The weights are read once for all sequences,
    which pays where reading them is what takes the time; a slow CPU needs more than four sequences to gain anything, as
    with stock llama.cpp. A document and its questions gain most: it is read and kept once.

        with Batch(llm, n_seq_max=4) as batch:
            answers = batch.complete(["The capital of France is", "Two and two is"], max_tokens=8)
            document = batch.read(long_text)
            answers = batch.ask(document, ["Who wrote it?", "When?"])

    More prompts than n_seq_max wait for their turn, and so do calls of other threads.
    """

    @alone
    def complete(
        self,
        prompts: Sequence[Text],
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
        jobs = self._jobs(None, prompts, max_tokens, temperature, stop, sampling)
        return self._run(jobs)

    @alone
    def ask(
        self,
        seq_id: int,
        prompts: Sequence[Text],
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
        return self._run(self._jobs(seq_id, prompts, max_tokens, temperature, stop, sampling))

    def _jobs(
        self,
        fork_of: Optional[int],
        prompts: Sequence[Text],
        max_tokens: int,
        temperature: float,
        stop: Union[str, Sequence[str]],
        sampling: Dict[str, Any],
    ) -> List[_Job]:
        if max_tokens < 1:
            raise ContextError(f"max_tokens is {max_tokens!r}: use 1 or more")
        ends = [s.encode() for s in ([stop] if isinstance(stop, str) else stop)]
        tokens = [self.tokenize(prompt, first=fork_of is None) for prompt in prompts]
        return [
            _Job(t, fork_of, binding.sampler(self._llm, temp=temperature, **sampling), max_tokens, ends) for t in tokens
        ]

    def _run(self, jobs: Sequence[_Job]) -> List[str]:
        """Texts of the jobs, which take turns as sequences become free."""
        waiting: Deque[_Job] = deque(jobs)
        active: Dict[int, _Job] = {}
        if waiting and not self._free:
            raise ContextError(_ALL_IN_USE)
        try:
            while waiting or active:
                while waiting and self._free:
                    self._start(waiting.popleft(), active)
                self._drop_done(active)
                if active:
                    self._step([(job.answer[-1], seq_id, True) for seq_id, job in active.items()])
                    for i, job in enumerate(active.values()):
                        self._accept(job, i)
        finally:
            for seq_id in active:
                self.drop(seq_id)
        return [job.text.decode("utf-8", errors="ignore") for job in jobs]

    def _start(self, job: _Job, active: Dict[int, _Job]) -> None:
        """Decode a job's prompt and draw its first token."""
        seq_id = self._take() if job.fork_of is None else self.fork(job.fork_of)
        active[seq_id] = job
        if job.fork_of is None:
            self._read(seq_id, job.tokens)
        else:
            self._extend(seq_id, job.tokens)
        self._accept(job, -1)

    def _drop_done(self, active: Dict[int, _Job]) -> None:
        for seq_id in [seq_id for seq_id, job in active.items() if job.done]:
            del active[seq_id]
            self.drop(seq_id)

    def _accept(self, job: _Job, output: int) -> None:
        """Draw from an output of the last decode."""
        token = llama_cpp.llama_sampler_sample(job.sampler.sampler, self.ctx, output)
        if binding.is_end(self._llm, token):
            job.done = True
            return
        job.answer.append(token)
        job.text, cut = _cut(self._llm.detokenize(job.answer, prev_tokens=job.tokens), job.stop)
        job.done = cut or len(job.answer) >= job.max_tokens


def _cut(text: bytes, stop: Sequence[bytes]) -> Tuple[bytes, bool]:
    """Text up to the first of the stop sequences, and whether there is one."""
    ends = [text.find(end) for end in stop if end in text]
    return (text[: min(ends)], True) if ends else (text, False)
