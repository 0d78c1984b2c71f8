"""`compresskv serve`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

import typer

# the arguments go to the server's own parser, which knows all of llama-cpp-python's settings
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("serve", context_settings=_PASS_ON)(serve_command)


def serve_command(context: typer.Context) -> None:
    """An OpenAI-compatible server with compressed KV caches, and a chat page at /."""
    from ..server import require_extra

    require_extra()

    from ..server.arguments import parse
    from ..server.run import run

    server, models = parse(context.args)
    run(server, models)
