"""`compresskv plan`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, List, Optional

import typer

from ...engine.memory import free_bytes
from ...errors import BudgetError
from ...model.shapes import BITS_PER_WEIGHT, USUAL
from ...model.sizes import KV_TYPES, ModelSizes
from ...runtime.settings import parse_bytes
from .. import plan as planning
from .options import MODEL, model_file, one_of, show

_EXAMPLES = (
    "Examples: `compresskv plan model.gguf --memory 4GB`, `compresskv plan --shape llama-3.1-8b --quant Q4_K_M"
    " --memory 8GB --kv q8_0`, `compresskv plan model.gguf --budget 1024 --json`."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("plan", epilog=_EXAMPLES)(plan_command)


def memory_option(text: Optional[str]) -> Optional[str]:
    """Refuse now what is not a size."""
    try:
        parse_bytes(text)
    except BudgetError:
        raise typer.BadParameter(f"{text!r} is not a size: use for example 512MB or 4GB") from None
    return text


def plan_command(
    model: Annotated[
        Optional[Path], typer.Argument(help=f"{MODEL} Only its header is read.", callback=model_file)
    ] = None,
    shape: Annotated[
        Optional[str], typer.Option(help="A usual model instead of a file.", **one_of(tuple(USUAL)))
    ] = None,
    quant: Annotated[
        str, typer.Option(help="Type of the weights of --shape.", **one_of(tuple(BITS_PER_WEIGHT)))
    ] = "Q4_K_M",
    memory: Annotated[
        Optional[str],
        typer.Option(help="Memory for all of it: 4GB, 900MB.", callback=memory_option, show_default="what is free now"),
    ] = None,
    budget: Annotated[
        Optional[List[int]],
        typer.Option(help="Tokens a layer keeps; may be repeated.", show_default="512, 1024, 2048 and 4096"),
    ] = None,
    kv: Annotated[
        Optional[List[str]], typer.Option(help="Type of cached keys and values; may be repeated.", show_default="all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, sizes in bytes.")] = False,
) -> None:
    """Which contexts, budgets and KV types fit a memory, before anything is loaded."""
    if (model is None) == (shape is None):
        raise typer.BadParameter("give a GGUF file or --shape, one of the two", param_hint="MODEL")
    kinds = [_known_type(kind) for kind in kv] if kv else KV_TYPES
    sizes = ModelSizes.from_shape(USUAL[shape], quant) if shape else ModelSizes.from_gguf(str(model))
    plan = planning.make(sizes, parse_bytes(memory) or free_bytes(), budgets=budget or planning.BUDGETS, kv_types=kinds)
    if as_json:
        typer.echo(json.dumps(plan.to_dict(), indent=2))
        return
    show(table(plan))
    typer.echo(_notes(plan, estimated=shape is not None))


def _known_type(kind: str) -> str:
    if kind.lower() not in KV_TYPES:
        raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KV_TYPES)}", param_hint="--kv")
    return kind.lower()


def table(plan: planning.MemoryPlan) -> Any:
    """Memory in all for each context, in MB or GB (powers of 1024); in parentheses what does not fit."""
    from rich import box
    from rich.table import Table

    unit, shift = ("GB", 30) if plan.memory_bytes >= 1 << 30 else ("MB", 20)
    title = f"{plan.model}: weights {size(plan.weights_bytes)}, memory {size(plan.memory_bytes)}"
    shown = Table(title=title, caption=f"{unit} in all at a context of so many tokens", **_LOOK, box=box.SIMPLE_HEAD)
    for name in ("cache", "KV"):
        shown.add_column(name, no_wrap=True)
    for name in (*map(tokens, plan.contexts), "longest", "full\nprefill"):
        shown.add_column(name, justify="right", no_wrap=True)
    for budget, rows in itertools.groupby(plan.rows, lambda row: row.cache.budget):
        name = "stock" if budget is None else str(budget)
        for row in rows:
            cells = [_cell(total, plan.memory_bytes, shift) for total in row.total_bytes]
            full = "" if budget is None else tokens(row.full_prefill)
            shown.add_row(name, row.cache.type_k, *cells, tokens(row.largest_context), full)
            name = ""
        shown.add_section()
    return shown


_LOOK: dict[str, Any] = {
    "pad_edge": False,
    "show_edge": False,
    "title_justify": "left",
    "caption_justify": "left",
    "title_style": "bold",
}


def _cell(total: int, memory: int, shift: int) -> Any:
    from rich.text import Text

    amount = total / (1 << shift)
    text = f"{amount:.2f}" if amount < 10 else f"{amount:.1f}" if amount < 100 else f"{amount:.0f}"
    return Text(text, style="green") if total <= memory else Text(f"({text})", style="red")


def tokens(n: int) -> str:
    """131072 -> "128k"."""
    if n == 0:
        return "none"
    return f"{n // 1024}k" if n % 1024 == 0 else f"{n / 1024:.1f}k" if n >= 10240 else str(n)


def size(n_bytes: float) -> str:
    """Bytes for people, in units of 1024."""
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.2f} GB" if n_bytes < 1024 else f"{n_bytes / 1024:.2f} TB"


def _notes(plan: planning.MemoryPlan, estimated: bool) -> str:
    budget = next(row.cache.budget for row in plan.rows if row.cache.budget is not None)
    lines = [
        f"(1.23): does not fit. stock: the full cache, with flash attention. {budget}: so many",
        f"tokens a layer and {planning.TAIL} of tail. longest: tokens that fit when prompts are read",
        "in bounded memory; full prefill: when a prompt is in memory until its end.",
        f"Keys and values are exact; compute buffer and {size(planning.PROCESS_BYTES)} of process are estimates.",
    ]
    if estimated:
        lines.append("Weights: parameters times the usual bits; a file's header gives the exact size.")
    return "\n".join(lines)
