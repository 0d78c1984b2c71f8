"""Bad input gets a sentence with the remedy, and the object stays usable."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Callable

import llama_cpp
import numpy as np
import pytest
from conftest import UNSUPPORTED_ARCHS
from logits import Case, last_logits, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.errors import BudgetError, ContextError, EngineError, ProfileError, UnsupportedModelError

N_CTX = 2048


@pytest.mark.parametrize("arch", UNSUPPORTED_ARCHS)
def test_unsupported_architectures_are_named(arch: str, tiny_gguf: Callable[..., Path], path: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{arch}'"):
        Llama(str(tiny_gguf(arch)), kv_profile=Profile.uniform(path), verbose=False)


def test_a_profile_of_another_model_names_every_difference(tiny_gguf: Callable[..., Path], path: str) -> None:
    with pytest.raises(ProfileError) as caught:
        Llama(path, kv_profile=Profile.uniform(tiny_gguf("qwen3")), verbose=False)
    for word in ("architecture", "'qwen3'", "'llama'", "n_head_kv", "Profile.uniform"):
        assert word in str(caught.value)


def test_missing_and_truncated_profiles(path: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"nowhere\.json"):
        Llama(path, kv_profile=tmp_path / "nowhere.json", verbose=False)
    truncated = tmp_path / "half.json"
    truncated.write_text(Profile.uniform(path).to_json()[:300])
    with pytest.raises(ProfileError, match="truncated"):
        Llama(path, kv_profile=truncated, verbose=False)


@pytest.mark.parametrize("budget", [0, -1, 8, 0.0, -0.5, 1.5, float("nan"), True, "many"])
def test_budgets_that_no_selection_can_meet(budget: Any, load: Callable[..., Llama]) -> None:
    with pytest.raises(BudgetError):
        load(kv_budget=budget)


def test_a_budget_above_the_prompt_keeps_everything(load: Callable[..., Llama]) -> None:
    llm = load(kv_budget=5000)
    next(llm.generate(prompt(Case("", 300)), temp=0))
    assert set(llm.kv_stats().n_tokens_kept) == {300}


def test_options_that_cannot_be_compressed(load: Callable[..., Llama], path: str) -> None:
    with pytest.raises(UnsupportedModelError, match="flash attention"):
        load(flash_attn=False)
    with pytest.raises(UnsupportedModelError, match="embedding"):
        load(embedding=True)
    with pytest.raises(BudgetError, match="kv_tail"):
        load(kv_tail=3)
    with pytest.raises(BudgetError, match="kv_profile"):
        Llama(path, kv_budget=100, verbose=False)


@pytest.mark.parametrize(
    "option",
    [{"n_batch": -1}, {"n_batch": 0}, {"n_ctx": -1}, {"n_ctx": 2**31}, {"n_threads": 100_000}, {"n_ubatch": -1}],
)
@pytest.mark.parametrize("stock", [False, True])
def test_sizes_with_which_the_library_crashes(option: dict[str, int], stock: bool, load: Callable[..., Llama]) -> None:
    cache = {"kv_profile": None, "kv_budget": None} if stock else {}
    with pytest.raises(ContextError, match=next(iter(option))):
        load(**cache, **option)


def test_a_tail_that_c_cannot_hold(load: Callable[..., Llama]) -> None:
    with pytest.raises(BudgetError, match="kv_tail"):
        load(kv_tail=2**40)


def test_an_earlier_failure_is_not_blamed_for_a_later_one(load: Callable[..., Llama], path: str) -> None:
    with pytest.raises(EngineError):
        native.compress(0, [100] * 3)
    with pytest.raises(ValueError, match="Model path does not exist"):
        Llama(path + ".missing", kv_profile=Profile.uniform(path), verbose=False)
    load()
    assert native.last_error() == ""


def test_a_sequence_that_the_context_does_not_have(load: Callable[..., Llama]) -> None:
    llm = load()
    for seq_id in (-1, 1):
        with pytest.raises(EngineError, match=f"sequence {seq_id} of a context with n_seq_max = 1"):
            native.compress(llm.ctx, [100] * 3, seq_id=seq_id)


def test_a_prompt_longer_than_the_context(load: Callable[..., Llama]) -> None:
    llm = load(n_ctx=512)
    with pytest.raises(ValueError, match="exceed context window of 512"):
        llm.create_completion(prompt(Case("", 600)), max_tokens=4)
    with pytest.raises(ContextError, match=r"600.*exceed context window of 512"):
        llm.eval(prompt(Case("", 600)))
    llm.eval(prompt(Case("", 512)))
    with pytest.raises(ContextError, match="513"):
        llm.eval([65])
    assert llm.kv_stats().n_tokens_seen == 512


def test_setting_n_tokens_back_into_the_prefix(load: Callable[..., Llama]) -> None:
    llm = load()
    llm.eval(prompt(Case("", 600)))
    llm.compress()
    llm.n_tokens = 300
    with pytest.raises(EngineError, match="reset"):
        llm.eval([65])
    llm.reset()
    llm.eval([65])
    assert llm.kv_stats().n_tokens_seen == 1


@pytest.mark.parametrize("after", [0, 40])
def test_a_cancelled_decode_leaves_the_object_usable(after: int, load: Callable[..., Llama]) -> None:
    tokens = prompt(Case("", 900))
    llm = load(n_batch=128, n_ubatch=64)
    calls = 0

    @llama_cpp.ggml_abort_callback
    def abort(_: ctypes.c_void_p) -> bool:
        nonlocal calls
        calls += 1
        return calls > after

    llama_cpp.llama_set_abort_callback(llm.ctx, abort, None)
    with pytest.raises(RuntimeError, match="llama_decode"):
        next(llm.generate(tokens, temp=0))
    llama_cpp.llama_set_abort_callback(llm.ctx, llama_cpp.ggml_abort_callback(), None)

    assert next(llm.generate(tokens, temp=0)) == next(load(n_batch=128, n_ubatch=64).generate(tokens, temp=0))
    assert set(llm.kv_stats().n_tokens_kept) == {100}


def test_a_cancelled_eviction_leaves_the_full_cache(load: Callable[..., Llama]) -> None:
    llm = load()
    llm.eval(prompt(Case("", 600)))
    abort = llama_cpp.ggml_abort_callback(lambda _: True)
    llama_cpp.llama_set_abort_callback(llm.ctx, abort, None)
    with pytest.raises(EngineError, match="unchanged"):
        llm.compress()
    llama_cpp.llama_set_abort_callback(llm.ctx, llama_cpp.ggml_abort_callback(), None)
    assert set(llm.kv_stats().n_tokens_kept) == {600}
    llm.eval([65])
    llm.compress()
    assert set(llm.kv_stats().n_tokens_kept) == {100}


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space by /proc and setrlimit")
def test_a_compression_without_memory_leaves_the_full_cache(load: Callable[..., Llama]) -> None:
    import resource

    llm = load(kv_tail=4_000_000)  # rows that a compression would allocate: half a gigabyte a layer
    tokens = prompt(Case("", 600))
    llm.eval(tokens)
    full = last_logits(llm)
    status = Path("/proc/self/status").read_text()
    used = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), before[1]))
    try:
        with pytest.raises(EngineError, match="no memory for the compressed KV cache; the full one is unchanged"):
            llm.compress()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert set(llm.kv_stats().n_tokens_kept) == {600}
    llm.n_tokens = 599
    llm.eval(tokens[-1:])
    np.testing.assert_allclose(last_logits(llm), full, atol=0.05)  # one token at a time rounds differently
