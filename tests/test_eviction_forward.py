"""The first logits after an eviction are those of the retained rows, by an independent forward pass (numpy_llama)."""

import ctypes

import llama_cpp  # conftest.py has imported compresskv_edge, which chose the library
import numpy as np
import pytest
from numpy_llama import NumpyLlama, write_f32_copy

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native
from compresskv_edge.evaluate import needle

pytestmark = pytest.mark.every_device

BUDGETS = (0.25, 0.12, 0.06, 0.03, 64)


@pytest.fixture(scope="module")
def demo_f32(demo_model, tmp_path_factory):
    return write_f32_copy(demo_model, tmp_path_factory.mktemp("f32") / "demo-f32.gguf")


@pytest.fixture(scope="module")
def prompts():
    count = needle.token_counter(needle.open_model(None, None, 1.0))
    made = needle.make_prompts(10, count, seed=3, contexts=(512, 768, 1024, 2048))
    return [prompt.text for prompt in made]


def open_compressed(path, profile):
    return Llama(str(path), kv_profile=profile, n_ctx=4096, n_threads=1, n_threads_batch=1, verbose=False)


def evict(llm, prompt, budget):
    """Prompt, eviction; returns the next token and each layer's retained keys and values."""
    llm.reset()
    llm.eval(llm.tokenize(prompt.encode()))
    token = llm.sample(temp=0.0)
    llm.compress(budget)
    kept = llm.kv_stats().n_tokens_kept
    layers = native.model_layers(llm.model, len(kept))
    return token, [native.read_kv(llm.ctx, il, layer) for il, layer in enumerate(layers)]


def decode(llm, token):
    llm.eval([token])
    logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
    return np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), shape=(llm.n_vocab(),)).copy()


def relative_error(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)


def errors_after_eviction(path, profile, prompts):
    reference, llm = NumpyLlama(path), open_compressed(path, profile)
    for i, prompt in enumerate(prompts):
        token, rows = evict(llm, prompt, BUDGETS[i % len(BUDGETS)])
        expected = reference.logits(token, llm.n_tokens, rows)
        yield relative_error(decode(llm, token), expected)


def test_demo_model_in_float32(demo_f32, prompts):
    errors = list(errors_after_eviction(demo_f32, "demo", prompts))
    assert len(errors) == 10
    assert max(errors) < 2e-3, errors


def test_demo_model_as_shipped(demo_model, prompts):
    # q8_0 weights: llama.cpp rounds activations to 8 bits before each product, the reference does not
    errors = list(errors_after_eviction(demo_model, "demo", prompts))
    assert np.mean(errors) < 2e-2, errors
    assert max(errors) < 3e-2, errors


@pytest.mark.parametrize("shape", ["llama", "mistral"])
def test_random_weights(tiny_gguf, shape, prompts):
    path = tiny_gguf(shape)
    assert max(errors_after_eviction(path, Profile.uniform(path), prompts[:3])) < 1e-2


def test_layers_keep_different_numbers_of_tokens(demo_model, prompts):
    llm = open_compressed(demo_model, "demo")
    _, rows = evict(llm, prompts[0], 0.25)
    counts = [k.shape[1] for k, _ in rows]
    assert counts == list(llm.kv_stats().n_tokens_kept)
    assert len(set(counts)) > 2


@pytest.mark.parametrize("missing", ["prefix", "tail"])
def test_every_part_of_the_cache_is_used(demo_f32, prompts, missing):
    """The comparison above would notice an engine that forgets the prefix or the tail."""
    llm = open_compressed(demo_f32, "demo")
    token, rows = evict(llm, prompts[0], 0.25)
    part = slice(-8, None) if missing == "prefix" else slice(None, -8)
    cut = [(k[:, part], v[:, part]) for k, v in rows]
    expected = NumpyLlama(demo_f32).logits(token, llm.n_tokens, cut)
    assert relative_error(decode(llm, token), expected) > 2e-2
