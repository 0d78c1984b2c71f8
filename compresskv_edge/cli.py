"""The command line, `compresskv`. One function a subcommand; what they do lives in the module of the same name."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Callable, Optional, Union, cast, get_args

import typer
from rich.console import Console
from typer.core import TyperGroup

from . import __version__, bench, cli_profile, native, random_gguf
from .bench_result import Plan, checks, table
from .errors import CompressKVError
from .profile import Profile

QUANTS = get_args(random_gguf.Quant)


class _Group(TyperGroup):
    """Errors of ours are one line for the user, without a traceback; usage errors stay typer's, exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CompressKVError as error:
            typer.echo(f"compresskv: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    help="Long prompts in a fraction of the memory: KV-cache compression (CompressKV) for llama.cpp.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


cli_profile.register(app)


def main() -> None:
    """Entry point of `compresskv` and `python -m compresskv_edge`."""
    app(prog_name="compresskv")


def _one_of(values: Sequence[str]) -> dict[str, Any]:
    """Arguments of typer.Option that allow these values only, in any case."""
    known = {value.lower(): value for value in values}

    def check(value: Optional[str]) -> Optional[str]:
        if value is None:
            return None
        if value.lower() not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(values)}")
        return known[value.lower()]

    return {"callback": check, "metavar": "|".join(values)}


def _budget(text: str) -> Union[int, float]:
    """ "256" is 256 tokens a layer, "0.25" a quarter of the prompt."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of tokens nor a fraction of the prompt") from None


def _writable(path: Optional[Path]) -> Optional[Path]:
    """Says now what would otherwise be found out when the work is done."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compresskv {__version__}, library {native.version()}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    "bench",
    epilog="Examples: `compresskv bench model.gguf` measures your model,"
    " `compresskv bench --shape qwen2.5-0.5b --json out.json` a random one of that shape.",
)
def bench_command(
    model: Annotated[Optional[Path], typer.Argument(help="GGUF file; without it, a random model of --shape.")] = None,
    shape: Annotated[
        str, typer.Option(help="Shape of the random model.", **_one_of(tuple(random_gguf.SHAPES)))
    ] = "qwen2.5-0.5b",
    quant: Annotated[str, typer.Option(help="Type of the random model's matrices.", **_one_of(QUANTS))] = "Q4_0",
    prompt_tokens: Annotated[int, typer.Option(min=16, help="Length of the prompt.")] = Plan.prompt_tokens,
    budget: Annotated[int, typer.Option(min=1, help="Tokens a layer keeps, on average.")] = Plan.budget_tokens,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded a repeat.")] = Plan.decode_tokens,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the decoding.")] = Plan.repeats,
    prefill_repeats: Annotated[
        int, typer.Option(min=1, help="Repeats of the prefill and the eviction.")
    ] = Plan.prefill_repeats,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.", show_default="one a core")] = None,
    type_k: Annotated[str, typer.Option(help="Type of the cached keys.", **_one_of(bench.KV_TYPES))] = "f16",
    type_v: Annotated[str, typer.Option(help="Type of the cached values.", **_one_of(bench.KV_TYPES))] = "f16",
    tail: Annotated[int, typer.Option(min=16, help="Rows beside the budget, for new tokens.")] = Plan.tail_tokens,
    profile: Annotated[
        Optional[str], typer.Option(help="Profile: a file or a shipped name.", show_default="an uncalibrated one")
    ] = None,
    json_path: Annotated[
        Optional[Path],
        typer.Option("--json", dir_okay=False, callback=_writable, help="Write every sample to this file."),
    ] = None,
    cache_dir: Annotated[
        Optional[Path], typer.Option(help="Keep the random model here.", show_default="a temporary folder")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
) -> None:
    """Measure stock and compressed side by side: prefill, eviction, decoding and memory."""
    plan = Plan(prompt_tokens, budget, decode_tokens, repeats, prefill_repeats, threads, type_k, type_v, tail)
    loaded = None if profile is None else Profile.load(profile)
    with _model(model, shape, quant, cache_dir) as path, _progress(plan.n_steps) as step:
        result = bench.run(path, plan, loaded, step)
    _print(table(result))
    if json_path is not None:
        json_path.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    if check and not all(each.met for each in checks(result)):
        raise typer.Exit(1)


@app.command(
    "demo", epilog="Examples: `compresskv demo`, `compresskv demo --budget 0.5`, `compresskv demo --budget 256`."
)
def demo_command(
    budget: Annotated[
        Optional[str],
        typer.Option(
            metavar="TOKENS|FRACTION",
            help="Tokens a layer keeps on average (256) or fraction of the prompt (0.5).",
            show_default="what the demo model bears",
        ),
    ] = None,
    questions: Annotated[Optional[int], typer.Option(min=1, help="How many questions to ask.")] = None,
    json_path: Annotated[
        Optional[Path],
        typer.Option("--json", dir_okay=False, callback=_writable, help="Write the results to this file."),
    ] = None,
) -> None:
    """Answer questions over a long document, with the full cache and with a compressed one."""
    kv_budget = None if budget is None else _budget(budget)
    more: dict[str, Any] = {} if questions is None else {"n_questions": questions}

    from . import demo

    raise typer.Exit(demo.run(kv_budget, json_path=json_path, **more))


@contextlib.contextmanager
def _model(path: Optional[Path], shape: str, quant: str, cache_dir: Optional[Path]) -> Iterator[Path]:
    """The given file, or a random model that lives as long as the block unless it is cached."""
    if path is not None:
        yield path
        return
    with contextlib.ExitStack() as stack:
        folder = cache_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compresskv-")))
        yield bench.write_model(shape, cast(random_gguf.Quant, quant), folder)


@contextlib.contextmanager
def _progress(n_steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, nothing where that is not a terminal. Yields what to call with the phase after each step."""
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("load", total=n_steps)
        yield lambda phase: progress.update(task, advance=1, description=phase)


def _print(renderable: Any) -> None:
    """To stdout, as wide as it needs when nobody looks: a pipe has no width to fold to."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(renderable)


if __name__ == "__main__":
    main()
