"""Where system prompts end and questions begin, in several chat formats."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from compresskv_edge import Llama
from compresskv_edge.runtime.messages import Turn, render, turn_of
from compresskv_edge.runtime.protection import common_prefix

FORMATS = ("chatml", "llama-2", "llama-3", "mistral-instruct", "gemma", "zephyr", "alpaca")
MESSAGES = [
    {"role": "system", "content": "Be brief about the mill."},
    {"role": "user", "content": "What is a mill?"},
    {"role": "assistant", "content": "A house."},
    {"role": "user", "content": "Whose house is it?"},
]


@pytest.fixture
def llm(load: Callable[..., Llama]) -> Llama:
    return load()


def words(llm: Llama, tokens: Any) -> str:
    return llm.detokenize(list(tokens)).decode()


@pytest.mark.parametrize("chat_format", FORMATS)
def test_any_format(chat_format: str, llm: Llama) -> None:
    llm.chat_format = chat_format
    tokens = render(llm, MESSAGES, {})
    turn = turn_of(llm, MESSAGES, {}, with_question=True)
    system = words(llm, tokens[: common_prefix(turn.system, tokens)])
    before = words(llm, tokens[: common_prefix(turn.before_question, tokens)])
    assert "What is" not in system
    assert ("Be brief about the mill." in system) or ("Be brief" not in words(llm, tokens))  # some formats drop it
    assert "Whose" not in before
    assert "A house." in before


def test_it_is_what_the_chat_runs(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Llama, "create_completion", lambda self, prompt, **_: seen.append(prompt))
    for stream in (False, True):
        with pytest.raises(TypeError):
            list(llm.create_chat_completion(MESSAGES, stream=stream))
    assert seen == [render(llm, MESSAGES, {})] * 2


def test_no_system_prompt_no_question(llm: Llama) -> None:
    assert turn_of(llm, MESSAGES[1:], {}, with_question=False) == Turn()


def test_a_template_that_refuses(llm: Llama) -> None:
    formatter = Jinja2ChatFormatter("{{ raise_exception('no system') }}", eos_token="", bos_token="")
    llm.chat_handler = formatter.to_chat_handler()
    assert turn_of(llm, MESSAGES, {}, with_question=True) == Turn()


def test_a_handler_of_images_is_not_run(llm: Llama) -> None:
    class Images:
        def load_image(self) -> None: ...

        def __call__(self, **_: Any) -> None:
            raise AssertionError

    llm.chat_handler = Images()
    assert turn_of(llm, MESSAGES, {}, with_question=True) == Turn()


def test_the_guide_is_the_last_user_message(load: Callable[..., Llama], text: str) -> None:
    llm = load(kv_prefill="guided", kv_tail=256)
    messages = [*MESSAGES[:1], {"role": "user", "content": text[:1500]}, *MESSAGES[2:]]
    llm.create_chat_completion(messages, max_tokens=1)
    compression = llm._compression
    question = words(llm, compression.guide(llm._input_ids.tolist()))
    assert question.startswith("Whose house is it?")
    llm.create_completion(text[:1500], max_tokens=1)
    assert len(compression.guide(llm._input_ids.tolist())) == (256 - 8) // 2
