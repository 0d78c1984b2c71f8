"""Chats: messages become a prompt once, a prompt becomes a completion, and that an answer in the form of a chat's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from . import binding, schema
from .binding import LoadedModel
from .forged import StandIns, control_texts, spelled_tokens
from .history import for_template
from .prompt import Message, Prompt, located
from .reply import answer, reading
from .reply.answer import AnswerReading

# which templates put into the prompt
TEMPLATE_OPTIONS = ("functions", "function_call", "tools", "tool_choice", "chat_template_kwargs")
OWN_OPTIONS = ("chat_template_kwargs", *reading.OPTIONS)  # beyond llama_cpp.Llama.create_chat_completion

_NOT_OF_COMPLETIONS = (*TEMPLATE_OPTIONS, *OWN_OPTIONS, "response_format", "logprobs", "top_logprobs")


@dataclass(frozen=True)
class ChatCall:
    """A chat that can run. `options` are those of create_completion, `tool` is the function that must be called.

    reading: what is in the answer beside words; None: nothing. marks: control tokens that its text has to show for it.
    """

    prompt: Prompt
    options: Mapping[str, Any]
    tool: Optional[str] = None
    reading: Optional[AnswerReading] = None
    marks: Mapping[int, bytes] = field(default_factory=dict)


def options(*args: Any, **kwargs: Any) -> Dict[str, Any]:
    """Arguments of create_chat_completion behind the messages, with their defaults."""
    own = {name: kwargs.pop(name, None) for name in OWN_OPTIONS}
    return {**binding.chat_options(*args, **kwargs), **own}


def without_own(kwargs: Mapping[str, Any]) -> Dict[str, Any]:
    """Arguments for a handler that does all itself. Raises ValueError for those that it cannot take."""
    for name in OWN_OPTIONS:
        if kwargs.get(name) is not None:
            raise ValueError(f"{name} does nothing with this chat_handler, which makes the prompt itself: leave it out")
    return {name: value for name, value in kwargs.items() if name not in OWN_OPTIONS}


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
    more = dict(options)
    asked = {**dict.fromkeys(TEMPLATE_OPTIONS[:-1]), **(more.pop("chat_template_kwargs", None) or {}), **more}
    if reading.choice_of(asked) == "none":  # a model that knows of no tools calls none
        asked.update(tools=None, functions=None)
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


def prepare(llm: LoadedModel, prompt: Prompt, options: Mapping[str, Any], *, verbose: bool = False) -> ChatCall:
    """How a prompt runs. options: all of create_chat_completion's. Raises ValueError for a tool that is not there."""
    reading.check(options)
    tool = _forced_tool(options)
    stop = options["stop"] or []
    chosen = {name: value for name, value in options.items() if name not in _NOT_OF_COMPLETIONS}
    grammar = _grammar(options, tool, verbose=verbose)
    chosen.update(
        logprobs=(options["top_logprobs"] or 0) if options["logprobs"] else None,
        stop=[*([stop] if isinstance(stop, str) else stop), *prompt.stop],
        stopping_criteria=prompt.stopping_criteria,
        grammar=grammar,
    )
    if tool is not None:
        return ChatCall(prompt, chosen, str(tool["function"]["name"]))
    read = reading.reading_of(binding.formatter_of(llm), prompt.text, options, is_free=grammar is None)
    marks = {} if read is None else spelled_tokens(llm, read.marks)
    return ChatCall(prompt, chosen, None, read, marks)


def run(llm: Any, call: ChatCall) -> Any:
    """The answer, or its chunks."""
    completion = llm.create_completion(prompt=list(call.prompt.tokens), **call.options)
    is_stream = bool(call.options["stream"])
    chat = binding.as_chat(completion, call.tool, stream=is_stream)
    if call.reading is None:
        return answer.named_once(chat) if call.tool is not None and is_stream else chat
    return answer.chunks(chat, call.reading) if is_stream else answer.whole(chat, call.reading)


def _grammar(options: Mapping[str, Any], tool: Optional[Mapping[str, Any]], *, verbose: bool) -> Any:
    """What the answer has to obey: the arguments of a forced tool, JSON, or what the caller gave."""
    wanted, tools = options["response_format"], reading.tools_of(options)
    if tool is not None:
        return _of_schema(tool["function"].get("parameters") or {"type": "object"}, tool["function"], verbose=verbose)
    if tools and reading.choice_of(options) == "required":
        for each in tools:
            if each["function"].get("strict"):
                schema.check(each["function"]["parameters"])
        wanted = reading.any_of(tools, several=options["parallel_tool_calls"] is True)
        return binding.schema_grammar(json.dumps(wanted), verbose=verbose)
    if wanted is None or wanted["type"] == "text":
        return options["grammar"]
    if wanted["type"] == "json_schema":
        wanted = wanted["json_schema"]
    if "schema" not in wanted:
        return binding.json_grammar(verbose=verbose)
    return _of_schema(wanted["schema"], {"strict": True}, verbose=verbose)


def _of_schema(wanted: Any, given: Mapping[str, Any], *, verbose: bool) -> Any:
    if given.get("strict"):
        schema.check(wanted)
    return binding.schema_grammar(json.dumps(wanted), verbose=verbose)


def _forced_tool(options: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The one tool that must be called, if there is one."""
    tools, choice = reading.tools_of(options), reading.choice_of(options)
    if choice == "required" and len(tools) == 1 and not options["parallel_tool_calls"]:
        return tools[0]
    if not tools or not isinstance(choice, dict):
        return None
    name = choice["function"]["name"]
    for tool in tools:
        if tool["function"]["name"] == name:
            return tool
    raise ValueError(f"Tool choice '{name}' not found in tools.")
