"""What the commands share: how options are checked and how results and progress are shown."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

import typer
from rich.console import Console

from ...engine import logs
from ...model.resolve import resolve


def one_of(values: Sequence[str]) -> dict[str, Any]:
    """Arguments of typer.Option that allow these values only, in any case."""
    known = {value.lower(): value for value in values}

    def check(value: Optional[str]) -> Optional[str]:
        if value is None:
            return None
        if value.lower() not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(values)}")
        return known[value.lower()]

    return {"callback": check, "metavar": "|".join(values)}


def budget(text: str) -> Union[int, float]:
    """ "256" is 256 tokens a layer, "0.25" a quarter of the prompt."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number of tokens nor a fraction of the prompt") from None


def counts(minimum: int) -> dict[str, Any]:
    """Arguments of typer.Option for one or more numbers of tokens, "512,1024"; `numbers` reads the text."""

    def check(text: str) -> str:
        for item in text.split(","):
            if not item.strip().isdecimal() or int(item) < minimum:
                raise typer.BadParameter(f"{item.strip()!r} is not a number of tokens from {minimum} on")
        return text

    return {"callback": check, "metavar": "TOKENS,..."}


def numbers(text: str) -> list[int]:
    """What `counts` has checked."""
    return [int(item) for item in text.split(",")]


def kinds(values: Sequence[str]) -> dict[str, Any]:
    """Arguments of typer.Option for none or more of these values, "q8_0,q4_0", in any case; `names` reads the text."""

    def check(text: str) -> str:
        unknown = [name for name in names(text) if name not in values]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(values)}")
        return text

    return {"callback": check, "metavar": "TYPE,..."}


def names(text: str) -> list[str]:
    """Items of a list in lower case, each once."""
    return list(dict.fromkeys(item.strip().lower() for item in text.split(",") if item.strip()))


MODEL = "GGUF file, or a name of `compresskv pull`."


def model_file(path: Optional[Path]) -> Optional[Path]:
    """Callback of typer.Argument: the file itself, or that of a model which was pulled."""
    return None if path is None else Path(resolve(path))


def writable(path: Optional[Path]) -> Optional[Path]:
    """Says now what would otherwise be found out when the work is done."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


@contextlib.contextmanager
def progress(n_steps: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, nothing where that is not a terminal. Yields what to call with the phase after each step."""
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal or logs.is_quiet()
    ) as progress:
        task = progress.add_task("load", total=n_steps)
        yield lambda phase: progress.update(task, advance=1, description=phase)


def show(renderable: Any) -> None:
    """To stdout, as wide as it needs when nobody looks: a pipe has no width to fold to."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(renderable)
