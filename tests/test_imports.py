"""The rooms of the package: imports run downward, no circle, inside functions only where CONTRIBUTING.md allows it."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compresskv_edge"

# extras, what only terminals or POSIX have, and what loads the native library: much of the package works without it
OPTIONAL = {
    *("PIL", "matplotlib", "prompt_toolkit", "pypdf", "rich", "yaml", "click", "huggingface_hub", "threadpoolctl"),
    *("resource", "llama_cpp"),
}
# Commands and plugins start before anyone asks for a model, the package before anyone asks for a name of its own.
LAZY = ("__init__.py", "calibration/__init__.py", "apps/cli/", "apps/llm_plugin.py")


@functools.lru_cache(maxsize=1)
def graph() -> grimp.ImportGraph:
    """All modules, imports for type checkers included."""
    return grimp.build_graph("compresskv_edge", cache_dir=None)


def test_imports_run_downward() -> None:
    # in a process of its own: it switches off all loggers of the one that it runs in
    script = "import sys; from importlinter.cli import lint_imports; "
    script += "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
    command = [sys.executable, "-c", script, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in imports[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            found.append(set(stack[at:]))
            del stack[at:]

    for module in imports:
        if module not in index:
            visit(module)
    return [component for component in found if len(component) > 1]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [{"a", "b", "c"}]


def test_no_circle_of_imports() -> None:
    imports = {module: graph().find_modules_directly_imported_by(module) for module in graph().modules}
    assert circles(imports) == []


def inside_functions(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top package or "." for our own) of each import inside a function."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in (inner for outer in ast.walk(tree) if isinstance(outer, functions) for inner in ast.walk(outer)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." if node.level else str(node.module).split(".")[0]


def test_imports_inside_functions_are_of_optional_packages() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in sorted(set(inside_functions(path)))
        if name not in OPTIONAL and not path.relative_to(PACKAGE).as_posix().startswith(LAZY)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_public_classes_of_one_name() -> None:
    homes = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(str(path.relative_to(ROOT)))
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert not twice
