"""The documentation as a whole: the site builds without a warning and offline, pages and examples agree."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from compresskv_edge.apps.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def load(name: str) -> Any:
    """A file of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra 'docs', which needs Python 3.10")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)", page.read_text()
        )
        assert not loaded, page.name


def test_the_site_has_every_command_and_the_api(site: Path) -> None:
    assert "compresskv bench" in (site / "commands" / "index.html").read_text(encoding="utf-8")
    commands = load("docs_hook").commands()
    for name in get_command(app).commands:
        assert f"`compresskv {name}" in commands
    assert "--max_waiting MAX_WAITING" in commands
    api = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("kv_prefill", "replace_llama", "KVStats", "select_tokens", "BudgetError"):
        assert name in api


def test_every_guide_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert f"- {page.name}" in menu, f"{page.name} is not in the nav of mkdocs.yml"


def test_pages_show_the_examples_as_they_are() -> None:
    page = (DOCS / "libraries.md").read_text(encoding="utf-8")
    for name in ("use_langchain", "use_llama_index", "json_answer"):
        assert (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8") in page, name


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_hook_names_what_lies_outside() -> None:
    hook = load("docs_hook")
    assert hook.on_page_markdown("[a.h](../x/a.h), [the contract](../x/a.h)") == "a.h, the contract (`x/a.h`)"
    assert hook.on_page_markdown("[web](https://x.y), [page](faq.md)") == "[web](https://x.y), [page](faq.md)"
    assert "[CHANGELOG.md](changelog.md)" in hook.included("CONTRIBUTING.md")


def test_the_figures_are_drawn_from_the_engine(tmp_path: Path) -> None:
    drawn = load("figures").main(tmp_path)
    assert {path.name for path in drawn} == {path.name for path in (DOCS / "figures").iterdir()}
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for path in drawn:
        assert path.stat().st_size > 5000
        assert f"figures/{path.name}" in pages


def test_the_package_is_typed() -> None:
    assert (files("compresskv_edge") / "py.typed").is_file()


def test_the_version_is_written_once() -> None:
    from compresskv_edge import __version__

    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", __version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {__version__}" in changelog
