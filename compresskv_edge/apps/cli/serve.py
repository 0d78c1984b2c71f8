"""`compresskv serve`."""

# no `from __future__ import annotations`: typer evaluates them, and Python 3.9 cannot evaluate `int | None`

from typing import Any, List

import typer
from typer.core import TyperCommand

from ...errors import CompressKVError
from .pull import offer

# the arguments go to the server's own parser, which knows all of llama-cpp-python's settings
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class _Settings(TyperCommand):
    """For the shell's completion: the flags of the server's parser."""

    def shell_complete(self, ctx: Any, incomplete: str) -> List[Any]:
        from ..server import require_extra

        try:
            require_extra()
        except CompressKVError:  # said when the command is run
            return []
        from click.shell_completion import CompletionItem

        from ..server.arguments import flags

        return [CompletionItem(flag) for flag in flags() if incomplete and flag.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("serve", context_settings=_PASS_ON, cls=_Settings)(serve_command)


def serve_command(context: typer.Context) -> None:
    """An OpenAI-compatible server with compressed KV caches, and a chat page at /."""
    from ..server import require_extra

    require_extra()

    from ..server.arguments import parse
    from ..server.run import run

    server, models = parse(context.args)
    offer(models[0].model)
    run(server, models)
