"""Any order of decoding, removing, copying, compressing, re-basing, saving and loading leaves what a plain model says.

CKV_MACHINE_EXAMPLES=200 makes 10,000 steps of it.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, List

import cache_machine
import pytest
from cache_machine import N_CTX, N_SEQ
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from compresskv_edge import Llama

EXAMPLES = int(os.environ.get("CKV_MACHINE_EXAMPLES", "6"))
STEPS = 50

seqs = st.integers(0, N_SEQ - 1)
budgets = st.integers(9, 60)


def tokens(n: int, salt: int) -> List[int]:
    return [1 + (salt * 31 + i * 17 + i * i) % 200 for i in range(n)]


class Machine(RuleBasedStateMachine):
    """One context. `llm` is set by the test."""

    llm: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.pair = cache_machine.Pair(self.llm)
        self.saved: Any = None

    def teardown(self) -> None:
        self.pair.close()

    @initialize(n=st.integers(70, 90))
    def prompts(self, n: int) -> None:
        """Without them most steps would find nothing to do."""
        self.pair.decode(0, tokens(n, 0))
        self.pair.decode(1, tokens(n - 30, 1))
        self.pair.compress(0, 30)

    @rule(seq=seqs, n=st.integers(16, 48), salt=st.integers(0, 50))
    def read(self, seq: int, n: int, salt: int) -> None:
        self.decode(seq, n, salt)

    @rule(seq=seqs, n=st.integers(1, 48), salt=st.integers(0, 50))
    def decode(self, seq: int, n: int, salt: int) -> None:
        n = min(n, self.pair.room(seq))
        if n > 0:
            self.pair.decode(seq, tokens(n, salt))

    @rule(seq=seqs, n=st.integers(1, 40))
    def remove(self, seq: int, n: int) -> None:
        self.pair.remove(seq, n)

    @rule(seq=seqs)
    def drop(self, seq: int) -> None:
        self.pair.drop(seq)

    @rule(source=seqs, to=seqs)
    def fork(self, source: int, to: int) -> None:
        self.pair.fork(source, to)

    @rule(seq=seqs, budget=budgets)
    def compress(self, seq: int, budget: int) -> None:
        self.pair.compress(seq, budget)

    @rule(seq=seqs, budget=budgets, n=st.integers(1, 12), salt=st.integers(0, 50))
    def compress_guided(self, seq: int, budget: int, n: int, salt: int) -> None:
        if n <= self.pair.room(seq):
            self.pair.compress_guided(seq, budget, tokens(n, salt))

    @rule(seq=seqs, n_max=st.integers(40, N_CTX))
    def rebase(self, seq: int, n_max: int) -> None:
        self.pair.rebase(seq, n_max)

    @rule()
    def save(self) -> None:
        self.saved = self.pair.save()

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self) -> None:
        self.pair.load(self.saved)

    @rule(source=seqs, to=seqs)
    def carry(self, source: int, to: int) -> None:
        self.pair.carry(source, to)

    @invariant()
    def same(self) -> None:
        self.pair.check()


@pytest.fixture(scope="module")
def llm(tiny_gguf: Callable[..., Any]) -> Iterator[Llama]:
    from compresskv_edge import Profile

    path = str(tiny_gguf("llama"))
    options = {
        "kv_profile": Profile.uniform(path),
        "kv_budget": 60,
        "kv_tail": 32,
        "n_ctx": N_CTX,
        "type_k": 0,
        "type_v": 0,
    }
    made = Llama(path, n_threads=1, n_threads_batch=1, verbose=False, **options)
    yield made
    made.close()


def test_any_order_of_calls(llm: Llama) -> None:
    machine = type("OfModel", (Machine,), {"llm": llm})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=EXAMPLES < 50,
        ),
    )
    print(dict(cache_machine.Pair.done))
    everything = {"compressed as specified", "guided", "removed", "removal refused", "rebased"}
    assert everything <= set(cache_machine.Pair.done)
