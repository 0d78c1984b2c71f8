"""A stranger's state is walked over before llama.cpp reads it: refused by name, or as good as any other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from logits import Case, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.errors import SessionError
from compresskv_edge.runtime.session import session, state

MODES: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "full": ("llama", {}),
    "chunked": ("llama", {"kv_prefill": "chunked", "kv_tail": 64}),
    "guided": ("llama", {"kv_prefill": "guided", "kv_tail": 64}),
    "nothing compressed": ("llama", {"kv_budget": 1000}),
    "quantised": ("llama", {"type_k": 8, "type_v": 8}),
    "sliding windows": ("gemma3", {}),
    "stock": ("llama", {"kv_profile": None}),
    "stock, values across": ("llama", {"kv_profile": None, "flash_attn": False}),
    "stock, sliding windows": ("gemma3", {"kv_profile": None}),
    "stock, full sliding windows": ("gemma3", {"kv_profile": None, "swa_full": True}),
}


@pytest.fixture
def make(tiny_gguf: Callable[..., Path]) -> Callable[..., Llama]:
    def load(arch: str = "llama", **options: Any) -> Llama:
        path = str(tiny_gguf(arch))
        profile = {"kv_profile": Profile.uniform(path), "kv_budget": 48} if options.get("kv_profile", 1) else {}
        defaults = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
        return Llama(path, **{**defaults, **profile, **options})

    return load


def read(llm: Llama, n: int = 200) -> None:
    for _ in itertools.islice(llm.generate(prompt(Case("", n)), temp=0), 12):
        pass


@pytest.mark.parametrize("mode", MODES)
def test_states_of_every_kind_are_known(mode: str, make: Callable[..., Llama]) -> None:
    arch, options = MODES[mode]
    llm, empty = make(arch, **options), make(arch, **options)
    read(llm)
    held, own = session.capture(llm).state, session._get_state(empty)
    model = state.Model.of(llm)
    assert len(state._walk(model, own)) == len(state._walk(model, held)) == (2 if arch == "gemma3" else 1)
    assert state.problem(model, held, own, llm.n_tokens) is None
    assert state.problem(model, held, own, llm.n_tokens + 1) == f"fewer than {llm.n_tokens + 1} tokens"
    assert state.problem(model, held[:-1], own, llm.n_tokens) == "it ends too early"
    assert state.problem(model, np.append(held, held[:1]), own, llm.n_tokens) is not None


def test_rebased_states_are_known(make: Callable[..., Llama], tiny_gguf: Callable[..., Path]) -> None:
    llm = make(kv_rebase=True, kv_prefill="chunked", kv_tail=64, n_ctx=20_000)
    tokens = prompt(Case("", 900))
    while llm.n_tokens < 10_000:
        llm.eval(tokens)
    held = session.capture(llm)
    assert state.problem(state.Model.of(llm), held.state, session._get_state(llm), llm.n_tokens) is None
    other = make(kv_rebase=True, kv_prefill="chunked", kv_tail=64, n_ctx=20_000)
    other.load_session(held)
    assert other.kv_kept(0).tolist() == llm.kv_kept(0).tolist()


def test_other_caches_are_left_to_llama_cpp(tiny_gguf: Callable[..., Path]) -> None:
    llm = Llama(str(tiny_gguf("mamba")), n_ctx=512, n_threads=1, verbose=False)
    llm.eval(prompt(Case("", 50)))
    held = session.capture(llm)
    assert state.problem(state.Model.of(llm), held.state, held.state, 50) is None
    llm.load_session(held)


def integers(model: state.Model, data: Any, monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """Offsets of what the walk reads as integers; of lists, both ends."""
    found: List[int] = []

    class Noted(state._Reader):
        def take(self, form: str) -> Any:
            found.append(self.at)
            return super().take(form)

        def ints(self, n: int) -> Any:
            found.extend(self.at + 4 * i for i in {*range(min(n, 3)), *range(max(n - 3, 0), n)})
            return super().ints(n)

    with monkeypatch.context() as patch:
        patch.setattr(state, "_Reader", Noted)
        state._walk(model, data)
    return found


@pytest.mark.parametrize("mode", ["full", "stock", "sliding windows"])
def test_every_integer_with_other_values(
    mode: str, make: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not refused must go on like a good one."""
    arch, options = MODES[mode]
    llm, other = make(arch, **options), make(arch, **options)
    read(llm, 60)
    held, own, model = session.capture(llm), session._get_state(other), state.Model.of(llm)
    n_refused = n_went_on = 0
    for at in integers(model, held.state, monkeypatch):
        for value in (0, 1, -1, 7, 1000, 2**31 - 1, -(2**31)):
            data = held.state.copy()
            data[at : at + 4] = np.array([value], "<i4").view(np.uint8)
            if np.array_equal(data, held.state):
                continue
            if state.problem(model, data, own, llm.n_tokens) is not None:
                n_refused += 1
                continue
            try:
                other.load_session(session.Session(held.header, held.tokens, held.logits, data))
            except SessionError:  # by llama.cpp: types and sizes of rows
                n_refused += 1
                continue
            n_went_on += 1
            kept = other.kv_kept(0)
            assert (np.diff(kept) > 0).all()
            other.eval([5])
    assert n_refused > 20 * n_went_on  # a query that is said to be missing is one of the few


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tokens": np.array([5] * 59, "<i4")}, "59 tokens, its header says 71"),
        ({"tokens": np.array([-1] * 71, "<i4")}, "outside the vocabulary"),
        ({"tokens": np.array([10**6] * 71, "<i4")}, "outside the vocabulary"),
        ({"logits": np.zeros(10, "<f4")}, "logits of 10 tokens"),
        ({"logits": np.zeros(10**6, "<f4")}, "logits of 1000000 tokens"),
        ({"logits": "nan"}, "no.* numbers"),
        ({"logits": "inf"}, "no.* numbers"),
        ({"logits": "-inf"}, "no.* numbers"),
        ({"budgets": [48]}, "budgets"),
        ({"budgets": [7] * 3}, "budgets"),
        ({"budgets": [0] * 3}, "budgets"),
        ({"protected": [512]}, "protects position 512"),
        ({"system_tokens": [10**6]}, "outside the vocabulary"),
        ({"n_tokens": 70}, "71 tokens, its header says 70"),
    ],
    ids=str,
)
def test_bodies_that_are_not_of_this_model(change: Dict[str, Any], match: str, make: Callable[..., Llama]) -> None:
    llm, other = make(), make()
    read(llm, 60)
    other.eval([5, 6])
    held = session.capture(llm)
    parts = {"tokens": held.tokens, "logits": held.logits}
    for name in set(change) & set(parts):
        value = change[name]
        parts[name] = np.full_like(held.logits, float(value)) if isinstance(value, str) else value
    fields = {name: value for name, value in change.items() if name not in parts}
    forged = session.Session(held.header.model_copy(update=fields), parts["tokens"], parts["logits"], held.state)
    with pytest.raises(SessionError, match=match):
        other.load_session(forged)
    assert other._input_ids.tolist() == [5, 6]
