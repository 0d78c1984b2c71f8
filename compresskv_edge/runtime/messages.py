"""Where a chat's system prompt ends and its last question begins, in tokens, whatever the chat format."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

if TYPE_CHECKING:
    from .llama import Llama

_log = logging.getLogger(__name__)

_SYSTEM = ("system", "developer")
_PLACEHOLDER = "0"  # templates refuse an empty message
_TEMPLATE_OPTIONS = ("functions", "function_call", "tools", "tool_choice")  # which templates put into the prompt

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """One request of a chat as the template renders it with other words in place of the question.

    Compare with the tokens of the true prompt: what both begin with is the system prompt, or all before the question.
    """

    system: Tuple[int, ...] = ()
    before_question: Tuple[int, ...] = ()


def turn_of(llm: Llama, messages: Sequence[Message], options: Mapping[str, Any], *, with_question: bool) -> Turn:
    """Render what a request begins with. A format that cannot be rendered without being run has no turn."""
    leading = list(itertools.takewhile(lambda message: message.get("role") in _SYSTEM, messages))
    question = _last(messages, "user")
    empty = {"role": "user", "content": _PLACEHOLDER}
    try:
        system = render(llm, [*leading, empty], options) if leading else []
        before = render(llm, [*messages[:question], empty, *messages[question + 1 :]], options) if with_question else []
    except Exception as error:  # a template may raise anything, and run anything in a sandbox
        _log.debug("the chat format does not tell where the system prompt ends: %s", error)
        return Turn()
    return Turn(tuple(system), tuple(before))


def _last(messages: Sequence[Message], role: str) -> int:
    return max((i for i, message in enumerate(messages) if message.get("role") == role), default=len(messages))


def render(llm: Llama, messages: Sequence[Message], options: Mapping[str, Any]) -> List[int]:
    """The prompt's tokens that create_chat_completion would run for these messages."""
    from llama_cpp import llama_chat_format

    handler = (
        llm.chat_handler
        or llm._chat_handlers.get(llm.chat_format)
        or llama_chat_format.get_chat_completion_handler(llm.chat_format)
    )
    if hasattr(handler, "load_image"):
        raise TypeError("a handler of images evaluates them")
    chosen: Dict[str, Any] = {name: options[name] for name in _TEMPLATE_OPTIONS if name in options}
    try:
        handler(llama=_Typesetter(llm), messages=list(messages), **chosen)
    except _Rendered as rendered:
        return rendered.tokens
    raise TypeError("the handler made no completion")


class _Rendered(Exception):
    def __init__(self, tokens: List[int]) -> None:
        self.tokens = tokens


class _Typesetter:
    """A model that renders and tokenises and stops where it would begin to run."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def create_completion(self, prompt: Any, **_: Any) -> Any:
        raise _Rendered(self._llm.tokenize(prompt.encode()) if isinstance(prompt, str) else list(prompt))
