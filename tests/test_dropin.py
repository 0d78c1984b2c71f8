"""dropin.py, each case in a process of its own: it changes modules for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = """
from llama_cpp import Llama

def build(path, model_kwargs):
    return Llama(path, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False, **model_kwargs)
"""
BUILD = "llm = library.build({path!r}, {{'kv_profile': Profile.uniform({path!r}), 'kv_budget': 100}})\n"


@pytest.fixture
def run(tmp_path: Path, path: str):
    """`run(code)`: its output, in a folder with `library.py`, which builds llama_cpp.Llama by itself."""
    (tmp_path / "library.py").write_text(LIBRARY, encoding="utf-8")

    def run(code: str) -> str:
        command = [sys.executable, "-c", code.replace("BUILD", BUILD.format(path=path))]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    return run


def test_a_library_builds_ours(run) -> None:
    out = run(
        "from compresskv_edge import Llama, Profile, replace_llama\n"
        "replace_llama()\nreplace_llama()\nimport library\nBUILD"
        "llm('word ' * 200, max_tokens=1)\n"
        "import llama_cpp.llama\n"
        "print(type(llm) is Llama is llama_cpp.llama.Llama, set(llm.kv_stats().n_tokens_kept))"
    )
    assert out == "True {100}\n"


def test_without_it_a_library_builds_the_stock_class(run) -> None:
    out = run("from compresskv_edge import Profile\nimport library\nBUILDprint(hasattr(llm, 'kv_stats'))")
    assert out == "False\n"


def test_a_library_that_was_imported_first_is_named(run) -> None:
    out = run("import compresskv_edge, library\ncompresskv_edge.replace_llama()")
    assert "LibraryError: library imported llama_cpp's own Llama already" in out
    assert "call compresskv_edge.replace_llama() before" in out
