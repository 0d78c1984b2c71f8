"""`compresskv demo`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...engine import logs
from .options import budget as parse_budget
from .options import writable

_EXAMPLES = (
    "Examples: `compresskv demo`, `compresskv demo --budget 256`, `compresskv demo qwen2.5-coder-0.5b-instruct`."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("demo", epilog=_EXAMPLES)(demo_command)


def demo_command(
    model: Annotated[
        Optional[str],
        typer.Argument(
            metavar="MODEL",
            help="A GGUF, or a name of `compresskv pull`: it is asked about two chapters of a book.",
            show_default="the model that ships with the package, about a generated text",
        ),
    ] = None,
    budget: Annotated[
        Optional[str],
        typer.Option(
            metavar="TOKENS|FRACTION",
            help="Tokens a layer keeps on average (256) or fraction of the prompt (0.5).",
            show_default="what the model bears",
        ),
    ] = None,
    questions: Annotated[Optional[int], typer.Option(min=1, help="How many questions to ask.")] = None,
    json_path: Annotated[
        Optional[Path],
        typer.Option("--json", dir_okay=False, callback=writable, help="Write the results to this file."),
    ] = None,
) -> None:
    """Answer questions over a long document, with the full cache and with a compressed one."""
    kv_budget = None if budget is None else parse_budget(budget)
    more: dict[str, Any] = {} if questions is None else {"n_questions": questions}

    from ..demo import run as demo

    logs.route_llama_cpp()

    raise typer.Exit(demo.run(kv_budget, model=model, json_path=json_path, **more))
