"""The engine keeps exactly what the specification says, for every architecture and every type of KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import devices
import numpy as np
import pytest
from conftest import ISWA_ARCHS, PLAIN_ARCHS
from logits import TYPES, Case, last_logits, prompt
from specified import specified

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import EngineError
from compresskv_edge.model.profile import Settings
from compresskv_edge.runtime.llama import KVStats

pytestmark = pytest.mark.every_device

N_PROMPT = 1000
KV_TAIL = 512
ARCHS_AND_TYPES = [(arch, "f16") for arch in (*PLAIN_ARCHS, *ISWA_ARCHS)]
ARCHS_AND_TYPES += [("llama", kv) for kv in ("f32", "bf16", "q8_0", "q4_0")] + [("gemma3", "q8_0")]


def uneven_profile(path: Path, **settings: Any) -> Profile:
    """Two heads a layer, other ones in each, and layer errors that give every layer another budget."""
    profile = Profile.uniform(path)
    n_layer = profile.model.n_layer
    ranked = tuple(tuple(np.roll(heads, -layer).tolist()) for layer, heads in enumerate(profile.heads_ranked))
    errors = tuple((1.0 + layer) / (n_layer * (n_layer + 1) / 2) for layer in range(n_layer))
    update = {"heads_ranked": ranked, "layer_errors": errors, "settings": Settings(n_heads=2, **settings)}
    return profile.model_copy(update=update)


def load(path: Path, profile: Profile, budget: Any = 200, type_kv: str = "f16", **options: Any) -> Llama:
    case = Case(str(path), N_PROMPT, type_kv=type_kv)
    kv = {"kv_profile": profile, "kv_budget": budget, "kv_tail": KV_TAIL, "kv_protect": False}  # the paper's selection
    return Llama(str(path), **kv, **{**case.options(), **options})


@pytest.mark.parametrize("settings", [{}, {"pooling": "max"}, {"window": 16, "kernel": 7}], ids=str)
@pytest.mark.parametrize(("arch", "type_kv"), ARCHS_AND_TYPES)
def test_kept_tokens_are_those_of_the_specification(
    arch: str, type_kv: str, settings: Any, tiny_gguf: Callable[..., Path]
) -> None:
    path = tiny_gguf(arch)
    profile = uneven_profile(path, **settings)
    llm = load(path, profile, type_kv=type_kv)
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    budgets = llm._compression.budgets(N_PROMPT)
    want = specified(llm, profile, budgets)

    llm.compress()

    for il, expected in enumerate(want):
        if expected is not None:
            devices.assert_kept(llm.kv_kept(il), *expected)
    evictable = [b for b in budgets if b]
    assert len(set(evictable)) == len(evictable), "every layer has a budget of its own"


def test_rows_move_as_bytes(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    for type_kv in TYPES:
        llm = load(path, uneven_profile(path), type_kv=type_kv)
        llm.eval(prompt(Case(str(path), N_PROMPT)))
        layers = llm._compression.layers
        before = [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(layers)]
        llm.compress()
        for il, layer in enumerate(layers):
            for old, new in zip(before[il], native.read_kv(llm.ctx, il, layer)):
                np.testing.assert_array_equal(new, old[:, llm.kv_kept(il)])


def test_compressing_again_scores_prefix_and_tail(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("qwen3")
    profile = uneven_profile(path)
    llm = load(path, profile)
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    llm.compress()
    llm.eval(prompt(Case(str(path), 150)))
    held = [llm.kv_kept(il) for il in range(len(llm._compression.layers))]
    want = specified(llm, profile, llm._compression.budgets(llm.n_tokens))

    llm.compress()

    for il, expected in enumerate(want):
        devices.assert_kept(np.searchsorted(held[il], llm.kv_kept(il)), *expected)
        assert np.isin(llm.kv_kept(il), held[il]).all()
    assert llm.kv_stats().n_evictions == 2
    assert llm.kv_stats().n_tokens_seen == N_PROMPT + 150


def test_compressing_again_to_the_same_budgets_needs_no_memory(tiny_gguf: Callable[..., Path]) -> None:
    """Rows move within their tensors: as bytes, and to the same place as with tensors of their own."""
    path = tiny_gguf("llama")
    profile = uneven_profile(path)
    llm = load(path, profile)
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    llm.compress()
    stats = llm.kv_stats()
    for length in (400, 300, 200):
        llm.eval(prompt(Case(str(path), length)))
        layers = llm._compression.layers
        before = [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(layers)]
        held = [llm.kv_kept(il) for il in range(len(layers))]
        want = specified(llm, profile, llm._compression.budgets(llm.n_tokens))
        llm.compress()
        for il, layer in enumerate(layers):
            kept = np.searchsorted(held[il], llm.kv_kept(il))
            devices.assert_kept(kept, *want[il])
            for old, new in zip(before[il], native.read_kv(llm.ctx, il, layer)):
                np.testing.assert_array_equal(new, old[:, kept])
    assert llm.kv_stats().kv_bytes == stats.kv_bytes
    assert llm.kv_stats().kv_bytes_peak == stats.kv_bytes_peak
    assert llm.kv_stats().n_evictions == 4


def test_kv_bytes_are_budget_and_tail(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, uneven_profile(path))
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    before = llm.kv_stats()
    llm.compress()
    after = llm.kv_stats()

    layer = llm._compression.layers[0]
    row = 2 * layer.n_head_kv * (layer.head_dim_k + layer.head_dim_v)  # f16
    expected = sum((budget + KV_TAIL) * row for budget in llm._compression.budgets(N_PROMPT))
    assert abs(after.kv_bytes - expected) <= 0.02 * expected
    assert before.kv_bytes >= N_PROMPT * row * len(llm._compression.layers)
    largest = (max(llm._compression.budgets(N_PROMPT)) + KV_TAIL) * row
    assert after.kv_bytes_peak <= max(before.kv_bytes_peak, before.kv_bytes + largest)  # one layer after the other
    assert after.kv_bytes_stock == 4096 * row * len(llm._compression.layers)
    assert after.n_tokens_kept == tuple(llm._compression.budgets(N_PROMPT))
    assert isinstance(after, KVStats)


def test_the_tail_grows_while_decoding(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    tokens = prompt(Case(str(path), N_PROMPT))
    logits = []
    for kv_tail in (16, 512):
        options = Case(str(path), N_PROMPT).options()
        llm = Llama(str(path), kv_profile=Profile.uniform(path), kv_budget=200, kv_tail=kv_tail, **options)
        llm.eval(tokens)
        llm.compress()
        llm.eval(tokens[:7])
        for token in tokens[:600]:
            llm.eval([token])
        logits.append(last_logits(llm))
        assert llm.kv_stats().n_tokens_kept[0] == 200 + 607
    devices.assert_same(*logits)


def test_a_selection_made_elsewhere(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, Profile.uniform(path))
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    window = np.arange(N_PROMPT - 8, N_PROMPT)
    kept = [np.concatenate([np.arange(il + 1), window]) for il in range(len(llm._compression.layers))]
    native.keep(llm.ctx, kept)
    for il, want in enumerate(kept):
        np.testing.assert_array_equal(llm.kv_kept(il), want)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.arange(7), "keeps 7 tokens"),
        (np.arange(20), "does not keep its last 8"),
        (np.concatenate([[3, 2], np.arange(92, 100)]), "must ascend"),
        (np.concatenate([[-1], np.arange(92, 100)]), "must ascend"),
        (np.concatenate([np.arange(92, 100), [100]]), "must ascend"),
    ],
)
def test_a_bad_selection_changes_nothing(kept: Any, message: str, tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, Profile.uniform(path))
    llm.eval(prompt(Case(str(path), 100)))
    good = np.arange(100)
    with pytest.raises(EngineError, match=message):
        native.keep(llm.ctx, [*[good] * (len(llm._compression.layers) - 1), kept])
    assert llm.kv_stats().n_evictions == 0
    np.testing.assert_array_equal(llm.kv_kept(0), good)


def test_bad_calls_get_a_sentence_and_no_abort(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, Profile.uniform(path))
    layer = llm._compression.layers[0]
    n_layer = len(llm._compression.layers)
    calls = {
        "queries of 0": lambda: native.read_queries(llm.ctx, 0, layer, 8),
        "layer 99": lambda: native.read_kv(llm.ctx, 99, layer),
        "layer -1": lambda: native.positions(llm.ctx, -1),
        "budget of layer 0": lambda: native.compress(llm.ctx, [7] * n_layer),
        "does not fit n_ctx": lambda: native.prompt_begin(llm.ctx, 5000),
        "ctx is NULL": lambda: native.prompt_end(0, [8] * n_layer),
        "model is NULL": lambda: native.check_model(0),
    }
    for message, call in calls.items():
        with pytest.raises(EngineError, match=message):
            call()
    llm.eval([65, 66, 67])
    assert llm.kv_stats().n_tokens_seen == 3


def test_a_context_without_profile_cannot_be_compressed(tiny_gguf: Callable[..., Path]) -> None:
    llm = Llama(str(tiny_gguf("llama")), verbose=False)
    with pytest.raises(EngineError, match="attach a profile"):
        native.compress(llm.ctx, [100] * 3)


def test_positions_of_a_compressed_cache_cannot_be_shifted(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, Profile.uniform(path))
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    llm.compress()
    kept = llm.kv_kept(0)
    llm._ctx.kv_cache_seq_shift(0, N_PROMPT - 4, N_PROMPT, 4)
    llm.eval([65])
    np.testing.assert_array_equal(llm.kv_kept(0), [*kept, N_PROMPT])


@pytest.mark.parametrize("n", [0, N_PROMPT - 9])
def test_a_removal_that_reaches_into_the_prefix_changes_nothing(n: int, tiny_gguf: Callable[..., Path]) -> None:
    for arch in ("llama", "gemma3"):
        path = tiny_gguf(arch)
        llm = load(path, Profile.uniform(path))
        llm.eval(prompt(Case(str(path), N_PROMPT)))
        llm.compress()
        held = [llm.kv_kept(il).tolist() for il in range(len(llm._compression.layers))]
        assert not llm._ctx.kv_cache_seq_rm(-1, n, N_PROMPT - 1)
        assert [llm.kv_kept(il).tolist() for il in range(len(llm._compression.layers))] == held


def test_a_removal_inside_the_tail_works_as_upstream(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("llama")
    llm = load(path, Profile.uniform(path))
    llm.eval(prompt(Case(str(path), N_PROMPT)))
    llm.compress()
    llm.eval([65, 66, 67])
    first = last_logits(llm)
    llm.eval([68, 69])
    assert llm._ctx.kv_cache_seq_rm(-1, N_PROMPT, -1)
    llm.n_tokens = N_PROMPT
    llm.eval([65, 66, 67])
    devices.assert_same(last_logits(llm), first)


def test_removing_everything_starts_afresh(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("gemma2")
    tokens = prompt(Case(str(path), N_PROMPT))
    llm = load(path, Profile.uniform(path))
    llm.eval(tokens)
    fresh = last_logits(llm)
    llm.compress()
    llm.reset()
    llm.eval(tokens)
    devices.assert_same(last_logits(llm), fresh)
    assert set(llm.kv_stats().n_tokens_kept) >= {N_PROMPT}
