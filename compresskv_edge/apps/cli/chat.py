"""`compresskv chat`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import json
import sys
from pathlib import Path
from typing import Annotated, Any, List, Optional

import typer

from ...engine import logs
from ...engine.machine import physical_cores
from ...model.kv_types import KV_TYPES, ggml_type
from .options import budget as parse_budget
from .options import one_of
from .pull import offer

_EXAMPLES = (
    "Examples: `compresskv chat demo`, `compresskv chat qwen2.5-coder-0.5b-instruct`,"
    " `compresskv chat model.gguf --file manual.pdf --budget 1024`,"
    " `compresskv chat Qwen/Qwen2.5-0.5B-Instruct-GGUF:*q4_k_m.gguf`,"
    " `echo 'What is the warranty?' | compresskv chat model.gguf --file manual.pdf`,"
    " `compresskv chat model.gguf --file notes.md --ask 'Who called?' --json`. In the chat, /help lists the commands."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("chat", epilog=_EXAMPLES)(chat_command)


def chat_command(
    model: Annotated[
        str,
        typer.Argument(help="GGUF file, a name of `compresskv pull`, repo/name:file.gguf on Hugging Face, or demo."),
    ],
    file: Annotated[Optional[Path], typer.Option(help="Document to talk about: .pdf, .txt, .md.")] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="auto (measured once if there is none), uniform, none (stock), a shipped name, a .json file."
        ),
    ] = "auto",
    budget: Annotated[
        Optional[str],
        typer.Option(
            metavar="TOKENS|FRACTION",
            help="What a layer keeps on average: 1024, or 0.1 of the prompt.",
            show_default="1024; demo: 0.03",
        ),
    ] = None,
    ctx: Annotated[
        Optional[int], typer.Option(min=64, help="Most tokens of a conversation.", show_default="as trained")
    ] = None,
    ask: Annotated[Optional[List[str]], typer.Option(help="Ask this and leave; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --ask: answers and figures as JSON.")] = False,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    fresh: Annotated[
        bool, typer.Option(help="Every question sees the whole document, which waits on disk, or is read anew.")
    ] = True,
    max_tokens: Annotated[Optional[int], typer.Option(min=1, help="Longest answer.", show_default="no limit")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")] = 0.2,
    seed: Annotated[Optional[int], typer.Option(help="Of the sampling.", show_default="random")] = None,
    threads: Annotated[
        Optional[int], typer.Option(min=1, help="CPU threads.", show_default="one a physical core")
    ] = None,
    gpu_layers: Annotated[int, typer.Option(help="Layers on the GPU, as in llama.cpp; -1: all.")] = 0,
    kv: Annotated[str, typer.Option(help="Type of cached keys and values.", **one_of(KV_TYPES))] = "f16",
    prefill: Annotated[
        Optional[str], typer.Option(help="How prompts are read.", **one_of(("full", "chunked", "guided")))
    ] = None,
    memory: Annotated[
        Optional[str], typer.Option(help="For the cache, say 2GB: longer prompts are read in it.", show_default="free")
    ] = None,
    chat_format: Annotated[Optional[str], typer.Option(help="Of llama-cpp-python.", show_default="the model's")] = None,
    thinking: Annotated[
        Optional[bool], typer.Option(help="Of a reasoning model, before it answers.", show_default="the model's")
    ] = None,
    special_in_messages: Annotated[
        bool, typer.Option("--special-in-messages", help="<|im_end|> in a document or question ends its turn.")
    ] = False,
) -> None:
    """Talk with a model, about a document if you like."""
    if as_json and not ask:
        raise typer.BadParameter("needs --ask", param_hint="--json")
    kv_budget = None if budget is None else parse_budget(budget)
    from ..chat import demo
    from ..chat.conversation import Conversation
    from ..chat.document import read_document
    from ..chat.model import BUDGET, open_model
    from ..chat.terminal import Terminal, answer_all

    logs.route_llama_cpp()
    document = None if file is None else read_document(file)  # quicker to fail than a model is to load
    is_demo = model == demo.NAME
    if is_demo:
        model, document = demo.model_path(), document or demo.document()
    else:
        offer(model)
    if kv_budget is None:
        kv_budget = demo.BUDGET if is_demo else BUDGET
    n_threads = threads or physical_cores()
    options: dict[str, Any] = {"n_threads": n_threads, "n_threads_batch": n_threads, "n_gpu_layers": gpu_layers}
    options.update(chat_format=chat_format, **_kv_type(kv))
    if profile != "none":
        options.update(kv_prefill=prefill, kv_memory=memory)
    llm = open_model(model, profile=profile, budget=kv_budget, n_ctx=ctx, options=options)
    llm.special_in_messages = special_in_messages
    sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    chat = Conversation(llm, document, system, sampling, fresh=fresh, thinks=thinking)
    try:
        if as_json:
            chat.read_ahead()
            typer.echo(json.dumps(answer_all(chat, ask or ()), indent=2))
        elif ask:
            terminal = Terminal(chat)
            terminal.read_ahead()
            for question in ask:
                terminal.ask(question)
        else:
            Terminal(chat, hint=demo.welcome(document) if is_demo and document else "").run()
    finally:
        chat.close()
        sys.stdout.flush()


def _kv_type(name: str) -> dict[str, int]:
    """As llama_cpp.Llama takes it; nothing for its default."""
    if name == "f16":
        return {}
    kind = int(ggml_type(name))
    return {"type_k": kind, "type_v": kind}
