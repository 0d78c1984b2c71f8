"""The workflows of .github name what is there: they run on machines that nobody here has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compresskv_edge.engine.library import BINDING_VERSION

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKE_TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_tests_and_targets_exist(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    for name, function in re.findall(r"(tests/\w+\.py)(?:::(\w+))?", text):
        assert (ROOT / name).exists(), name
        assert f"def {function}" in (ROOT / name).read_text(encoding="utf-8"), f"{name}::{function}"
    for target in re.findall(r"run: make ([a-z-]+)", text):
        assert target in MAKE_TARGETS, target
    for version in re.findall(r"llama-cpp-python==([\d.]+)", text):
        assert version == BINDING_VERSION


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    """A tag can be moved to other code; the comment says which version the commit is."""
    used = re.findall(r"uses: *(.+)", workflow.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
