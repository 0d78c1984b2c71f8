"""Nothing of a conversation is lost or doubled on its way into a template."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from compresskv_edge import Llama
from compresskv_edge.runtime.history import for_template

DEVELOPER = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hm?"}]
ROLES = (
    "{% for m in messages %}{% if m.role in ('system', 'user') %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
QWEN = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
DEEPSEEK = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments + ';' }}{% endfor %}{% endfor %}"


def called(arguments: Any) -> list[dict[str, Any]]:
    function = {"name": "f", "arguments": arguments}
    return [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}]


def rendered(llm: Llama, template: str, messages: Any) -> str:
    llm.chat_handler = Jinja2ChatFormatter(template, eos_token="", bos_token="").to_chat_handler()
    prompt = llm.chat_prompt(messages)
    assert prompt is not None
    return prompt.text


def test_developers_are_heard(load: Callable[..., Llama]) -> None:
    llm = load()
    assert rendered(llm, ROLES, DEVELOPER) == "<system>Be brief.<user>Hm?"
    assert rendered(llm, ROLES.replace("'system'", "'developer'"), DEVELOPER) == "<developer>Be brief.<user>Hm?"
    llm.chat_handler = None
    llm.chat_format = "chatml"
    prompt = llm.chat_prompt(DEVELOPER)
    assert prompt is not None
    assert "Be brief." in prompt.text
    assert prompt.n_system > 0


@pytest.mark.parametrize("arguments", ['{"code": 4817}', {"code": 4817}])
def test_arguments_are_encoded_once(arguments: Any, load: Callable[..., Llama]) -> None:
    assert rendered(load(), QWEN, called(arguments)) == '{"code": 4817}'


def test_a_template_that_wants_the_string_gets_it(load: Callable[..., Llama]) -> None:
    assert rendered(load(), DEEPSEEK, called('{"code": 4817}')) == '{"code": 4817};'


@pytest.mark.parametrize("arguments", ["{broken", None])
def test_what_is_no_json_stays(arguments: Any) -> None:
    assert for_template(called(arguments), QWEN) == called(arguments)
