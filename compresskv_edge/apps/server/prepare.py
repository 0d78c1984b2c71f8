"""Before a slot is asked for: the tokens of the prompt, whether they fit, and whether the request makes sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Dict, List, Union

import jinja2
import numpy as np
import numpy.typing as npt
from fastapi import HTTPException
from llama_cpp.server.app import prepare_request_resources
from pydantic import ValidationError

from ...errors import SchemaError, TokenError
from ...runtime.tokens import check_bias, checked
from .errors import ApiError, cannot, context_length_exceeded
from .generate import Call
from .load import SlotLlama
from .requests import NOT_ARGUMENTS, ChatRequest, CompletionRequest

_NO_GRAMMAR = "the grammar cannot be parsed: it has to be GBNF with a rule named root"
_NO_PROMPT = (
    "the model's chat template makes an empty prompt of these messages: start the server with --chat_format, such as "
    "chatml"
)
_NO_TOKENS = np.empty(0, dtype=np.int32)
_BAD_REQUEST = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError, jinja2.TemplateError)


@dataclass(frozen=True)
class Prepared:
    """A request that can run: tokens of its prompt (n,), and what to do with the slot's Llama."""

    tokens: npt.NDArray[np.int32]
    call: Call


def chat(llama: SlotLlama, body: ChatRequest, name: str) -> List[Prepared]:
    """One answer. Raises ApiError 400 for what cannot be answered."""
    kwargs = _arguments(llama, body, name)
    messages = kwargs.pop("messages")
    if not llama.chat_handler:  # a handler of its own may see images
        messages = [_plain(index, message) for index, message in enumerate(messages)]
    try:
        ready = llama.prepare_chat(messages, **kwargs)
    except SchemaError as error:
        raise ApiError(400, str(error), param="response_format" if body.response_format else "tools") from error
    except _BAD_REQUEST as error:
        raise cannot("the chat template cannot render these messages", error, param="messages") from error
    if ready is None:  # such a handler makes the prompt where it runs
        return [Prepared(_NO_TOKENS, lambda slot: slot.create_chat_completion(messages, **kwargs))]
    if not ready.prompt.tokens:
        raise ApiError(400, _NO_PROMPT, param="messages")
    _check(llama, ready.prompt.tokens, ready.options)
    return [Prepared(np.asarray(ready.prompt.tokens, dtype=np.int32), lambda slot: slot.run_chat(ready))]


def completion(llama: SlotLlama, body: CompletionRequest, name: str) -> List[Prepared]:
    """As many answers as prompts and choices. Raises ApiError 400 for what cannot be answered."""
    return [_completion(llama, each, name) for each in body.each()]


def _completion(llama: SlotLlama, body: CompletionRequest, name: str) -> Prepared:
    kwargs = _arguments(llama, body, name)
    tokens = _prompt_tokens(llama, body.prompt)
    if not _needs_the_text(llama, body):
        kwargs["prompt"] = tokens
    _check(llama, tokens, kwargs)
    return Prepared(np.asarray(tokens, dtype=np.int32), lambda slot: slot.create_completion(**kwargs))


def _needs_the_text(llama: SlotLlama, body: CompletionRequest) -> bool:
    """The binding does something to it, or repeats it; else it takes the tokens, and a long text is tokenised once."""
    if not body.prompt or not isinstance(body.prompt, str):
        return False
    adds_end = llama.metadata.get("tokenizer.ggml.add_eos_token") == "true"
    return bool(body.suffix or body.echo or body.logprobs is not None or adds_end)


def chat_tokens(llama: SlotLlama, messages: List[Dict[str, Any]]) -> npt.NDArray[np.int32]:
    """A conversation as the model sees it: (n,). Raises ApiError 400 for what is none."""
    try:
        return chat(llama, ChatRequest(messages=messages), "")[0].tokens
    except ValidationError as error:
        raise ApiError(400, str(error.errors()[0]["msg"]), param="messages") from error


def _arguments(llama: SlotLlama, body: Union[ChatRequest, CompletionRequest], name: str) -> Dict[str, Any]:
    kwargs = {**body.model_dump(exclude=NOT_ARGUMENTS), "model": name}
    if isinstance(body, ChatRequest) and body.response_format is not None:
        kwargs["response_format"] = body.response_format.model_dump(by_alias=True, exclude_none=True)
    try:
        prepare_request_resources(body, lambda _: llama, name, kwargs)
    except HTTPException:
        raise
    except _BAD_REQUEST as error:
        raise cannot("the request cannot be prepared", error) from error
    return kwargs


def _plain(index: int, message: Dict[str, Any]) -> Dict[str, Any]:
    """A message whose content is one string: templates of text models know no other."""
    content = message.get("content")
    if content is None:
        return {**message, "content": ""}
    if isinstance(content, str):
        return message
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ApiError(
                400, f"messages[{index}].content holds something else than text, and this model reads text only",
                param="messages",
            )  # fmt: skip
    return {**message, "content": "".join(part["text"] for part in parts)}


def _prompt_tokens(llama: SlotLlama, prompt: Any) -> List[int]:
    """Of a text, or tokens that the client made."""
    try:
        tokens = checked(prompt, llama.n_vocab()) if isinstance(prompt, list) else _tokens(llama, prompt)
        checked(tokens or [-1], llama.n_vocab())
    except TokenError as error:
        empty = "the prompt is empty, and this model has no start token"
        raise ApiError(400, str(error) if prompt else empty, param="prompt") from error
    return tokens


def _tokens(llama: SlotLlama, text: str) -> List[int]:
    tokens = llama.tokenize(text.encode("utf-8"), add_bos=False, special=True) if text else []
    return [llama.token_bos(), *tokens] if llama.adds_bos or not tokens else tokens


def _check(llama: SlotLlama, tokens: Sequence[int], kwargs: Mapping[str, Any]) -> None:
    if len(tokens) >= llama.n_ctx():
        raise context_length_exceeded(len(tokens), llama.n_ctx())
    if kwargs.get("logprobs") is not None and not llama.keeps_all_logits:
        raise ApiError(400, "logprobs need a server that was started with --logits_all true", param="logprobs")
    try:
        check_bias(kwargs.get("logit_bias") or {}, llama.n_vocab())
    except TokenError as error:
        raise ApiError(400, str(error), param="logit_bias") from error
    if kwargs.get("grammar") is not None and not llama.takes_grammar(kwargs["grammar"]):
        raise ApiError(400, _NO_GRAMMAR, param="grammar")
