"""Several contexts over one set of weights, and how a call is stopped in the middle."""

from __future__ import annotations

import random
import threading

import pytest
from server_process import MODEL

from compresskv_edge import Llama
from compresskv_edge.apps.server.load import Aborted, close_slots, load_slots
from compresskv_edge.apps.server.settings import ModelSettings
from compresskv_edge.engine import native
from compresskv_edge.errors import UnsupportedModelError
from compresskv_edge.runtime.forged import control_texts

THREADS = {"n_threads": 1, "n_threads_batch": 1}


@pytest.fixture
def load():
    loaded = []

    def make(**options):
        slots = load_slots(ModelSettings(**{"model": str(MODEL), "kv_profile": "uniform", **THREADS, **options}))
        loaded.append(slots)
        return slots

    yield make
    for slots in loaded:
        close_slots(slots)


def test_slots_are_contexts_of_one_model(load):
    slots = load(n_slots=3, kv_budget=64)
    assert len({slot._model.model for slot in slots}) == 1
    assert len({slot.ctx for slot in slots}) == 3
    assert all(isinstance(slot, Llama) and slot.kv_settings.budget == 64 for slot in slots)


def test_a_slot_answers_as_a_llama_of_its_own(load):
    prompt = "The gardener carried water to the barn. " * 60
    with_slots = [slot(prompt, max_tokens=8, temperature=0) for slot in load(n_slots=2, kv_budget=64, n_ctx=2048)]
    from compresskv_edge import Profile

    alone = Llama(str(MODEL), kv_profile=Profile.uniform(MODEL), kv_budget=64, n_ctx=2048, verbose=False, **THREADS)
    expected = alone(prompt, max_tokens=8, temperature=0)["choices"]
    assert [answer["choices"] for answer in with_slots] == [expected, expected]


def test_default_context_is_what_the_model_was_trained_for(load):
    assert load()[0].n_ctx() == 8192


def test_stock_cache_without_a_profile(load):
    (slot,) = load(kv_profile="none", n_ctx=512)
    assert slot.kv_settings is None
    assert slot("The secret", max_tokens=2)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("special", [False, True])
def test_what_messages_spell(load, special):
    (slot,) = load(n_ctx=512, special_in_messages=special)
    text = control_texts(slot)[0]
    prompts = [slot.chat_prompt([{"role": "user", "content": part}]) for part in (text, "A")]
    spelled, plain = (slot.pieces(prompt.tokens).count(text.encode()) for prompt in prompts)
    assert (spelled > plain) is special


def test_another_policy(load):
    (slot,) = load(kv_profile=None, kv_policy="snapkv", kv_budget=64, n_ctx=2048)
    slot("The gardener carried water to the barn. " * 100, max_tokens=2)
    assert max(slot.kv_stats().n_tokens_kept) < 80


def test_what_a_model_lacks_is_said_and_nothing_stays_loaded(tmp_path):
    with pytest.raises(UnsupportedModelError, match="GGUF"):
        load_slots(ModelSettings(model=str(tmp_path / "none.gguf")))


def test_a_long_prompt_is_stopped_in_the_middle(load):
    (slot,) = load(kv_budget=64)
    tokens = slot.tokenize(("The gardener carried water to the barn. " * 600).encode())[:8000]
    ended = []

    def work():
        try:
            slot.create_completion(tokens, max_tokens=1)
        except Aborted:
            ended.append(slot.n_tokens)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.3)
    slot.stop()
    thread.join(30)
    assert ended
    assert ended[0] < len(tokens)
    with pytest.raises(Aborted):
        slot("x", max_tokens=1)
    slot.go()
    assert slot("The secret code is", max_tokens=2, temperature=0)["usage"]["completion_tokens"] == 2


def test_an_answer_is_spelled_as_the_base_class_does(load):
    (slot,) = load(n_ctx=512)
    draw = random.Random(1)
    for _ in range(5):
        slot._spelled, answer = ([], b""), []
        for _ in range(150):
            answer.append(draw.choice([draw.randrange(3072), draw.randrange(12), slot.token_bos()]))
            part = answer[draw.randrange(len(answer)) :]
            for tokens in (answer, part, answer):
                assert slot.detokenize(tokens) == Llama.detokenize(slot, tokens)


def test_stop_in_the_middle_of_a_compression(load, monkeypatch):
    """The library says that scoring failed, which is no failure of the server's."""
    (slot,) = load(n_slots=1, kv_budget=64, n_ctx=2048)
    prompt, called = "The gardener carried water to the barn. " * 60, []
    expected = slot(prompt, max_tokens=4, temperature=0)["choices"]
    for name in ("compress", "prompt_end"):
        real = getattr(native, name)

        def stopped(*args, real=real, **kwargs):
            called.append(real)
            slot.stop()
            return real(*args, **kwargs)

        monkeypatch.setattr(native, name, stopped)
    slot.reset()
    with pytest.raises(Aborted):
        slot(prompt, max_tokens=4, temperature=0)
    assert len(called) == 1
    monkeypatch.undo()
    slot.go()
    slot.reset()
    assert slot(prompt, max_tokens=4, temperature=0)["choices"] == expected
