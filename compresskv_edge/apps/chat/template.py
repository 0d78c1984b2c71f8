"""A chat template that refuses a conversation: what it says, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from ...errors import ChatError, CompressKVError
from ...runtime.prompt import Prompt


def render(
    llm: Any, messages: list[dict[str, str]], template_options: Optional[Mapping[str, Any]] = None
) -> Optional[Prompt]:
    """As Llama.chat_prompt. template_options: its chat_template_kwargs.

    Raises ChatError where the model's template raises an error of its own.
    """
    try:
        more = {"chat_template_kwargs": dict(template_options)} if template_options else {}
        prompt: Optional[Prompt] = llm.chat_prompt(messages, **more)
    except CompressKVError:
        raise
    except Exception as error:  # a template is a program: it raises jinja2's errors, ValueError, TypeError
        without = "leave out --system, or " if messages[0]["role"] == "system" else ""
        raise ChatError(
            f"the model's chat template refuses this conversation ({error}): {without}"
            "name another one with --chat-format"
        ) from error
    if prompt is not None and not prompt.tokens:
        raise ChatError("the model's chat template makes an empty prompt: name another one with --chat-format")
    return prompt
