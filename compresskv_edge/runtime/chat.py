"""Chats: messages become a prompt once, a prompt becomes a completion, and that an answer in the form of a chat's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from . import binding, schema
from .binding import LoadedModel
from .forged import StandIns, control_texts
from .history import for_template
from .prompt import Message, Prompt, located

TEMPLATE_OPTIONS = ("functions", "function_call", "tools", "tool_choice")  # which templates put into the prompt

_NOT_OF_COMPLETIONS = (*TEMPLATE_OPTIONS, "response_format", "logprobs", "top_logprobs")


@dataclass(frozen=True)
class ChatCall:
    """A chat that can run. `options` are those of create_completion, `tool` is the function that must be called."""

    prompt: Prompt
    options: Mapping[str, Any]
    tool: Optional[str] = None


def render(
    llm: LoadedModel, messages: Sequence[Message], options: Mapping[str, Any], *, special: bool = False
) -> Optional[Prompt]:
    """The prompt of some messages; None for a chat handler that makes it by itself, as those of images do.

    options: for the template. special: what messages spell counts as control tokens too. Raises whatever the template
    raises.
    """
    formatter = binding.formatter_of(llm)
    if formatter is None:
        return None
    asked = {**dict.fromkeys(TEMPLATE_OPTIONS), **options}
    messages = for_template(messages, getattr(formatter, "template", ""))
    stand_ins = StandIns(messages, () if special else control_texts(llm))
    response = formatter(messages=stand_ins.hide(messages), **asked)
    parts = stand_ins.parts(response.prompt)
    tokens: List[int] = []
    for i, (part, known) in enumerate(parts):
        tokens += llm.tokenize(part.encode("utf-8"), add_bos=i == 0 and not response.added_special, special=known)
    stop = response.stop or ()
    return located(
        tokens,
        binding.pieces(llm, tokens),
        "".join(part for part, _ in parts),
        messages,
        stop=[stop] if isinstance(stop, str) else stop,
        stopping_criteria=response.stopping_criteria,
    )


def prepare(prompt: Prompt, options: Mapping[str, Any], *, verbose: bool = False) -> ChatCall:
    """How a prompt runs. options: all of create_chat_completion's. Raises ValueError for a tool that is not there."""
    tool = _forced_tool(options)
    stop = options["stop"] or []
    chosen = {name: value for name, value in options.items() if name not in _NOT_OF_COMPLETIONS}
    chosen.update(
        logprobs=(options["top_logprobs"] or 0) if options["logprobs"] else None,
        stop=[*([stop] if isinstance(stop, str) else stop), *prompt.stop],
        stopping_criteria=prompt.stopping_criteria,
        grammar=_grammar(options, tool, verbose=verbose),
    )
    return ChatCall(prompt, chosen, None if tool is None else str(tool["function"]["name"]))


def run(llm: Any, call: ChatCall) -> Any:
    """The answer, or its chunks."""
    completion = llm.create_completion(prompt=list(call.prompt.tokens), **call.options)
    return binding.as_chat(completion, call.tool, stream=bool(call.options["stream"]))


def _grammar(options: Mapping[str, Any], tool: Optional[Mapping[str, Any]], *, verbose: bool) -> Any:
    """What the answer has to obey: the arguments of a forced tool, JSON, or what the caller gave."""
    wanted = options["response_format"]
    if tool is not None:
        function = tool["function"]
        if function.get("strict"):
            schema.check(function["parameters"])
        return binding.schema_grammar(json.dumps(function["parameters"]), verbose=verbose)
    if wanted is None or wanted["type"] == "text":
        return options["grammar"]
    if wanted["type"] == "json_schema":
        wanted = wanted["json_schema"]
    if "schema" not in wanted:
        return binding.json_grammar(verbose=verbose)
    schema.check(wanted["schema"])
    return binding.schema_grammar(json.dumps(wanted["schema"]), verbose=verbose)


def _forced_tool(options: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The tool that must be called, if one must. OpenAI's older names are functions and function_call."""
    tools: Optional[List[Any]] = options["tools"]
    choice, older = options["tool_choice"], options["function_call"]
    if options["functions"] is not None:
        tools = [{"type": "function", "function": function} for function in options["functions"]]
    if older in ("none", "auto"):
        choice = older
    elif isinstance(older, dict) and "name" in older:
        choice = {"function": {"name": older["name"]}}
    if tools and choice == "required":
        if len(tools) > 1:
            raise ValueError("tool_choice 'required' with several tools is not supported: name one of them")
        return dict(tools[0])
    if tools is None or not isinstance(choice, dict):
        return None
    name = choice["function"]["name"]
    for tool in tools:
        if tool["function"]["name"] == name:
            return dict(tool)
    raise ValueError(f"Tool choice '{name}' not found in tools.")
