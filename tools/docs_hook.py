"""MkDocs calls this file for every page.

The page of commands is what `--help` says, three pages are files of the repository's root, and links out of docs/
become file names: a reader of the repository can follow them, a reader of the site cannot.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = "<!-- commands -->"
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}

_INCLUDE = re.compile(r"<!-- include (\S+) -->")
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page before it is rendered."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return _OUTSIDE.sub(_name, _INCLUDE.sub(lambda found: included(found[1]), markdown))


def commands() -> str:
    """Every command with its options, in Markdown."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from compresskv_edge.apps.cli import app

    command = get_command(app)
    context = command.make_context("compresskv", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, name="compresskv", ctx=context)
    text = text.split("\n", 1)[1]  # the page has a title
    return re.sub(
        r"\$ compresskv serve \[OPTIONS\]\n```\n\n\*\*Options\*\*:\n\n\* `--help`.*\n", lambda _: _serve(), text
    )


def _serve() -> str:
    """The server has a parser of its own."""
    from compresskv_edge.apps.server.arguments import help_text

    return f"{help_text()}```\n"


def included(name: str) -> str:
    """A file of the root, its links as seen from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return _LINK.sub(lambda link: f"[{link[1]}]({_from_docs(link[2])}", text)


def _from_docs(target: str) -> str:
    return PAGES.get(target) or (target[5:] if target.startswith("docs/") else f"../{target}")


def _name(link: re.Match[str]) -> str:
    return link[1] if link[1].strip("`") in link[2] else f"{link[1]} (`{link[2]}`)"
