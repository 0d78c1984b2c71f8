"""The tokens of a prompt, as create_chat_completion makes them in the model's chat format."""

from __future__ import annotations

import contextlib
from typing import Any

from ...runtime.llama import Llama, llama_cpp

Message = dict[str, str]


def prompt_tokens(llm: Llama, messages: list[Message]) -> list[int]:
    """Tokens of some messages, the head of an answer included; nothing is run."""
    recorder = _Recorder(llm)
    with contextlib.suppress(_Recorded):
        _handler(llm)(llama=recorder, messages=messages)
    return recorder.tokens


class _Recorded(Exception):
    pass


class _Recorder:
    """Stands in for a Llama while a chat handler makes the prompt, and takes down its tokens."""

    def __init__(self, llm: Llama) -> None:
        self._llm = llm
        self.tokens: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def create_completion(self, prompt: Any, **_: Any) -> Any:
        self.tokens = self._llm.tokenize(prompt.encode(), special=True) if isinstance(prompt, str) else list(prompt)
        raise _Recorded


def _handler(llm: Llama) -> Any:
    """As create_chat_completion finds it."""
    return (
        llm.chat_handler
        or llm._chat_handlers.get(llm.chat_format)
        or llama_cpp.llama_chat_format.get_chat_completion_handler(llm.chat_format)
    )
