"""Sessions on disk: saved, loaded and continued is never saved; what does not fit changes nothing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Callable, List

import devices
import pytest
from logits import TYPES, Case, last_logits, prompt

from compresskv_edge import Llama, Profile
from compresskv_edge.errors import CompressKVError, PolicyError, SessionError
from compresskv_edge.runtime.session import session
from compresskv_edge.runtime.session import state as state_check

pytestmark = pytest.mark.every_device

N = 40  # tokens decoded for comparisons


def go_on(llm: Llama, tokens: List[int], **options: Any) -> List[int]:
    return list(itertools.islice(llm.generate(tokens, **options), N))


def all_of(llm: Llama) -> tuple[Any, ...]:
    kept = [llm.kv_kept(il).tolist() for il in range(len(llm.kv_stats().n_tokens_kept))]
    return kept, llm._input_ids.tolist(), llm._seed, session.last_logits(llm).tolist()


@pytest.fixture
def saved(load: Callable[..., Llama], tmp_path: Path) -> Path:
    llm = load()
    next(llm.generate(prompt(Case("", 600)), temp=0))
    llm.save_session(tmp_path / "a.session")
    return tmp_path / "a.session"


#
# the same tokens, to the bit
#


@pytest.mark.parametrize("options", [{"temp": 0}, {"temp": 1.2}], ids=["greedy", "seed"])
@pytest.mark.parametrize("type_kv", ["f16", "q8_0", "q4_0"])
def test_continued_as_if_never_saved(
    type_kv: str, options: dict[str, Any], load: Callable[..., Llama], path: str, tmp_path: Path
) -> None:
    """A document, an answer that evicts, then the next turn; 40 tokens and the logits after them."""
    kv = {"type_k": TYPES[type_kv], "type_v": TYPES[type_kv], "kv_tail": 64, "seed": 7}
    llm = load(**kv)
    history = prompt(Case("", 700))
    history += itertools.islice(llm.generate(history, **options), 90)
    assert llm.kv_stats().n_evictions > 1
    llm.save_session(tmp_path / "a.session")
    other = Llama.load_session(tmp_path / "a.session", n_threads=1, n_threads_batch=1, verbose=False)
    question = [*history, *prompt(Case("", 30))]
    assert go_on(other, question, **options) == go_on(llm, question, **options)
    devices.assert_same(last_logits(other), last_logits(llm))
    assert other.kv_stats().n_tokens_kept == llm.kv_stats().n_tokens_kept


@pytest.mark.parametrize("options", [{"temp": 0}, {"temp": 1.2}], ids=["greedy", "seed"])
def test_the_next_token_needs_no_evaluation(
    options: dict[str, Any], load: Callable[..., Llama], tmp_path: Path
) -> None:
    """The same prompt again: the last logits were saved, because evaluating one token alone gives other bits."""
    llm, other = load(seed=7), load(seed=8)
    tokens = prompt(Case("", 500))
    next(llm.generate(tokens, **options))
    llm.save_session(tmp_path / "a.session")
    assert other.load_session(tmp_path / "a.session") is other
    assert go_on(other, tokens, **options) == go_on(llm, tokens, **options)


def test_completions_of_a_loaded_session(load: Callable[..., Llama], text: str, tmp_path: Path) -> None:
    """create_completion draws its seed from the instance's; grammar and penalties work on restored logits as well."""
    llm, other = load(seed=3), load()
    llm.create_completion(text[:1500], max_tokens=8)
    llm.save_session(tmp_path / "a.session")
    other.load_session(tmp_path / "a.session")
    answers = [one.create_completion(text[:1600], max_tokens=12)["choices"][0]["text"] for one in (llm, other)]
    assert answers[0] == answers[1]


def test_a_session_of_the_stock_cache(path: str, tmp_path: Path) -> None:
    options = {"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    llm = Llama(path, **options)
    tokens = prompt(Case("", 300))
    go_on(llm, tokens, temp=0)
    llm.save_session(tmp_path / "a.session")
    other = Llama.load_session(tmp_path / "a.session", **options)
    assert other._compression is None
    assert go_on(other, [*tokens, 65, 66], temp=0) == go_on(llm, [*tokens, 65, 66], temp=0)


def test_logits_all_has_the_last_row(load: Callable[..., Llama], tmp_path: Path, text: str) -> None:
    llm, other = load(logits_all=True), load(logits_all=True)
    llm.create_completion(text[:900], max_tokens=1, temperature=0)
    llm.save_session(tmp_path / "a.session")
    other.load_session(tmp_path / "a.session")
    ask = {"max_tokens": 5, "logprobs": 2, "temperature": 0}
    one, two = (this.create_completion(text[:900], **ask)["choices"][0] for this in (llm, other))
    assert one == two


def test_a_session_is_small_and_says_what_it_is(saved: Path, path: str) -> None:
    held = session.Session.load(saved)
    assert held.header.n_tokens == len(held.tokens) == 600
    assert held.header.model_path == os.path.abspath(path)
    assert held.header.profile == Profile.uniform(path).model_dump(mode="json", exclude_none=True)
    assert saved.stat().st_size < 0.3 * Llama(path, n_ctx=600, verbose=False).kv_stats().kv_bytes_stock


def test_protection_comes_back(load: Callable[..., Llama], tmp_path: Path) -> None:
    llm, other = load(), load()
    llm.protect([range(10, 14), 50])
    llm.eval(prompt(Case("", 300)))
    llm.save_session(tmp_path / "a.session")
    other.load_session(tmp_path / "a.session")
    other.compress()
    assert {10, 11, 12, 13, 50} <= set(other.kv_kept(0).tolist())


def test_protection_goes_on_without_a_prompt(load: Callable[..., Llama], tmp_path: Path) -> None:
    """Tokens evaluated one by one after loading are evicted as if the session had never been saved."""
    llm, tokens = load(kv_prefill="chunked", kv_tail=64, kv_budget=48), prompt(Case("", 600))
    llm.protect([range(10, 14)])
    next(llm.generate(tokens[:300], temp=0))
    assert llm._compression.protection.n_sinks == 3  # a sixteenth of the budget
    llm.save_session(tmp_path / "a.session")
    other = Llama.load_session(tmp_path / "a.session", n_threads=1, n_threads_batch=1, verbose=False)
    for this in (llm, other):
        this.eval(tokens[300:])
    assert other._compression.protected == llm._compression.protected == (0, 1, 2, 10, 11, 12, 13)
    assert all_of(other) == all_of(llm)
    assert set(llm._compression.protected) <= set(other.kv_kept(0).tolist())


def test_policies_without_records_of_their_own_go_on(load: Callable[..., Llama], tmp_path: Path) -> None:
    llm = load(kv_policy="keydiff", kv_tail=64)
    history = prompt(Case("", 400))
    history += itertools.islice(llm.generate(history, temp=0), 10)
    llm.save_session(tmp_path / "a.session")
    other = Llama.load_session(tmp_path / "a.session", n_threads=1, n_threads_batch=1, verbose=False)
    assert other.__getstate__()["kv_policy"] == "keydiff"
    assert go_on(other, history, temp=0) == go_on(llm, history, temp=0)
    compresskv = load(kv_tail=64)
    compresskv.load_session(tmp_path / "a.session")
    assert compresskv._compression.current == []  # its own budgets come with its first prompt
    assert compresskv.kv_kept(0).tolist() != []


#
# what does not fit
#


def test_policies_that_need_more_than_the_cache(saved: Path, load: Callable[..., Llama], tmp_path: Path) -> None:
    llm = load(kv_policy="h2o")
    llm.eval(prompt(Case("", 200)))
    with pytest.raises(PolicyError, match="save_session: kv_policy='h2o' writes queries down"):
        llm.save_session(tmp_path / "b.session")
    assert not (tmp_path / "b.session").exists()
    refuses(llm, saved, "kv_policy='h2o' writes queries down.*load the model with kv_policy='compresskv'")
    snapkv = load(kv_policy="snapkv", kv_budget=400)
    snapkv.eval(prompt(Case("", 200)))
    refuses(snapkv, saved, r"window was 8 tokens, is 32.*kv_policy='compresskv', kv_budget=100")


def refuses(llm: Llama, path: Path, match: str) -> None:
    before, bytes_before = all_of(llm), path.read_bytes()
    with pytest.raises(SessionError, match=match):
        llm.load_session(path)
    assert all_of(llm) == before
    assert path.read_bytes() == bytes_before


def test_another_model_or_profile_or_cache(
    saved: Path, load: Callable[..., Llama], path: str, tiny_gguf: Callable[..., Path]
) -> None:
    uniform = Profile.uniform(path)
    other_profile = uniform.model_copy(update={"default_budget": 0.5})
    cases = {
        r"another profile: saved with .*uncalibrated": load(kv_profile=other_profile),
        r"another profile.*\n.*swa_full|another profile": Llama(path, n_ctx=2048, verbose=False),
        r"type_k was 1, is 8: load the model with the same type_k": load(type_k=8, type_v=8),
        r"n_ctx is 512: load the model with a larger one": load(n_ctx=512),
        r"rope_freq_base was 0.0, is 5000.0": load(rope_freq_base=5000.0),
    }
    other_path = str(tiny_gguf("llama", seed=1))
    cases[r"another model: saved with .*llama-F32-0.gguf"] = Llama(
        other_path, kv_profile=Profile.uniform(other_path), n_ctx=2048, verbose=False
    )
    for match, llm in cases.items():
        llm.eval(prompt(Case("", 100)))
        refuses(llm, saved, match)


def test_a_state_that_llama_cpp_refuses_changes_nothing(
    saved: Path, load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_check, "problem", lambda *_: None)  # which would see it first
    held = session.Session.load(saved)
    state = held.state.copy()
    where = state.tobytes().index(b"CCKV")
    state[where : where + 4] = 0
    session.Session(held.header, held.tokens, held.logits, state).save(saved)
    llm, empty = load(), load()
    next(llm.generate(prompt(Case("", 300)), temp=0))
    kept = llm.kv_kept(0).tolist()
    with pytest.raises(SessionError, match="could not restore"):
        llm.load_session(saved)
    assert llm.kv_kept(0).tolist() == kept
    assert llm.n_tokens == 300
    with pytest.raises(SessionError, match="could not restore"):
        empty.load_session(saved)
    empty.eval([65])
    assert empty.kv_stats().n_tokens_seen == 1


def test_another_version_of_llama_cpp(saved: Path, load: Callable[..., Llama]) -> None:
    held = session.Session.load(saved)
    header = held.header.model_copy(update={"llama_cpp": "llama.cpp 9.9 f00"})
    session.Session(header, held.tokens, held.logits, held.state).save(saved)
    refuses(load(), saved, r"with llama.cpp 9.9 f00, this is .*: install that version")


def test_the_model_has_moved(saved: Path, path: str, tmp_path: Path) -> None:
    held = session.Session.load(saved)
    header = held.header.model_copy(update={"model_path": str(tmp_path / "gone.gguf")})
    moved = session.Session(header, held.tokens, held.logits, held.state)
    with pytest.raises(SessionError, match="is not there: say where it is with model_path"):
        Llama.load_session(moved)
    assert Llama.load_session(moved, path, n_ctx=1024, verbose=False).n_tokens == 600


def test_nothing_to_save(load: Callable[..., Llama], tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="nothing to save"):
        load().save_session(tmp_path / "a.session")
    assert not list(tmp_path.iterdir())


def test_an_instance_has_its_model(saved: Path, load: Callable[..., Llama]) -> None:
    with pytest.raises(SessionError, match="without more arguments"):
        load().load_session(saved, n_ctx=100)
    assert issubclass(SessionError, CompressKVError)
