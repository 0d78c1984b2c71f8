"""The command line, `compresskv`: one module a command; the work lives in the module of that name one level up."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ... import __version__
from ...engine import library, logs
from ...errors import CompressKVError
from . import bench, chat, demo, doctor, eval, plan, profile, pull, rpc, serve

EXIT_STATUS = (
    "Exit status: 0 done, 1 an error (stderr says what and the remedy), 2 wrong usage, 130 stopped with Ctrl-C."
)


class _Group(TyperGroup):
    """Errors of ours are one line for the user, without a traceback; usage errors stay typer's, exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CompressKVError as error:
            typer.echo(f"compresskv: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Long prompts in a fraction of the memory: KV-cache compression (CompressKV) for llama.cpp.",
    epilog="Examples: `compresskv demo`, `compresskv pull qwen2.5-coder-0.5b-instruct`,"
    f" `compresskv chat qwen2.5-coder-0.5b-instruct --file manual.pdf`. {EXIT_STATUS}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compresskv {__version__}, library {library.version()}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and exit.")
    ] = False,
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Say more: -v what we do, -vv llama.cpp's own log as well."),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only results and errors: no progress, no notes.")
    ] = False,
) -> None:
    logs.configure(verbose, quiet=quiet)


for _command in (chat, demo, pull, doctor, plan, bench, eval, profile, rpc, serve):
    _command.register(app)


def main() -> None:
    """Entry point of `compresskv` and `python -m compresskv_edge`."""
    app(prog_name="compresskv")
