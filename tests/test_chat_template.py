"""Templates that refuse a conversation end in an error that says what helps."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.template import render
from compresskv_edge.errors import ChatError
from compresskv_edge.runtime.prompt import Prompt

USER = {"role": "user", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}


class Refuses:
    """A model, as far as its template goes."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def set_seed(self, seed: int) -> None:
        """Any will do."""

    def chat_prompt(self, messages: Any) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize("error", [ValueError("System role not supported"), jinja2.UndefinedError("no x")])
def test_a_template_that_refuses(error: Exception) -> None:
    llm: Any = Refuses(error)
    with pytest.raises(ChatError, match=rf"refuses this conversation \({error}\): leave out --system, or name another"):
        render(llm, [SYSTEM, USER])
    with pytest.raises(ChatError, match=r"\): name another one with --chat-format"):
        render(llm, [USER])
    with pytest.raises(ChatError, match="leave out --system"):
        list(Conversation(llm, system="Be brief.").ask("Hello."))


def test_an_empty_template() -> None:
    with pytest.raises(ChatError, match="makes an empty prompt"):
        render(Refuses(Prompt(())), [USER])
    assert render(Refuses(None), [USER]) is None, "handlers of images make their own"
