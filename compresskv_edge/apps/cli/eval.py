"""`compresskv eval`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Callable, Optional

import typer

from ... import files
from ...engine import logs
from ...evaluate.grid import BASE
from ...evaluate.sample import SuitePlan
from .options import MODEL, model_file, one_of, show
from .options import budget as parse_budget

_SUITES = ("niah", "ruler", "kv", "qa", "multi-turn", "fidelity")
_ROWS = ("all", "even", "odd")
_FORMS = ("auto", "chat", "plain")
_BUDGETS = "0.007,0.015,0.03,0.06,0.12"
_POLICIES = "compresskv,snapkv,pyramidkv,cake,streaming_llm"
_EXAMPLES = (
    "Examples: `compresskv eval niah model.gguf --contexts 1024,4096`, `compresskv eval qa model.gguf --data LongBench/"
    " --contexts 16384`, `compresskv eval fidelity model.gguf --data book.txt --policies all --budgets 0.03,0.12`."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("eval", epilog=_EXAMPLES)(eval_command)


def eval_command(
    suite: Annotated[str, typer.Argument(help="What to measure.", **one_of(_SUITES))],
    model: Annotated[Path, typer.Argument(help=MODEL, callback=model_file)],
    policies: Annotated[
        str, typer.Option(metavar="NAME,...", help="Methods to compare, or `all`; the full cache always comes first.")
    ] = _POLICIES,
    budgets: Annotated[
        str, typer.Option(metavar="BUDGET,...", help="Fractions of the prompt (0.03) or tokens a layer (256).")
    ] = _BUDGETS,
    contexts: Annotated[
        str, typer.Option(metavar="TOKENS,...", help="Lengths of the prompts, chat template included.")
    ] = ",".join(map(str, SuitePlan.contexts)),
    depths: Annotated[
        int, typer.Option(min=1, help="Depths from 0 to 100 %; prompts a context where none apply.")
    ] = SuitePlan.depths,
    repeats: Annotated[int, typer.Option(min=1, help="Prompts for each context and depth.")] = SuitePlan.repeats,
    tasks: Annotated[
        Optional[str], typer.Option(metavar="NAME,...", help="Parts of the suite.", show_default="all the model can do")
    ] = None,
    haystack: Annotated[
        Optional[Path],
        typer.Option(help="A .txt file, or a folder of some, to hide facts in.", exists=True, show_default="our own"),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="qa: *.jsonl or *.jsonl.gz in LongBench's format, a file or a folder of some; fidelity: text.",
            exists=True,
            show_default="generated",
        ),
    ] = None,
    rows: Annotated[
        str,
        typer.Option(help="qa: rows of --data, counted from 0; choose on one half, report the other.", **one_of(_ROWS)),
    ] = SuitePlan.rows,
    answer_tokens: Annotated[
        Optional[int], typer.Option(min=1, help="qa: longest answer to --data.", show_default="that of the set")
    ] = None,
    questions: Annotated[
        int, typer.Option(min=1, help="niah: facts in each document, all asked; it is read once for all.")
    ] = SuitePlan.questions,
    limit: Annotated[
        Optional[int], typer.Option(min=1, help="Only the first prompts; more of them later go on.", show_default="all")
    ] = None,
    decode_tokens: Annotated[
        int, typer.Option(min=2, help="fidelity: tokens fed after each prompt.")
    ] = SuitePlan.decode_tokens,
    profile: Annotated[
        str, typer.Option(help="Profile of compresskv: a file, a shipped name, `auto` (calibrates once) or `none`.")
    ] = "auto",
    form: Annotated[
        str, typer.Option(help="Chat template of the GGUF, plain text, or what the model has.", **one_of(_FORMS))
    ] = "auto",
    tail: Annotated[int, typer.Option(min=16, help="Rows of the cache beside the budget, for new tokens.")] = 128,
    protect_system: Annotated[
        bool, typer.Option("--protect-system", help="Never evict what comes before the document, as `chat` does.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed makes the same prompts.")] = SuitePlan.seed,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; with one a run can be repeated to the bit.")] = 1,
    gpu_layers: Annotated[int, typer.Option(help="Layers on the GPU, as in llama.cpp; -1: all.")] = 0,
    states: Annotated[
        Optional[Path],
        typer.Option(
            file_okay=False, help="Folder to keep what was read of documents that questions share, for later policies."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", file_okay=False, help="Folder for the results; a stopped run goes on there.")
    ] = Path("compresskv-eval"),
    base: Annotated[str, typer.Option(metavar="NAME", help="Policy that the others are compared with.")] = BASE,
    plot: Annotated[bool, typer.Option("--plot", help="Write PNG figures as well (needs matplotlib).")] = False,
) -> None:
    """Measure what each eviction method costs in answers, memory and time, all on the same prompts.

    Writes SUITE-MODEL.jsonl (every answer, as it comes) and SUITE-MODEL.json (the table) to --out.
    """
    from ...evaluate import report, suite_run, summary

    logs.route_llama_cpp()
    names = _policy_names(policies)
    if base not in (*names, BASE):
        raise typer.BadParameter(f"{base!r} is not measured: add it to --policies", param_hint="--base")
    amounts = [parse_budget(text) for text in _items(budgets)]
    suite_run.check(names, amounts)
    plan = SuitePlan(
        contexts=tuple(_count(text) for text in _items(contexts)),
        depths=depths, repeats=repeats, seed=seed, tasks=tuple(_items(tasks or "")),
        haystack=haystack, data=data, decode_tokens=decode_tokens,
        questions=questions, rows=rows, answer_tokens=answer_tokens,
    )  # fmt: skip
    setup = suite_run.Setup(
        model, None if profile == "none" else profile, form, tail, threads, gpu_layers, protect_system, states
    )
    stem = f"{suite}-{model.stem}"
    run = suite_run.SuiteRun(suite.replace("-", "_"), setup, plan, out / f"{stem}.jsonl", limit=limit)
    try:
        with _bar(suite) as step:
            result = run.run(names, amounts, step, base)
    except KeyboardInterrupt:
        typer.echo("compresskv: stopped; the same command goes on where it was", err=True)
        raise typer.Exit(130) from None
    finally:
        run.close()
    path = out / f"{stem}.json"
    files.replace_text(path, summary.to_json(result.summary))
    show(report.table(result.summary))
    for task in summary.weak_tasks(result.summary):
        typer.echo(f"compresskv: the full cache hardly answers {task!r}: it says nothing about a policy", err=True)
    if plot:
        _draw(result.summary, out, stem)


def _draw(summary: dict[str, Any], folder: Path, stem: str) -> None:
    from ...evaluate import figures

    for path in figures.draw(summary, folder, stem):
        typer.echo(f"wrote {path}", err=True)


def _policy_names(text: str) -> list[str]:
    from ... import policies

    return list(policies.names()) if text.strip() == "all" else _items(text)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of tokens", param_hint="--contexts") from None


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Callable[[Any], None]]:
    """A bar with the time left, on stderr; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    silent = not console.is_terminal or logs.is_quiet()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=silent,
        speed_estimate_period=600.0,
    ) as progress:  # fmt: skip
        task = progress.add_task(title, total=None)
        yield lambda step: progress.update(task, completed=step.done, total=step.total)
